//! Two counts made apart from each other: requests by metering, and live calls by the ledger of decisions.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use farebox_core::clock;
use farebox_core::period::{Period, floor_minute};

use super::Past;
use crate::progress::Step;
use crate::up::Running;

/// How long counting may take to catch up before a difference is called one.
const CATCH_UP: Duration = Duration::from_mins(3);
/// So many looks, half a second apart, without a change: nothing is under way any more.
const STILL: u32 = 20;

/// How many requests Farebox has counted, of all consumers and of none.
async fn counted(running: &Running) -> anyhow::Result<u64> {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let now = clock::now();
    let path = format!(
        "/api/v1/usage?meter=calls&window=none&from={}&to={}",
        text(floor_minute(now) - TimeDelta::days(400)),
        text(floor_minute(now) + TimeDelta::minutes(2))
    );
    let answer = running.instance.get(&path).await?;
    let rows = answer["data"].as_array().context("the usage answer has no `data`")?;
    let mut total = 0;
    for row in rows {
        total += row["value"].as_str().context("a usage row has no `value`")?.parse::<u64>()?;
    }
    Ok(total)
}

pub async fn wait_for_count(running: &Running, expected: u64, step: &Step) -> anyhow::Result<u64> {
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    loop {
        let now = counted(running).await?;
        step.at(now);
        if now == expected {
            return Ok(now);
        }
        if now > expected || tokio::time::Instant::now() >= deadline {
            bail!("{expected} requests were sent, but {now} are counted; the logs are in the data directory");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

pub async fn reach(running: &Running, expected: u64) -> anyhow::Result<u64> {
    wait_for_count(running, expected, &Step::hidden()).await
}

/// Live calls of earlier starts, by the ledger of decisions, which nobody that counts events has a hand in; and how many
/// requests are counted once no event of theirs is under way any more.
pub async fn settled(running: &Running, past: Past) -> anyhow::Result<(u64, u64)> {
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    let mut last = (0, 0);
    let mut still = 0;
    loop {
        let now = (decided(running).await?, counted(running).await?);
        still = if now == last { still + 1 } else { 0 };
        if now.1 == past.calls + now.0 && still > 0 || still >= STILL {
            ensure!(now.1 >= past.calls, "{} requests were sent in the history, but {} are counted", past.calls, now.1);
            return Ok(now);
        }
        ensure!(tokio::time::Instant::now() < deadline, "counting does not come to rest; the logs are in the data directory");
        last = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Calls that a gateway asked about, ever.
async fn decided(running: &Running) -> anyhow::Result<u64> {
    let now = floor_minute(clock::now());
    let ever = Period { start: now - TimeDelta::days(400), end: now + TimeDelta::minutes(2) };
    Ok(farebox_access::ledger::counts(&running.app, &running.workspace.id, ever).await?.into_iter().map(|count| count.n).sum())
}
