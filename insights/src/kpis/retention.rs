//! Retention: of those who started in an interval, how many came back.

use chrono::NaiveDate;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::{Deserialize, Serialize};

use super::facts;
use super::setting::{About, Common, Setting};
use super::table::{Table, Tabular, cell};
use crate::action::Action;
use crate::arithmetic::retention::{self as arithmetic, Mean, Mode};
use crate::calendar::Interval;
use crate::error::KpiError;
use crate::ratio::Ratio;

/// Counts up when the definition changes.
const VERSION: u32 = 1;

/// Who makes up the cohort of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cohorts {
    /// All who started in it, so that somebody is in many cohorts.
    #[default]
    Recurring,
    /// Those who started in it for the first time ever.
    FirstTime,
}

#[derive(Debug, Clone)]
pub struct RetentionParams {
    pub common: Common,
    pub mode: Mode,
    pub cohort: Cohorts,
    pub start: Action,
    pub returns: Action,
    /// At most so many columns, column 0 included; as many as are observed unless given.
    pub periods: Option<i64>,
    /// So many starts, and so many returns, make an interval count.
    pub min_count: u64,
    pub mean: Mean,
}

impl Default for RetentionParams {
    fn default() -> Self {
        Self {
            common: Common::default(),
            mode: Mode::NDay,
            cohort: Cohorts::default(),
            start: Action::call(),
            returns: Action::call(),
            periods: None,
            min_count: 1,
            mean: Mean::default(),
        }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RetentionAnswer {
    #[serde(flatten)]
    pub about: About,
    /// `n_day`, `unbounded` or `bracket`.
    pub mode: &'static str,
    pub cohort: Cohorts,
    #[schema(value_type = String, example = "call")]
    pub start: Action,
    #[serde(rename = "return")]
    #[schema(value_type = String, example = "call")]
    pub returns: Action,
    /// What the columns are: `0`, `1`, ... or the brackets.
    pub columns: Vec<String>,
    pub rows: Vec<RetentionRow>,
    /// By column, over the cohorts for which it is complete.
    pub mean: Vec<Option<Ratio>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RetentionRow {
    /// First day of the interval in which they started.
    pub cohort: NaiveDate,
    pub size: u64,
    pub values: Vec<u64>,
    /// By column: whether its intervals are over and everything in them has arrived.
    pub complete: Vec<bool>,
}

pub async fn retention(app: &App, workspace: &WorkspaceId, params: &RetentionParams) -> Result<RetentionAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Week).await?;
    facts::check_unit(setting.unit, &[("start", &params.start), ("return", &params.returns)])?;
    let observed = setting.observed;
    let starts = match params.cohort {
        Cohorts::Recurring => facts::activity(app, &setting, &params.start, observed.from, params.min_count).await?,
        Cohorts::FirstTime => facts::first_activity(app, &setting, &params.start, params.min_count).await?,
    };
    let returns = facts::activity(app, &setting, &params.returns, observed.from, params.min_count).await?;
    let rows = arithmetic::rows(&starts, &returns, observed, &params.mode, params.periods.unwrap_or(i64::MAX / 2));
    let length = rows.iter().map(|row| row.values.len()).max().unwrap_or(0);
    let columns = match &params.mode {
        Mode::NDay | Mode::Unbounded => (0..length).map(|n| n.to_string()).collect(),
        Mode::Bracket(brackets) => brackets.iter().take(length).map(|b| format!("{}-{}", b.first, b.last)).collect(),
    };
    Ok(RetentionAnswer {
        about: setting.about("retention", VERSION, formula(params, &setting)),
        mode: mode_name(&params.mode),
        cohort: params.cohort,
        start: params.start.clone(),
        returns: params.returns.clone(),
        columns,
        mean: arithmetic::mean(&rows, params.mean),
        rows: rows
            .into_iter()
            .map(|row| RetentionRow {
                cohort: setting.calendar.first_day(row.cohort),
                size: row.size,
                values: row.values,
                complete: row.complete,
            })
            .collect(),
    })
}

fn mode_name(mode: &Mode) -> &'static str {
    match mode {
        Mode::NDay => "n_day",
        Mode::Unbounded => "unbounded",
        Mode::Bracket(_) => "bracket",
    }
}

fn formula(params: &RetentionParams, setting: &Setting) -> String {
    let who = setting.unit.plural();
    let started = match params.cohort {
        Cohorts::Recurring => format!("{who} with `{}` in interval i", params.start),
        Cohorts::FirstTime => format!("{who} whose first `{}` ever was in interval i", params.start),
    };
    let back = match &params.mode {
        Mode::NDay => format!("`{}` in interval i+n", params.returns),
        Mode::Unbounded => format!("`{}` in interval i+n or later, within what is observed", params.returns),
        Mode::Bracket(_) => format!("`{}` in any interval of the bracket after i", params.returns),
    };
    let least = if params.min_count > 1 { format!(" An interval counts from {} times on.", params.min_count) } else { String::new() };
    let mean = match params.mean {
        Mean::Weighted => "weighted by cohort size",
        Mean::Simple => "each cohort weighing the same",
    };
    format!("Of the {started}, those with {back}. Column 0 is the cohort itself.{least} The mean is over complete cohorts, {mean}.")
}

impl Tabular for RetentionAnswer {
    /// One line for each cohort and column.
    fn table(&self) -> Table {
        let mut rows = Vec::new();
        for row in &self.rows {
            for ((column, value), complete) in self.columns.iter().zip(&row.values).zip(&row.complete) {
                let rate = cell(Ratio::of(*value, row.size).as_ref());
                rows.push(vec![
                    row.cohort.to_string(),
                    row.size.to_string(),
                    column.clone(),
                    value.to_string(),
                    rate,
                    complete.to_string(),
                ]);
            }
        }
        Table { header: vec!["cohort", "size", "period", "value", "rate", "complete"], rows }
    }
}
