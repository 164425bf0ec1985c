//! `/v1/decide/{source}`: forward authorisation, any method, any path after it.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use farebox_core::problem::Problem;

use crate::decide::{Question, decide};
use crate::gate::Gate;
use crate::{answer, ask};

/// Counter: decisions, with labels `source` and `outcome`.
pub const DECISIONS_TOTAL: &str = "farebox_access_decisions_total";
/// Histogram: seconds from question to answer.
pub const DECISION_SECONDS: &str = "farebox_access_decision_seconds";

const PREFIX: &str = "/v1/decide/";

/// Ask for a decision
///
/// Forward authorisation for gateways: any method, and any path after the source's name. The original request is read
/// from the path after the source, or from `X-Forwarded-*` or `X-Original-*`, by the source's format; the caller's key
/// from `x-api-key` or `Authorization: Bearer`. The gateway itself sends `X-Farebox-Token` (scope `decide`) or asks from
/// a network that its source allows. `X-Farebox-Deny-As: 403` turns refusals that are neither 401 nor 403 into 403.
#[utoipa::path(
    get, path = "/v1/decide/{source}", tag = "access",
    params(("source" = String, Path, description = "The gateway's name, as registered")),
    responses(
        (status = 200, description = "Allowed. `X-Farebox-Decision` is the event's id; `-Consumer`, `-Credential`, `-Subscription`, `-Plan` say whose call it is, on refusals too"),
        (status = 401, body = Problem, description = "No key, or one that is unknown, revoked or expired"),
        (status = 403, body = Problem, description = "No subscription, or not in the plan"),
        (status = 429, body = Problem, description = "Beyond the rate; `Retry-After` says when to come again"),
        (status = 503, body = Problem, description = "Not ready yet")
    )
)]
pub async fn ask(Extension(gate): Extension<Arc<Gate>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, _body) = request.into_parts();
    match decided(&gate, &parts) {
        Ok(response) => {
            metrics::histogram!(DECISION_SECONDS).record(started.elapsed());
            response
        }
        Err(problem) => problem.into_response(),
    }
}

fn decided(gate: &Gate, parts: &axum::http::request::Parts) -> Result<Response, Problem> {
    let snapshot = gate.snapshot.load();
    let snapshot = snapshot.as_ref().ok_or_else(|| Problem::unavailable("Decisions are not ready yet. Try again.", 1))?;
    let (source, after) = split(parts.uri.path()).ok_or_else(|| Problem::not_found("source"))?;
    let workspace = ask::workspace(snapshot, source, parts)?;
    let (method, path) = ask::call(snapshot.format_of(workspace, source), parts, after);
    let now = snapshot.now_in(workspace);
    let question = Question { workspace, method: &method, path: &path, key: ask::key(&parts.headers), now };
    let decision = decide(snapshot, &question);

    let id = uuid::Uuid::now_v7().simple().to_string();
    let consumer = decision.consumer.as_ref().map_or("", |c| c.as_str());
    gate.counts.add(workspace, source, consumer, decision.outcome.as_str(), now);
    metrics::counter!(DECISIONS_TOTAL, "source" => source.to_owned(), "outcome" => decision.outcome.as_str()).increment(1);
    let deny_as_403 = parts.headers.get("x-farebox-deny-as").is_some_and(|v| v == "403");
    Ok(answer::respond(&decision, &id, deny_as_403))
}

/// The source's name, and the path after it.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(PREFIX)?;
    let (source, after) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (!source.is_empty() && source.len() <= 128).then_some((source, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_path_is_what_comes_after_the_source() {
        assert_eq!(split("/v1/decide/envoy-1/v1/orders"), Some(("envoy-1", "/v1/orders")));
        assert_eq!(split("/v1/decide/envoy-1/"), Some(("envoy-1", "/")));
        assert_eq!(split("/v1/decide/nginx"), Some(("nginx", "")));
        assert_eq!(split("/v1/decide//orders"), None);
    }
}
