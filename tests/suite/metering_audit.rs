//! The pipeline's audit: equal when it is, and naming what is not, by place and identity.

use std::time::Duration;

use chrono::TimeDelta;
use farebox_core::event::kafka_key;
use farebox_core::period::Period;
use farebox_metering::audit;
use farebox_metering::corrections::{self, Action, Amendment, Choice, Request};
use farebox_metering::usage::UsageQuery;

use crate::harness::{Suite, eventually};
use crate::metering_flow::{event, hour, october, produce, value, world};

const PATIENCE: Duration = Duration::from_secs(60);

pub async fn the_pipeline_adds_up_and_what_is_lost_is_named(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "audit").await);
    for n in 0..60_u32 {
        let mut event = event(&world, n);
        event.time += TimeDelta::minutes(i64::from(n) * 3);
        // Received now, so that Kafka's clock finds it.
        event.received_at = farebox_core::clock::now();
        let text = serde_json::to_string(&event).expect("JSON");
        for _ in 0..=n % 2 {
            produce(app, &kafka_key(&event), &text).await;
        }
        if n % 20 == 0 {
            let mut retimed = event.clone();
            retimed.time += TimeDelta::hours(2);
            retimed.received_at += TimeDelta::seconds(1);
            produce(app, &kafka_key(&retimed), &serde_json::to_string(&retimed).expect("JSON")).await;
        }
    }
    let all = UsageQuery::new(&world.workspace, "calls", october());
    eventually("everything stored", PATIENCE, async || {
        farebox_metering::repair::repair(app, &world.workspace, october()).await.expect("repaired");
        (value(app, all.clone()).await == "60").then_some(())
    })
    .await;
    let period = Period { start: hour(), end: hour() + TimeDelta::hours(6) };
    let audited = audit::pipeline(app, &world.workspace, period).await.expect("audited");
    assert!(audited.equal, "{:?}", audited.differences);
    let sum = |of: &dyn Fn(&audit::Place) -> u64| audited.places.iter().map(of).sum::<u64>();
    assert_eq!((sum(&|p| p.produced.expect("witnessed")), sum(&|p| p.stored)), (60, 60));
    assert_eq!(sum(&|p| p.messages.expect("witnessed")), 93, "60 events, 30 copies, 3 with another time");
    assert!(audited.hours.iter().all(|h| h.stored == h.queried), "{:?}", audited.hours);

    // What corrections do changes no place: an event stays where it came from.
    let correct = async |action, id: &str, set| {
        let choice = Choice::Ids(vec![id.to_owned()]);
        let request = Request { action, choice, set, reason: "the gateway said so".to_owned(), author: "audit".to_owned() };
        corrections::apply(app, &world.workspace, &request, Some(1)).await.expect("corrected");
    };
    correct(Action::Void, "gw/3", Amendment::default()).await;
    let elsewhere = Amendment { time: Some(hour() + TimeDelta::hours(4)), ..Amendment::default() };
    correct(Action::Amend, "gw/5", elsewhere.clone()).await;
    correct(Action::Amend, "gw/5", Amendment { time: Some(hour() + TimeDelta::hours(5)), ..elsewhere }).await;
    let corrected = audit::pipeline(app, &world.workspace, period).await.expect("audited");
    assert!(corrected.equal, "{:?}", corrected.differences);
    assert_eq!(corrected.places, audited.places);
    assert_eq!(corrected.hours.iter().map(|h| (h.stored, h.corrected)).fold((0, 0), |a, h| (a.0 + h.0, a.1 + h.1)), (59, 3));

    // An event that vanishes from the store is missed by name, in its place.
    let gone = "ALTER TABLE events DELETE WHERE workspace = ? AND id = 'gw/7' SETTINGS mutations_sync = 1";
    app.clickhouse.query(gone).bind(world.workspace.as_str()).execute().await.expect("deleted");
    let audited = audit::pipeline(app, &world.workspace, period).await.expect("audited");
    assert!(!audited.equal);
    assert!(audited.differences.iter().any(|d| d.contains("are not stored: gw/7")), "{:?}", audited.differences);
}
