//! Calls by interval and dimension, from metering's usage: every call, whether it qualifies or not.

use std::collections::BTreeMap;

use farebox_core::App;
use farebox_core::event::REQUEST;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::money::BigDecimal;
use farebox_core::period::{Period, Window};
use farebox_metering::consumers;
use farebox_metering::dimension::Dimension;
use farebox_metering::usage::{self, MAX_ROWS, UsageQuery};
use serde::Serialize;

use super::setting::Setting;
use crate::action::CallFilter;
use crate::calendar::{Interval, WeekStart};
use crate::error::KpiError;

/// A consumer with its name, as in usage answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = NamedConsumer)]
pub struct Named {
    #[schema(value_type = String)]
    pub id: ConsumerId,
    pub name: String,
}

/// Calls by interval and by the values of `dimensions`, in their order.
pub(super) async fn calls(
    app: &App,
    setting: &Setting,
    period: Period,
    filter: &CallFilter,
    dimensions: &[Dimension],
) -> Result<BTreeMap<(i64, Vec<String>), u64>, KpiError> {
    let mut found = BTreeMap::new();
    if period.is_empty() {
        return Ok(found);
    }
    let window = match (setting.calendar.interval, setting.calendar.week_start) {
        // Usage's own weeks start on Monday; others are put together from days.
        (Interval::Day, _) | (Interval::Week, WeekStart::Sunday) => Window::Day,
        (Interval::Week, WeekStart::Monday) => Window::Week,
        (Interval::Month, _) => Window::Month,
    };
    let mut query =
        UsageQuery::new(&setting.workspace, "calls", period).windows(window, setting.calendar.zone).only(Dimension::Type, REQUEST);
    query.group_by = dimensions.to_vec();
    let only = [(Dimension::Api, &filter.api), (Dimension::ApiVersion, &filter.version), (Dimension::Route, &filter.route)];
    for (dimension, value) in only {
        if let Some(value) = value {
            query = query.only(dimension, value);
        }
    }
    loop {
        let answer = usage::query(app, &query).await?;
        for mut row in answer.rows {
            let group = dimensions.iter().map(|d| row.group.remove(d.name()).unwrap_or_default()).collect();
            *found.entry((setting.calendar.number_at(row.window.start), group)).or_default() += whole(&row.value);
        }
        if !answer.more {
            return Ok(found);
        }
        query.offset += MAX_ROWS;
    }
}

/// A count is a whole number by its nature.
fn whole(value: &BigDecimal) -> u64 {
    value.with_scale(0).as_bigint_and_exponent().0.try_into().unwrap_or(0)
}

/// The consumers' names and addresses by id.
pub(super) async fn consumers_by_id(
    app: &App,
    workspace: &WorkspaceId,
    ids: &[String],
) -> Result<BTreeMap<String, consumers::Consumer>, KpiError> {
    let found = consumers::by_ids(&mut *app.pg.acquire().await?, workspace, ids).await?;
    Ok(found.into_iter().map(|c| (c.id.as_str().to_owned(), c)).collect())
}
