//! Meters: every aggregate against a calculation by hand, values that are none, new versions, backfill.

use std::collections::{BTreeMap, BTreeSet};

use bigdecimal::{BigDecimal, RoundingMode};
use chrono::TimeDelta;
use farebox_core::event::RequestData;
use farebox_metering::events::{self, EventsQuery};
use farebox_metering::meters::{self, Aggregate, Definition};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Condition, Test, backfill, proof, recompute};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::Suite;
use crate::metering_flow::{World, event, hour, october, store_all, value, world};

fn definition(name: &str, aggregate: Aggregate) -> Definition {
    Definition {
        name: name.to_owned(),
        event: "llm.completion".to_owned(),
        aggregate,
        value: (aggregate != Aggregate::Count).then(|| "/tokens".to_owned()),
        percentile: (aggregate == Aggregate::Percentile).then(|| "95".parse().expect("a number")),
        unit: None,
        divide_by: None,
        filter: BTreeMap::new(),
        counted: false,
        group_by: vec!["/model".to_owned()],
    }
}

/// An event's model and value, and when it was.
struct Sent {
    model: &'static str,
    value: &'static str,
    minute: i64,
    id: String,
}

const VALUES: [&str; 12] =
    ["0.1", "0.2", "-3.75", "7", "7", "123456789012345.000000000001", "1000000", "0.000000000001", "", "n/a", "1e3", "0.1234567890123"];

/// Random events over an hour, some with a value that is none.
async fn lived_in(suite: &Suite, world: &World, seed: u64) -> Vec<Sent> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut sent, mut all) = (Vec::new(), Vec::new());
    for n in 0..400_u32 {
        let (model, value) = (*["small", "large", ""].choose(&mut rng).expect("some"), *VALUES.choose(&mut rng).expect("some"));
        let minute = rng.random_range(0..60);
        let mut event = event(world, n);
        event.kind = "llm.completion".to_owned();
        event.time = hour() + TimeDelta::minutes(minute) + TimeDelta::milliseconds(i64::from(n));
        event.data = RequestData::default();
        event.data.properties.insert("/tokens".to_owned(), value.to_owned());
        event.data.properties.insert("/model".to_owned(), model.to_owned());
        sent.push(Sent { model, value, minute, id: event.id.clone() });
        all.push(event);
    }
    store_all(&suite.app, &all).await;
    sent
}

/// Straight from the definition of each aggregate.
fn by_hand(sent: &[&Sent], aggregate: Aggregate) -> Option<BigDecimal> {
    let is_number = |text: &str| !text.is_empty() && text.parse::<BigDecimal>().is_ok() && !text.contains('e') && text != "0.1234567890123";
    let mut values: Vec<BigDecimal> = sent.iter().filter(|s| is_number(s.value)).map(|s| s.value.parse().expect("a number")).collect();
    let sum: BigDecimal = values.iter().sum();
    match aggregate {
        Aggregate::Count => Some(sent.len().try_into().map(|n: u64| BigDecimal::from(n)).expect("small")),
        Aggregate::UniqueCount => {
            let different: BTreeSet<_> = sent.iter().map(|s| s.value).filter(|v| !v.is_empty()).collect();
            Some(BigDecimal::from(u64::try_from(different.len()).expect("small")))
        }
        Aggregate::Sum => Some(sum),
        _ if values.is_empty() => None,
        Aggregate::Avg => {
            Some((sum / BigDecimal::from(u64::try_from(values.len()).expect("small"))).with_scale_round(12, RoundingMode::HalfEven))
        }
        Aggregate::Min => values.into_iter().min(),
        Aggregate::Max => values.into_iter().max(),
        Aggregate::Latest => {
            let numbers = sent.iter().filter(|s| is_number(s.value));
            // Within a minute, events come in the order of their number.
            let latest = numbers.max_by_key(|s| (s.minute, s.id[3..].parse::<u32>().expect("a number")));
            latest.map(|s| s.value.parse().expect("a number"))
        }
        Aggregate::Percentile => {
            values.sort();
            let position = values.len() * 95 / 100;
            values.into_iter().nth(position)
        }
    }
}

pub async fn every_aggregate_equals_a_calculation_by_hand(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "aggregates").await);
    let sent = lived_in(suite, &world, 1).await;
    for aggregate in Aggregate::ALL {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        meters::upsert(&mut conn, &world.workspace, &definition(aggregate.name(), aggregate)).await.expect("a meter");
    }
    let half = |n: i64| sent.iter().filter(move |s| s.minute >= n);
    for round in ["raw", "half rolled up", "rolled up"] {
        for aggregate in Aggregate::ALL {
            let name = aggregate.name();
            let ask = || UsageQuery::new(&world.workspace, name, october()).of_subscription(&world.subscription);
            let expected = by_hand(&sent.iter().collect::<Vec<_>>(), aggregate).expect("a value").normalized().to_plain_string();
            assert_eq!(value(app, ask()).await, expected, "{name}, {round}");
            let proved = proof::of(app, &world.workspace, &world.subscription, name, october()).await.expect("a proof");
            assert_eq!(proved.value.to_plain_string(), expected, "{name}: proved, {round}");
            let by_model = usage::query(app, &ask().by("/model".parse().expect("a pointer"))).await.expect("answered");
            for row in by_model.rows {
                let of_model: Vec<_> = sent.iter().filter(|s| s.model == row.group["/model"]).collect();
                assert_eq!(
                    Some(row.value.normalized()),
                    by_hand(&of_model, aggregate).map(|v| v.normalized()),
                    "{name} of {:?}, {round}",
                    row.group
                );
            }
            let later = farebox_core::period::Period { start: hour() + TimeDelta::minutes(30), end: october().end };
            let asked = UsageQuery { period: later, ..ask() };
            let expected = by_hand(&half(30).collect::<Vec<_>>(), aggregate).expect("a value").normalized().to_plain_string();
            assert_eq!(value(app, asked).await, expected, "{name} of half an hour, {round}");
            // What is no number is in no sum, and told.
            let errors = usage::query(app, &ask()).await.expect("answered").rows[0].errors;
            let wrong = sent.iter().filter(|s| match aggregate {
                Aggregate::Count => false,
                Aggregate::UniqueCount => s.value.is_empty(),
                _ => ["", "n/a", "1e3", "0.1234567890123"].contains(&s.value),
            });
            assert_eq!(errors, wrong.count() as u64, "{name}: errors, {round}");
        }
        recompute::workspace(app, &world.workspace).await.expect("recomputed");
        if round == "raw" {
            // Some minutes are touched again: answers come from both sides at once.
            let again: Vec<_> = sent.iter().filter(|s| s.minute % 7 == 0).collect();
            let ids = Some(again.iter().map(|s| s.id.clone()).collect());
            assert!(
                !events::list(app, &EventsQuery { ids, limit: 500, ..EventsQuery::new(&world.workspace, october()) })
                    .await
                    .expect("listed")
                    .is_empty()
            );
            let mut copies = Vec::new();
            for s in again {
                let mut copy = event(&world, s.id[3..].parse().expect("a number"));
                copy.time = hour() + TimeDelta::minutes(s.minute) + TimeDelta::milliseconds(s.id[3..].parse().expect("a number"));
                copy.received_at += TimeDelta::hours(1);
                copy.data.status = 999;
                copies.push(copy);
            }
            store_all(app, &copies).await;
        }
    }
    let asked = EventsQuery { meter: "sum".to_owned(), only_errors: true, limit: 500, ..EventsQuery::new(&world.workspace, october()) };
    let errors = events::list(app, &asked).await.expect("listed");
    assert!(errors.iter().all(|e| !e.valid && ["", "n/a", "1e3", "0.1234567890123"].contains(&e.amount.as_str())), "{errors:?}");
    assert_eq!(errors.len(), sent.iter().filter(|s| ["", "n/a", "1e3", "0.1234567890123"].contains(&s.value)).count());
}

/// A new version answers at once, from events; its history is rolled up in the background, and the answer stays.
pub async fn a_changed_meter_is_exact_while_history_is_rolled_up(suite: &Suite) {
    let (app, world) = (&suite.app, world(&suite.app, "versions").await);
    let sent = lived_in(suite, &world, 2).await;
    let put = async |definition: &Definition| {
        let mut conn = app.pg.acquire().await.expect("PostgreSQL answers");
        meters::upsert(&mut conn, &world.workspace, definition).await.expect("a meter")
    };
    let ask = || UsageQuery::new(&world.workspace, "tokens", october()).of_subscription(&world.subscription);
    let mut changing = definition("tokens", Aggregate::Sum);
    assert_eq!(put(&changing).await.version, 1);
    recompute::workspace(app, &world.workspace).await.expect("recomputed");
    let whole = value(app, ask()).await;
    changing.filter.insert("/model".to_owned(), Test::Other(Condition::NotIn(vec!["small".to_owned()])));
    changing.divide_by = Some("1000".parse().expect("a number"));
    let second = put(&changing).await;
    assert_eq!(second.version, 2);
    let of_others: Vec<_> = sent.iter().filter(|s| s.model != "small").collect();
    let expected = (by_hand(&of_others, Aggregate::Sum).expect("a sum") / BigDecimal::from(1000))
        .with_scale_round(12, RoundingMode::HalfEven)
        .normalized();
    assert_eq!(value(app, ask()).await, expected.to_plain_string(), "at once");
    assert_ne!(whole, expected.to_plain_string());
    recompute::workspace(app, &world.workspace).await.expect("recomputed");
    let done = backfill::progress(app, &world.workspace, &second).await.expect("known");
    assert!(done.complete && done.minutes > 30, "{done:?}");
    assert_eq!(value(app, ask()).await, expected.to_plain_string(), "rolled up");
    recompute::collect_garbage(app, std::time::Duration::ZERO).await.expect("collected");
    assert_eq!(value(app, ask()).await, expected.to_plain_string(), "the first version's rollup is gone");
}
