//! Who did what and when, gathered from the rooms that know.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_metering::activity::{self, Calls};
use farebox_metering::timelines::BEGINNING;
use farebox_metering::{completeness, consumers, credentials};

use super::activation;
use super::setting::{Setting, Unit};
use crate::action::{Action, CallFilter};
use crate::arithmetic::{Activity, conversion};
use crate::error::KpiError;

type Instants = BTreeMap<String, DateTime<Utc>>;

/// Everything before this instant has arrived.
pub(super) async fn known_until(app: &App, workspace: &WorkspaceId) -> Result<DateTime<Utc>, KpiError> {
    Ok(completeness::of(app, workspace).await?.complete_until)
}

/// A credential does not sign up or pay.
pub(super) fn check_unit(unit: Unit, actions: &[(&str, &Action)]) -> Result<(), KpiError> {
    for (field, action) in actions {
        if unit == Unit::Credential && !matches!(action, Action::Key | Action::Call(_)) {
            return Err(KpiError::field(
                field,
                format!("`{action}` is something consumers do; with unit=credential there are key and call, or leave the unit out"),
            ));
        }
    }
    Ok(())
}

/// In which intervals from number `from` to the observed ones' end the action was done at least `min_count` times.
pub(super) async fn activity(
    app: &App,
    setting: &Setting,
    action: &Action,
    from: i64,
    min_count: u64,
) -> Result<Activity<String>, KpiError> {
    let period = Period { start: setting.calendar.start(from), end: setting.period().end };
    let mut counts: BTreeMap<String, BTreeMap<i64, u64>> = BTreeMap::new();
    if let Action::Call(filter) = action {
        let Some(calls) = calls(setting, filter, period) else { return Ok(Activity::new()) };
        for day in activity::days(app, &calls, setting.calendar.zone).await? {
            *counts.entry(day.who).or_default().entry(setting.calendar.number(day.day)).or_default() += day.calls;
        }
    } else {
        for (who, instants) in occurrences(app, setting, action).await? {
            for at in instants.into_iter().filter(|at| period.contains(*at)) {
                *counts.entry(who.clone()).or_default().entry(setting.calendar.number_at(at)).or_default() += 1;
            }
        }
    }
    let often_enough =
        |intervals: BTreeMap<i64, u64>| intervals.into_iter().filter(|(_, n)| *n >= min_count).map(|(i, _)| i).collect::<BTreeSet<_>>();
    Ok(counts.into_iter().map(|(who, intervals)| (who, often_enough(intervals))).collect())
}

/// The first interval ever in which the action was done at least `min_count` times, for everybody.
pub(super) async fn first_activity(app: &App, setting: &Setting, action: &Action, min_count: u64) -> Result<Activity<String>, KpiError> {
    if min_count <= 1 {
        let first = first(app, setting, action).await?;
        return Ok(first.into_iter().map(|(who, at)| (who, BTreeSet::from([setting.calendar.number_at(at)]))).collect());
    }
    let ever = activity(app, setting, action, setting.calendar.number_at(BEGINNING), min_count).await?;
    Ok(ever.into_iter().filter_map(|(who, intervals)| Some((who, BTreeSet::from([*intervals.first()?])))).collect())
}

/// Everybody's first one ever.
pub(super) async fn first(app: &App, setting: &Setting, action: &Action) -> Result<Instants, KpiError> {
    match action {
        Action::Call(filter) => first_calls(app, setting, filter).await,
        _ => Ok(earliest(occurrences(app, setting, action).await?)),
    }
}

/// Everybody's first one in the observed time.
pub(super) async fn first_within(app: &App, setting: &Setting, action: &Action) -> Result<Instants, KpiError> {
    let period = setting.period();
    if let Action::Call(filter) = action {
        let Some(calls) = calls(setting, filter, period) else { return Ok(Instants::new()) };
        return Ok(activity::first(app, &calls).await?.into_iter().collect());
    }
    let mut all = occurrences(app, setting, action).await?;
    for instants in all.values_mut() {
        instants.retain(|at| period.contains(*at));
    }
    Ok(earliest(all))
}

pub(super) async fn first_calls(app: &App, setting: &Setting, filter: &CallFilter) -> Result<Instants, KpiError> {
    let Some(calls) = calls(setting, filter, ever(setting)) else { return Ok(Instants::new()) };
    Ok(activity::first(app, &calls).await?.into_iter().collect())
}

/// Occurrences of the action among which is, for each of these, the first one at or after their instant (after it, when
/// `strictly`).
pub(super) async fn next(
    app: &App,
    setting: &Setting,
    action: &Action,
    after: &Instants,
    strictly: bool,
) -> Result<BTreeMap<String, Vec<DateTime<Utc>>>, KpiError> {
    let Action::Call(filter) = action else { return occurrences(app, setting, action).await };
    let Some(calls) = calls(setting, filter, ever(setting)) else { return Ok(BTreeMap::new()) };
    let mut found: BTreeMap<String, Vec<DateTime<Utc>>> = BTreeMap::new();
    let mut earlier = Vec::new();
    // The first one ever is it for nearly everybody; the others are asked for one by one.
    for (who, at) in activity::first(app, &calls).await? {
        let Some(instant) = after.get(&who) else { continue };
        let since = if strictly { *instant + TimeDelta::microseconds(1) } else { *instant };
        if at >= since {
            found.insert(who, vec![at]);
        } else {
            earlier.push((who, since));
        }
    }
    for (who, at) in activity::first_since(app, &calls, &earlier).await? {
        found.entry(who).or_default().push(at);
    }
    Ok(found)
}

/// All of them, of actions that are rare enough to be listed.
async fn occurrences(app: &App, setting: &Setting, action: &Action) -> Result<BTreeMap<String, Vec<DateTime<Utc>>>, KpiError> {
    let one_each = |instants: Instants| instants.into_iter().map(|(who, at)| (who, vec![at])).collect();
    match action {
        Action::Signup => Ok(one_each(sign_ups(app, setting).await?)),
        Action::Key => keys(app, setting).await,
        Action::Paid => paid(app, setting).await,
        Action::Activated => {
            let starts = sign_ups(app, setting).await?;
            let calls = Box::pin(next(app, setting, &Action::call(), &starts, false)).await?;
            let activated = starts.into_iter().filter_map(|(who, at)| {
                let activated = conversion::reached(at, calls.get(&who)?, activation::WINDOW)?;
                Some((who, activated))
            });
            Ok(one_each(activated.collect()))
        }
        Action::Call(filter) => Ok(one_each(first_calls(app, setting, filter).await?)),
    }
}

async fn sign_ups(app: &App, setting: &Setting) -> Result<Instants, KpiError> {
    let all = consumers::all(&mut *app.pg.acquire().await?, &setting.workspace).await?;
    Ok(all.into_iter().map(|c| (c.id.into(), c.signed_up_at)).collect())
}

async fn keys(app: &App, setting: &Setting) -> Result<BTreeMap<String, Vec<DateTime<Utc>>>, KpiError> {
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for key in credentials::issued(&mut *app.pg.acquire().await?, &setting.workspace).await? {
        let who = match setting.unit {
            Unit::Consumer => key.consumer.into(),
            Unit::Credential => key.id.into(),
        };
        found.entry(who).or_default().push(key.at);
    }
    Ok(found)
}

async fn paid(app: &App, setting: &Setting) -> Result<BTreeMap<String, Vec<DateTime<Utc>>>, KpiError> {
    let first = farebox_billing::revenue::first_paid(&mut *app.pg.acquire().await?, &setting.workspace).await?;
    Ok(first.into_iter().map(|paid| (paid.consumer.into(), vec![paid.at])).collect())
}

fn earliest(all: BTreeMap<String, Vec<DateTime<Utc>>>) -> Instants {
    all.into_iter().filter_map(|(who, instants)| Some((who, instants.into_iter().min()?))).collect()
}

fn ever(setting: &Setting) -> Period {
    Period { start: BEGINNING, end: setting.period().end.max(setting.now) }
}

/// The qualifying calls of the common filter and this one; None when the two contradict each other.
fn calls(setting: &Setting, filter: &CallFilter, period: Period) -> Option<Calls> {
    let filter = setting.filter.and(filter)?;
    Some(Calls {
        workspace: setting.workspace.clone(),
        unit: match setting.unit {
            Unit::Consumer => activity::Unit::Consumer,
            Unit::Credential => activity::Unit::Credential,
        },
        period,
        api: filter.api,
        api_version: filter.version,
        route: filter.route,
    })
}
