//! Numbers of documents: a series has no gaps, since a number is taken in the transaction that uses it.

use farebox_core::ids::WorkspaceId;
use serde_json::Value;
use sqlx::PgConnection;

use crate::BillingError;

/// Where a workspace's seller names no prefix.
const DEFAULT: &str = "INV-";
/// So that a number fits where Stripe takes 26 characters.
pub const PREFIX_MOST: usize = 16;

pub fn invoice_prefix(seller: &Value) -> String {
    given(seller, "invoice_number_prefix").unwrap_or_else(|| DEFAULT.to_owned())
}

/// The seller's own, or the invoices' with `CN-` after it.
pub fn credit_note_prefix(seller: &Value) -> String {
    let derived = || Some(format!("{}CN-", invoice_prefix(seller))).filter(|prefix| prefix.len() <= PREFIX_MOST);
    given(seller, "credit_note_number_prefix").or_else(derived).unwrap_or_else(|| "CN-".to_owned())
}

fn given(seller: &Value, key: &str) -> Option<String> {
    seller.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// The next so many, in their order. The row of the series stays locked until the transaction ends: numbers are given one
/// after the other.
pub async fn next(conn: &mut PgConnection, ws: &WorkspaceId, prefix: &str, count: usize) -> Result<Vec<String>, BillingError> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let last = sqlx::query_scalar!(
        "INSERT INTO number_series (workspace_id, prefix, last) VALUES ($1, $2, $3)
         ON CONFLICT (workspace_id, prefix) DO UPDATE SET last = number_series.last + $3 RETURNING last",
        ws.as_str(),
        prefix,
        count
    )
    .fetch_one(conn)
    .await?;
    Ok((last - count + 1..=last).map(|number| format!("{prefix}{number:06}")).collect())
}
