//! The coarser tiers of rollups: hours (UTC), and days of the workspace's calendar, so that questions about months read
//! few rows.
//!
//! A tier is filled from the generations that are current in the finer one, and published with the sum of the touches
//! those had caught up with. A bucket is clean when that is what its minutes were touched in all, so one that a late
//! event, a correction or a new link changes is at once answered by finer tiers again, until it is filled anew.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use farebox_core::{App, clock, workspace as workspaces};
use serde::Deserialize;

use crate::facts::{Table, bound, minute_sql};
use crate::plan::{self, Runs, seconds};
use crate::recompute::{self, Claim, Published, Rollups};
use crate::{MeteringError, retention, timelines};

pub(crate) const HOUR: u32 = 3600;
/// How long after its end a bucket is filled: until then most late events are in.
const SETTLED: TimeDelta = TimeDelta::minutes(3);
/// A day that still gets late events is filled again after so long, not at each of them.
const REST: Duration = Duration::from_secs(600);
/// One filling takes at most so many touched rows (memory) and buckets (length of the query).
const MAX_ROWS: u64 = 4_000_000;
const MAX_BUCKETS: usize = 400;

/// A tier of a rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Minute,
    Hour,
    /// Of the calendar of this time zone.
    Day(Tz),
}

impl Tier {
    /// What its name in `rollup_gen` ends with.
    pub fn suffix(self) -> String {
        match self {
            Self::Minute => String::new(),
            Self::Hour => "/hour".to_owned(),
            Self::Day(zone) => format!("/day/{}", zone.name()),
        }
    }

    /// The tier it is filled from: days from hours where the calendar's days consist of whole ones.
    fn source(self, edges: &[u32]) -> Self {
        match self {
            Self::Day(_) if edges.iter().all(|edge| edge.is_multiple_of(HOUR)) => Self::Hour,
            _ => Self::Minute,
        }
    }
}

/// The bucket of a minute, in seconds since 1970; `edges` are the days' starts.
pub(crate) fn bucket_sql(tier: Tier, column: &str, edges: &[u32]) -> String {
    match tier {
        Tier::Minute => format!("toUnixTimestamp({column})"),
        Tier::Hour => format!("toUInt32(intDiv(toUnixTimestamp({column}), {HOUR}) * {HOUR})"),
        Tier::Day(_) => {
            let edges: Vec<_> = edges.iter().map(u32::to_string).collect();
            format!("toUInt32(roundDown(toUnixTimestamp({column}), [{}]))", edges.join(", "))
        }
    }
}

/// What was found at the last look: a workspace in which nothing happened since is passed over.
#[derive(Default)]
pub(crate) struct Seen {
    /// Touches before the hour, the hour, and which rollups there were.
    workspaces: HashMap<WorkspaceId, (u64, i64, Vec<String>)>,
    recent: HashMap<(WorkspaceId, String, u32), Instant>,
}

/// Fills what is settled, in every workspace; returns the number of buckets.
pub(crate) async fn step(app: &App, seen: &mut Seen) -> Result<usize, MeteringError> {
    let settled = clock::now() - SETTLED;
    let hour = settled.timestamp().div_euclid(i64::from(HOUR));
    let rollups = Rollups::of(app).await?;
    // Only buckets that are over are filled, so live traffic, which touches the running ones, is nothing new here.
    let sql =
        format!("SELECT toString(workspace), sum(n) FROM touched WHERE minute < {} GROUP BY workspace", minute_sql(hour * i64::from(HOUR)));
    let touched: Vec<(String, u64)> = app.clickhouse.query_raw(&sql).fetch_all().await?;
    seen.recent.retain(|_, at| at.elapsed() < REST);
    let mut filled = 0;
    for (workspace, touched) in touched {
        let workspace: WorkspaceId = workspace.parse().map_err(|e| MeteringError::unreadable("a workspace id in `touched`", e))?;
        let tables = rollups.tiered(&workspace);
        let state = (touched, hour, tables.iter().map(Table::rollup).collect());
        if seen.workspaces.get(&workspace) == Some(&state) {
            continue;
        }
        let (done, complete) = of(app, &workspace, &tables, settled, Claim::Try, &mut seen.recent).await?;
        filled += done;
        if complete {
            seen.workspaces.insert(workspace, state);
        }
    }
    Ok(filled)
}

/// Fills every bucket of a workspace whose minutes are clean, the running ones included; returns their number.
pub async fn workspace(app: &App, workspace: &WorkspaceId) -> Result<usize, MeteringError> {
    let rollups = Rollups::of(app).await?;
    let ever = DateTime::from_timestamp(i64::from(u32::MAX), 0).unwrap_or_default();
    Ok(of(app, workspace, &rollups.tiered(workspace), ever, Claim::Wait, &mut HashMap::new()).await?.0)
}

type Recent = HashMap<(WorkspaceId, String, u32), Instant>;

/// Returns how many buckets were filled, and whether all that are due are clean now.
async fn of(
    app: &App,
    workspace: &WorkspaceId,
    tables: &[Table],
    settled: DateTime<Utc>,
    claim: Claim,
    recent: &mut Recent,
) -> Result<(usize, bool), MeteringError> {
    let Some((first, last)) = plan::extent(app, workspace).await? else { return Ok((0, true)) };
    let found = workspaces::by_id(&mut *app.pg.acquire().await?, workspace).await;
    let zone = found.map_err(|e| MeteringError::unreadable("the workspace", e))?.map_or(Tz::UTC, |w| w.time_zone);
    let at = |seconds: u32, more: i64| DateTime::from_timestamp(i64::from(seconds) + more, 0).unwrap_or_default();
    let edges = plan::day_edges(at(first, 0), at(last, 60), zone);
    let (mut filled, mut complete) = (0, true);
    for tier in [Tier::Hour, Tier::Day(zone)] {
        // Calls that qualify have no hours of their own.
        let tables: Vec<_> = tables.iter().filter(|table| tier != Tier::Hour || !matches!(table, Table::Activity)).collect();
        let rollups: Vec<String> = tables.iter().map(|table| table.rollup_of(tier)).collect();
        let dirty = dirty(app, workspace, tier, &edges, &rollups).await?;
        for (table, rollup) in tables.into_iter().zip(rollups) {
            let filling = Filling { app, workspace, table, tier, edges: &edges };
            let dirty = dirty.iter().filter(|bucket| bucket.of_rollup == rollup).cloned().collect();
            let (done, all) = filling.fill(&rollup, dirty, seconds(settled), claim, recent).await?;
            filled += done;
            complete &= all;
        }
    }
    Ok((filled, complete))
}

struct Filling<'a> {
    app: &'a App,
    workspace: &'a WorkspaceId,
    table: &'a Table,
    tier: Tier,
    edges: &'a [u32],
}

#[derive(Debug, Clone, Row, Deserialize)]
struct Dirty {
    of_rollup: String,
    at: u32,
    touched: u64,
}

/// Buckets of some rollups that were touched since they were published, the newest first.
async fn dirty(app: &App, workspace: &WorkspaceId, tier: Tier, edges: &[u32], rollups: &[String]) -> Result<Vec<Dirty>, MeteringError> {
    let sql = format!(
        "SELECT t.of_rollup AS of_rollup, t.at AS at, t.touched_n AS touched FROM (SELECT arrayJoin({{rollups:Array(String)}}) AS of_rollup, at, touched_n FROM \
         (SELECT {} AS at, sum(n) AS touched_n FROM touched WHERE workspace = {{ws:String}} GROUP BY at)) AS t LEFT JOIN \
         (SELECT toString(rollup) AS done_rollup, toUnixTimestamp(bucket) AS at, max(n) AS done_n FROM rollup_gen \
         WHERE rollup IN {{rollups:Array(String)}} AND workspace = {{ws:String}} GROUP BY done_rollup, at) AS g \
         ON t.of_rollup = g.done_rollup AND t.at = g.at WHERE t.touched_n > g.done_n ORDER BY at DESC",
        bucket_sql(tier, "minute", edges)
    );
    Ok(bound(app, workspace, &sql).param("rollups", rollups).fetch_all().await?)
}

impl Filling<'_> {
    fn end(&self, bucket: u32) -> u32 {
        match self.tier {
            Tier::Minute => bucket + 60,
            Tier::Hour => bucket + HOUR,
            Tier::Day(_) => self.edges.get(self.edges.partition_point(|edge| *edge <= bucket)).copied().unwrap_or(u32::MAX),
        }
    }

    /// Of these dirty buckets those that are due; returns how many were filled, and whether all were.
    async fn fill(
        &self,
        rollup: &str,
        mut dirty: Vec<Dirty>,
        settled: u32,
        claim: Claim,
        recent: &mut Recent,
    ) -> Result<(usize, bool), MeteringError> {
        let frozen = seconds(retention::limits(self.app, self.workspace).await?.frozen);
        dirty.retain(|bucket| self.end(bucket.at) <= settled && self.end(bucket.at) > frozen);
        let due = dirty.len();
        if matches!(self.tier, Tier::Day(_)) {
            dirty.retain(|bucket| !recent.contains_key(&(self.workspace.clone(), rollup.to_owned(), bucket.at)));
        }
        let mut filled = 0;
        let mut rest = dirty.as_slice();
        while !rest.is_empty() {
            let mut rows = 0;
            let taken = rest.iter().take(MAX_BUCKETS).take_while(|bucket| {
                rows += bucket.touched;
                rows <= MAX_ROWS || rows == bucket.touched
            });
            let (part, later) = rest.split_at(taken.count());
            for bucket in self.batch(rollup, part, claim).await? {
                recent.insert((self.workspace.clone(), rollup.to_owned(), bucket), Instant::now());
                filled += 1;
            }
            rest = later;
        }
        Ok((filled, filled == due))
    }

    /// One generation for some buckets; returns those that were filled: the ones whose finer buckets are all clean.
    async fn batch(&self, rollup: &str, part: &[Dirty], claim: Claim) -> Result<Vec<u32>, MeteringError> {
        let (Some(first), Some(last)) = (part.iter().map(|d| d.at).min(), part.iter().map(|d| self.end(d.at)).max()) else {
            return Ok(Vec::new());
        };
        let mut claimed = self.app.pg.begin().await?;
        let key = format!("rollup {} {} {rollup}", self.app.config.clickhouse.database, self.workspace);
        match claim {
            Claim::Wait => timelines::lock(&mut claimed, &key).await?,
            Claim::Try if !timelines::try_lock(&mut claimed, &key).await? => return Ok(Vec::new()),
            Claim::Try => {}
        }
        let from = self.tier.source(self.edges);
        let finer = plan::current(self.app, self.workspace, &self.table.source().rollup_of(from), first, last).await?;
        let mut finer: Vec<_> = finer.into_iter().collect();
        finer.sort_unstable();
        // What each bucket's finer ones have caught up with.
        let mut reached: HashMap<u32, u64> = HashMap::new();
        let mut runs = Runs::default();
        let wanted: BTreeSet<u32> = part.iter().map(|d| d.at).collect();
        for (at, (n, generation)) in finer {
            let bucket = self.bucket(at);
            let is_wanted = wanted.contains(&bucket);
            if is_wanted {
                *reached.entry(bucket).or_default() += n;
            }
            runs.push(at, if is_wanted { generation } else { 0 });
        }
        let ready: Vec<_> = part.iter().filter(|d| reached.get(&d.at).is_some_and(|n| *n >= d.touched)).collect();
        if ready.is_empty() {
            return Ok(Vec::new());
        }
        let generation = recompute::generation(self.app).await?;
        let bucket = bucket_sql(self.tier, "minute", self.edges);
        let list: Vec<_> = ready.iter().map(|d| d.at.to_string()).collect();
        let only = format!(
            "minute >= {} AND minute < {} AND {bucket} IN ({}) AND {}",
            minute_sql(i64::from(first)),
            minute_sql(i64::from(last)),
            list.join(", "),
            runs.sql("minute")
        );
        let sql = self.table.fill_tier(self.tier, from, &bucket, &only, generation);
        let started = Instant::now();
        let insert = bound(self.app, self.workspace, &sql).with_setting("async_insert", "0").with_setting("insert_deduplicate", "0");
        insert.execute().await?;
        let published: Vec<_> = ready
            .iter()
            .map(|d| Published {
                rollup: rollup.to_owned(),
                workspace: self.workspace.to_string(),
                bucket: d.at,
                n: reached.get(&d.at).copied().unwrap_or(0),
                r#gen: generation,
            })
            .collect();
        if !recompute::publish(self.app, started, &published).await? {
            return Ok(Vec::new());
        }
        metrics::counter!("farebox_metering_buckets_filled_total", "rollup" => self.table.name_of(self.tier))
            .increment(published.len() as u64);
        Ok(published.into_iter().map(|row| row.bucket).collect())
    }

    fn bucket(&self, at: u32) -> u32 {
        match self.tier {
            Tier::Minute => at,
            Tier::Hour => at - at % HOUR,
            Tier::Day(_) => self.edges.partition_point(|edge| *edge <= at).checked_sub(1).map_or(0, |n| self.edges[n]),
        }
    }
}
