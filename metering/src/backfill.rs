//! How much of history is rolled up for a meter. A new meter, or a new version of one, has a rollup in which every
//! minute is dirty; the recomputation works it off in the background, and answers are read from events meanwhile.

use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::{Deserialize, Serialize};

use crate::facts::{MeterTable, Table, bound, minute_sql};
use crate::meters::Meter;
use crate::{MeteringError, retention};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Progress {
    /// Minutes that have events which are still kept.
    pub minutes: u64,
    /// Of them, those read from the rollup.
    pub rolled_up: u64,
    pub complete: bool,
}

pub async fn progress(app: &App, workspace: &WorkspaceId, meter: &Meter) -> Result<Progress, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        minutes: u64,
        dirty: u64,
    }
    let table = if MeterTable::is_needed(meter)? { Table::Meter(MeterTable::new(meter)?.into()) } else { Table::Routes };
    let sql = format!(
        "SELECT count() AS minutes, countIf(t.touched_n > g.done_n) AS dirty FROM \
         (SELECT minute, sum(n) AS touched_n FROM touched WHERE workspace = {{ws:String}} AND minute >= {} GROUP BY minute) AS t LEFT JOIN \
         (SELECT bucket, max(n) AS done_n FROM rollup_gen WHERE rollup = {{rollup:String}} AND workspace = {{ws:String}} GROUP BY bucket) AS g \
         ON t.minute = g.bucket",
        minute_sql(retention::limits(app, workspace).await?.frozen.timestamp())
    );
    let found: Found = bound(app, workspace, &sql).param("rollup", table.rollup()).fetch_one().await?;
    Ok(Progress { minutes: found.minutes, rolled_up: found.minutes - found.dirty, complete: found.dirty == 0 })
}
