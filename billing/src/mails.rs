//! The outbox of e-mails: about invoices ([`crate::dunning::mails`]) and about alerts ([`crate::alerts`]). What is queued is sent once,
//! and again until the server takes it: a mail is marked as sent after the server took it, and what dies in between is sent again
//! under the same Message-ID.

use std::time::Duration;

use chrono::TimeDelta;
use farebox_core::ids::{FiringId, InvoiceId, WorkspaceId};
use farebox_core::mail::{Mail, MailError, Mailer};
use farebox_core::workspace::{self, Workspace};
use farebox_core::{App, clock};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::BillingError;
use crate::dunning::mails as invoices;

const LOOK_EVERY: Duration = Duration::from_secs(5);
const LEASE: TimeDelta = TimeDelta::minutes(2);
const AT_ONCE: i64 = 16;
/// Over some two days.
const MOST_ATTEMPTS: i32 = 12;

/// Queues what is due about invoices and sends what is queued, until `stop`. Without a mail server nothing is sent.
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

/// Once; how many were sent.
pub async fn run_once(app: &App, mailer: &Mailer) -> Result<usize, BillingError> {
    let workspaces = workspace::all(&mut *app.pg.acquire().await?).await?;
    for workspace in &workspaces {
        invoices::queue(&app.pg, workspace).await?;
    }
    let mut sent = 0;
    for queued in claim(&app.pg).await? {
        let Some(workspace) = workspaces.iter().find(|workspace| workspace.id == queued.workspace) else { continue };
        let last = queued.attempts + 1 >= MOST_ATTEMPTS;
        let (state, error) = match write(app, workspace, &queued).await {
            Ok(Ok(mail)) => match mailer.send(&mail).await {
                Ok(()) => ("sent", None),
                Err(MailError::Later(why)) if !last => ("queued", Some(why)),
                Err(why) => {
                    tracing::error!(mail = mail.id, "an e-mail cannot be sent: {why}");
                    ("failed", Some(why.to_string()))
                }
            },
            Ok(Err(why)) => ("dropped", Some(why.to_owned())),
            Err(error) => {
                tracing::error!(mail = queued.id, "an e-mail cannot be written: {error}");
                (if last { "failed" } else { "queued" }, Some(error.to_string()))
            }
        };
        sent += usize::from(state == "sent");
        metrics::counter!("farebox_mails_total", "kind" => queued.kind.clone(), "outcome" => state).increment(1);
        note(&app.pg, &queued, state, error.as_deref()).await?;
    }
    Ok(sent)
}

struct Queued {
    id: i64,
    workspace: WorkspaceId,
    kind: String,
    invoice: Option<InvoiceId>,
    day: i32,
    firing: Option<FiringId>,
    address: Option<String>,
    subject: Option<String>,
    body: Option<String>,
    attempts: i32,
}

async fn claim(pg: &PgPool) -> Result<Vec<Queued>, BillingError> {
    let now = clock::now();
    Ok(sqlx::query_as!(
        Queued,
        r#"UPDATE mails SET leased_until = $2 WHERE id IN (
               SELECT id FROM mails WHERE state = 'queued' AND next_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
               ORDER BY next_at, id LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING id, workspace_id AS "workspace: WorkspaceId", kind, invoice_id AS "invoice: InvoiceId", day, firing_id AS "firing: FiringId",
                     address, subject, body, attempts"#,
        now,
        now + LEASE,
        AT_ONCE
    )
    .fetch_all(pg)
    .await?)
}

/// The mail, or why it is not sent.
async fn write(app: &App, workspace: &Workspace, queued: &Queued) -> Result<Result<Mail, &'static str>, BillingError> {
    if let Some(invoice) = &queued.invoice {
        return invoices::write(app, workspace, invoice, &queued.kind, queued.day).await;
    }
    let (Some(firing), Some(to), Some(subject), Some(text)) = (&queued.firing, &queued.address, &queued.subject, &queued.body) else {
        return Ok(Err("it says nothing"));
    };
    let id = format!("{firing}.{}", queued.id);
    Ok(Ok(Mail { id, to: to.clone(), subject: subject.clone(), text: text.clone(), attachments: Vec::new() }))
}

async fn note(pg: &PgPool, queued: &Queued, state: &str, error: Option<&str>) -> Result<(), BillingError> {
    let now = clock::now();
    sqlx::query!(
        "UPDATE mails SET state = $2, error = $3, attempts = attempts + 1, leased_until = NULL, next_at = $4,
                sent_at = CASE WHEN $2 = 'sent' THEN $5::timestamptz END WHERE id = $1",
        queued.id,
        state,
        error,
        now + TimeDelta::minutes(1 << queued.attempts.clamp(0, 9)),
        now
    )
    .execute(pg)
    .await?;
    Ok(())
}
