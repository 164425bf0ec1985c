//! How a workspace bills, and how one of its consumers is billed.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::money::Currency;
use farebox_core::period::floor_minute;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

pub use crate::rating::plan::LateUsage;
use crate::{BillingError, subscriptions};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BillingSettings {
    /// Periods before it were billed elsewhere and are not invoiced here: for history that is imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_from: Option<DateTime<Utc>>,
    /// Periods are closed when a person says so, not by themselves when their grace is over.
    #[serde(default)]
    pub close_by_hand: bool,
    #[serde(default)]
    pub late_usage: LateUsage,
    /// For so many days after a period's end what comes late is looked for.
    #[serde(default = "late_days")]
    pub late_days: i32,
}

const fn late_days() -> i32 {
    60
}

impl Default for BillingSettings {
    fn default() -> Self {
        Self { close_from: None, close_by_hand: false, late_usage: LateUsage::default(), late_days: late_days() }
    }
}

/// Whether a consumer pays tax.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TaxStatus {
    #[default]
    Taxable,
    /// No tax is charged, for the reason given.
    Exempt,
    /// The buyer accounts for it, for the reason given.
    ReverseCharge,
}

impl TaxStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taxable => "taxable",
            Self::Exempt => "exempt",
            Self::ReverseCharge => "reverse_charge",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerBilling {
    /// Of subscriptions to come; the workspace's unless given.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub currency: Option<Currency>,
    #[serde(default)]
    pub tax_status: TaxStatus,
    /// Why no tax is charged; printed on the invoice.
    #[serde(default)]
    pub tax_reason: Option<String>,
    #[serde(default)]
    pub tax_id: Option<String>,
    /// One invoice for all its subscriptions in a currency whose periods end together.
    #[serde(default)]
    pub consolidated: bool,
}

pub async fn of(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<BillingSettings, BillingError> {
    let row = sqlx::query_as!(
        BillingSettings,
        r#"SELECT close_from, close_by_hand, late_usage AS "late_usage: LateUsage", late_days FROM billing_settings WHERE workspace_id = $1"#,
        ws.as_str()
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.unwrap_or_default())
}

/// True when that changed something. Subscriptions that have not been invoiced keep to it from now on.
pub async fn set(conn: &mut PgConnection, ws: &WorkspaceId, settings: &BillingSettings) -> Result<bool, BillingError> {
    let settings = BillingSettings { close_from: settings.close_from.map(floor_minute), ..settings.clone() };
    if !(0..=400).contains(&settings.late_days) {
        return Err(BillingError::invalid("/late_days", "is 0 to 400"));
    }
    if of(conn, ws).await? == settings {
        return Ok(false);
    }
    sqlx::query!(
        "INSERT INTO billing_settings (workspace_id, close_from, updated_at, late_usage, late_days, close_by_hand) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (workspace_id) DO UPDATE SET close_from = $2, updated_at = $3, late_usage = $4, late_days = $5, close_by_hand = $6",
        ws.as_str(),
        settings.close_from,
        clock::now(),
        settings.late_usage.as_str(),
        settings.late_days,
        settings.close_by_hand
    )
    .execute(&mut *conn)
    .await?;
    for subscription in subscriptions::list(conn, ws, None, i64::MAX, "").await? {
        if subscription.closed_until.is_none() {
            subscriptions::reschedule(conn, ws, &subscription).await?;
        }
    }
    Ok(true)
}

pub async fn of_consumer(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId) -> Result<ConsumerBilling, BillingError> {
    Ok(of_consumers(conn, ws, &[consumer.to_string()]).await?.remove(consumer).unwrap_or_default())
}

/// Of those for whom something was set.
pub async fn of_consumers(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumers: &[String],
) -> Result<HashMap<ConsumerId, ConsumerBilling>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT consumer_id AS "consumer: ConsumerId", currency, tax_status AS "tax_status: TaxStatus", tax_reason, tax_id, consolidated
           FROM consumer_billing
           WHERE workspace_id = $1 AND consumer_id = ANY($2)"#,
        ws.as_str(),
        consumers
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let currency =
                row.currency.map(|code| code.parse()).transpose().map_err(|e| BillingError::unreadable("a consumer's currency", e))?;
            let (tax_status, tax_reason, tax_id) = (row.tax_status, row.tax_reason, row.tax_id);
            Ok((row.consumer, ConsumerBilling { currency, tax_status, tax_reason, tax_id, consolidated: row.consolidated }))
        })
        .collect()
}

/// What is wrong with it, by field.
pub(crate) fn check_billing(billing: &ConsumerBilling) -> Result<(), (&'static str, &'static str)> {
    let empty = |text: &Option<String>| text.as_ref().is_none_or(|text| text.trim().is_empty());
    if billing.tax_status != TaxStatus::Taxable && empty(&billing.tax_reason) {
        return Err(("/tax_reason", "says why no tax is charged; it is printed on the invoice"));
    }
    if billing.tax_status == TaxStatus::ReverseCharge && empty(&billing.tax_id) {
        return Err(("/tax_id", "the buyer's tax id is needed where the buyer accounts for the tax"));
    }
    Ok(())
}

pub async fn set_consumer(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    billing: &ConsumerBilling,
) -> Result<(), BillingError> {
    check_billing(billing).map_err(|(field, detail)| BillingError::invalid(field, detail))?;
    if farebox_metering::consumers::get(conn, ws, consumer).await?.is_none() {
        return Err(BillingError::NotFound("consumer"));
    }
    sqlx::query!(
        "INSERT INTO consumer_billing (workspace_id, consumer_id, currency, tax_status, tax_reason, tax_id, updated_at, consolidated)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (workspace_id, consumer_id) DO UPDATE SET currency = $3, tax_status = $4, tax_reason = $5, tax_id = $6, updated_at = $7,
                consolidated = $8",
        ws.as_str(),
        consumer.as_str(),
        billing.currency.map(Currency::code),
        billing.tax_status.as_str(),
        billing.tax_reason,
        billing.tax_id,
        clock::now(),
        billing.consolidated
    )
    .execute(conn)
    .await?;
    Ok(())
}
