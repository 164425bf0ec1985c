//! Metering against an in-memory model: random histories of copies, late and retimed events, links and subscriptions
//! moved back in time, voids, amendments, changed meters, recomputations, repairs, restarts and a second instance in
//! between; every answer must be equal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::event::{AnsweredBy, REQUEST, RequestData, SpecVersion, UsageEvent};
use farebox_core::ids::{ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::period::{self, Period, Window, floor_minute};
use farebox_core::workspace::{self, NewWorkspace};
use farebox_metering::consumers::{self, NewConsumer};
use farebox_metering::corrections::{self, Action, Amendment, Choice, Request};
use farebox_metering::meters::{self, Aggregate, Definition};
use farebox_metering::timelines::{self, BEGINNING, TimelineEntry};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Condition, Dimension, Test, links, recompute, repair, tiers};
use futures::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::Suite;
use crate::metering_flow::store_all;

/// Across the end of summer time in Berlin and the start in Lord Howe's year-round half hours.
const FIRST: &str = "2026-10-24T18:00:00Z";
const MINUTES: i64 = 48 * 60;
const MINUTES_LONG: usize = 48 * 60;
const SUBJECTS: [&str; 5] = ["alpha", "beta", "gamma", "delta", ""];
/// In every run; FAREBOX_HISTORIES=5000 asks for more.
const HISTORIES: u64 = 200;
/// Played beside one another, each in a workspace of its own.
const AT_ONCE: usize = 4;
const ZONES: [Tz; 5] =
    [Tz::UTC, chrono_tz::Europe::Berlin, chrono_tz::America::New_York, chrono_tz::Australia::Lord_Howe, chrono_tz::Asia::Kathmandu];
const STATUSES: [u16; 8] = [200, 200, 204, 302, 401, 404, 429, 503];

pub async fn answers_equal_a_model_over_random_histories(suite: &Suite) {
    let histories = std::env::var("FAREBOX_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(HISTORIES);
    let first = std::env::var("FAREBOX_HISTORIES_FROM").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    play(&suite.app, first..first + histories).await;
}

/// Histories of these seeds, several at once.
pub async fn play(app: &App, seeds: Range<u64>) {
    let one = async |seed: u64| {
        // Now and then a long one.
        let steps = if seed.is_multiple_of(20) { 40 } else { 12 };
        History::new(app, seed).await.play(app, steps).await;
    };
    stream::iter(seeds).for_each_concurrent(AT_ONCE, one).await;
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

/// What stands in one minute under one id.
#[derive(Debug, Clone)]
struct Entry {
    copy: Copy,
    /// 0 for what a gateway sent, one more for each correction.
    revision: u16,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    /// Removed as a copy with another time.
    Buried,
    /// Voided, or moved to another minute.
    Gone,
}

struct History {
    seed: u64,
    rng: StdRng,
    workspace: WorkspaceId,
    consumers: Vec<ConsumerId>,
    clock: DateTime<Utc>,
    /// By id, then minute.
    copies: BTreeMap<String, BTreeMap<DateTime<Utc>, Entry>>,
    /// Which of the conditions the meter `people` has by now.
    people: usize,
    /// For each subject, who owns it in each minute.
    owners: BTreeMap<&'static str, Vec<Option<ConsumerId>>>,
    subscriptions: BTreeMap<ConsumerId, Vec<TimelineEntry>>,
}

impl History {
    async fn new(app: &App, seed: u64) -> Self {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        let mut rng = StdRng::seed_from_u64(seed);
        let name = format!("model/h{seed}-{}", uuid::Uuid::now_v7().simple());
        let new = NewWorkspace {
            name: &name,
            display_name: "Model",
            currency: "USD".parse().expect("a currency"),
            // Whose days are rolled up.
            time_zone: *ZONES.choose(&mut rng).expect("some"),
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
            rng,
            workspace,
            consumers,
            clock: first() + TimeDelta::days(3),
            copies: BTreeMap::new(),
            people: 0,
            owners: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
        }
    }

    async fn play(&mut self, app: &App, steps: usize) {
        self.change_meter(app).await;
        for _ in 0..steps {
            match self.rng.random_range(0..18) {
                0..=4 => self.send(app).await,
                5 => self.link(app).await,
                6 => self.subscribe(app).await,
                7 => drop(recompute::workspace(app, &self.workspace).await.expect("recomputed")),
                8 => self.repair(app).await,
                9 => {
                    // Hours and days of what is clean by then.
                    if self.rng.random_bool(0.7) {
                        recompute::workspace(app, &self.workspace).await.expect("recomputed");
                    }
                    tiers::workspace(app, &self.workspace).await.expect("filled");
                }
                10 => self.void(app).await,
                11 => self.amend(app).await,
                12 => self.void_many(app).await,
                13 => self.change_meter(app).await,
                // A process that has just started remembers nothing.
                14 => farebox_metering::forget_plans(),
                15 => self.two_at_once(app).await,
                _ => self.check(app).await,
            }
        }
        self.check(app).await;
        self.check(app).await;
    }

    /// The instances of a group recompute the same minutes, while a third removes copies.
    async fn two_at_once(&mut self, app: &App) {
        let (one, other, ()) =
            tokio::join!(recompute::workspace(app, &self.workspace), recompute::workspace(app, &self.workspace), async {
                repair::repair(app, &self.workspace, everything()).await.map(drop).expect("repaired");
            });
        one.and(other).expect("recomputed");
        self.keep_one_of_each();
    }

    /// Another version of a meter that needs a rollup of its own.
    async fn change_meter(&mut self, app: &App) {
        self.people = self.rng.random_range(0..3);
        let mut definition = Definition {
            name: "people".to_owned(),
            event: REQUEST.to_owned(),
            aggregate: Aggregate::UniqueCount,
            value: Some("subject".to_owned()),
            percentile: None,
            unit: None,
            divide_by: None,
            filter: BTreeMap::new(),
            counted: false,
            group_by: vec!["route".to_owned()],
        };
        match self.people {
            1 => drop(definition.filter.insert("status".to_owned(), Test::Other(Condition::Lt("400".parse().expect("a number"))))),
            2 => drop(definition.filter.insert("route".to_owned(), vec!["GET /a".to_owned()].into())),
            _ => {}
        }
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        meters::upsert(&mut conn, &self.workspace, &definition).await.expect("a meter");
    }

    /// Ids of which something stands.
    fn standing(&self) -> Vec<String> {
        let stands = |minutes: &BTreeMap<_, Entry>| minutes.values().any(|entry| entry.state == State::Live);
        self.copies.iter().filter(|(_, minutes)| stands(minutes)).map(|(id, _)| id.clone()).collect()
    }

    async fn void(&mut self, app: &App) {
        let Some(id) = self.standing().choose(&mut self.rng).cloned() else { return };
        self.correct(app, &id, Action::Void, Amendment::default()).await;
        for entry in self.copies.get_mut(&id).expect("known").values_mut().filter(|entry| entry.state == State::Live) {
            (entry.state, entry.revision) = (State::Gone, entry.revision + 1);
        }
    }

    async fn amend(&mut self, app: &App) {
        let Some(id) = self.standing().choose(&mut self.rng).cloned() else { return };
        let mut set = Amendment { status: Some(204), ..Amendment::default() };
        let moved = self.rng.random_bool(0.5).then(|| self.minute() + TimeDelta::seconds(self.rng.random_range(0..60)));
        set.time = moved;
        self.correct(app, &id, Action::Amend, set).await;
        let minutes = self.copies.get_mut(&id).expect("known");
        let (minute, entry) = minutes.iter_mut().find(|(_, entry)| entry.state == State::Live).expect("one stands");
        let minute = *minute;
        let mut amended = entry.clone();
        amended.copy.status = 204;
        amended.revision += if moved.is_some() { 2 } else { 1 };
        if let Some(time) = moved {
            amended.copy.time = time;
            (entry.state, entry.revision) = (State::Gone, entry.revision + 1);
        }
        minutes.insert(moved.map_or(minute, floor_minute), amended);
    }

    async fn correct(&mut self, app: &App, id: &str, action: Action, set: Amendment) {
        let choice = Choice::Ids(vec![id.to_owned()]);
        let request = Request { action, choice, set, reason: "the gateway said so".to_owned(), author: "model".to_owned() };
        corrections::apply(app, &self.workspace, &request, Some(1)).await.expect("corrected");
        // A correction by id first removes the copies of that id.
        keep_one(self.copies.get_mut(id).expect("known"));
    }

    /// By filter, previewed first.
    async fn void_many(&mut self, app: &App) {
        let start = self.minute();
        let period = Period { start, end: start + TimeDelta::minutes(self.rng.random_range(1..MINUTES / 4)) };
        let filter = BTreeMap::from([("route".to_owned(), vec!["GET /b".to_owned()].into())]);
        let choice = Choice::Filter { period, filter };
        let request = Request {
            action: Action::Void,
            choice,
            set: Amendment::default(),
            reason: "a load test".to_owned(),
            author: "model".to_owned(),
        };
        let chosen = |entry: &Entry| entry.state == State::Live && entry.copy.route == "GET /b" && period.contains(entry.copy.time);
        let expected = self.copies.values().flat_map(BTreeMap::values).filter(|entry| chosen(entry)).count() as u64;
        let effect = corrections::preview(app, &self.workspace, &request).await.expect("previewed");
        assert_eq!(effect.events, expected, "history {}: the preview of a void by filter", self.seed);
        let calls = effect.meters.iter().filter(|meter| meter.meter == "calls").map(|meter| &meter.before - &meter.after);
        assert_eq!(calls.sum::<BigDecimal>(), BigDecimal::from(expected), "history {}: calls that would be gone", self.seed);
        if expected == 0 {
            return;
        }
        corrections::apply(app, &self.workspace, &request, Some(expected)).await.expect("voided");
        for entry in self.copies.values_mut().flat_map(BTreeMap::values_mut).filter(|entry| chosen(entry)) {
            (entry.state, entry.revision) = (State::Gone, entry.revision + 1);
        }
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
                let copies: Vec<_> = self.copies[&id].values().map(|entry| entry.copy.clone()).collect();
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
            rows.push(self.event(&id, &copy));
            // Received later than every copy before it: it stands only where none stands yet.
            self.copies.entry(id).or_default().entry(floor_minute(copy.time)).or_insert(Entry { copy, revision: 0, state: State::Live });
        }
        // Delivered at least once, in any order.
        if self.rng.random_bool(0.3) {
            rows.extend(rows.clone());
        }
        rows.reverse();
        store_all(app, &rows).await;
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
        repair::repair(app, &self.workspace, everything()).await.expect("repaired");
        self.keep_one_of_each();
    }

    fn keep_one_of_each(&mut self) {
        self.copies.values_mut().for_each(keep_one);
    }

    /// Compares a random question's answer with the model's.
    async fn check(&mut self, app: &App) {
        let (start, length) = (self.rng.random_range(0..MINUTES), self.rng.random_range(1..MINUTES));
        let seconds = if self.rng.random_bool(0.5) { self.rng.random_range(0..60) } else { 0 };
        let start = first() + TimeDelta::minutes(start) + TimeDelta::seconds(seconds);
        let period = Period { start, end: start + TimeDelta::minutes(length) - TimeDelta::seconds(seconds / 2) };
        let window =
            *[Window::Minute, Window::Hour, Window::Day, Window::Week, Window::Month, Window::None].choose(&mut self.rng).expect("some");
        let zone = *ZONES.choose(&mut self.rng).expect("some");
        let meter = *["calls", "requests", "people"].choose(&mut self.rng).expect("some");
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
        let mut people: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
        for Entry { copy, state, .. } in self.copies.values().flat_map(BTreeMap::values) {
            if *state != State::Live || !period.contains(copy.time) {
                continue;
            }
            let measured = match self.people {
                1 => copy.status < 400,
                2 => copy.route == "GET /a",
                _ => true,
            };
            if meter == "people" && (!measured || copy.subject.is_empty()) {
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
            let key = (at.start, at.end, dimensions.iter().map(value).collect());
            people.entry(key.clone()).or_default().insert(copy.subject);
            *counts.entry(key).or_default() += 1;
        }
        if meter == "people" {
            return people.into_iter().map(|(key, subjects)| (key, subjects.len().to_string())).collect();
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

/// Of an id's copies the one with the highest revision stays, then the first received.
fn keep_one(minutes: &mut BTreeMap<DateTime<Utc>, Entry>) {
    let kept =
        minutes.iter().max_by_key(|(_, entry)| (entry.revision, std::cmp::Reverse(entry.copy.received_at))).map(|(minute, _)| *minute);
    for (minute, entry) in minutes {
        if Some(*minute) != kept && entry.state == State::Live {
            entry.state = State::Buried;
        }
    }
}

fn everything() -> Period {
    Period { start: first(), end: first() + TimeDelta::minutes(MINUTES) }
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
