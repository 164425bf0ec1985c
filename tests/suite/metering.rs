//! Metering against an in-memory model: random histories of copies, late and retimed events, links and subscriptions
//! moved back in time, recomputations and repairs in between; every answer must be equal. And the way through Kafka.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::event::{AnsweredBy, REQUEST, RequestData, SpecVersion, UsageEvent};
use farebox_core::ids::{ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::period::{self, Period, Window, floor_minute};
use farebox_core::workspace::{self, NewWorkspace};
use farebox_metering::consumers::{self, NewConsumer};
use farebox_metering::store::{self, EventRow};
use farebox_metering::timelines::{self, BEGINNING, TimelineEntry};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, links, recompute, repair};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::Suite;

/// Across the end of summer time in Berlin and the start in Lord Howe's year-round half hours.
const FIRST: &str = "2026-10-24T18:00:00Z";
const MINUTES: i64 = 48 * 60;
const MINUTES_LONG: usize = 48 * 60;
const SUBJECTS: [&str; 5] = ["alpha", "beta", "gamma", "delta", ""];
const STATUSES: [u16; 8] = [200, 200, 204, 302, 401, 404, 429, 503];

pub async fn answers_equal_a_model_over_random_histories(suite: &Suite) {
    let histories = std::env::var("FAREBOX_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    for seed in 0..histories {
        History::new(&suite.app, seed).await.play(&suite.app).await;
    }
}

/// One event as sent: with the same id it is a copy.
#[derive(Debug, Clone)]
struct Copy {
    time: DateTime<Utc>,
    received_at: DateTime<Utc>,
    subject: &'static str,
    route: &'static str,
    status: u16,
    answered_by: AnsweredBy,
}

struct History {
    seed: u64,
    rng: StdRng,
    workspace: WorkspaceId,
    consumers: Vec<ConsumerId>,
    clock: DateTime<Utc>,
    /// By id, then minute: the copy that stands there, and whether the repair buried it.
    copies: BTreeMap<String, BTreeMap<DateTime<Utc>, (Copy, bool)>>,
    /// For each subject, who owns it in each minute.
    owners: BTreeMap<&'static str, Vec<Option<ConsumerId>>>,
    subscriptions: BTreeMap<ConsumerId, Vec<TimelineEntry>>,
}

impl History {
    async fn new(app: &App, seed: u64) -> Self {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        let name = format!("model/h{seed}-{}", uuid::Uuid::now_v7().simple());
        let new = NewWorkspace {
            name: &name,
            display_name: "Model",
            currency: "USD".parse().expect("a currency"),
            time_zone: Tz::UTC,
            test_mode: true,
            is_default: false,
        };
        let workspace = workspace::create(&mut conn, new).await.expect("a workspace").id;
        let mut consumers = Vec::new();
        for n in 0..3 {
            let new = NewConsumer {
                name: format!("c{n}"),
                email: None,
                signed_up_at: first(),
                country: None,
                address: serde_json::json!({}),
                subjects: Vec::new(),
            };
            consumers.push(consumers::create(&mut conn, &workspace, new).await.expect("a consumer").id);
        }
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            workspace,
            consumers,
            clock: first() + TimeDelta::days(3),
            copies: BTreeMap::new(),
            owners: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
        }
    }

    async fn play(&mut self, app: &App) {
        for _ in 0..30 {
            match self.rng.random_range(0..11) {
                0..=3 => self.send(app).await,
                4 => self.link(app).await,
                5 => self.subscribe(app).await,
                6 => drop(recompute::workspace(app, &self.workspace).await.expect("recomputed")),
                7 => self.repair(app).await,
                8 => drop(recompute::consolidate(app).await.expect("consolidated")),
                _ => self.check(app).await,
            }
        }
        self.check(app).await;
    }

    fn minute(&mut self) -> DateTime<Utc> {
        first() + TimeDelta::minutes(self.rng.random_range(0..MINUTES))
    }

    /// A batch of new events and of copies of old ones, some with another time.
    async fn send(&mut self, app: &App) {
        let mut rows = Vec::new();
        for _ in 0..self.rng.random_range(1..60) {
            self.clock += TimeDelta::microseconds(self.rng.random_range(1..5_000_000));
            let known: Vec<String> = self.copies.keys().cloned().collect();
            let (id, mut copy) = if self.rng.random_bool(0.3) && !known.is_empty() {
                let id = known.choose(&mut self.rng).expect("not empty").clone();
                let copies: Vec<_> = self.copies[&id].values().map(|(copy, _)| copy.clone()).collect();
                (id, copies.choose(&mut self.rng).expect("not empty").clone())
            } else {
                let time = self.minute() + TimeDelta::microseconds(self.rng.random_range(0..60_000_000));
                let copy = Copy {
                    time,
                    received_at: self.clock,
                    subject: SUBJECTS.choose(&mut self.rng).expect("some"),
                    route: ["GET /a", "GET /b", ""].choose(&mut self.rng).expect("some"),
                    status: *STATUSES.choose(&mut self.rng).expect("some"),
                    answered_by: *[AnsweredBy::Upstream, AnsweredBy::Gateway].choose(&mut self.rng).expect("some"),
                };
                (format!("gw/{}", uuid::Uuid::now_v7().simple()), copy)
            };
            copy.received_at = self.clock;
            if self.rng.random_bool(0.1) {
                copy.time = self.minute() + TimeDelta::seconds(self.rng.random_range(0..60));
            }
            rows.push(EventRow::from_event(self.event(&id, &copy)).expect("storable"));
            // Received later than every copy before it: it stands only where none stands yet.
            self.copies.entry(id).or_default().entry(floor_minute(copy.time)).or_insert((copy, false));
        }
        // Delivered at least once, in any order.
        if self.rng.random_bool(0.3) {
            rows.extend(rows.clone());
        }
        let rows: Vec<_> = rows.iter().rev().collect();
        store::store(&app.clickhouse, &rows).await.expect("stored");
    }

    fn event(&self, id: &str, copy: &Copy) -> UsageEvent {
        UsageEvent {
            specversion: SpecVersion::V1,
            id: id.to_owned(),
            source: "gw".to_owned(),
            kind: REQUEST.to_owned(),
            time: copy.time,
            subject: copy.subject.to_owned(),
            workspace: self.workspace.clone(),
            received_at: copy.received_at,
            data: RequestData {
                route: copy.route.to_owned(),
                status: copy.status,
                answered_by: copy.answered_by,
                response_bytes: 1000,
                ..RequestData::default()
            },
        }
    }

    async fn link(&mut self, app: &App) {
        let subject = SUBJECTS[self.rng.random_range(0..4)];
        let consumer = self.consumers.choose(&mut self.rng).expect("some").clone();
        let from = if self.rng.random_bool(0.3) { BEGINNING } else { self.minute() };
        let to = self.rng.random_bool(0.5).then(|| from.max(first()) + TimeDelta::minutes(self.rng.random_range(1..MINUTES)));
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        links::link_subject(&mut conn, &self.workspace, subject, &consumer, from, to).await.expect("linked");
        let owners = self.owners.entry(subject).or_insert_with(|| vec![None; MINUTES_LONG]);
        for (n, owner) in (0..).zip(owners.iter_mut()) {
            let at = first() + TimeDelta::minutes(n);
            if from <= at && to.is_none_or(|to| at < to) {
                *owner = Some(consumer.clone());
            }
        }
        timelines::sync(app).await.expect("copied");
    }

    /// Replaces a consumer's timeline, past included.
    async fn subscribe(&mut self, app: &App) {
        let consumer = self.consumers.choose(&mut self.rng).expect("some").clone();
        let mut cuts: Vec<_> = (0..self.rng.random_range(0..4)).map(|_| self.minute()).collect();
        cuts.sort();
        cuts.dedup();
        let ends =
            cuts.iter().skip(1).map(|at| Some(*at)).chain([self.rng.random_bool(0.5).then(|| first() + TimeDelta::minutes(MINUTES))]);
        let entries: Vec<_> = cuts
            .iter()
            .zip(ends)
            .map(|(from, to)| TimelineEntry {
                from: *from,
                to,
                subscription: SubscriptionId::new(),
                plan_version: PlanVersionId::new(),
                plan: "growth".to_owned(),
            })
            .collect();
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        timelines::set_subscription_timeline(&mut conn, &self.workspace, &consumer, "default", &entries).await.expect("set");
        self.subscriptions.insert(consumer, entries);
        timelines::sync(app).await.expect("copied");
    }

    async fn repair(&mut self, app: &App) {
        let everything = Period { start: first(), end: first() + TimeDelta::minutes(MINUTES) };
        repair::repair(app, &self.workspace, everything).await.expect("repaired");
        for copies in self.copies.values_mut() {
            let kept = copies.values().map(|(copy, _)| copy.received_at).min();
            for (copy, buried) in copies.values_mut() {
                *buried = Some(copy.received_at) != kept;
            }
        }
    }

    /// Compares a random question's answer with the model's.
    async fn check(&mut self, app: &App) {
        let (start, length) = (self.rng.random_range(0..MINUTES), self.rng.random_range(1..MINUTES));
        let seconds = if self.rng.random_bool(0.5) { self.rng.random_range(0..60) } else { 0 };
        let start = first() + TimeDelta::minutes(start) + TimeDelta::seconds(seconds);
        let period = Period { start, end: start + TimeDelta::minutes(length) - TimeDelta::seconds(seconds / 2) };
        let window =
            *[Window::Minute, Window::Hour, Window::Day, Window::Week, Window::Month, Window::None].choose(&mut self.rng).expect("some");
        let zones = [
            chrono_tz::UTC,
            chrono_tz::Europe::Berlin,
            chrono_tz::America::New_York,
            chrono_tz::Australia::Lord_Howe,
            chrono_tz::Asia::Kathmandu,
        ];
        let zone = *zones.choose(&mut self.rng).expect("some");
        let meter = *["calls", "requests"].choose(&mut self.rng).expect("some");
        let dimensions: Vec<_> =
            [Dimension::Consumer, Dimension::Subscription, Dimension::Status, Dimension::Route, Dimension::Reason, Dimension::Subject]
                .into_iter()
                .filter(|_| self.rng.random_bool(0.3))
                .collect();
        let mut query = UsageQuery::new(&self.workspace, meter, period).windows(window, zone);
        for dimension in &dimensions {
            query = query.by(dimension.clone());
        }
        let only = self.rng.random_bool(0.3).then(|| self.consumers.choose(&mut self.rng).expect("some").clone());
        if let Some(consumer) = &only {
            query = query.of_consumer(consumer);
        }
        let answer = usage::query(app, &query).await.expect("answered");
        let mut found = BTreeMap::new();
        for row in answer.rows {
            let values: Vec<_> = dimensions.iter().map(|d| row.group[d.name()].clone()).collect();
            found.insert((row.window.start, row.window.end, values), row.value.to_plain_string());
        }
        let expected = self.expected(period, window, zone, meter, &dimensions, only.as_ref());
        assert_eq!(found, expected, "history {}: {meter} by {window:?} in {zone} over {period:?} by {dimensions:?} of {only:?}", self.seed);
    }

    #[allow(clippy::too_many_arguments)] // the question
    fn expected(
        &self,
        period: Period,
        window: Window,
        zone: Tz,
        meter: &str,
        dimensions: &[Dimension],
        only: Option<&ConsumerId>,
    ) -> BTreeMap<(DateTime<Utc>, DateTime<Utc>, Vec<String>), String> {
        let mut counts: BTreeMap<_, u64> = BTreeMap::new();
        for (copy, buried) in self.copies.values().flat_map(BTreeMap::values) {
            if *buried || !period.contains(copy.time) {
                continue;
            }
            let consumer = self.owner(copy);
            let reason = reason(copy, consumer.is_some());
            if (meter == "requests" && !reason.is_empty()) || only.is_some_and(|only| consumer.as_ref() != Some(only)) {
                continue;
            }
            let subscription = consumer.as_ref().and_then(|c| self.subscription(c, copy.time));
            let at = if window == Window::None { period } else { period::window_of(copy.time, window, zone).expect("a window") };
            let value = |d: &Dimension| match d {
                Dimension::Consumer => consumer.as_ref().map(ToString::to_string).unwrap_or_default(),
                Dimension::Subscription => subscription.clone().unwrap_or_default(),
                Dimension::Status => copy.status.to_string(),
                Dimension::Route => copy.route.to_owned(),
                Dimension::Reason => reason.to_owned(),
                Dimension::Subject => copy.subject.to_owned(),
                other => panic!("{other} is not asked for"),
            };
            *counts.entry((at.start, at.end, dimensions.iter().map(value).collect())).or_default() += 1;
        }
        if window == Window::None && dimensions.is_empty() {
            counts.entry((period.start, period.end, Vec::new())).or_default();
        }
        counts.into_iter().map(|(key, n)| (key, n.to_string())).collect()
    }

    fn owner(&self, copy: &Copy) -> Option<ConsumerId> {
        let minute = usize::try_from((floor_minute(copy.time) - first()).num_minutes()).expect("within the history");
        self.owners.get(copy.subject)?.get(minute)?.clone()
    }

    fn subscription(&self, consumer: &ConsumerId, at: DateTime<Utc>) -> Option<String> {
        let entries = self.subscriptions.get(consumer)?;
        let entry = entries.iter().find(|e| e.from <= at && e.to.is_none_or(|to| at < to))?;
        Some(entry.subscription.to_string())
    }
}

fn first() -> DateTime<Utc> {
    FIRST.parse().expect("an RFC 3339 time")
}

/// The default counting rule, in the words of the design.
fn reason(copy: &Copy, attributed: bool) -> &'static str {
    if !attributed {
        return "unattributed";
    }
    match copy.status {
        401..=403 => "refused",
        404 if copy.route.is_empty() => "refused",
        429 if copy.answered_by == AnsweredBy::Gateway => "refused",
        500.. => "server_error",
        _ => "",
    }
}
