//! Stickiness: on how many distinct intervals somebody is active, and daily over monthly active.

use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Serialize;

use super::facts;
use super::setting::{About, Common, Setting};
use super::table::{Table, Tabular};
use crate::action::Action;
use crate::arithmetic::{Observed, stickiness as arithmetic};
use crate::calendar::{Calendar, Interval};
use crate::error::KpiError;
use crate::ratio::Ratio;

const VERSION: u32 = 1;
/// The month of DAU/MAU.
const MONTH_DAYS: i64 = 28;

#[derive(Debug, Clone, Default)]
pub struct StickinessParams {
    pub common: Common,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct StickinessAnswer {
    #[serde(flatten)]
    pub about: About,
    pub rows: Vec<StickinessRow>,
    /// Mean daily active over those active in the last 28 whole days of the range.
    pub dau_over_mau: Option<Ratio>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StickinessRow {
    /// Active in exactly so many intervals.
    pub intervals: u64,
    /// So many consumers (or credentials).
    pub consumers: u64,
    pub complete: bool,
}

pub async fn stickiness(app: &App, workspace: &WorkspaceId, params: &StickinessParams) -> Result<StickinessAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Day).await?;
    let observed = setting.observed;
    let activity = facts::activity(app, &setting, &Action::call(), observed.from, 1).await?;
    let complete = observed.to <= observed.complete_before;
    let formula = format!(
        "How many {} have a qualifying call in exactly so many intervals of the range. DAU/MAU: active days of the last {MONTH_DAYS} whole \
         days / ({MONTH_DAYS} x {} active in them).",
        setting.unit.plural(),
        setting.unit.plural()
    );
    let rows = arithmetic::histogram(&activity, observed)
        .into_iter()
        .map(|(intervals, consumers)| StickinessRow { intervals, consumers, complete })
        .collect();
    let dau_over_mau = dau_over_mau(app, &setting).await?;
    Ok(StickinessAnswer { about: setting.about("stickiness", VERSION, formula), rows, dau_over_mau })
}

async fn dau_over_mau(app: &App, setting: &Setting) -> Result<Option<Ratio>, KpiError> {
    let calendar = Calendar { interval: Interval::Day, ..setting.calendar };
    let to = calendar.number_at(setting.period().end.min(setting.known_until));
    let days = Observed { from: to - MONTH_DAYS, to, complete_before: to };
    let by_day = Setting { calendar, observed: days, ..setting.clone() };
    let activity = facts::activity(app, &by_day, &Action::call(), days.from, 1).await?;
    Ok(arithmetic::dau_over_mau(&activity, days))
}

impl Tabular for StickinessAnswer {
    fn table(&self) -> Table {
        let line = |r: &StickinessRow| vec![r.intervals.to_string(), r.consumers.to_string(), r.complete.to_string()];
        Table { header: vec!["intervals", "consumers", "complete"], rows: self.rows.iter().map(line).collect() }
    }
}
