//! Rebuilds the rollups of touched minutes from the deduplicated events, and publishes them by generation.
//!
//! A recomputation reads how often a minute was touched (`n`), writes the minute's groups under a fresh generation, then
//! publishes (n, generation). Readers take the generation with the highest (n, generation), so publishing is atomic, a
//! group that vanished is simply not there, and several instances may work on the same minute: whoever read the higher
//! `n` is current, and those with equal `n` computed from the same. A crash in between leaves rows that nobody reads.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use farebox_core::{App, clock};
use serde::{Deserialize, Serialize};

use crate::attribution::attributed;
use crate::facts::{Table, bound, minute_sql};
use crate::{MeteringError, rule};

/// One recomputation takes at most so many touched rows (memory) and minutes (length of the query).
const MAX_ROWS: u64 = 2_000_000;
const MAX_MINUTES: usize = 2_000;
/// A recomputation that took longer does not publish: its rows may be taken for garbage.
const MAX_AGE: Duration = Duration::from_secs(20 * 60);
/// Rows of generations older than this that are not current are garbage.
pub const GARBAGE_AGE: Duration = Duration::from_secs(60 * 60);

/// Hours consolidated at a time.
const MOST_HOURS: usize = 200;
/// Bits of a generation that are a sequence's; the others tell the time.
const SEQUENCE_BITS: u32 = 20;

#[derive(Debug, Clone, Row, Deserialize)]
struct Dirty {
    workspace: String,
    minute: u32,
    n: u64,
}

#[derive(Row, Serialize)]
struct Published {
    rollup: String,
    workspace: String,
    bucket: u32,
    n: u64,
    r#gen: u64,
}

/// Recomputes everything that is dirty in one workspace; returns the number of minutes. Numbers are right without it
/// (dirty minutes are read raw): it makes them cheap.
pub async fn workspace(app: &App, workspace: &WorkspaceId) -> Result<usize, MeteringError> {
    let mut done = 0;
    for table in Table::ROLLUPS {
        loop {
            let dirty = dirty(app, table, Search::Workspace(workspace), MAX_MINUTES).await?;
            if dirty.is_empty() {
                break;
            }
            done += batch(app, table, &dirty).await?;
        }
    }
    Ok(done)
}

/// Where to look for dirty minutes.
#[derive(Clone, Copy)]
pub(crate) enum Search<'a> {
    Everywhere,
    Workspace(&'a WorkspaceId),
    Minutes(&'a BTreeSet<(WorkspaceId, u32)>),
}

/// Recomputes what is dirty and due; returns the number of minutes, and whether all that was found is clean now.
pub(crate) async fn step(app: &App, search: Search<'_>, settling: &mut Settling) -> Result<(usize, bool), MeteringError> {
    let (mut done, mut clean) = (0, true);
    for table in Table::ROLLUPS {
        let mut dirty = dirty(app, table, search, MAX_MINUTES * 2).await?;
        let found = dirty.len();
        dirty.retain(|d| settling.is_due(table, d));
        clean &= found == dirty.len() && found < MAX_MINUTES * 2;
        for part in dirty.chunk_by(|a, b| a.workspace == b.workspace) {
            let mut rest = part;
            while !rest.is_empty() {
                let taken = batch(app, table, rest).await?;
                if taken == 0 {
                    clean = false;
                    break;
                }
                settling.rest(table, &rest[..taken]);
                done += taken;
                rest = &rest[taken..];
            }
        }
    }
    Ok((done, clean))
}

/// When minutes were last recomputed: one that is still being written to is not recomputed at every touch.
#[derive(Default)]
pub(crate) struct Settling {
    recent: HashMap<(Table, String, u32), Instant>,
}

impl Settling {
    const REST: Duration = Duration::from_secs(10);

    fn is_due(&self, table: Table, dirty: &Dirty) -> bool {
        self.recent.get(&(table, dirty.workspace.clone(), dirty.minute)).is_none_or(|at| at.elapsed() >= Self::REST)
    }

    fn rest(&mut self, table: Table, done: &[Dirty]) {
        if self.recent.len() > 50_000 {
            self.recent.retain(|_, at| at.elapsed() < Self::REST);
        }
        for d in done {
            self.recent.insert((table, d.workspace.clone(), d.minute), Instant::now());
        }
    }
}

/// Dirty minutes of one rollup, a workspace's together, with how often they were touched.
async fn dirty(app: &App, table: Table, search: Search<'_>, limit: usize) -> Result<Vec<Dirty>, MeteringError> {
    let (in_touched, in_published) = match search {
        Search::Everywhere => ("true".to_owned(), "true".to_owned()),
        Search::Workspace(_) => ("workspace = {ws:String}".to_owned(), "workspace = {ws:String}".to_owned()),
        Search::Minutes(minutes) => {
            // Ids have a closed alphabet.
            let list: Vec<_> = minutes.iter().map(|(workspace, minute)| format!("('{workspace}', {minute})")).collect();
            let list = list.join(", ");
            (format!("(workspace, minute) IN ({list})"), format!("(workspace, bucket) IN ({list})"))
        }
    };
    let sql = format!(
        "SELECT toString(t.workspace) AS workspace, toUnixTimestamp(t.minute) AS minute, t.touched_n AS n FROM \
         (SELECT workspace, minute, sum(n) AS touched_n FROM touched WHERE {in_touched} GROUP BY workspace, minute) AS t LEFT JOIN \
         (SELECT workspace, bucket, max(n) AS done_n FROM rollup_gen WHERE rollup = '{}' AND {in_published} GROUP BY workspace, bucket) AS g \
         ON t.workspace = g.workspace AND t.minute = g.bucket WHERE t.touched_n > g.done_n ORDER BY workspace, minute LIMIT {limit}",
        table.name()
    );
    let mut query = app.clickhouse.query_raw(&sql).with_setting("max_query_size", "4194304");
    if let Search::Workspace(workspace) = search {
        query = query.param("ws", workspace.as_str());
    }
    Ok(query.fetch_all().await?)
}

/// One generation for minutes of one workspace.
async fn batch(app: &App, table: Table, dirty: &[Dirty]) -> Result<usize, MeteringError> {
    let mut rows = 0;
    let taken = dirty.iter().take(MAX_MINUTES).take_while(|d| {
        rows += d.n;
        rows <= MAX_ROWS || rows == d.n
    });
    let taken: Vec<_> = taken.collect();
    let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return Ok(0) };
    let workspace: WorkspaceId = first.workspace.parse().map_err(|e| MeteringError::unreadable("a workspace id in `touched`", e))?;
    let started = Instant::now();
    // Read after `n`: a rule that came into force earlier is seen, one that comes later touches again.
    let rule = rule::current(&mut *app.pg.acquire().await?, &workspace).await?.1;
    let generation = generation(app).await?;
    let minutes: Vec<_> = taken.iter().map(|d| d.minute.to_string()).collect();
    let scope = format!(
        "AND toStartOfMinute(time) >= {} AND toStartOfMinute(time) <= {} AND toStartOfMinute(time) IN ({})",
        minute_sql(i64::from(first.minute)),
        minute_sql(i64::from(last.minute)),
        minutes.join(", ")
    );
    let (names, measures): (Vec<_>, Vec<_>) = table.measures().iter().map(|(name, sql)| (*name, *sql)).unzip();
    let dimensions = table.dimensions();
    let sql = format!(
        "INSERT INTO {} (workspace, {dimensions}, {}, gen) SELECT {{ws:String}}, {dimensions}, {}, toUInt64({generation}) FROM ({}) GROUP BY {dimensions}",
        table.name(),
        names.join(", "),
        measures.join(", "),
        attributed(&rule, &scope)
    );
    bound(app, &workspace, &sql).with_setting("async_insert", "0").with_setting("insert_deduplicate", "0").execute().await?;
    if started.elapsed() > MAX_AGE {
        tracing::warn!(rollup = table.name(), "a recomputation took too long to publish; it is done again");
        return Ok(0);
    }
    let mut publish =
        app.clickhouse.insert::<Published>("rollup_gen").await?.with_setting("async_insert", "0").with_setting("insert_deduplicate", "0");
    for d in &taken {
        let row =
            Published { rollup: table.name().to_owned(), workspace: d.workspace.clone(), bucket: d.minute, n: d.n, r#gen: generation };
        publish.write(&row).await?;
    }
    publish.end().await?;
    metrics::counter!("farebox_metering_minutes_recomputed_total", "rollup" => table.name()).increment(taken.len() as u64);
    Ok(taken.len())
}

/// Never used before, by any instance, and telling when it was made: milliseconds since 1970, then the lowest bits of a
/// sequence that all instances share.
async fn generation(app: &App) -> Result<u64, MeteringError> {
    let number = sqlx::query_scalar!(r#"SELECT nextval('rollup_generation') AS "n!""#).fetch_one(&app.pg).await?;
    let millis = u64::try_from(clock::now().timestamp_millis()).unwrap_or(0);
    Ok((millis << SEQUENCE_BITS) | (u64::try_from(number).unwrap_or(0) & ((1 << SEQUENCE_BITS) - 1)))
}

/// Gives past hours one generation each, so that plans stay short: minutes are recomputed one by one while they are
/// live. Returns the number of minutes.
pub async fn consolidate(app: &App) -> Result<usize, MeteringError> {
    let before = minute_sql((clock::now() - TimeDelta::hours(2)).timestamp());
    let mut done = 0;
    for table in Table::ROLLUPS {
        let current = format!(
            "SELECT workspace, bucket, max(n) AS done_n, argMax(gen, (n, gen)) AS last_gen FROM rollup_gen \
             WHERE rollup = '{}' AND bucket < toStartOfHour({before}) GROUP BY workspace, bucket",
            table.name()
        );
        let sql = format!(
            "SELECT toString(workspace) AS workspace, toUnixTimestamp(bucket) AS minute, done_n AS n FROM ({current}) \
             WHERE (workspace, toStartOfHour(bucket)) IN (SELECT workspace, toStartOfHour(bucket) AS hour FROM ({current}) \
             GROUP BY workspace, hour HAVING min(last_gen) < max(last_gen) ORDER BY workspace, hour LIMIT {MOST_HOURS}) ORDER BY workspace, minute"
        );
        let found: Vec<Dirty> = app.clickhouse.query_raw(&sql).fetch_all().await?;
        let day = |d: &Dirty| (d.workspace.clone(), d.minute / 86_400);
        for part in found.chunk_by(|a, b| day(a) == day(b)) {
            // Published with the `n` it had: a minute that was touched since stays dirty.
            done += batch(app, table, part).await?;
        }
    }
    Ok(done)
}

/// Deletes rows of generations that are not current and too old to be published any more, and what was published of
/// them.
pub async fn collect_garbage(app: &App, age: Duration) -> Result<(), MeteringError> {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let cutoff = u64::try_from(clock::now().timestamp_millis() - age).unwrap_or(0) << SEQUENCE_BITS;
    for table in Table::ROLLUPS {
        let name = table.name();
        let current = format!(
            "SELECT workspace, bucket, argMax(gen, (n, gen)) AS last_gen FROM rollup_gen WHERE rollup = '{name}' GROUP BY workspace, bucket"
        );
        // What was superseded a moment ago may be in the plan of a question that is just being answered.
        let moving = format!("SELECT workspace, bucket FROM ({current}) WHERE last_gen >= {cutoff}");
        let rows = format!("gen < {cutoff} AND (workspace, minute, gen) NOT IN ({current}) AND (workspace, minute) NOT IN ({moving})");
        delete(app, name, &rows).await?;
        let published = format!(
            "rollup = '{name}' AND gen < {cutoff} AND (workspace, bucket, gen) NOT IN ({current}) AND (workspace, bucket) NOT IN ({moving})"
        );
        delete(app, "rollup_gen", &published).await?;
    }
    Ok(())
}

/// A deletion rewrites parts: worth it when a tenth of the table is garbage.
async fn delete(app: &App, table: &str, garbage: &str) -> Result<(), MeteringError> {
    let count = format!("SELECT countIf({garbage}), count() FROM {table}");
    let (garbage_rows, rows): (u64, u64) = app.clickhouse.query_raw(&count).fetch_one().await?;
    if garbage_rows * 10 > rows {
        let sql = format!("ALTER TABLE {table} DELETE WHERE {garbage} SETTINGS mutations_sync = 1");
        app.clickhouse.query_raw(&sql).execute().await?;
        tracing::info!(table, rows = garbage_rows, "superseded rows were deleted");
    }
    Ok(())
}
