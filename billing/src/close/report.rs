//! What a close did: answered to whoever asked, and kept for the checklist.

use bigdecimal::{BigDecimal, ToPrimitive};
use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money, MoneyError};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use serde::Serialize;
use sqlx::PgConnection;

use crate::{BillingError, calendar};

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct CloseReport {
    pub workspace: String,
    /// `2026-10`.
    pub period: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Invoices issued by this run, those of earlier periods left open included.
    pub issued: usize,
    /// Subscriptions left to another worker that has them in hand; none when a person closes.
    pub busy: usize,
    /// All invoices of periods that ended in this one, whoever issued them.
    pub invoices: i64,
    pub totals: Vec<CloseTotal>,
    /// What could not be closed, and why. Repair it and close again.
    pub problems: Vec<CloseProblem>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct CloseTotal {
    pub currency: String,
    /// Tax included.
    #[schema(value_type = String)]
    pub total: Money,
    #[schema(value_type = String)]
    pub paid: Money,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct CloseProblem {
    pub subscription: SubscriptionId,
    pub detail: String,
}

impl CloseReport {
    pub(super) fn new(workspace: &Workspace, period: Period) -> Self {
        Self {
            workspace: workspace.name.clone(),
            period: calendar::name(period, workspace.time_zone),
            from: period.start,
            to: period.end,
            issued: 0,
            busy: 0,
            invoices: 0,
            totals: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, workspace: &Workspace, subscription: SubscriptionId, result: Result<super::Done, BillingError>) {
        match result {
            Ok(done) => {
                self.issued += done.issued.len();
                self.busy += usize::from(done.busy);
            }
            Err(error) => {
                tracing::error!(workspace = workspace.name, %subscription, "a subscription's period could not be closed: {error}");
                self.problems.push(CloseProblem { subscription, detail: error.to_string() });
            }
        }
    }

    pub(super) async fn totals(&mut self, conn: &mut PgConnection, ws: &WorkspaceId, period: Period) -> Result<(), BillingError> {
        let rows = sqlx::query!(
            r#"SELECT currency, count(*) AS "invoices!", sum(total_minor) AS "total!",
                      coalesce(sum(total_minor) FILTER (WHERE state = 'paid'), 0) AS "paid!"
               FROM invoices WHERE workspace_id = $1 AND period_end > $2 AND period_end <= $3 AND state <> 'draft' GROUP BY currency ORDER BY currency"#,
            ws.as_str(),
            period.start,
            period.end
        )
        .fetch_all(conn)
        .await?;
        for row in rows {
            let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("an invoice", e))?;
            self.invoices += row.invoices;
            self.totals.push(CloseTotal {
                currency: row.currency,
                total: in_minor(&row.total, currency)?,
                paid: in_minor(&row.paid, currency)?,
            });
        }
        Ok(())
    }
}

/// Invoices of periods that ended in this one.
pub(super) async fn issued(conn: &mut PgConnection, ws: &WorkspaceId, period: Period) -> Result<i64, BillingError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "invoices!" FROM invoices
           WHERE workspace_id = $1 AND period_end > $2 AND period_end <= $3 AND state <> 'draft'"#,
        ws.as_str(),
        period.start,
        period.end
    )
    .fetch_one(conn)
    .await?)
}

/// Amounts that fit may add up to one that does not.
fn in_minor(sum: &BigDecimal, currency: Currency) -> Result<Money, MoneyError> {
    sum.to_i64().map(|minor| Money::new(minor, currency)).ok_or(MoneyError::Overflow(currency))
}

pub(super) async fn start(conn: &mut PgConnection, workspace: &Workspace, period: Period) -> Result<i64, BillingError> {
    Ok(sqlx::query_scalar!(
        "INSERT INTO close_runs (workspace_id, period_start, period_end, started_at) VALUES ($1, $2, $3, $4) RETURNING id",
        workspace.id.as_str(),
        period.start,
        period.end,
        clock::now()
    )
    .fetch_one(conn)
    .await?)
}

pub(super) async fn finish(conn: &mut PgConnection, run: i64, report: &CloseReport) -> Result<(), BillingError> {
    let json = serde_json::to_value(report).map_err(|e| BillingError::unreadable("a report", e))?;
    sqlx::query!("UPDATE close_runs SET finished_at = $2, report = $3 WHERE id = $1", run, clock::now(), json).execute(conn).await?;
    Ok(())
}
