//! Invoices, reminders and news of failed payments by e-mail: what is due is queued, each once, and sent with the invoice's PDF.
//!
//! A mail is marked as sent after the server took it; what dies in between is sent again under the same Message-ID. A
//! reminder whose invoice was paid meanwhile is dropped, and of several that are overdue at once only the last is sent.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::mail::{File, Mail, MailError, Mailer};
use farebox_core::workspace::Workspace;
use farebox_core::{App, clock, workspace};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::BillingError;
use crate::documents::{self, Medium};
use crate::invoices::{self, Invoice, State};

const LOOK_EVERY: Duration = Duration::from_secs(5);
const LEASE: TimeDelta = TimeDelta::minutes(2);
const AT_ONCE: i64 = 16;
/// Over some two days.
const MOST_ATTEMPTS: i32 = 12;

pub async fn run(app: App, stop: CancellationToken) {
    let mailer = match Mailer::new(&app.config.mail) {
        Ok(Some(mailer)) => mailer,
        Ok(None) => return,
        Err(error) => {
            tracing::error!("no e-mail is sent: {error}");
            return;
        }
    };
    while !stop.is_cancelled() {
        if let Err(error) = run_once(&app, &mailer).await {
            tracing::warn!("e-mails wait: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Queues what is due and sends what is queued; how many were sent.
pub async fn run_once(app: &App, mailer: &Mailer) -> Result<usize, BillingError> {
    let workspaces = workspace::all(&mut *app.pg.acquire().await?).await?;
    for workspace in &workspaces {
        queue(&app.pg, workspace).await?;
    }
    let mut sent = 0;
    for mail in claim(&app.pg).await? {
        let Some(workspace) = workspaces.iter().find(|workspace| workspace.id == mail.workspace) else { continue };
        sent += usize::from(carry(app, mailer, workspace, &mail).await?);
    }
    Ok(sent)
}

async fn queue(pg: &PgPool, workspace: &Workspace) -> Result<(), BillingError> {
    let now = workspace.clock.now();
    sqlx::query!(
        "INSERT INTO invoice_mails (workspace_id, invoice_id, kind, next_at, created_at)
         SELECT i.workspace_id, i.id, 'invoice', $2, $2 FROM invoices i JOIN dunning_policies p USING (workspace_id)
         WHERE i.workspace_id = $1 AND i.state NOT IN ('draft', 'void') AND i.issued_at >= p.invoices_since AND i.total_minor > 0
         ON CONFLICT ON CONSTRAINT invoice_mails_once DO NOTHING",
        workspace.id.as_str(),
        clock::now()
    )
    .execute(pg)
    .await?;
    // Of the days that have come, the last.
    sqlx::query!(
        "INSERT INTO invoice_mails (workspace_id, invoice_id, kind, day, next_at, created_at)
         SELECT i.workspace_id, i.id, 'reminder', max(d.day), $3, $3
         FROM dunning_policies p CROSS JOIN LATERAL unnest(p.remind_after_days) AS d (day)
         JOIN invoices i ON i.workspace_id = p.workspace_id AND i.state = 'issued' AND i.total_minor > 0 AND NOT i.carried
          AND i.due_at + make_interval(days => d.day) <= $2
         WHERE p.workspace_id = $1
           AND NOT EXISTS (SELECT FROM dunning_pauses h WHERE h.workspace_id = i.workspace_id AND h.consumer_id = i.consumer_id AND h.until > $2)
         GROUP BY i.workspace_id, i.id
         HAVING max(d.day) > coalesce((SELECT max(m.day) FROM invoice_mails m WHERE m.invoice_id = i.id AND m.kind = 'reminder'), -1)
         ON CONFLICT ON CONSTRAINT invoice_mails_once DO NOTHING",
        workspace.id.as_str(),
        now,
        clock::now()
    )
    .execute(pg)
    .await?;
    queue_failed(pg, workspace, now).await
}

/// Payments that failed: asked for on the policy's days, of those that have come the last; and thanked for once paid, where
/// something was asked.
async fn queue_failed(pg: &PgPool, workspace: &Workspace, now: DateTime<Utc>) -> Result<(), BillingError> {
    sqlx::query!(
        "INSERT INTO invoice_mails (workspace_id, invoice_id, kind, day, next_at, created_at)
         SELECT f.workspace_id, f.invoice_id, 'payment_failed', max(d.day), $3, $3
         FROM failed_payments f LEFT JOIN dunning_policies p USING (workspace_id)
         CROSS JOIN LATERAL unnest(coalesce(p.failed_mail_days, '{0,3,7}')) AS d (day)
         WHERE f.workspace_id = $1 AND f.closed_at IS NULL AND f.opened_at + make_interval(days => d.day) <= $2
           AND NOT EXISTS (SELECT FROM dunning_pauses h WHERE h.workspace_id = f.workspace_id AND h.consumer_id = f.consumer_id AND h.until > $2)
         GROUP BY f.workspace_id, f.invoice_id
         HAVING max(d.day) > coalesce((SELECT max(m.day) FROM invoice_mails m WHERE m.invoice_id = f.invoice_id AND m.kind = 'payment_failed'), -1)
         ON CONFLICT ON CONSTRAINT invoice_mails_once DO NOTHING",
        workspace.id.as_str(),
        now,
        clock::now()
    )
    .execute(pg)
    .await?;
    sqlx::query!(
        "INSERT INTO invoice_mails (workspace_id, invoice_id, kind, next_at, created_at)
         SELECT f.workspace_id, f.invoice_id, 'recovered', $2, $2 FROM failed_payments f
         WHERE f.workspace_id = $1 AND f.outcome = 'recovered'
           AND EXISTS (SELECT FROM invoice_mails m WHERE m.invoice_id = f.invoice_id AND m.kind = 'payment_failed' AND m.state = 'sent')
         ON CONFLICT ON CONSTRAINT invoice_mails_once DO NOTHING",
        workspace.id.as_str(),
        clock::now()
    )
    .execute(pg)
    .await?;
    Ok(())
}

struct Queued {
    id: i64,
    workspace: WorkspaceId,
    invoice: InvoiceId,
    kind: String,
    day: i32,
    attempts: i32,
}

async fn claim(pg: &PgPool) -> Result<Vec<Queued>, BillingError> {
    let now = clock::now();
    Ok(sqlx::query_as!(
        Queued,
        r#"UPDATE invoice_mails SET leased_until = $2 WHERE id IN (
               SELECT id FROM invoice_mails WHERE state = 'queued' AND next_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
               ORDER BY next_at, id LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING id, workspace_id AS "workspace: WorkspaceId", invoice_id AS "invoice: InvoiceId", kind, day, attempts"#,
        now,
        now + LEASE,
        AT_ONCE
    )
    .fetch_all(pg)
    .await?)
}

/// True when it was sent.
async fn carry(app: &App, mailer: &Mailer, workspace: &Workspace, queued: &Queued) -> Result<bool, BillingError> {
    let invoice = invoices::get(&mut *app.pg.acquire().await?, &workspace.id, &queued.invoice).await?;
    let invoice = invoice.ok_or(BillingError::NotFound("invoice"))?;
    let to = invoice.buyer.get("email").and_then(|email| email.as_str()).map(str::to_owned);
    let (state, error) = match to {
        _ if matches!(queued.kind.as_str(), "reminder" | "payment_failed") && invoice.state != State::Issued => {
            ("dropped", Some("the invoice is settled".to_owned()))
        }
        _ if invoice.state == State::Void => ("dropped", Some("the invoice is void".to_owned())),
        None => ("dropped", Some("the buyer has no e-mail address".to_owned())),
        Some(to) => {
            let pdf = documents::get(app, workspace, &invoice.id, Medium::Pdf).await?.ok_or(BillingError::NotFound("invoice"))?;
            let attachments = vec![File { name: pdf.name, media_type: "application/pdf".to_owned(), bytes: pdf.bytes }];
            let (subject, text) = words(workspace, &invoice, &queued.kind, workspace.clock.now(), &app.config.http.public_url);
            let id = format!("{}.{}.{}", invoice.id, queued.kind, queued.day);
            match mailer.send(&Mail { id, to, subject, text, attachments }).await {
                Ok(()) => ("sent", None),
                Err(MailError::Later(why)) if queued.attempts + 1 < MOST_ATTEMPTS => ("queued", Some(why)),
                Err(why) => {
                    tracing::error!(invoice = %invoice.id, "an e-mail about an invoice cannot be sent: {why}");
                    ("failed", Some(why.to_string()))
                }
            }
        }
    };
    metrics::counter!("farebox_invoice_mails_total", "outcome" => state).increment(1);
    let now = clock::now();
    sqlx::query!(
        "UPDATE invoice_mails SET state = $2, error = $3, attempts = attempts + 1, leased_until = NULL, next_at = $4,
                sent_at = CASE WHEN $2 = 'sent' THEN $5::timestamptz END WHERE id = $1",
        queued.id,
        state,
        error,
        now + TimeDelta::minutes(1 << queued.attempts.clamp(0, 9)),
        now
    )
    .execute(&app.pg)
    .await?;
    Ok(state == "sent")
}

fn words(workspace: &Workspace, invoice: &Invoice, kind: &str, now: DateTime<Utc>, base: &str) -> (String, String) {
    let number = invoice.number.as_deref().unwrap_or_default();
    let seller = invoice.seller.get("name").and_then(|name| name.as_str()).unwrap_or(&workspace.display_name);
    let day = |at: DateTime<Utc>| at.with_timezone(&workspace.time_zone).format("%-d %B %Y").to_string();
    let total = format!("{} {}", invoice.currency, if kind == "invoice" { invoice.total } else { invoice.due() });
    let due = invoice.due_at.map_or_else(String::new, day);
    let pay = invoice.hosted_url.clone().unwrap_or_else(|| format!("{base}/invoices/{}", invoice.id));
    if kind == "invoice" {
        let subject = format!("Invoice {number} from {seller}");
        let how = if invoice.state == State::Paid {
            "It is paid; nothing is left to do.".to_owned()
        } else {
            format!("It is due on {due}. To pay it or see what is behind each line: {pay}")
        };
        return (subject, format!("Your invoice {number} from {seller} comes to {total}.\n{how}\n\nThe invoice is attached.\n"));
    }
    if kind == "recovered" {
        let subject = format!("Paid: invoice {number} from {seller}");
        return (
            subject,
            format!("Thank you: the payment of {total} for invoice {number} from {seller} has arrived. Nothing is left to do.\n"),
        );
    }
    if kind == "payment_failed" {
        let subject = format!("Payment failed: invoice {number} from {seller}");
        let text = format!(
            "The payment of {total} for invoice {number} from {seller} was declined.\nPlease pay it here, or give another card in your account, \
             which is then charged: {pay}\n\nThe invoice is attached.\n"
        );
        return (subject, text);
    }
    let late = invoice.due_at.map_or(0, |at| (now - at).num_days().max(0));
    let since = match late {
        0 => "is due today".to_owned(),
        1 => format!("was due on {due}, a day ago"),
        days => format!("was due on {due}, {days} days ago"),
    };
    let subject = format!("Reminder: invoice {number} from {seller} is not paid");
    let text = format!(
        "Invoice {number} from {seller} over {total} {since}, and no payment has arrived.\nPlease pay it: {pay}\n\nIf you have paid, thank you: this has crossed your payment. The invoice is attached.\n"
    );
    (subject, text)
}
