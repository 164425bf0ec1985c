//! Usage: calls, errors and who is active, by interval with growth, and the consumers that call most.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_metering::dimension::Dimension;
use serde::Serialize;

use super::facts;
use super::setting::{About, Common, Setting, Unit};
use super::table::{Table, Tabular, cell};
use super::traffic::{self, Named};
use crate::action::Action;
use crate::arithmetic::Activity;
use crate::calendar::Interval;
use crate::error::KpiError;
use crate::ratio::{self, Ratio};

const VERSION: u32 = 1;

#[derive(Debug, Clone)]
pub struct UsageParams {
    pub common: Common,
    /// How many of the consumers that call most.
    pub top: usize,
}

impl Default for UsageParams {
    fn default() -> Self {
        Self { common: Common::default(), top: 10 }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = KpiUsageAnswer)]
pub struct UsageAnswer {
    #[serde(flatten)]
    pub about: About,
    pub rows: Vec<UsageRow>,
    /// Over the whole range, the one that calls most first.
    pub top: Vec<TopConsumer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = KpiUsageRow)]
pub struct UsageRow {
    /// First day of the interval.
    pub period: NaiveDate,
    /// Every call, whatever became of it.
    pub calls: u64,
    /// (calls - calls of the interval before) / calls of the interval before.
    #[schema(example = "-0.083333")]
    pub growth: Option<String>,
    /// Ended in 4xx.
    pub client_errors: u64,
    /// Ended in 5xx.
    pub server_errors: u64,
    /// Both of all calls.
    pub error_rate: Option<Ratio>,
    /// With at least one qualifying call.
    pub consumers: u64,
    pub credentials: u64,
    pub complete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TopConsumer {
    pub consumer: Named,
    pub calls: u64,
    /// Of all calls of the range, those of nobody known included.
    pub share: Option<Ratio>,
}

pub async fn usage(app: &App, workspace: &WorkspaceId, params: &UsageParams) -> Result<UsageAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Week).await?;
    let observed = setting.observed;
    // One interval more, for the growth of the first.
    let with_before = Period { start: setting.calendar.start(observed.from - 1), end: setting.period().end };
    let by_status = traffic::calls(app, &setting, with_before, &setting.filter, &[Dimension::StatusClass]).await?;
    let active = |unit: Unit| Setting { unit, ..setting.clone() };
    let consumers = facts::activity(app, &active(Unit::Consumer), &Action::call(), observed.from, 1).await?;
    let credentials = facts::activity(app, &active(Unit::Credential), &Action::call(), observed.from, 1).await?;

    let of_class = |number: i64, class: &str| by_status.get(&(number, vec![class.to_owned()])).copied().unwrap_or(0);
    let calls = |number: i64| by_status.range((number, Vec::new())..(number + 1, Vec::new())).map(|(_, n)| n).sum::<u64>();
    let rows = (observed.from..observed.to)
        .map(|number| {
            let (client_errors, server_errors) = (of_class(number, "4xx"), of_class(number, "5xx"));
            UsageRow {
                period: setting.calendar.first_day(number),
                calls: calls(number),
                growth: growth(calls(number - 1), calls(number)),
                client_errors,
                server_errors,
                error_rate: Ratio::of(client_errors + server_errors, calls(number)),
                consumers: active_in(&consumers, number),
                credentials: active_in(&credentials, number),
                complete: observed.is_complete(number),
            }
        })
        .collect();
    let formula = "Calls: every request, whatever became of it; growth = (calls - calls of the interval before) / calls of the interval before; \
                   error rate = (4xx + 5xx) / calls; active consumers and credentials have at least one qualifying call. Share of a consumer \
                   = its calls / all calls of the range.";
    Ok(UsageAnswer { about: setting.about("usage", VERSION, formula.to_owned()), rows, top: top(app, &setting, params.top).await? })
}

async fn top(app: &App, setting: &Setting, limit: usize) -> Result<Vec<TopConsumer>, KpiError> {
    let by_consumer = traffic::calls(app, setting, setting.period(), &setting.filter, &[Dimension::Consumer]).await?;
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    for ((_, group), calls) in by_consumer {
        *totals.entry(group.into_iter().next().unwrap_or_default()).or_default() += calls;
    }
    let all = totals.values().sum();
    totals.remove("");
    let mut most: Vec<_> = totals.into_iter().collect();
    most.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    most.truncate(limit);
    let ids: Vec<_> = most.iter().map(|(id, _)| id.clone()).collect();
    let named = traffic::consumers_by_id(app, &setting.workspace, &ids).await?;
    let top = most.into_iter().filter_map(|(id, calls)| {
        let consumer = named.get(&id)?;
        Some(TopConsumer { consumer: Named { id: consumer.id.clone(), name: consumer.name.clone() }, calls, share: Ratio::of(calls, all) })
    });
    Ok(top.collect())
}

fn active_in(activity: &Activity<String>, number: i64) -> u64 {
    activity.values().filter(|intervals| intervals.contains(&number)).count() as u64
}

/// None when there was nothing before.
fn growth(before: u64, now: u64) -> Option<String> {
    ratio::signed(i128::from(now) - i128::from(before), before.into())
}

impl Tabular for UsageAnswer {
    fn table(&self) -> Table {
        let line = |r: &UsageRow| {
            vec![
                r.period.to_string(),
                r.calls.to_string(),
                r.growth.clone().unwrap_or_default(),
                r.client_errors.to_string(),
                r.server_errors.to_string(),
                cell(r.error_rate.as_ref()),
                r.consumers.to_string(),
                r.credentials.to_string(),
                r.complete.to_string(),
            ]
        };
        Table {
            header: vec![
                "period",
                "calls",
                "growth",
                "client_errors",
                "server_errors",
                "error_rate",
                "consumers",
                "credentials",
                "complete",
            ],
            rows: self.rows.iter().map(line).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::growth;

    #[test]
    fn growth_is_signed_and_needs_a_before() {
        assert_eq!(growth(12, 11).as_deref(), Some("-0.083333"));
        assert_eq!(growth(10, 15).as_deref(), Some("0.5"));
        assert_eq!(growth(10, 10).as_deref(), Some("0"));
        assert_eq!(growth(0, 15), None);
    }
}
