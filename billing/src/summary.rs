//! Sums over invoices, for pages: what a period came to, how invoices stand, and how a close went.

use chrono::{DateTime, Utc};
use farebox_core::ids::WorkspaceId;
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use sqlx::PgConnection;

use crate::BillingError;
use crate::invoices::State;

/// What the issued invoices whose period begins in a month came to. Void ones are left out; amounts are without tax where not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodSummary {
    pub start: DateTime<Utc>,
    pub invoices: i64,
    pub fees: Money,
    pub usage: Money,
    /// Minimums, caps and what was carried over.
    pub other: Money,
    pub tax: Money,
    /// With tax.
    pub total: Money,
    pub paid_invoices: i64,
    /// With tax.
    pub paid: Money,
}

/// By month of the workspace's calendar, whatever the plans' own periods are: the newest last, of the currency asked for.
pub async fn by_period(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    currency: Currency,
    since: DateTime<Utc>,
) -> Result<Vec<PeriodSummary>, BillingError> {
    let rows = sqlx::query!(
        r#"WITH chosen AS (
               SELECT i.id, date_trunc('month', i.period_start AT TIME ZONE w.time_zone) AT TIME ZONE w.time_zone AS month,
                      i.state, i.tax_minor, i.total_minor, i.credited_minor
               FROM invoices i JOIN workspaces w ON w.id = i.workspace_id
               WHERE i.workspace_id = $1 AND i.currency = $2 AND i.period_start >= $3 AND i.state NOT IN ('draft', 'void')
           ), lines AS (
               SELECT c.month, l.kind, sum(l.amount_minor - l.discount_minor - l.credit_minor - CASE WHEN l.tax_inclusive THEN l.tax_minor ELSE 0 END)::bigint AS net
               FROM chosen c JOIN invoice_lines l ON l.invoice_id = c.id GROUP BY c.month, l.kind
           )
           SELECT c.month AS "start!", count(*) AS "invoices!", sum(c.tax_minor)::bigint AS "tax!", sum(c.total_minor)::bigint AS "total!",
                  count(*) FILTER (WHERE c.state = 'paid') AS "paid_invoices!",
                  coalesce(sum(c.total_minor - c.credited_minor) FILTER (WHERE c.state = 'paid'), 0)::bigint AS "paid!",
                  coalesce((SELECT sum(net) FROM lines l WHERE l.month = c.month AND l.kind = 'fee'), 0)::bigint AS "fees!",
                  coalesce((SELECT sum(net) FROM lines l WHERE l.month = c.month AND l.kind = 'usage'), 0)::bigint AS "usage!",
                  coalesce((SELECT sum(net) FROM lines l WHERE l.month = c.month AND l.kind NOT IN ('fee', 'usage')), 0)::bigint AS "other!"
           FROM chosen c GROUP BY c.month ORDER BY c.month"#,
        ws.as_str(),
        currency.code(),
        since
    )
    .fetch_all(conn)
    .await?;
    let money = |minor| Money::new(minor, currency);
    Ok(rows
        .into_iter()
        .map(|row| PeriodSummary {
            start: row.start,
            invoices: row.invoices,
            fees: money(row.fees),
            usage: money(row.usage),
            other: money(row.other),
            tax: money(row.tax),
            total: money(row.total),
            paid_invoices: row.paid_invoices,
            paid: money(row.paid),
        })
        .collect())
}

/// How many invoices stand how, and what they come to with tax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSummary {
    pub state: State,
    pub invoices: i64,
    pub total: Money,
    /// Of those, past their due date and with something to collect.
    pub late: i64,
    pub late_total: Money,
}

pub async fn by_state(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    currency: Currency,
    now: DateTime<Utc>,
) -> Result<Vec<StateSummary>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT state AS "state: State", count(*) AS "invoices!", sum(total_minor)::bigint AS "total!",
                  count(*) FILTER (WHERE due_at < $3 AND total_minor > 0 AND NOT carried) AS "late!",
                  coalesce(sum(total_minor - credited_minor) FILTER (WHERE due_at < $3 AND total_minor > 0 AND NOT carried), 0)::bigint AS "late_total!"
           FROM invoices WHERE workspace_id = $1 AND currency = $2 GROUP BY state ORDER BY state"#,
        ws.as_str(),
        currency.code(),
        now
    )
    .fetch_all(conn)
    .await?;
    let money = |minor| Money::new(minor, currency);
    let summary = rows.into_iter().map(|row| StateSummary {
        state: row.state,
        invoices: row.invoices,
        total: money(row.total),
        late: row.late,
        late_total: money(row.late_total),
    });
    Ok(summary.collect())
}

/// One run of a close.
#[derive(Debug, Clone)]
pub struct CloseRun {
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// Subscriptions that could not be closed, and why.
    pub problems: Vec<(String, String)>,
}

/// The latest run for a period.
pub async fn last_close(conn: &mut PgConnection, ws: &WorkspaceId, period: Period) -> Result<Option<CloseRun>, BillingError> {
    let row = sqlx::query!(
        "SELECT started_at, finished_at, report FROM close_runs WHERE workspace_id = $1 AND period_start = $2 ORDER BY id DESC LIMIT 1",
        ws.as_str(),
        period.start
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let text = |problem: &serde_json::Value, key: &str| problem.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let problems = row.report.as_ref().and_then(|report| report.get("problems")?.as_array().cloned()).unwrap_or_default();
        CloseRun {
            started_at: row.started_at,
            finished_at: row.finished_at,
            problems: problems.iter().map(|p| (text(p, "subscription"), text(p, "detail"))).collect(),
        }
    }))
}
