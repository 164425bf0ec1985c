//! Invoices, reminders and news of failed payments by e-mail: what is due is queued in the outbox ([`crate::mails`]), and written when
//! it is sent, with the invoice's PDF. A mail whose invoice was paid meanwhile is dropped, and of several that are due at once
//! only the last is sent.

use chrono::{DateTime, Utc};
use farebox_core::ids::InvoiceId;
use farebox_core::mail::{File, Mail};
use farebox_core::workspace::Workspace;
use farebox_core::{App, clock};
use sqlx::PgPool;

use crate::BillingError;
use crate::documents::{self, Medium};
use crate::invoices::{self, Invoice, State};

/// Queues what is due, each once.
pub async fn queue(pg: &PgPool, workspace: &Workspace) -> Result<(), BillingError> {
    let now = workspace.clock.now();
    sqlx::query!(
        "INSERT INTO mails (workspace_id, invoice_id, kind, next_at, created_at)
         SELECT i.workspace_id, i.id, 'invoice', $2, $2 FROM invoices i JOIN dunning_policies p USING (workspace_id)
         WHERE i.workspace_id = $1 AND i.state NOT IN ('draft', 'void') AND i.issued_at >= p.invoices_since AND i.total_minor > 0
         ON CONFLICT ON CONSTRAINT mails_invoice_once DO NOTHING",
        workspace.id.as_str(),
        clock::now()
    )
    .execute(pg)
    .await?;
    // Of the days that have come, the last.
    sqlx::query!(
        "INSERT INTO mails (workspace_id, invoice_id, kind, day, next_at, created_at)
         SELECT i.workspace_id, i.id, 'reminder', max(d.day), $3, $3
         FROM dunning_policies p CROSS JOIN LATERAL unnest(p.remind_after_days) AS d (day)
         JOIN invoices i ON i.workspace_id = p.workspace_id AND i.state = 'issued' AND i.total_minor > 0 AND NOT i.carried
          AND i.due_at + make_interval(days => d.day) <= $2
         WHERE p.workspace_id = $1
           AND NOT EXISTS (SELECT FROM dunning_pauses h WHERE h.workspace_id = i.workspace_id AND h.consumer_id = i.consumer_id AND h.until > $2)
         GROUP BY i.workspace_id, i.id
         HAVING max(d.day) > coalesce((SELECT max(m.day) FROM mails m WHERE m.invoice_id = i.id AND m.kind = 'reminder'), -1)
         ON CONFLICT ON CONSTRAINT mails_invoice_once DO NOTHING",
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
        "INSERT INTO mails (workspace_id, invoice_id, kind, day, next_at, created_at)
         SELECT f.workspace_id, f.invoice_id, 'payment_failed', max(d.day), $3, $3
         FROM failed_payments f LEFT JOIN dunning_policies p USING (workspace_id)
         CROSS JOIN LATERAL unnest(coalesce(p.failed_mail_days, '{0,3,7}')) AS d (day)
         WHERE f.workspace_id = $1 AND f.closed_at IS NULL AND f.opened_at + make_interval(days => d.day) <= $2
           AND NOT EXISTS (SELECT FROM dunning_pauses h WHERE h.workspace_id = f.workspace_id AND h.consumer_id = f.consumer_id AND h.until > $2)
         GROUP BY f.workspace_id, f.invoice_id
         HAVING max(d.day) > coalesce((SELECT max(m.day) FROM mails m WHERE m.invoice_id = f.invoice_id AND m.kind = 'payment_failed'), -1)
         ON CONFLICT ON CONSTRAINT mails_invoice_once DO NOTHING",
        workspace.id.as_str(),
        now,
        clock::now()
    )
    .execute(pg)
    .await?;
    sqlx::query!(
        "INSERT INTO mails (workspace_id, invoice_id, kind, next_at, created_at)
         SELECT f.workspace_id, f.invoice_id, 'recovered', $2, $2 FROM failed_payments f
         WHERE f.workspace_id = $1 AND f.outcome = 'recovered'
           AND EXISTS (SELECT FROM mails m WHERE m.invoice_id = f.invoice_id AND m.kind = 'payment_failed' AND m.state = 'sent')
         ON CONFLICT ON CONSTRAINT mails_invoice_once DO NOTHING",
        workspace.id.as_str(),
        clock::now()
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// A queued mail of an invoice, as it is sent now; or why it is not.
pub async fn write(
    app: &App,
    workspace: &Workspace,
    invoice: &InvoiceId,
    kind: &str,
    day: i32,
) -> Result<Result<Mail, &'static str>, BillingError> {
    let invoice = invoices::get(&mut *app.pg.acquire().await?, &workspace.id, invoice).await?;
    let invoice = invoice.ok_or(BillingError::NotFound("invoice"))?;
    if matches!(kind, "reminder" | "payment_failed") && invoice.state != State::Issued {
        return Ok(Err("the invoice is settled"));
    }
    if invoice.state == State::Void {
        return Ok(Err("the invoice is void"));
    }
    let Some(to) = invoice.buyer.get("email").and_then(|email| email.as_str()).map(str::to_owned) else {
        return Ok(Err("the buyer has no e-mail address"));
    };
    let pdf = documents::get(app, workspace, &invoice.id, Medium::Pdf).await?.ok_or(BillingError::NotFound("invoice"))?;
    let attachments = vec![File { name: pdf.name, media_type: "application/pdf".to_owned(), bytes: pdf.bytes }];
    let (subject, text) = words(workspace, &invoice, kind, workspace.clock.now(), &app.config.http.public_url);
    Ok(Ok(Mail { id: format!("{}.{kind}.{day}", invoice.id), to, subject, text, attachments }))
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
