//! The counting rule, what another one would make of history, and usage that is nobody's.

use axum::extract::State;
use axum::response::Json as Answer;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, QueryPairs};
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log, clock};
use serde::{Deserialize, Serialize};

use super::{Parameters, zone_of};
use crate::rule::{self, CountingRule};
use crate::rule_preview::{self, RulePreview};
use crate::unattributed::{self, Stranger, Unknown};

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct RuleInForce {
    /// 0 for the default rule.
    version: i32,
    rule: CountingRule,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewBody {
    rule: CountingRule,
    /// 30 days ago unless given.
    #[serde(default)]
    from: Option<DateTime<Utc>>,
    /// Now unless given.
    #[serde(default)]
    to: Option<DateTime<Utc>>,
}

/// A page of strangers, and what their usage is worth, all of it together.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Strangers {
    data: Vec<Stranger>,
    next_cursor: Option<String>,
    unknown: Unknown,
}

/// The counting rule in force
///
/// Which calls are billable.
#[utoipa::path(get, path = "/api/v1/counting-rule", tag = "catalogue", responses((status = 200, body = RuleInForce)))]
pub(super) async fn get(State(app): State<App>, caller: Caller) -> Result<Answer<RuleInForce>, Problem> {
    caller.0.require(Scope::Read)?;
    let (version, rule) = rule::current(&mut *app.pg.acquire().await?, &caller.0.workspace).await?;
    Ok(Answer(RuleInForce { version, rule }))
}

/// Another counting rule
///
/// Puts it in force and counts history anew; issued invoices stay. See the preview first.
#[utoipa::path(put, path = "/api/v1/counting-rule", tag = "catalogue", request_body = CountingRule,
    responses((status = 200, body = RuleInForce), (status = 422, body = Problem)))]
pub(super) async fn put(State(app): State<App>, caller: Caller, Json(rule): Json<CountingRule>) -> Result<Answer<RuleInForce>, Problem> {
    caller.0.require(Scope::Manage)?;
    let workspace = &caller.0.workspace;
    let mut transaction = app.pg.begin().await?;
    let version = rule::set(&mut transaction, workspace, &rule).await?;
    let detail = serde_json::json!({ "version": version, "rule": rule });
    audit_log::record(&mut transaction, workspace, caller.0.token.as_str(), "counting_rule.set", &version.to_string(), &detail).await?;
    transaction.commit().await?;
    Ok(Answer(RuleInForce { version, rule }))
}

/// What another rule would make of history
///
/// How many events would count that do not now, and the other way round, by reason and consumer; and what that means for
/// meters and subscriptions, in units and money. Nothing is changed.
#[utoipa::path(post, path = "/api/v1/counting-rule/preview", tag = "catalogue", request_body = PreviewBody,
    responses((status = 200, body = RulePreview), (status = 422, body = Problem)))]
pub(super) async fn preview(State(app): State<App>, caller: Caller, Json(body): Json<PreviewBody>) -> Result<Answer<RulePreview>, Problem> {
    caller.0.require(Scope::Read)?;
    let end = body.to.unwrap_or_else(clock::now);
    let start = body.from.unwrap_or(end - TimeDelta::days(30));
    let period = Period::new(start, end).ok_or_else(|| Problem::invalid_field("/to", "must be after `from`"))?;
    Ok(Answer(rule_preview::preview(&app, &caller.0.workspace, &body.rule, period).await?))
}

/// Usage that is nobody's
///
/// Subjects and keys that gateways sent and no link knows, those with most calls first. Link one to a consumer, and its
/// past calls are the consumer's. `unknown` says what all of it measures, and what that would cost on each plan at list
/// price, without fees. Without `from` and `to`: the last 30 days.
#[utoipa::path(get, path = "/api/v1/unattributed", tag = "consumers", params(
    ("from" = Option<String>, Query, description = "RFC 3339 time, or a date in the workspace's time zone."),
    ("to" = Option<String>, Query, description = "Not included."),
    ("limit" = Option<u32>, Query, description = "50 unless given, at most 500."),
), responses((status = 200, body = Strangers), (status = 422, body = Problem)))]
pub(super) async fn unattributed(
    State(app): State<App>,
    caller: Caller,
    QueryPairs(pairs): QueryPairs,
) -> Result<Answer<Strangers>, Problem> {
    caller.0.require(Scope::Read)?;
    let workspace = &caller.0.workspace;
    let mut parameters = Parameters(pairs);
    let zone = zone_of(&app, workspace).await?;
    let end = parameters.instant("to", zone)?.unwrap_or_else(|| clock::now() + TimeDelta::minutes(10));
    let start = parameters.instant("from", zone)?.unwrap_or(end - TimeDelta::days(30));
    let period = Period::new(start, end).ok_or_else(|| Problem::invalid_field("to", "must be after `from`"))?;
    let limit = parameters.limit(50, 500)?;
    parameters.done()?;
    let data = unattributed::list(&app, workspace, period, limit).await?;
    let unknown = unattributed::value(&app, workspace, period).await?;
    Ok(Answer(Strangers { data, next_cursor: None, unknown }))
}
