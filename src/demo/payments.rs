//! Keys and cards of the demo's consumers, and what became of their invoices.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use farebox_billing::stripe;
use farebox_core::clock;
use farebox_core::ids::ConsumerId;
use farebox_core::period::floor_minute;
use farebox_core::secret::Secret;
use farebox_metering::consumers::{self, Consumer};
use farebox_metering::credentials::{self, NewCredential};
use futures::stream::{self, StreamExt, TryStreamExt};
use reqwest::redirect::Policy;

use super::population::{Life, Resident};
use crate::progress::Step;
use crate::up::Running;

/// Accepted when charged; and saved without complaint but declined when charged.
const GOOD_CARD: &str = "4242424242424242";
const DECLINED_CARD: &str = "4000000000000341";
/// Stripe's double charges a card a second after an invoice is final.
const COLLECTED_WITHIN: Duration = Duration::from_secs(4);
/// Checkouts under way at once.
const AT_ONCE: usize = 4;

/// Every consumer but the silent takes a key, minutes to hours after signing up.
pub async fn keys(running: &Running, residents: &[Resident], ids: &HashMap<String, ConsumerId>) -> anyhow::Result<()> {
    let mut tx = running.app.pg.begin().await?;
    for (n, resident) in residents.iter().enumerate().filter(|(_, r)| r.life != Life::Silent) {
        let secret = Secret::generate("acme_live_");
        let key = NewCredential {
            name: "Production".to_owned(),
            hint: secret.hint(),
            hash: secret.hash(),
            environment: "production".to_owned(),
            created_at: resident.signed_up + TimeDelta::minutes(3 + i64::try_from(n * 37 % 240)?),
            expires_at: None,
        };
        credentials::add(&mut tx, &running.workspace.id, id_of(ids, resident)?, key).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Everyone who pays leaves a card through Stripe's hosted page, as in a browser. Returns how many did.
pub async fn cards(running: &Running, residents: &[Resident], ids: &HashMap<String, ConsumerId>, step: &Step) -> anyhow::Result<usize> {
    let browser = reqwest::Client::builder().redirect(Policy::none()).build()?;
    let paying: Vec<_> = residents.iter().filter(|r| r.pays()).collect();
    stream::iter(&paying)
        .map(|resident| async {
            leave_card(running, &browser, id_of(ids, resident)?, resident)
                .await
                .with_context(|| format!("{} could not leave a card", resident.name))?;
            step.advance(1);
            anyhow::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(paying.len())
}

async fn leave_card(running: &Running, browser: &reqwest::Client, consumer: &ConsumerId, resident: &Resident) -> anyhow::Result<()> {
    let (app, workspace) = (&running.app, &running.workspace.id);
    let back = format!("{}/payment/return?session_id={{CHECKOUT_SESSION_ID}}", running.credentials.base_url);
    let url = stripe::checkout_setup_url(app, workspace, consumer, &back, &running.credentials.base_url).await?;
    let number = if resident.bad_card { DECLINED_CARD } else { GOOD_CARD };
    let form = [("cardNumber", number), ("cardExpiry", "12 / 34"), ("cardCvc", "123"), ("billingName", resident.name.as_str())];
    let answer = browser.post(url.as_str()).form(&form).send().await?;
    let next = answer
        .headers()
        .get(reqwest::header::LOCATION)
        .and_then(|v| v.to_str().ok())
        .with_context(|| format!("Checkout answered {} without a way back", answer.status()))?;
    let session = next.split_once("session_id=").map(|(_, id)| id).context("the way back names no session")?;
    stripe::complete_setup(app, workspace, session).await?;
    Ok(())
}

fn id_of<'a>(ids: &'a HashMap<String, ConsumerId>, resident: &Resident) -> anyhow::Result<&'a ConsumerId> {
    ids.get(&resident.name).with_context(|| format!("{} is not among the consumers", resident.name))
}

/// Waits until every invoice has reached Stripe and Stripe has tried to collect. Returns what became of them.
pub async fn settle(running: &Running, step: &Step) -> anyhow::Result<String> {
    let deadline = tokio::time::Instant::now() + Duration::from_mins(5);
    let (mut last, mut unchanged_since) = (BTreeMap::new(), tokio::time::Instant::now());
    loop {
        let states = states(running).await?;
        let queued = running.instance.get("/api/v1/stripe").await?["invoices"]["queued"]
            .as_u64()
            .context("Stripe's status has no count of queued invoices")?;
        let paid = states.get("paid").copied().unwrap_or_default();
        let unpaid: u64 = states.iter().filter(|(state, _)| *state != "paid").map(|(_, count)| count).sum();
        step.say(format!("{paid} paid, {unpaid} not yet, {queued} on their way"));
        if states != last {
            (last, unchanged_since) = (states, tokio::time::Instant::now());
        }
        if queued == 0 && unchanged_since.elapsed() >= COLLECTED_WITHIN {
            return Ok(format!("{paid} paid, {unpaid} unpaid: their cards were declined"));
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("invoices are still under way after five minutes: {paid} paid, {unpaid} not, {queued} on their way to Stripe");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// State -> number of invoices.
async fn states(running: &Running) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut states = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = running.instance.get(&format!("/api/v1/invoices?limit=500{cursor}")).await?;
        for invoice in page["data"].as_array().context("the invoices have no `data`")? {
            *states.entry(invoice["state"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(states),
        }
    }
}

/// The consumer whose portal is shown: of those who pay by use, the one who calls most.
pub async fn showcase(running: &Running, from: DateTime<Utc>) -> anyhow::Result<Consumer> {
    let to = floor_minute(clock::now());
    let query = format!("/api/v1/usage?meter=requests&window=none&group_by=consumer&plan=growth&from={}&to={}", rfc3339(from), rfc3339(to));
    let answer = running.instance.get(&query).await?;
    let rows = answer["data"].as_array().context("the usage answer has no `data`")?;
    let most = rows.iter().max_by_key(|row| row["value"].as_str().and_then(|value| value.parse::<u64>().ok()));
    let id: ConsumerId = most.and_then(|row| row["group"]["consumer"]["id"].as_str()).context("nobody pays by use")?.parse()?;
    let mut conn = running.app.pg.acquire().await?;
    consumers::get(&mut conn, &running.workspace.id, &id).await?.context("the consumer is gone")
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
