//! The funnel: ordered steps within a window from the first.

use chrono::TimeDelta;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Serialize;

use super::facts;
use super::setting::{About, Common, Setting};
use super::table::{Table, Tabular, cell};
use crate::action::Action;
use crate::arithmetic::funnel::Funnel;
use crate::calendar::Interval;
use crate::error::KpiError;
use crate::query::window_text;
use crate::ratio::Ratio;

const VERSION: u32 = 1;

#[derive(Debug, Clone)]
pub struct FunnelParams {
    pub common: Common,
    pub steps: Vec<Action>,
    pub window: TimeDelta,
}

impl Default for FunnelParams {
    fn default() -> Self {
        let steps = vec![Action::Signup, Action::Key, Action::call(), Action::Paid];
        Self { common: Common::default(), steps, window: TimeDelta::days(60) }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct FunnelAnswer {
    #[serde(flatten)]
    pub about: About,
    /// `14d`
    pub window: String,
    pub steps: Vec<FunnelStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FunnelStep {
    /// The action, as in `steps=`.
    pub name: String,
    pub count: u64,
    pub conversion_from_start: Option<Ratio>,
    pub conversion_from_previous: Option<Ratio>,
    /// From the step before.
    pub mean_seconds: Option<u64>,
    pub median_seconds: Option<u64>,
    /// Everybody's window is over and everything in it has arrived.
    pub complete: bool,
}

pub async fn funnel(app: &App, workspace: &WorkspaceId, params: &FunnelParams) -> Result<FunnelAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Week).await?;
    let named: Vec<_> = params.steps.iter().map(|action| ("steps", action)).collect();
    facts::check_unit(setting.unit, &named)?;
    let [first, rest @ ..] = params.steps.as_slice() else {
        return Err(KpiError::field("steps", "must name at least one action"));
    };
    let entries = facts::first_within(app, &setting, first).await?;
    let mut funnel = Funnel::enter(entries, params.window);
    for (before, action) in params.steps.iter().zip(rest) {
        let standing = funnel.standing().map(|(who, at, _)| (who.clone(), at)).collect();
        let strictly = before == action;
        let occurrences = facts::next(app, &setting, action, &standing, strictly).await?;
        funnel.advance(&occurrences, strictly);
    }
    let entered_over = setting.observed.to <= setting.observed.complete_before;
    let window_over = setting.period().end + params.window <= setting.known_until;
    let formula = format!(
        "{} enter with their first `{first}` in the range; each further step is its earliest occurrence not before the step before and at most \
         {} after the first step. Times are from the step before.",
        setting.unit.plural(),
        window_text(params.window)
    );
    let steps = funnel.steps().into_iter().zip(&params.steps).enumerate().map(|(index, (step, action))| FunnelStep {
        name: action.to_string(),
        count: step.count,
        conversion_from_start: step.conversion_from_start,
        conversion_from_previous: step.conversion_from_previous,
        mean_seconds: step.mean_seconds,
        median_seconds: step.median_seconds,
        complete: if index == 0 { entered_over } else { window_over },
    });
    Ok(FunnelAnswer { about: setting.about("funnel", VERSION, formula), window: window_text(params.window), steps: steps.collect() })
}

impl Tabular for FunnelAnswer {
    fn table(&self) -> Table {
        let line = |s: &FunnelStep| {
            vec![
                s.name.clone(),
                s.count.to_string(),
                cell(s.conversion_from_start.as_ref()),
                cell(s.conversion_from_previous.as_ref()),
                cell(s.mean_seconds.as_ref()),
                cell(s.median_seconds.as_ref()),
                s.complete.to_string(),
            ]
        };
        Table {
            header: vec![
                "name",
                "count",
                "conversion_from_start",
                "conversion_from_previous",
                "mean_seconds",
                "median_seconds",
                "complete",
            ],
            rows: self.steps.iter().map(line).collect(),
        }
    }
}
