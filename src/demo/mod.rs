//! `farebox demo`: `up`, then a business that has lived for three months. A catalogue is applied, some two hundred
//! consumers sign up, subscribe and leave cards, their calls go as gateway logs through the real pipeline, the months
//! are closed and the invoices pushed; then live traffic flows through a real Envoy. It ends with a statement: how
//! many requests were sent, how many were counted, and that they are equal.
//!
//! A second start on the same data directory finds the business as it left it and goes on living.

mod counting;
mod history;
mod live;
mod payments;
mod population;
mod statement;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Datelike, Months, NaiveDate, SecondsFormat, TimeDelta, Utc};
use farebox_billing::alerts::{self, Kind, NewAlert};
use farebox_billing::subscriptions;
use farebox_core::clock;
use farebox_core::ids::ConsumerId;
use farebox_core::period::floor_minute;
use farebox_engines::{Event, Progress};
use farebox_portal::entry;
use serde::{Deserialize, Serialize};

use crate::cli::{catalog, closing};
use crate::instance::{Find, write_private};
use crate::progress::Step;
use crate::roles;
use crate::up::{self, Running};
use counting::{reach, settled, wait_for_count};
use history::{Historian, TOPIC};
use live::Live;
use population::Resident;
use statement::{Statement, grouped};

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    up: up::Options,
    /// Stop after the statement; the exit code is 0 only if everything agrees.
    #[arg(long)]
    exit: bool,
    /// How many consumers live here.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=400))]
    consumers: u32,
}

/// What earlier starts of the demo have done, kept in the data directory.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Past {
    from: NaiveDate,
    until: DateTime<Utc>,
    calls: u64,
    copies: u64,
}

const SEED: u64 = 20_260_801;
/// The demo's links sign in with one click until then.
const LINKS_ARE_GOOD_FOR: TimeDelta = TimeDelta::days(7);
/// How long the last calls may take to be told of when the demo is stopped.
const LAST_LOGS: Duration = Duration::from_secs(10);
/// Live requests before the statement is made.
const LIVE_CALLS: u64 = 150;

pub async fn run(find: &Find, options: &Options) -> anyhow::Result<()> {
    let asked = roles::stop_on_signal()?;
    say!("Farebox demo: a business that has lived for three months\n");
    let step = Step::start("Engines and rooms");
    let progress = Progress::new(|engine, event| {
        if let Event::Died { .. } | Event::Failed(_) = event {
            eprintln!("  {engine:12} {event}");
        }
    });
    let mut running = up::start(find, &options.up, progress).await?;
    step.done("Kafka, ClickHouse, PostgreSQL, Stripe's double, all roles");

    let ended = tokio::select! {
        ended = live_through(find, options, &running) => ended,
        () = asked.cancelled() => Err(anyhow!("stopped before the demo was complete; start it again and it goes on")),
    };
    let ended = match ended {
        Ok(lived) if !options.exit => {
            say!("Live traffic goes on through Envoy at {}. Ctrl-C stops everything.", lived.live.gateway_url);
            lived.live.resume();
            let ended = running.until(asked.cancelled()).await;
            // The gateway's last calls are told of and counted while there is somebody to listen.
            let sent = lived.live.pause().await;
            tokio::time::timeout(LAST_LOGS, reach(&running, lived.counted_before + sent)).await.ok();
            ended
        }
        Ok(lived) => lived.statement.agrees(),
        Err(cause) => Err(cause),
    };
    ended.and(running.stop().await)
}

/// The statement was made, and traffic goes on.
struct Lived {
    live: Live,
    counted_before: u64,
    statement: Statement,
}

async fn live_through(find: &Find, options: &Options, running: &Running) -> anyhow::Result<Lived> {
    let file = find.data.join("demo.json");
    let past = match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; remove the data directory to start afresh", file.display()))?,
        Err(_) => begin(&file, options, running).await?,
    };
    let step = Step::start("Counting what was under way");
    let (earlier, counted_before) = settled(running, past).await?;
    step.done(&format!("{} calls of history, {} live ones before", grouped(past.calls), grouped(earlier)));

    let step = Step::of("Live calls through Envoy", LIVE_CALLS);
    let live = Live::start(find, running).await?;
    let example = format!("{}/v2/orders", live.gateway_url);
    farebox_portal::settings::set_example_url(&mut *running.app.pg.acquire().await?, &running.workspace.id, Some(&example)).await?;
    while live.sent() < LIVE_CALLS {
        tokio::time::sleep(Duration::from_millis(50)).await;
        step.say(format!("{} sent", live.sent()));
    }
    let sent = live.pause().await;
    step.done(&format!("{sent} calls, each asked for and told of"));

    let step = Step::start("Counting the last of them");
    let counted = reach(running, counted_before + sent).await?;
    step.done("nothing is under way");
    let statement = Statement { history: past.calls, copies: past.copies, earlier, live: sent, counted };
    say!("\n{statement}");
    links(running, past).await?;
    Ok(Lived { live, counted_before, statement })
}

/// The first start: everything up to now.
async fn begin(file: &Path, options: &Options, running: &Running) -> anyhow::Result<Past> {
    let until = floor_minute(clock::now());
    let today = until.date_naive();
    let from = today.with_day(1).and_then(|first| first.checked_sub_months(Months::new(3))).context("a date out of range")?;
    let residents = population::people(usize::try_from(options.consumers)?, from, today, SEED);

    let step = Step::start("Catalogue and consumers");
    catalog::apply(&running.instance, catalogue(&residents, false)?, false).await?;
    let ids = consumer_ids(running).await?;
    step.done(&format!("3 APIs, 3 plans, {} consumers", residents.len()));

    let step = Step::of("Keys and cards", residents.len() as u64);
    payments::keys(running, &residents, &ids).await?;
    let cards = payments::cards(running, &residents, &ids, &step).await?;
    step.done(&format!("{cards} cards on file"));

    let days = (today - from).num_days() + 1;
    let step = Step::of("Three months of calls", u64::try_from(days)?);
    let mut historian = Historian::new(SEED, "edge");
    running.app.kafka.create_exact_topics(&[TOPIC]).await?;
    for day in from.iter_days().take(usize::try_from(days)?) {
        let entries = historian.day(&residents, day, until);
        history::write(&running.app.kafka, TOPIC, &entries).await?;
        step.advance(1);
    }
    history::write(&running.app.kafka, TOPIC, &historian.rest()).await?;
    let sent = historian.sent;
    step.done(&format!("{} calls and {} copies of them, as APISIX logs on Kafka", sent.calls, sent.copies));

    let step = Step::of("Counting them", sent.calls);
    wait_for_count(running, sent.calls, &step).await?;
    step.done(&format!("{} counted", sent.calls));

    // Only now, so that no month is closed before its calls are there; the calls are attributed anew.
    let step = Step::start("Subscriptions, backdated");
    let (upgraded, left) = subscribe(running, &residents, &ids, until).await?;
    step.done(&format!("{upgraded} went from free to paid, {left} left again"));

    let step = Step::start("Closing months");
    let mut month = from;
    let mut closed = Vec::new();
    while month.with_day(1) < today.with_day(1) {
        let period = month.format("%Y-%m").to_string();
        step.say(period.clone());
        closing::close_period(&running.instance, &period).await.with_context(|| format!("{period} could not be closed"))?;
        closed.push(period);
        month = month.checked_add_months(Months::new(1)).context("a date out of range")?;
    }
    step.done(&closed.join(", "));

    let step = Step::start("Invoices through Stripe");
    let outcome = payments::settle(running, &step).await?;
    step.done(&outcome);
    own_alerts(running, from).await?;

    let past = Past { from, until, calls: sent.calls, copies: sent.copies };
    write_private(file, &past)?;
    Ok(past)
}

/// The demo's catalogue with its consumers, and with what they subscribed to at sign-up.
fn catalogue(residents: &[Resident], subscribed: bool) -> anyhow::Result<String> {
    let mut consumers = Vec::new();
    for resident in residents {
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let subscription = serde_json::json!({ "plan": resident.first_plan(), "from": text(resident.signed_up) });
        let subscriptions = if subscribed { vec![subscription] } else { Vec::new() };
        consumers.push(serde_json::json!({
            "name": resident.name, "email": resident.email, "signed_up": text(resident.signed_up),
            "address": { "country": resident.country }, "subjects": [resident.subject], "subscriptions": subscriptions,
        }));
    }
    // JSON is YAML.
    Ok(format!("{}consumers: {}\n", include_str!("catalogue.yaml"), serde_json::to_string_pretty(&consumers)?))
}

/// Everyone subscribes at sign-up; free plans become paid ones; and those who pay and have made their last call end
/// their subscriptions the day after. All at once, so that a scheduled close sees the whole story or none of it.
async fn subscribe(
    running: &Running,
    residents: &[Resident],
    ids: &HashMap<String, ConsumerId>,
    until: DateTime<Utc>,
) -> anyhow::Result<(usize, usize)> {
    let workspace = &running.workspace.id;
    let whole = farebox_billing::catalog::parse(&catalogue(residents, true)?).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let mut tx = running.app.pg.begin().await?;
    farebox_billing::catalog::apply(&mut tx, &whole, "demo").await?;
    let (mut upgraded, mut left) = (0, 0);
    for resident in residents {
        let Some(id) = ids.get(&resident.name) else { continue };
        if let Some(at) = resident.upgraded.filter(|at| *at < until) {
            for subscription in subscriptions::at(&mut tx, workspace, id, at).await? {
                subscriptions::change_at(&mut tx, workspace, &subscription.id, "growth", at).await?;
                upgraded += 1;
            }
        }
        if let Some(last) = resident.last_call.filter(|_| resident.pays()) {
            let end = last.and_time(chrono::NaiveTime::MIN).and_utc() + TimeDelta::days(1);
            for subscription in subscriptions::at(&mut tx, workspace, id, end).await? {
                subscriptions::cancel_at(&mut tx, workspace, &subscription.id, end).await?;
                left += 1;
            }
        }
    }
    tx.commit().await?;
    Ok((upgraded, left))
}

/// What the developer whose portal is shown wants to be told.
async fn own_alerts(running: &Running, from: NaiveDate) -> anyhow::Result<()> {
    let consumer = payments::showcase(running, from.and_time(chrono::NaiveTime::MIN).and_utc()).await?;
    let mut tx = running.app.pg.begin().await?;
    for (kind, threshold, currency) in [(Kind::Allowance, 50, None), (Kind::Allowance, 90, None), (Kind::Spend, 120, Some("USD"))] {
        let alert = NewAlert {
            name: "own".to_owned(),
            kind,
            meter: None,
            threshold: threshold.into(),
            currency: currency.map(str::to_owned),
            at_least: None,
            consumer: None,
            plan: None,
            emails: consumer.email.clone().into_iter().collect(),
            mail_consumer: false,
        };
        alerts::create_own(&mut tx, &running.workspace.id, &consumer.id, &alert).await?;
    }
    Ok(tx.commit().await?)
}

/// Name -> id of every consumer.
async fn consumer_ids(running: &Running) -> anyhow::Result<HashMap<String, ConsumerId>> {
    let mut conn = running.app.pg.acquire().await?;
    let all = farebox_metering::consumers::all(&mut conn, &running.workspace.id).await?;
    Ok(all.into_iter().map(|consumer| (consumer.name, consumer.id)).collect())
}

async fn links(running: &Running, past: Past) -> anyhow::Result<()> {
    let mut conn = running.app.pg.acquire().await?;
    let base = &running.credentials.base_url;
    let workspace = &running.workspace.id;
    let console = entry::owner_demo_link(&mut conn, workspace, up::OWNER, LINKS_ARE_GOOD_FOR).await?;
    let from = past.from.and_time(chrono::NaiveTime::MIN).and_utc();
    let consumer = payments::showcase(running, from).await?;
    let email = consumer.email.as_deref().context("the showcase has no address")?;
    let developer = entry::consumer_user(&mut conn, workspace, &consumer.id, email, &consumer.name).await?;
    let portal = entry::consumer_demo_link(&mut conn, &developer, LINKS_ARE_GOOD_FOR).await?;
    say!("  The console                   {base}{}", console.path);
    say!("  The portal, as {:14} {base}{}", consumer.name, portal.path);
    say!();
    Ok(())
}
