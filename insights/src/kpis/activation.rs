//! Activation: a consumer is activated at its first qualifying call within seven days of sign-up. The median and the
//! 90th percentile are the time to first call.

use chrono::TimeDelta;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;

use super::conversion::{self, ConversionAnswer, ConversionParams};
use super::setting::{Common, Setting};
use crate::action::Action;
use crate::calendar::Interval;
use crate::error::KpiError;
use crate::query::window_text;

const VERSION: u32 = 1;
/// W of the definition.
pub const WINDOW: TimeDelta = TimeDelta::days(7);

#[derive(Debug, Clone)]
pub struct ActivationParams {
    pub common: Common,
    /// `signup`, or `key` to count from the first key.
    pub start: Action,
    pub window: TimeDelta,
}

impl Default for ActivationParams {
    fn default() -> Self {
        Self { common: Common::default(), start: Action::Signup, window: WINDOW }
    }
}

pub async fn activation(app: &App, workspace: &WorkspaceId, params: &ActivationParams) -> Result<ConversionAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Week).await?;
    let formula = format!(
        "Of the {} whose first `{}` was in the interval, the share with a qualifying call within {} of it. A call qualifies when it succeeded \
         (2xx or 3xx), was made with the own credential in production, and not on a route marked as health check or excluded. Only those \
         whose {} are over count in the rate.",
        setting.unit.plural(),
        params.start,
        window_text(params.window),
        window_text(params.window)
    );
    let about = setting.about("activation", VERSION, formula);
    let as_conversion =
        ConversionParams { common: params.common.clone(), start: params.start.clone(), goal: Action::call(), window: params.window };
    conversion::answer(app, &setting, about, &as_conversion).await
}
