//! What is sent about an event: made once, kept, and sent the same at every attempt.

use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::workspace::Workspace;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{BillingError, invoices};

/// An event as it was written.
#[derive(Debug)]
pub struct Event {
    pub id: String,
    pub workspace: WorkspaceId,
    pub kind: String,
    pub subject: String,
    pub data: Value,
    pub at: chrono::DateTime<chrono::Utc>,
    pub body: Option<String>,
}

/// The bytes to send.
pub async fn of(conn: &mut PgConnection, workspace: &Workspace, event: &Event) -> Result<String, BillingError> {
    if let Some(body) = &event.body {
        return Ok(body.clone());
    }
    let data = match event.kind.strip_prefix("invoice.") {
        Some(_) => invoice(conn, event).await?,
        None => event.data.clone(),
    };
    let body = json!({ "id": event.id, "type": event.kind, "timestamp": event.at, "workspace": workspace.name, "data": data }).to_string();
    // Another worker that was faster made it from the same facts; what it kept is what was sent.
    let kept = sqlx::query_scalar!(
        r#"UPDATE webhook_events SET body = coalesce(body, $2) WHERE id = $1 RETURNING body AS "body!""#,
        event.id,
        body
    )
    .fetch_one(conn)
    .await?;
    Ok(kept)
}

/// An invoice without its lines, as it was at that moment.
async fn invoice(conn: &mut PgConnection, event: &Event) -> Result<Value, BillingError> {
    let id: InvoiceId = event.subject.parse().map_err(|e| BillingError::unreadable("an event", e))?;
    let invoice = invoices::get(conn, &event.workspace, &id).await?.ok_or(BillingError::NotFound("invoice"))?;
    let paid_at = event.data.get("paid_at").cloned().unwrap_or(Value::Null);
    Ok(json!({
        "id": invoice.id,
        "number": invoice.number,
        "state": event.data.get("state"),
        "consumer": invoice.consumer,
        "subscription": invoice.subscription,
        "period": invoice.period,
        "currency": invoice.currency,
        "subtotal": invoice.subtotal,
        "tax": invoice.tax,
        "total": invoice.total,
        "issued_at": invoice.issued_at,
        "due_at": invoice.due_at,
        "paid_at": paid_at,
        "hosted_url": invoice.hosted_url,
    }))
}

/// Writes what nobody writes: that the day an invoice was due has passed. Only for addresses that were there then.
pub async fn notice_past_due(conn: &mut PgConnection, workspace: &Workspace) -> Result<(), BillingError> {
    let now = workspace.clock.now();
    sqlx::query!(
        r#"SELECT webhook_event(i.workspace_id, 'invoice.past_due', i.id, i.consumer_id, '{"state": "issued"}', i.due_at)
           FROM invoices i
           WHERE i.workspace_id = $1 AND i.state = 'issued' AND i.total_minor > 0 AND NOT i.carried AND i.due_at < $2
             AND EXISTS (SELECT FROM webhooks w WHERE w.workspace_id = $1 AND w.disabled_at IS NULL AND w.events && ARRAY['invoice.past_due', '*']
                         AND w.created_at <= i.due_at)
             AND NOT EXISTS (SELECT FROM webhook_events e WHERE e.type = 'invoice.past_due' AND e.subject = i.id)"#,
        workspace.id.as_str(),
        now
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}
