//! Rebuilds the rollups of touched minutes from the deduplicated events, and publishes them by generation.
//!
//! A recomputation reads how often a minute was touched (`n`), writes the minute's groups under a fresh generation, then
//! publishes (n, generation). Readers take the generation with the highest (n, generation), so publishing is atomic, a
//! group that vanished is simply not there, and several instances may work on the same minute: whoever read the higher
//! `n` is current, and those with equal `n` computed from the same. A crash in between leaves rows that nobody reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::clickhouse::altered;
use farebox_core::ids::WorkspaceId;
use farebox_core::{App, clock};
use serde::{Deserialize, Serialize};

use crate::attribution::attributed;
use crate::facts::{METER, MeterTable, Table, bound, minute_sql};
use crate::tiers::HOUR;
use crate::{MeteringError, meters, plan, retention, rule, timelines};

/// One recomputation takes at most so many touched rows (memory) and minutes (length of the query).
const MAX_ROWS: u64 = 2_000_000;
const MAX_MINUTES: usize = 2_000;
/// And of so many hours, each of which is a lock in PostgreSQL.
const MAX_HOURS: usize = 100;
/// A recomputation that took longer does not publish: its rows may be taken for garbage.
const MAX_AGE: Duration = Duration::from_secs(20 * 60);
/// Rows of generations older than this that are not current are garbage.
pub const GARBAGE_AGE: Duration = Duration::from_secs(60 * 60);

/// Bits of a generation that are a sequence's; the others tell the time.
const SEQUENCE_BITS: u32 = 20;

#[derive(Debug, Clone, Row, Deserialize)]
struct Dirty {
    rollup: String,
    workspace: String,
    minute: u32,
    n: u64,
}

#[derive(Row, Serialize)]
pub(crate) struct Published {
    pub rollup: String,
    pub workspace: String,
    pub bucket: u32,
    pub n: u64,
    pub r#gen: u64,
}

/// The rollups there are: the common ones of every workspace, and those of meters that need one of their own.
pub(crate) struct Rollups {
    meters: BTreeMap<(WorkspaceId, String), Table>,
}

impl Rollups {
    pub async fn of(app: &App) -> Result<Self, MeteringError> {
        let mut found = BTreeMap::new();
        for (workspace, meter) in meters::all(&mut *app.pg.acquire().await?).await? {
            if MeterTable::is_needed(&meter)? {
                let table = Table::Meter(MeterTable::new(&meter)?.into());
                found.insert((workspace, table.rollup()), table);
            }
        }
        Ok(Self { meters: found })
    }

    /// Those of a workspace that have hours and days.
    pub fn tiered(&self, workspace: &WorkspaceId) -> Vec<Table> {
        let own = self.meters.iter().filter(|((w, _), _)| w == workspace).map(|(_, table)| table.clone());
        Table::COMMON.into_iter().chain([Table::Activity]).chain(own).collect()
    }

    fn table(&self, workspace: &WorkspaceId, rollup: &str) -> Option<Table> {
        let common = Table::COMMON.into_iter().find(|table| table.name() == rollup);
        common.or_else(|| self.meters.get(&(workspace.clone(), rollup.to_owned())).cloned())
    }

    /// (workspace, rollup) of meters, as ClickHouse writes them: of ids and of names with a closed alphabet.
    fn meters_sql(&self, of: impl Fn(&WorkspaceId) -> bool) -> Option<String> {
        let pairs: Vec<_> = self.meters.keys().filter(|(w, _)| of(w)).map(|(w, rollup)| format!("('{w}', '{rollup}')")).collect();
        (!pairs.is_empty()).then(|| pairs.join(", "))
    }
}

/// Recomputes everything that is dirty in one workspace; returns the number of minutes. Numbers are right without it
/// (dirty minutes are read raw): it makes them cheap.
pub async fn workspace(app: &App, workspace: &WorkspaceId) -> Result<usize, MeteringError> {
    let rollups = Rollups::of(app).await?;
    let mut done = 0;
    loop {
        let dirty = dirty(app, &rollups, Search::Workspace(workspace), MAX_MINUTES).await?;
        for part in dirty.chunk_by(|a, b| a.rollup == b.rollup) {
            let Some(table) = rollups.table(workspace, &part[0].rollup) else { continue };
            let mut rest = part;
            while !rest.is_empty() {
                let worked = batch(app, &table, rest, Claim::Wait).await?;
                (done, rest) = (done + worked.done, &rest[worked.taken..]);
            }
        }
        if dirty.len() < MAX_MINUTES {
            return Ok(done);
        }
    }
}

/// Where to look for dirty minutes.
#[derive(Clone, Copy)]
pub(crate) enum Search<'a> {
    Everywhere,
    Workspace(&'a WorkspaceId),
    Minutes(&'a BTreeSet<(WorkspaceId, u32)>),
}

/// What a step found and did not do.
#[derive(Default)]
pub(crate) struct Left {
    /// Not due yet, or in another instance's hands.
    pub minutes: BTreeSet<(WorkspaceId, u32)>,
    /// There is more than a step looks at.
    pub more: bool,
}

/// Recomputes what is dirty and due.
pub(crate) async fn step(app: &App, search: Search<'_>, settling: &mut Settling) -> Result<Left, MeteringError> {
    let rollups = Rollups::of(app).await?;
    let dirty = dirty(app, &rollups, search, MAX_MINUTES * 2).await?;
    let mut left = Left { more: dirty.len() >= MAX_MINUTES * 2, ..Left::default() };
    for part in dirty.chunk_by(|a, b| a.workspace == b.workspace && a.rollup == b.rollup) {
        let workspace: WorkspaceId = part[0].workspace.parse().map_err(|e| MeteringError::unreadable("a workspace id in `touched`", e))?;
        let Some(table) = rollups.table(&workspace, &part[0].rollup) else { continue };
        let (due, resting): (Vec<_>, Vec<_>) = part.iter().cloned().partition(|d| settling.is_due(d));
        left.minutes.extend(resting.iter().map(|d| (workspace.clone(), d.minute)));
        let mut rest = due.as_slice();
        while !rest.is_empty() {
            let worked = batch(app, &table, rest, Claim::Try).await?;
            let (taken, later) = rest.split_at(worked.taken);
            if worked.busy {
                left.minutes.extend(taken.iter().map(|d| (workspace.clone(), d.minute)));
            }
            settling.rest(taken);
            rest = later;
        }
    }
    Ok(left)
}

/// When minutes were last recomputed: one that is still being written to is not recomputed at every touch.
#[derive(Default)]
pub(crate) struct Settling {
    recent: HashMap<(String, String, u32), Instant>,
}

impl Settling {
    const REST: Duration = Duration::from_secs(10);

    fn is_due(&self, dirty: &Dirty) -> bool {
        let key = (dirty.rollup.clone(), dirty.workspace.clone(), dirty.minute);
        self.recent.get(&key).is_none_or(|at| at.elapsed() >= Self::REST)
    }

    fn rest(&mut self, done: &[Dirty]) {
        if self.recent.len() > 50_000 {
            self.recent.retain(|_, at| at.elapsed() < Self::REST);
        }
        for d in done {
            self.recent.insert((d.rollup.clone(), d.workspace.clone(), d.minute), Instant::now());
        }
    }
}

/// Dirty minutes, a rollup's and workspace's together, with how often they were touched. The common rollups first.
async fn dirty(app: &App, rollups: &Rollups, search: Search<'_>, limit: usize) -> Result<Vec<Dirty>, MeteringError> {
    let common: Vec<_> = Table::COMMON.iter().map(|table| format!("'{}'", table.name())).collect();
    let common = common.join(", ");
    let mut found = dirty_of(app, search, limit, &format!("arrayJoin([{common}])"), "true", &format!("rollup IN ({common})")).await?;
    let asked = |workspace: &WorkspaceId| match search {
        Search::Everywhere => true,
        Search::Workspace(only) => workspace == only,
        Search::Minutes(minutes) => minutes.iter().any(|(w, _)| w == workspace),
    };
    if found.len() < limit
        && let Some(pairs) = rollups.meters_sql(asked)
    {
        let mine = format!("arrayJoin(arrayMap(p -> p.2, arrayFilter(p -> p.1 = workspace, [{pairs}])))");
        let only = format!("workspace IN (SELECT arrayJoin(arrayMap(p -> p.1, [{pairs}])))");
        found.extend(dirty_of(app, search, limit - found.len(), &mine, &only, &format!("startsWith(rollup, '{METER}') AND {only}")).await?);
    }
    Ok(found)
}

/// `of`: the rollups of a row of `touched`; `only`: which of these rows; `theirs`: which rows of `rollup_gen` can be of them.
async fn dirty_of(app: &App, search: Search<'_>, limit: usize, of: &str, only: &str, theirs: &str) -> Result<Vec<Dirty>, MeteringError> {
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
    // What is frozen stays as it is, whatever touches it. Ids have a closed alphabet.
    let frozen: String = retention::all_limits(app)
        .await?
        .iter()
        .map(|(workspace, limits)| format!(" AND NOT (workspace = '{workspace}' AND minute < {})", minute_sql(limits.frozen.timestamp())))
        .collect();
    let sql = format!(
        "SELECT t.of_rollup AS rollup, toString(t.workspace) AS workspace, toUnixTimestamp(t.minute) AS minute, t.touched_n AS n FROM \
         (SELECT workspace, minute, touched_n, {of} AS of_rollup FROM \
         (SELECT workspace, minute, sum(n) AS touched_n FROM touched WHERE {in_touched} AND {only}{frozen} GROUP BY workspace, minute)) AS t LEFT JOIN \
         (SELECT toString(rollup) AS done_rollup, workspace, bucket, max(n) AS done_n FROM rollup_gen WHERE {in_published} AND {theirs} \
         GROUP BY done_rollup, workspace, bucket) AS g \
         ON t.of_rollup = g.done_rollup AND t.workspace = g.workspace AND t.minute = g.bucket WHERE t.touched_n > g.done_n \
         ORDER BY rollup, workspace, minute LIMIT {limit}"
    );
    let mut query = app.clickhouse.query_raw(&sql).with_setting("max_query_size", "4194304");
    if let Search::Workspace(workspace) = search {
        query = query.param("ws", workspace.as_str());
    }
    Ok(query.fetch_all().await?)
}

/// Whether to wait for another instance that works on the same buckets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Try,
    Wait,
}

/// What became of the first so many dirty minutes.
struct Worked {
    taken: usize,
    done: usize,
    /// Some are in another instance's hands.
    busy: bool,
}

/// One generation for minutes of one rollup and workspace. Minutes are claimed by their hour, until the transaction
/// ends, however it does. The claim saves work; numbers would be right without it.
async fn batch(app: &App, table: &Table, dirty: &[Dirty], claim: Claim) -> Result<Worked, MeteringError> {
    let (mut rows, mut hours) = (0, BTreeSet::new());
    let taken = dirty.iter().take(MAX_MINUTES).take_while(|d| {
        rows += d.n;
        hours.insert(d.minute / HOUR);
        (rows <= MAX_ROWS || rows == d.n) && hours.len() <= MAX_HOURS
    });
    let taken: Vec<_> = taken.collect();
    let mut worked = Worked { taken: taken.len(), done: 0, busy: false };
    let Some(first) = taken.first() else { return Ok(worked) };
    let workspace: WorkspaceId = first.workspace.parse().map_err(|e| MeteringError::unreadable("a workspace id in `touched`", e))?;
    let mut claimed = app.pg.begin().await?;
    let hours: BTreeSet<_> = taken.iter().map(|d| d.minute / HOUR).collect();
    let keys: Vec<_> =
        hours.iter().map(|hour| format!("rollup {} {workspace} {} {hour}", app.config.clickhouse.database, table.rollup())).collect();
    let ours: BTreeSet<u32> = if claim == Claim::Wait {
        timelines::lock_all(&mut claimed, &keys).await?;
        hours
    } else {
        let locked = timelines::try_lock_all(&mut claimed, &keys).await?;
        worked.busy = locked.contains(&false);
        hours.into_iter().zip(locked).filter(|(_, locked)| *locked).map(|(hour, _)| hour).collect()
    };
    // Who had it before us may have done it.
    let (low, high) = (taken.iter().map(|d| d.minute).min().unwrap_or(0), taken.iter().map(|d| d.minute).max().unwrap_or(0));
    let published = plan::current(app, &workspace, &table.rollup(), low, high + 60).await?;
    let frozen = plan::seconds(retention::limits(app, &workspace).await?.frozen);
    let is_open =
        |d: &&Dirty| ours.contains(&(d.minute / HOUR)) && d.minute >= frozen && published.get(&d.minute).is_none_or(|(n, _)| *n < d.n);
    let taken: Vec<_> = taken.into_iter().filter(is_open).collect();
    let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return Ok(worked) };
    let started = Instant::now();
    // Read after `n`: a rule that came into force earlier is seen, one that comes later touches again.
    let rule = rule::current(&mut claimed, &workspace).await?.1;
    let generation = generation(app).await?;
    let minutes: Vec<_> = taken.iter().map(|d| d.minute.to_string()).collect();
    let scope = format!(
        "AND toStartOfMinute(time) >= {} AND toStartOfMinute(time) <= {} AND toStartOfMinute(time) IN ({})",
        minute_sql(i64::from(first.minute)),
        minute_sql(i64::from(last.minute)),
        minutes.join(", ")
    );
    let (sql, parameters) = table.fill(&attributed(&rule, &scope), generation);
    let insert = parameters.bind(bound(app, &workspace, &sql));
    insert.with_setting("async_insert", "0").with_setting("insert_deduplicate", "0").execute().await?;
    let rows: Vec<_> = taken
        .iter()
        .map(|d| Published { rollup: table.rollup(), workspace: d.workspace.clone(), bucket: d.minute, n: d.n, r#gen: generation })
        .collect();
    if !publish(app, started, &rows).await? {
        worked.busy = true;
        return Ok(worked);
    }
    metrics::counter!("farebox_metering_minutes_recomputed_total", "rollup" => table.name()).increment(taken.len() as u64);
    worked.done = taken.len();
    Ok(worked)
}

/// Minutes before an instant whose rollups are not current, over all rollups of the workspace.
pub(crate) async fn dirty_before(app: &App, workspace: &WorkspaceId, until: DateTime<Utc>) -> Result<usize, MeteringError> {
    let rollups = Rollups::of(app).await?;
    let dirty = dirty(app, &rollups, Search::Workspace(workspace), usize::MAX >> 1).await?;
    Ok(dirty.iter().filter(|d| d.minute < plan::seconds(until)).count())
}

/// Makes a generation current, unless it was begun too long ago.
pub(crate) async fn publish(app: &App, started: Instant, rows: &[Published]) -> Result<bool, MeteringError> {
    if started.elapsed() > MAX_AGE {
        tracing::warn!(rollup = rows.first().map(|row| row.rollup.as_str()), "a recomputation took too long to publish; it is done again");
        return Ok(false);
    }
    let mut publish =
        app.clickhouse.insert::<Published>("rollup_gen").await?.with_setting("async_insert", "0").with_setting("insert_deduplicate", "0");
    for row in rows {
        publish.write(row).await?;
    }
    publish.end().await?;
    Ok(true)
}

/// Never used before, by any instance, and telling when it was made: milliseconds since 1970, then the lowest bits of a
/// sequence that all instances share.
pub(crate) async fn generation(app: &App) -> Result<u64, MeteringError> {
    let number = sqlx::query_scalar!(r#"SELECT nextval('rollup_generation') AS "n!""#).fetch_one(&app.pg).await?;
    let millis = u64::try_from(clock::now().timestamp_millis()).unwrap_or(0);
    Ok((millis << SEQUENCE_BITS) | (u64::try_from(number).unwrap_or(0) & ((1 << SEQUENCE_BITS) - 1)))
}

/// Deletes rows of generations that are not current and too old to be published any more, and what was published of
/// them; and rollups of meters that have another version in force.
pub async fn collect_garbage(app: &App, age: Duration) -> Result<(), MeteringError> {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let cutoff = u64::try_from(clock::now().timestamp_millis() - age).unwrap_or(0) << SEQUENCE_BITS;
    let rollups = Rollups::of(app).await?;
    let in_force = rollups.meters_sql(|_| true).unwrap_or_else(|| "('', '')".to_owned());
    let in_force = format!(
        "(NOT startsWith(rollup, '{METER}') OR (toString(workspace), \
         arrayStringConcat(arraySlice(splitByChar('/', toString(rollup)), 1, 2), '/')) IN ({in_force}))"
    );
    let current = format!(
        "SELECT rollup, workspace, bucket, argMax(gen, (n, gen)) AS last_gen FROM rollup_gen WHERE {in_force} GROUP BY workspace, rollup, bucket"
    );
    // What was superseded a moment ago may be in the plan of a question that is just being answered.
    let moving = format!("SELECT rollup, workspace, bucket FROM ({current}) WHERE last_gen >= {cutoff}");
    for (table, rollup) in [
        ("billing_minute", "'billing_minute'"),
        ("routes_minute", "'routes_minute'"),
        ("meter_minute", "concat('meter/', meter)"),
        ("billing_hour", "rollup"),
        ("routes_hour", "rollup"),
        ("meter_hour", "rollup"),
        ("billing_day", "rollup"),
        ("routes_day", "rollup"),
        ("activity_day", "rollup"),
        ("meter_day", "rollup"),
    ] {
        let rows = format!(
            "gen < {cutoff} AND ({rollup}, workspace, minute, gen) NOT IN ({current}) AND ({rollup}, workspace, minute) NOT IN ({moving})"
        );
        delete(app, table, &rows).await?;
    }
    let published =
        format!("gen < {cutoff} AND (rollup, workspace, bucket, gen) NOT IN ({current}) AND (rollup, workspace, bucket) NOT IN ({moving})");
    delete(app, "rollup_gen", &published).await
}

/// A deletion rewrites parts: worth it when a tenth of the table is garbage.
async fn delete(app: &App, table: &str, garbage: &str) -> Result<(), MeteringError> {
    let count = format!("SELECT countIf({garbage}), count() FROM {table}");
    let (garbage_rows, rows): (u64, u64) = app.clickhouse.query_raw(&count).fetch_one().await?;
    if garbage_rows * 10 > rows {
        let sql = format!("ALTER TABLE {} DELETE WHERE {garbage} SETTINGS mutations_sync = 1", altered(&app.config.clickhouse, table));
        app.clickhouse.query_raw(&sql).execute().await?;
        tracing::info!(table, rows = garbage_rows, "superseded rows were deleted");
    }
    Ok(())
}
