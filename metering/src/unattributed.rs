//! Usage that is nobody's: what gateways name and no link knows. A consumer of its own ("unknown") until it is linked.

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::{Deserialize, Serialize};

use crate::facts::{Column, Facts, Table};
use crate::{MeteringError, plan, rule};

/// A subject or key that gateways sent and no link knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Stranger {
    /// As the gateway named the consumer; empty for calls that name none.
    pub subject: String,
    /// Id of the key; empty for calls without one.
    pub credential: String,
    pub calls: u64,
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
}

/// Those with most calls first.
pub async fn list(app: &App, workspace: &WorkspaceId, period: Period, limit: usize) -> Result<Vec<Stranger>, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        subject: String,
        credential: String,
        calls: u64,
        first_at: i64,
        last_at: i64,
    }
    if period.is_empty() {
        return Ok(Vec::new());
    }
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let columns = ["subject", "credential", "time"].map(|name| Column::of_event(name, name)).to_vec();
    let raw = "consumer = ''".to_owned();
    let facts =
        Facts { table: Table::Raw, period, whole: &plan::never, columns, rolled: String::new(), raw, scope: String::new(), rule: &rule };
    let outer = format!(
        "SELECT subject, credential, count() AS calls, toUnixTimestamp64Micro(min(time)) AS first_at, toUnixTimestamp64Micro(max(time)) AS last_at \
         FROM ({{facts}}) GROUP BY subject, credential ORDER BY calls DESC, subject, credential LIMIT {limit}"
    );
    let found: Vec<Found> = facts.query(app, workspace, &outer).await?.fetch_all().await?;
    let at = |micros| DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let read = found.into_iter().map(|row| Stranger {
        subject: row.subject,
        credential: row.credential,
        calls: row.calls,
        first: at(row.first_at),
        last: at(row.last_at),
    });
    Ok(read.collect())
}
