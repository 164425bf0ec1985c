//! A pending credit note at Stripe: made once there, whatever is killed, and only then issued here.

use std::collections::HashMap;
use std::time::Duration;

use farebox_core::ids::{CreditNoteId, WorkspaceId};
use farebox_core::workspace::{self, Workspace};
use farebox_core::{App, clock};
use serde::Deserialize;
use stripe_billing::invoice::RetrieveInvoice;
use stripe_client_core::StripeRequest;
use tokio_util::sync::CancellationToken;

use super::attempt::{Task, attempt};
use super::{CreditNote, Reason, Settles, issue, read, void};
use crate::BillingError;
use crate::reversals::refunds;
use crate::settle::SettleError;
use crate::stripe::bill::WORKSPACE_KEY;
use crate::stripe::client::{Answer, Form, Stripe};
use crate::stripe::currency::to_stripe;
use crate::stripe::outbox::{self, Request, Sent, Step, Stored};
use crate::stripe::view::{self, List, Tagged};
use crate::stripe::{StripeError, settings, state};

const LOOK_EVERY: Duration = Duration::from_secs(1);
pub(super) const AT_ONCE: i64 = 8;
/// The name under which our ids travel in Stripe's metadata.
pub(super) const NOTE_KEY: &str = "farebox_credit_note";
const MEMO_MOST: usize = 5000;

/// Carries on what waits, until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = run_once(&app).await {
            tracing::warn!("credit notes wait for Stripe: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Everything that is due once.
pub async fn run_once(app: &App) -> Result<(), SettleError> {
    let waiting = sqlx::query!(
        r#"SELECT n.id AS "id: CreditNoteId", n.workspace_id AS "workspace: WorkspaceId", i.stripe_id AS "stripe_id!"
           FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
           WHERE n.state = 'pending' AND n.next_at <= $1 AND (n.leased_until IS NULL OR n.leased_until <= $1) AND i.stripe_id IS NOT NULL
           ORDER BY n.next_at LIMIT $2"#,
        clock::now(),
        AT_ONCE
    )
    .fetch_all(&app.pg)
    .await?;
    for note in waiting {
        let workspace = workspace::by_id(&mut *app.pg.acquire().await?, &note.workspace).await.map_err(BillingError::from)?;
        if let Some(workspace) = workspace {
            carry(app, &workspace, &note.id, &note.stripe_id).await?;
        }
    }
    void::run_once(app).await
}

/// One attempt, unless another process has it in hand: issued, refused, or left for later.
pub async fn carry(app: &App, workspace: &Workspace, id: &CreditNoteId, invoice: &str) -> Result<(), SettleError> {
    attempt(app, id, Task::Issue, async || make(app, workspace, id, invoice).await).await
}

/// As much of Stripe's credit note as is used.
#[derive(Debug, Deserialize)]
struct There {
    #[serde(flatten)]
    tagged: Tagged,
    total: i64,
    #[serde(default)]
    refunds: Vec<Refunded>,
}

#[derive(Debug, Deserialize)]
struct Refunded {
    refund: String,
}

/// An error is worth another attempt.
async fn make(app: &App, workspace: &Workspace, id: &CreditNoteId, invoice: &str) -> Result<(), StripeError> {
    let ws = &workspace.id;
    let mut conn = app.pg.acquire().await?;
    let stripe = settings::stripe(app, &mut conn, ws).await?;
    let note = read::get(&mut conn, ws, id).await?.ok_or(StripeError::NotFound("credit note"))?;
    drop(conn);
    let lines = lines_there(&stripe, invoice).await?;
    let request = outbox::store(&app.pg, ws, id.as_str(), Step::CreditNote, || {
        let body = form(ws, &note, invoice, &lines)?.encoded().into_bytes();
        Ok(Request { method: "POST", path: "/v1/credit_notes".to_owned(), body })
    })
    .await?;
    match request.send(&app.pg, &stripe).await? {
        // Recorded and issued in one transaction.
        Sent::Before { .. } => Ok(()),
        Sent::Answered(answer) => {
            let there = answer.parse::<There>()?;
            finish(app, workspace, &stripe, &note, &request, Some(&answer), &there).await?;
            refresh(app, &stripe, workspace, &note, invoice).await
        }
        Sent::KeySpent(reason) => match find(&stripe, invoice, id).await? {
            Some(there) => {
                finish(app, workspace, &stripe, &note, &request, None, &there).await?;
                refresh(app, &stripe, workspace, &note, invoice).await
            }
            None => {
                outbox::renew(&app.pg, &request).await?;
                Err(reason)
            }
        },
        Sent::Refused(error) if error.is_about_the_key() => {
            outbox::abandon(&app.pg, request.id).await?;
            Err(error)
        }
        Sent::Refused(error) => {
            outbox::abandon(&app.pg, request.id).await?;
            issue::refuse(&mut *app.pg.acquire().await?, id, &error.to_string()).await?;
            // Mostly because it was paid in this moment.
            refresh(app, &stripe, workspace, &note, invoice).await
        }
    }
}

async fn finish(
    app: &App,
    workspace: &Workspace,
    stripe: &Stripe,
    note: &CreditNote,
    request: &Stored,
    answer: Option<&Answer>,
    there: &There,
) -> Result<(), StripeError> {
    if to_stripe(note.total)? != there.total {
        tracing::error!(credit_note = %note.id, ours = %note.total, stripes = there.total, "Stripe's credit note comes to another total than ours");
    }
    let mut made = Vec::new();
    for refunded in &there.refunds {
        made.push(stripe.get::<refunds::There>(&format!("/refunds/{}", refunded.refund), &Form::new()).await?);
    }
    let mut tx = app.pg.begin().await?;
    request.finish(&mut tx, answer, &there.tagged.id).await?;
    issue::issue(&mut tx, workspace, &note.id, Some(&there.tagged.id)).await?;
    for refund in &made {
        refunds::record(&mut tx, &workspace.id, &note.invoice, Some(&note.id), refund).await?;
    }
    tx.commit().await?;
    Step::CreditNote.point("recorded");
    Ok(())
}

/// What the invoice is at Stripe now.
pub(super) async fn refresh(
    app: &App,
    stripe: &Stripe,
    workspace: &Workspace,
    note: &CreditNote,
    invoice: &str,
) -> Result<(), StripeError> {
    let there: view::Invoice = stripe.ask(RetrieveInvoice::new(invoice).build()).await?;
    let mut tx = app.pg.begin().await?;
    state::apply(&mut tx, &workspace.id, &note.invoice, &there).await?;
    tx.commit().await?;
    Ok(())
}

/// The note that an earlier request of ours made, by its metadata.
async fn find(stripe: &Stripe, invoice: &str, id: &CreditNoteId) -> Result<Option<There>, StripeError> {
    let mut after: Option<String> = None;
    loop {
        let mut query = Form::new().with("invoice", invoice).with("limit", "100");
        if let Some(after) = &after {
            query = query.with("starting_after", after.as_str());
        }
        let page: List<There> = stripe.get("/credit_notes", &query).await?;
        after = page.data.last().map(|note| note.tagged.id.clone());
        if let Some(found) = page.data.into_iter().find(|note| note.tagged.tag(NOTE_KEY) == Some(id.as_str())) {
            return Ok(Some(found));
        }
        if !page.has_more || after.is_none() {
            return Ok(None);
        }
    }
}

/// A line of ours at Stripe: its id, and the tax rate that was made for it.
struct LineThere {
    id: String,
    tax_rate: Option<String>,
}

/// By our line. Lines that were summed up on their way are not among them.
async fn lines_there(stripe: &Stripe, invoice: &str) -> Result<HashMap<String, LineThere>, StripeError> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(flatten)]
        tagged: Tagged,
        #[serde(default)]
        taxes: Vec<Tax>,
    }
    #[derive(Deserialize)]
    struct Tax {
        tax_rate_details: Option<Rate>,
    }
    #[derive(Deserialize)]
    struct Rate {
        tax_rate: String,
    }
    let mut found = HashMap::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = Form::new().with("limit", "100");
        if let Some(after) = &after {
            query = query.with("starting_after", after.as_str());
        }
        let page: List<Line> = stripe.get(&format!("/invoices/{invoice}/lines"), &query).await?;
        after = page.data.last().map(|line| line.tagged.id.clone());
        for line in page.data {
            let Some(ours) = line.tagged.tag("farebox_line").map(str::to_owned) else { continue };
            let tax_rate = line.taxes.into_iter().next().and_then(|tax| tax.tax_rate_details).map(|rate| rate.tax_rate);
            found.insert(ours, LineThere { id: line.tagged.id, tax_rate });
        }
        if !page.has_more || after.is_none() {
            return Ok(found);
        }
    }
}

/// By line with its tax where Stripe has each of them; else as one amount, since Stripe credits no negative line.
fn form(ws: &WorkspaceId, note: &CreditNote, invoice: &str, lines: &HashMap<String, LineThere>) -> Result<Form, StripeError> {
    let mut form = Form::new().with("invoice", invoice).with("email_type", "none");
    if note.reason != Reason::Correction {
        form = form.with("reason", note.reason.as_str());
    }
    if let Some(memo) = &note.memo {
        form = form.with("memo", crate::stripe::bill::cut(memo, MEMO_MOST));
    }
    form = form.with(format!("metadata[{NOTE_KEY}]"), note.id.as_str()).with(format!("metadata[{WORKSPACE_KEY}]"), ws.as_str());
    let total = to_stripe(note.total)?.to_string();
    form = match note.settles {
        Settles::Open => form,
        Settles::Refund => form.with("refund_amount", total.as_str()),
        // The balance is kept here, and used by invoices before they are at Stripe.
        Settles::Balance | Settles::OutOfBand => form.with("out_of_band_amount", total.as_str()),
    };
    let there: Option<Vec<_>> = note.lines.iter().map(|line| lines.get(line.line.as_str()).filter(|_| line.amount.minor > 0)).collect();
    let taxed = |there: &[&LineThere]| note.lines.iter().zip(there).all(|(line, there)| line.tax.is_zero() || there.tax_rate.is_some());
    let Some(there) = there.filter(|there| taxed(there)) else { return Ok(form.with("amount", total)) };
    for (index, (line, there)) in note.lines.iter().zip(there).enumerate() {
        form = form
            .with(format!("lines[{index}][type]"), "invoice_line_item")
            .with(format!("lines[{index}][invoice_line_item]"), there.id.as_str())
            .with(format!("lines[{index}][amount]"), to_stripe(line.amount)?.to_string());
        if let (Some(rate), false) = (&there.tax_rate, line.tax.is_zero()) {
            let name = |part: &str| format!("lines[{index}][tax_amounts][0][{part}]");
            form = form
                .with(name("tax_rate"), rate.as_str())
                .with(name("amount"), to_stripe(line.tax)?.to_string())
                .with(name("taxable_amount"), to_stripe(line.net)?.to_string());
        }
    }
    Ok(form)
}
