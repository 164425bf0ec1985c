//! Where subscriptions stand: metered usage by one question for all that are watched on the same meter and stretch, and
//! the preview of the gathering invoice for money.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::Money;
use farebox_core::period::{Period, Window, floor_minute, resolve, window_of};
use farebox_core::workspace::Workspace;
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, completeness, proof};

use super::fire::{self, Reached};
use super::judge::{self, Kind, Usual};
use super::store::{self, Alert};
use super::words;
use crate::allowance::allowance;
use crate::rating::PlanDefinition;
use crate::subscriptions::{self, Subscription};
use crate::{BillingError, plans, preview};

/// Weeks that say what is usual.
const WEEKS: i64 = 4;
/// A preview asks for much, so each is made at most this often.
const PREVIEW_EVERY: Duration = Duration::from_secs(30);

/// What need not be asked again. Lost with the process, which then asks.
#[derive(Debug, Default)]
pub struct Memory {
    /// What was so when a workspace was judged last: as long as it is the same, so is the judgement.
    states: HashMap<WorkspaceId, String>,
    previews: HashMap<SubscriptionId, (Instant, Money)>,
}

/// A subscription in force.
struct Watched {
    subscription: Subscription,
    plan: String,
    definition: PlanDefinition,
    period: Period,
}

/// Judges a workspace's alerts now. Harmless to repeat, and to run in several places.
pub async fn evaluate(app: &App, workspace: &Workspace, memory: &mut Memory) -> Result<usize, BillingError> {
    let ws = &workspace.id;
    let mut conn = app.pg.acquire().await?;
    let alerts = store::find(&mut conn, ws, None).await?;
    if alerts.is_empty() {
        memory.states.remove(ws);
        return Ok(0);
    }
    let now = workspace.clock.now();
    let state = state(app, workspace, &alerts, now).await?;
    if memory.states.get(ws) == Some(&state) {
        return Ok(0);
    }
    let watched = watched(&mut conn, workspace, now).await?;
    let fired = fire::since(&mut conn, ws, now - TimeDelta::days(1)).await?;
    drop(conn);
    let mut judging = Judging { app, workspace, now, watched: &watched, fired: &fired, asked: HashMap::new(), later: false };
    let mut count = 0;
    for alert in &alerts {
        for reached in judging.reached(alert, memory).await? {
            count += usize::from(fire::fire(app, workspace, alert, &reached).await?);
        }
    }
    if judging.later {
        memory.states.remove(ws);
    } else {
        memory.states.insert(ws.clone(), state);
    }
    Ok(count)
}

/// Everything a judgement follows from: events, what attributes them, plans and prices by the timeline, the rules, and
/// the minute, since hours and periods end without any event.
async fn state(app: &App, workspace: &Workspace, alerts: &[Alert], now: DateTime<Utc>) -> Result<String, BillingError> {
    let month = Period { start: now - TimeDelta::days(32), end: now + TimeDelta::minutes(1) };
    let rules: Vec<_> = alerts.iter().map(|alert| format!("{}/{}", alert.id, alert.threshold)).collect();
    Ok(format!("{} {} {}", proof::state(app, &workspace.id, month).await?, floor_minute(now), rules.join(" ")))
}

async fn watched(conn: &mut sqlx::PgConnection, workspace: &Workspace, now: DateTime<Utc>) -> Result<Vec<Watched>, BillingError> {
    let mut found = subscriptions::list(conn, &workspace.id, None, i64::MAX, "").await?;
    found.retain(|subscription| subscription.at(now).is_some());
    let versions = plans::of(conn, &workspace.id, found.iter().flat_map(|s| &s.phases).map(|phase| &phase.plan_version)).await?;
    let mut watched = Vec::with_capacity(found.len());
    for subscription in found {
        let Some(phase) = subscription.at(now) else { continue };
        let Some(definition) = versions.get(&phase.plan_version).cloned() else { continue };
        let period = subscription.period_at(&versions, workspace.time_zone, now, None)?;
        watched.push(Watched { plan: phase.plan.clone(), definition, period, subscription });
    }
    Ok(watched)
}

type BySubscription = HashMap<String, BigDecimal>;

struct Judging<'a> {
    app: &'a App,
    workspace: &'a Workspace,
    now: DateTime<Utc>,
    watched: &'a [Watched],
    fired: &'a HashSet<fire::Key>,
    asked: HashMap<(String, Period), BySubscription>,
    /// Something is known too little of now, and is judged when it is looked at again.
    later: bool,
}

impl Judging<'_> {
    /// Whose threshold is reached, and was not told yet.
    async fn reached(&mut self, alert: &Alert, memory: &mut Memory) -> Result<Vec<Reached>, BillingError> {
        let mut reached = Vec::new();
        for watched in self.watched {
            let subscription = &watched.subscription;
            let meant = alert.consumer.as_ref().is_none_or(|consumer| *consumer == subscription.consumer)
                && alert.plan.as_ref().is_none_or(|plan| *plan == watched.plan);
            if !meant {
                continue;
            }
            let found: Vec<Reached> = match alert.kind {
                Kind::Allowance => self.of_allowance(alert, watched).await?.into_iter().collect(),
                Kind::Usage => self.of_usage(alert, watched).await?.into_iter().collect(),
                Kind::Spend => self.of_spend(alert, watched, memory).await?.into_iter().collect(),
                Kind::Anomaly => self.of_hours(alert, watched).await?,
            };
            reached.extend(found);
        }
        Ok(reached)
    }

    fn is_told(&self, alert: &Alert, watched: &Watched, period: Period) -> bool {
        self.fired.contains(&(alert.id.clone(), alert.arming, watched.subscription.id.clone(), period.start))
    }

    async fn of_allowance(&mut self, alert: &Alert, watched: &Watched) -> Result<Option<Reached>, BillingError> {
        let Some(held) = allowance(&watched.definition, watched.definition.is_free()) else { return Ok(None) };
        let month = window_of(self.now, Window::Month, self.workspace.time_zone).unwrap_or(watched.period);
        let period = if held.by_calendar { month } else { watched.period };
        if self.is_told(alert, watched, period) {
            return Ok(None);
        }
        let used = self.used(&held.meter, period, &watched.subscription.id).await?;
        if !judge::allowance(&used, &held.units, &alert.threshold) {
            return Ok(None);
        }
        let sentence = words::allowance(&used, &held);
        Ok(Some(Reached::of(&watched.subscription, period, used, Some(held.units), sentence)))
    }

    async fn of_usage(&mut self, alert: &Alert, watched: &Watched) -> Result<Option<Reached>, BillingError> {
        let (Some(meter), period) = (&alert.meter, watched.period) else { return Ok(None) };
        if self.is_told(alert, watched, period) {
            return Ok(None);
        }
        let used = self.used(meter, period, &watched.subscription.id).await?;
        let sentence = words::usage(&used, meter, &alert.threshold);
        Ok((used >= alert.threshold).then(|| Reached::of(&watched.subscription, period, used, None, sentence)))
    }

    async fn of_spend(&mut self, alert: &Alert, watched: &Watched, memory: &mut Memory) -> Result<Option<Reached>, BillingError> {
        let (subscription, period) = (&watched.subscription, watched.period);
        if alert.currency.as_ref() != Some(&subscription.currency) || self.is_told(alert, watched, period) {
            return Ok(None);
        }
        let known = memory.previews.get(&subscription.id).filter(|(at, _)| at.elapsed() < PREVIEW_EVERY);
        let spent = if let Some((_, spent)) = known {
            self.later = true;
            *spent
        } else {
            let spent = match preview::preview(self.app, &self.workspace.id, &subscription.id).await {
                Ok(preview) => preview.subtotal,
                // It is told where the invoice is made.
                Err(BillingError::Rating(_)) => return Ok(None),
                Err(error) => return Err(error),
            };
            memory.previews.insert(subscription.id.clone(), (Instant::now(), spent));
            spent
        };
        let amount = spent.to_decimal();
        let sentence = words::spend(spent, &alert.threshold);
        Ok((amount >= alert.threshold).then(|| Reached::of(subscription, period, amount, None, sentence)))
    }

    /// The running hour, which may already have too much, and the one before, once its events are there.
    async fn of_hours(&mut self, alert: &Alert, watched: &Watched) -> Result<Vec<Reached>, BillingError> {
        let (Some(meter), Some(at_least)) = (&alert.meter, &alert.at_least) else { return Ok(Vec::new()) };
        let zone = self.workspace.time_zone;
        let hour = |at| window_of(at, Window::Hour, zone);
        let Some(running) = hour(self.now) else { return Ok(Vec::new()) };
        let before = hour(running.start - TimeDelta::minutes(1));
        let mut reached = Vec::new();
        for (hour, over) in before.map(|hour| (hour, true)).into_iter().chain([(running, false)]) {
            if self.is_told(alert, watched, hour) {
                continue;
            }
            let over = over && self.is_complete(hour).await?;
            let used = self.used(meter, hour, &watched.subscription.id).await?;
            let usual = self.usual(meter, hour, &watched.subscription).await?;
            if judge::anomaly(&used, &usual, &alert.threshold, at_least, over) {
                let mean = usual.mean();
                let sentence = words::anomaly(&used, &mean, meter, hour, zone);
                reached.push(Reached::of(&watched.subscription, hour, used, Some(mean), sentence));
            }
        }
        Ok(reached)
    }

    async fn is_complete(&mut self, hour: Period) -> Result<bool, BillingError> {
        // A clock that runs ahead has no events to wait for.
        let ahead = self.workspace.clock.now() - farebox_core::clock::now() > TimeDelta::hours(1);
        let complete = ahead || completeness::of(self.app, &self.workspace.id).await?.complete_until >= hour.end;
        self.later |= !complete;
        Ok(complete)
    }

    async fn used(&mut self, meter: &str, period: Period, subscription: &SubscriptionId) -> Result<BigDecimal, BillingError> {
        let key = (meter.to_owned(), period);
        if !self.asked.contains_key(&key) {
            let several = self.watched.len() > 1;
            let mut query = UsageQuery::new(&self.workspace.id, meter, period).by(Dimension::Subscription);
            if !several {
                query = query.of_subscription(subscription);
            }
            let answer = usage::query(self.app, &query).await?;
            if answer.more {
                return Ok(usage::total(self.app, &self.workspace.id, meter, subscription, period).await?);
            }
            let by = answer.rows.into_iter().map(|mut row| (row.group.remove("subscription").unwrap_or_default(), row.value));
            self.asked.insert(key.clone(), by.collect());
        }
        Ok(self.asked.get(&key).and_then(|by| by.get(subscription.as_str())).cloned().unwrap_or_default())
    }

    /// The same hour of the weeks before in which it was in force.
    async fn usual(&mut self, meter: &str, hour: Period, subscription: &Subscription) -> Result<Usual, BillingError> {
        let mut usual = Usual { sum: BigDecimal::from(0), weeks: 0 };
        for then in weeks_before(hour, self.workspace.time_zone) {
            if subscription.started_at <= then.start {
                usual.sum += self.used(meter, then, &subscription.id).await?;
                usual.weeks += 1;
            }
        }
        Ok(usual)
    }
}

/// The same local hour of the past weeks; those that a clock change skipped are left out.
fn weeks_before(hour: Period, zone: Tz) -> Vec<Period> {
    let local = hour.start.with_timezone(&zone).naive_local();
    let then = (1..=WEEKS).filter_map(|week| window_of(resolve(local - TimeDelta::weeks(week), zone), Window::Hour, zone));
    let mut found: BTreeMap<DateTime<Utc>, Period> = BTreeMap::new();
    for period in then {
        if period.end - period.start == hour.end - hour.start {
            found.insert(period.start, period);
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_hour_is_the_same_on_the_clock_across_a_change() {
        let zone = chrono_tz::Europe::Berlin;
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let hour = window_of(at("2026-11-02T08:30:00Z"), Window::Hour, zone).expect("an hour");
        let starts: Vec<_> = weeks_before(hour, zone).into_iter().map(|p| p.start).collect();
        // 09:00 in Berlin: before 25 October an hour earlier in UTC.
        assert_eq!(starts, ["2026-10-05T07:00:00Z", "2026-10-12T07:00:00Z", "2026-10-19T07:00:00Z", "2026-10-26T08:00:00Z"].map(at));
    }
}
