//! Conversion: of those who started in an interval, how many reached the goal within the window. Free to paid unless
//! told otherwise: from sign-up to the first paid invoice.

use std::collections::BTreeMap;

use chrono::{NaiveDate, TimeDelta};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Serialize;

use super::facts;
use super::setting::{About, Common, Setting};
use super::table::{Table, Tabular, cell};
use crate::action::Action;
use crate::arithmetic::conversion as arithmetic;
use crate::calendar::Interval;
use crate::error::KpiError;
use crate::query::window_text;
use crate::ratio::Ratio;

const VERSION: u32 = 1;

#[derive(Debug, Clone)]
pub struct ConversionParams {
    pub common: Common,
    pub start: Action,
    pub goal: Action,
    pub window: TimeDelta,
}

impl Default for ConversionParams {
    fn default() -> Self {
        // Two months: usage of a month is invoiced and paid in the next one.
        Self { common: Common::default(), start: Action::Signup, goal: Action::Paid, window: TimeDelta::days(60) }
    }
}

/// Also the answer to `activation`.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ConversionAnswer {
    #[serde(flatten)]
    pub about: About,
    #[schema(value_type = String, example = "signup")]
    pub start: Action,
    #[schema(value_type = String, example = "paid")]
    pub goal: Action,
    /// `7d`
    pub window: String,
    pub rows: Vec<ConversionRow>,
    /// Over all rows; `cohort` is the first one's.
    pub total: ConversionRow,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ConversionRow {
    /// First day of the interval in which they started.
    pub cohort: NaiveDate,
    pub size: u64,
    /// Reached the goal within their window.
    pub converted: u64,
    /// Those whose window is over.
    pub mature: u64,
    /// Share of the mature ones that converted: converted / size once the row is complete.
    pub rate: Option<Ratio>,
    pub median_seconds: Option<u64>,
    pub p90_seconds: Option<u64>,
    /// Everybody's window is over and everything in it has arrived.
    pub complete: bool,
}

pub async fn conversion(app: &App, workspace: &WorkspaceId, params: &ConversionParams) -> Result<ConversionAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Week).await?;
    let formula = format!(
        "Of the {} whose first `{}` was in the interval, the share with `{}` within {} of it. Only those whose window is over count in the rate; \
         median and 90th percentile are of the time it took those who did.",
        setting.unit.plural(),
        params.start,
        params.goal,
        window_text(params.window)
    );
    let about = setting.about("conversion", VERSION, formula);
    answer(app, &setting, about, params).await
}

pub(super) async fn answer(app: &App, setting: &Setting, about: About, params: &ConversionParams) -> Result<ConversionAnswer, KpiError> {
    facts::check_unit(setting.unit, &[("start", &params.start), ("goal", &params.goal)])?;
    let starts = facts::first(app, setting, &params.start).await?;
    let observed = setting.period();
    let starts: BTreeMap<_, _> = starts.into_iter().filter(|(_, at)| observed.contains(*at)).collect();
    let goals = facts::next(app, setting, &params.goal, &starts, params.start == params.goal).await?;
    let (rows, total) = arithmetic::rows(&starts, &goals, params.window, &setting.calendar, setting.observed, setting.known_until);
    let row = |number: i64, row: &arithmetic::Row| ConversionRow {
        cohort: setting.calendar.first_day(number),
        size: row.size,
        converted: row.converted,
        mature: row.mature,
        rate: row.rate(),
        median_seconds: row.median_seconds,
        p90_seconds: row.p90_seconds,
        complete: row.complete,
    };
    Ok(ConversionAnswer {
        about,
        start: params.start.clone(),
        goal: params.goal.clone(),
        window: window_text(params.window),
        rows: rows.iter().map(|(number, r)| row(*number, r)).collect(),
        total: row(setting.observed.from, &total),
    })
}

impl Tabular for ConversionAnswer {
    fn table(&self) -> Table {
        let line = |r: &ConversionRow| {
            vec![
                r.cohort.to_string(),
                r.size.to_string(),
                r.converted.to_string(),
                r.mature.to_string(),
                cell(r.rate.as_ref()),
                cell(r.median_seconds.as_ref()),
                cell(r.p90_seconds.as_ref()),
                r.complete.to_string(),
            ]
        };
        Table {
            header: vec!["cohort", "size", "converted", "mature", "rate", "median_seconds", "p90_seconds", "complete"],
            rows: self.rows.iter().map(line).collect(),
        }
    }
}
