//! Lifecycle: each interval's active ones as new, returning and resurrecting, and the ones it lost.

use chrono::NaiveDate;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Serialize;

use super::facts;
use super::setting::{About, Common, Setting};
use super::table::{Table, Tabular};
use crate::action::Action;
use crate::arithmetic::lifecycle as arithmetic;
use crate::calendar::Interval;
use crate::error::KpiError;

const VERSION: u32 = 1;

#[derive(Debug, Clone, Default)]
pub struct LifecycleParams {
    pub common: Common,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct LifecycleAnswer {
    #[serde(flatten)]
    pub about: About,
    pub rows: Vec<LifecycleRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LifecycleRow {
    /// First day of the interval.
    pub period: NaiveDate,
    pub new: i64,
    pub returning: i64,
    pub resurrecting: i64,
    /// Zero or negative.
    pub dormant: i64,
    pub complete: bool,
}

pub async fn lifecycle(app: &App, workspace: &WorkspaceId, params: &LifecycleParams) -> Result<LifecycleAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Week).await?;
    let observed = setting.observed;
    let activity = facts::activity(app, &setting, &Action::call(), observed.from - 1, 1).await?;
    let first = facts::first_calls(app, &setting, &setting.filter).await?;
    let first = first.into_iter().map(|(who, at)| (who, setting.calendar.number_at(at))).collect();
    let formula = format!(
        "{} with a qualifying call in the interval: new (never before), returning (also in the interval before), resurrecting (earlier, \
         not in the interval before); dormant: those of the interval before without one, as a negative number.",
        setting.unit.plural()
    );
    let rows = arithmetic::rows(&activity, &first, observed)
        .into_iter()
        .map(|row| LifecycleRow {
            period: setting.calendar.first_day(row.interval),
            new: row.new,
            returning: row.returning,
            resurrecting: row.resurrecting,
            dormant: row.dormant,
            complete: observed.is_complete(row.interval),
        })
        .collect();
    Ok(LifecycleAnswer { about: setting.about("lifecycle", VERSION, formula), rows })
}

impl Tabular for LifecycleAnswer {
    fn table(&self) -> Table {
        let line = |r: &LifecycleRow| {
            let counts = [r.new, r.returning, r.resurrecting, r.dormant].map(|n| n.to_string());
            [vec![r.period.to_string()], counts.to_vec(), vec![r.complete.to_string()]].concat()
        };
        Table {
            header: vec!["period", "new", "returning", "resurrecting", "dormant", "complete"],
            rows: self.rows.iter().map(line).collect(),
        }
    }
}
