//! The live tail: events as they are stored, for whoever is debugging an integration.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::{App, clock};
use serde::Deserialize;

use crate::MeteringError;
use crate::events::{self, Event, EventsQuery};
use crate::facts::bound;
use crate::filter::Filter;

/// Events of one look; more at once are counted as skipped.
pub const MOST_AT_ONCE: usize = 200;
/// How long after its reception an event is still shown: what takes longer from Kafka to the store is missed here
/// (never in usage).
const LOOK_BACK: TimeDelta = TimeDelta::seconds(30);

pub struct Tail {
    workspace: WorkspaceId,
    filters: Vec<Filter>,
    since: DateTime<Utc>,
    /// What was shown, and when it was first seen.
    shown: HashMap<String, DateTime<Utc>>,
}

/// What is new since the last look, the oldest first.
#[derive(Debug, Clone)]
pub struct Look {
    pub events: Vec<Event>,
    pub skipped: usize,
}

#[derive(Row, Deserialize)]
struct New {
    id: String,
    minute: u32,
}

impl Tail {
    pub fn new(workspace: &WorkspaceId, filters: Vec<Filter>) -> Result<Self, MeteringError> {
        for filter in &filters {
            filter.check()?;
        }
        Ok(Self { workspace: workspace.clone(), filters, since: clock::now(), shown: HashMap::new() })
    }

    pub async fn look(&mut self, app: &App) -> Result<Look, MeteringError> {
        let now = clock::now();
        self.shown.retain(|_, at| now - *at < LOOK_BACK * 4);
        let since = self.since.max(now - LOOK_BACK);
        let sql = format!(
            "SELECT id, toUnixTimestamp(toStartOfMinute(time)) AS minute FROM events WHERE workspace = {{ws:String}} AND is_deleted = 0 \
             AND received_at >= fromUnixTimestamp64Milli({}, 'UTC') ORDER BY received_at DESC LIMIT {}",
            since.timestamp_millis(),
            MOST_AT_ONCE * 10
        );
        let mut new: Vec<New> = bound(app, &self.workspace, &sql).fetch_all().await?;
        new.retain(|event| !self.shown.contains_key(&event.id));
        for event in &new {
            self.shown.insert(event.id.clone(), now);
        }
        let skipped = new.len().saturating_sub(MOST_AT_ONCE);
        new.truncate(MOST_AT_ONCE);
        if new.is_empty() {
            return Ok(Look { events: Vec::new(), skipped });
        }
        let minutes: BTreeSet<u32> = new.iter().map(|event| event.minute).collect();
        let at =
            |seconds: Option<&u32>, more: i64| DateTime::from_timestamp(i64::from(*seconds.unwrap_or(&0)) + more, 0).unwrap_or_default();
        let asked = EventsQuery {
            filters: self.filters.clone(),
            ids: Some(new.into_iter().map(|event| event.id).collect()),
            limit: MOST_AT_ONCE,
            ..EventsQuery::new(&self.workspace, Period { start: at(minutes.first(), 0), end: at(minutes.last(), 60) })
        };
        let mut events = events::list_of_minutes(app, &asked, Some(&minutes)).await?;
        events.reverse();
        Ok(Look { events, skipped })
    }
}
