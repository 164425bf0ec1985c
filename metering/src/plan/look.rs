//! What ClickHouse knows now of days: how often they were touched, which of them are rolled up, what is inside some.
//! All of it in one query, and one query for all who ask the same at the same time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Deserialize;

use super::memory::Place;
use crate::MeteringError;
use crate::facts::{bound, minute_sql};
use crate::tiers::{HOUR, Tier, bucket_sql};
use crate::together::Together;

/// Bucket -> (touches it has caught up with, generation).
pub(crate) type Published = HashMap<u32, (u64, u64)>;

/// What is inside a day: every minute and hour that has events, with its generation, 0 when it is not clean.
#[derive(Debug, Default)]
pub(super) struct Inside {
    pub touched: u64,
    pub minutes: Vec<(u32, u64)>,
    pub hours: BTreeMap<u32, u64>,
}

impl Inside {
    pub fn is_clean(&self) -> bool {
        self.minutes.iter().all(|(_, generation)| *generation != 0)
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Look {
    pub place: Place,
    /// Starts of days, the last one's end included, whose touches are wanted; none when there are none.
    pub edges: Vec<u32>,
    /// Name of the tier of days, when one of them may answer as a whole.
    pub by_day: Option<String>,
    /// Names of the tiers of minutes and of hours.
    pub finer: (String, String),
    /// Days to be looked into.
    pub inside: Vec<(u32, u32)>,
    /// What starts before is clean, whatever the sums say.
    pub frozen: u32,
}

#[derive(Default)]
pub(super) struct Seen {
    /// By the start of the day.
    pub touched: HashMap<u32, u64>,
    pub published: Published,
    pub insides: HashMap<u32, Arc<Inside>>,
}

#[derive(Row, Deserialize)]
struct Found {
    part: u8,
    at: u32,
    reached: u64,
    generation: u64,
}

const DAYS_TOUCHED: u8 = 0;
const DAYS_PUBLISHED: u8 = 1;
const TOUCHED: u8 = 2;
const MINUTES_PUBLISHED: u8 = 3;
const HOURS_PUBLISHED: u8 = 4;

static TOGETHER: LazyLock<Together<Look, Arc<Seen>>> = LazyLock::new(Together::default);

impl Look {
    pub async fn ask(&self, app: &App) -> Result<Arc<Seen>, MeteringError> {
        TOGETHER.ask(self, async || Ok(Arc::new(self.now(app).await?))).await
    }

    async fn now(&self, app: &App) -> Result<Seen, MeteringError> {
        let mut parts = Vec::new();
        if let (Some(first), Some(last)) = (self.edges.first(), self.edges.last()) {
            // The calendar is in the edges.
            parts.push(touched_sql(DAYS_TOUCHED, &bucket_sql(Tier::Day(chrono_tz::UTC), "minute", &self.edges), *first, *last));
            if self.by_day.is_some() {
                parts.push(published_sql(DAYS_PUBLISHED, "{day:String}", *first, *last));
            }
        }
        if let (Some((first, _)), Some((_, last))) = (self.inside.first(), self.inside.last()) {
            // What lies between the days is read for nothing; there is little of it, since older days are mostly whole.
            parts.push(touched_sql(TOUCHED, "toUnixTimestamp(minute)", *first, *last));
            parts.push(published_sql(MINUTES_PUBLISHED, "{minute:String}", *first, *last));
            parts.push(published_sql(HOURS_PUBLISHED, "{hour:String}", *first, *last));
        }
        if parts.is_empty() {
            return Ok(Seen::default());
        }
        let query = bound(app, &self.place.workspace, &parts.join(" UNION ALL "))
            // Choosing conditions to read first takes longer than reading these few rows.
            .with_setting("optimize_move_to_prewhere", "0")
            .param("day", self.by_day.as_deref().unwrap_or_default())
            .param("minute", &self.finer.0)
            .param("hour", &self.finer.1);
        let (mut seen, mut minutes, mut hours, mut touched) = (Seen::default(), Published::new(), Published::new(), BTreeMap::new());
        for row in query.fetch_all::<Found>().await? {
            match row.part {
                DAYS_TOUCHED => drop(seen.touched.insert(row.at, row.reached)),
                DAYS_PUBLISHED => drop(seen.published.insert(row.at, (row.reached, row.generation))),
                TOUCHED => drop(touched.insert(row.at, row.reached)),
                MINUTES_PUBLISHED => drop(minutes.insert(row.at, (row.reached, row.generation))),
                _ => drop(hours.insert(row.at, (row.reached, row.generation))),
            }
        }
        seen.insides = self.insides(&touched, &minutes, &hours);
        Ok(seen)
    }

    fn insides(&self, touched: &BTreeMap<u32, u64>, minutes: &Published, hours: &Published) -> HashMap<u32, Arc<Inside>> {
        let mut found = HashMap::new();
        for (start, end) in &self.inside {
            let mut inside = Inside::default();
            let mut by_hour: BTreeMap<u32, u64> = BTreeMap::new();
            for (minute, n) in touched.range(start..end) {
                inside.touched += n;
                let clean = minutes.get(minute).filter(|(done, _)| done >= n || *minute < self.frozen);
                inside.minutes.push((*minute, clean.map_or(0, |(_, generation)| *generation)));
                *by_hour.entry(minute - minute % HOUR).or_default() += n;
            }
            for (hour, n) in by_hour {
                let clean = hours.get(&hour).filter(|(done, _)| *done >= n || hour + HOUR <= self.frozen);
                inside.hours.insert(hour, clean.map_or(0, |(_, generation)| *generation));
            }
            found.insert(*start, Arc::new(inside));
        }
        found
    }
}

fn touched_sql(part: u8, bucket: &str, first: u32, last: u32) -> String {
    format!(
        "SELECT toUInt8({part}) AS part, {bucket} AS at, sum(n) AS reached, toUInt64(0) AS generation FROM touched \
         WHERE workspace = {{ws:String}} AND minute >= {} AND minute < {} GROUP BY at",
        minute_sql(i64::from(first)),
        minute_sql(i64::from(last))
    )
}

fn published_sql(part: u8, rollup: &str, first: u32, last: u32) -> String {
    format!(
        "SELECT toUInt8({part}) AS part, toUnixTimestamp(bucket) AS at, max(n) AS reached, argMax(gen, (n, gen)) AS generation FROM rollup_gen \
         WHERE rollup = {rollup} AND workspace = {{ws:String}} AND bucket >= {} AND bucket < {} GROUP BY at",
        minute_sql(i64::from(first)),
        minute_sql(i64::from(last))
    )
}

/// What is published of one rollup.
pub(crate) async fn current(app: &App, workspace: &WorkspaceId, rollup: &str, first: u32, last: u32) -> Result<Published, MeteringError> {
    let sql = published_sql(MINUTES_PUBLISHED, "{rollup:String}", first, last);
    let found: Vec<Found> = bound(app, workspace, &sql).param("rollup", rollup).fetch_all().await?;
    Ok(found.into_iter().map(|row| (row.at, (row.reached, row.generation))).collect())
}
