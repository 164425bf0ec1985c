//! Issues drafts: gives each the next number of its series, and fixes it for good.

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

/// False when it was issued before.
pub async fn issue(conn: &mut PgConnection, workspace: &Workspace, id: &InvoiceId, now: DateTime<Utc>) -> Result<bool, BillingError> {
    Ok(!issue_all(conn, workspace, std::slice::from_ref(id), now).await?.is_empty())
}

/// Those of the drafts that were not issued before. Numbers are taken in the transaction that uses them, so the series has no
/// gaps.
pub async fn issue_all(
    conn: &mut PgConnection,
    workspace: &Workspace,
    drafts: &[InvoiceId],
    now: DateTime<Utc>,
) -> Result<Vec<InvoiceId>, BillingError> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = conn.begin().await?;
    let wanted: Vec<_> = drafts.iter().map(ToString::to_string).collect();
    let found = sqlx::query!(
        r#"SELECT id AS "id: InvoiceId", total_minor, currency, due_days, collect FROM invoices
           WHERE workspace_id = $1 AND id = ANY($2) AND state = 'draft' ORDER BY id FOR UPDATE"#,
        workspace.id.as_str(),
        &wanted
    )
    .fetch_all(&mut *transaction)
    .await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = numbers::next(&mut transaction, &workspace.id, &numbers::invoice_prefix(&workspace.seller), found.len()).await?;
    let (mut ids, mut due, mut carried) = (Vec::new(), Vec::new(), Vec::new());
    for draft in &found {
        ids.push(draft.id.to_string());
        carried.push(draft.total_minor < 0 || (draft.total_minor > 0 && draft.total_minor < smallest_collectable(&draft.currency)));
        let days = if draft.collect == "automatically" { 0 } else { i64::from(draft.due_days) };
        due.push(now + TimeDelta::days(days));
    }
    sqlx::query!(
        "UPDATE invoices i SET state = 'issued', number = n.number, issued_at = $1, due_at = n.due_at, carried = n.carried
         FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::boolean[]) AS n (id, number, due_at, carried) WHERE i.id = n.id",
        now,
        &ids,
        &numbers,
        &due,
        &carried
    )
    .execute(&mut *transaction)
    .await?;
    // Nothing to pay is paid; and what these invoices took over is settled by them.
    sqlx::query!(
        "UPDATE invoices SET state = 'paid', paid_at = $2, closed_at = $2
         WHERE workspace_id = $3 AND state = 'issued' AND ((id = ANY($1) AND total_minor = 0) OR carried_into = ANY($1))",
        &ids,
        now,
        workspace.id.as_str()
    )
    .execute(&mut *transaction)
    .await?;
    let details: Vec<_> = numbers.iter().map(|number| json!({ "number": number })).collect();
    audit_log::record_many(&mut transaction, &workspace.id, "farebox", "invoice.issue", &ids, &details).await?;
    sqlx::query!("SELECT pg_notify('farebox_billing', $1)", workspace.id.as_str()).execute(&mut *transaction).await?;
    faults::point("close.before_issue_commit");
    transaction.commit().await?;
    Ok(found.into_iter().map(|draft| draft.id).collect())
}
