//! Issues a draft: gives it the next number of its series, and fixes it for good.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::audit_log;
use farebox_core::ids::InvoiceId;
use farebox_core::workspace::Workspace;
use serde_json::json;
use sqlx::{Acquire, PgConnection};

use super::numbers;
use crate::{BillingError, faults};

/// What a payment provider collects at least, in minor units; less is carried to the next invoice. Stripe's figures.
fn smallest_collectable(currency: &str) -> i64 {
    match currency {
        "JPY" | "EUR" | "USD" | "CAD" | "AUD" | "NZD" | "CHF" | "SGD" | "BRL" | "INR" => 50,
        "GBP" => 30,
        "DKK" => 250,
        "NOK" | "SEK" => 300,
        "HKD" => 400,
        "AED" | "PLN" | "MYR" => 200,
        "MXN" => 1000,
        "CZK" => 1500,
        "HUF" => 17_500,
        _ => 0,
    }
}

/// False when it was issued before. The number is taken in the transaction that uses it, so the series has no gaps.
pub async fn issue(conn: &mut PgConnection, workspace: &Workspace, id: &InvoiceId, now: DateTime<Utc>) -> Result<bool, BillingError> {
    let mut transaction = conn.begin().await?;
    let draft = sqlx::query!(
        "SELECT total_minor, currency, due_days, collect FROM invoices WHERE workspace_id = $1 AND id = $2 AND state = 'draft' FOR UPDATE",
        workspace.id.as_str(),
        id.as_str()
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(draft) = draft else { return Ok(false) };
    let number = numbers::next(&mut transaction, &workspace.id, &numbers::invoice_prefix(&workspace.seller)).await?;
    let carried = draft.total_minor < 0 || (draft.total_minor > 0 && draft.total_minor < smallest_collectable(&draft.currency));
    let due_at = if draft.collect == "automatically" { now } else { now + TimeDelta::days(i64::from(draft.due_days)) };
    sqlx::query!(
        "UPDATE invoices SET state = 'issued', number = $2, issued_at = $3, due_at = $4, carried = $5 WHERE id = $1",
        id.as_str(),
        number,
        now,
        due_at,
        carried
    )
    .execute(&mut *transaction)
    .await?;
    // Nothing to pay is paid; and what this invoice took over is settled by it.
    sqlx::query!(
        "UPDATE invoices SET state = 'paid', paid_at = $2, closed_at = $2
         WHERE workspace_id = $3 AND state = 'issued' AND ((id = $1 AND total_minor = 0) OR carried_into = $1)",
        id.as_str(),
        now,
        workspace.id.as_str()
    )
    .execute(&mut *transaction)
    .await?;
    audit_log::record(&mut transaction, &workspace.id, "farebox", "invoice.issue", id.as_str(), &json!({ "number": number })).await?;
    sqlx::query!("SELECT pg_notify('farebox_billing', $1)", workspace.id.as_str()).execute(&mut *transaction).await?;
    faults::point("close.before_issue_commit");
    transaction.commit().await?;
    Ok(true)
}
