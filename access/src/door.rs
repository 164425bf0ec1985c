//! The two ways to ask: `/v1/decide/{source}` (forward authorisation, any method, any path after it), and, from
//! [`crate::grpc`], Envoy's gRPC.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use farebox_core::ids::WorkspaceId;
use farebox_core::period::floor_minute;
use farebox_core::problem::Problem;
use farebox_core::{clock, decision};
use uuid::Uuid;

use crate::answer::Answer;
use crate::ask::{self, Asked};
use crate::decide::{Outcome, Question, decide};
use crate::gate::Gate;
use crate::ledger::Entry;
use crate::policy::Policy;
use crate::snapshot::Snapshot;
use crate::version::Called;

/// Histogram: seconds from question to answer.
pub const DECISION_SECONDS: &str = "farebox_access_decision_seconds";

const PREFIX: &str = "/v1/decide/";

/// Ask for a decision
///
/// Forward authorisation for gateways: any method, and any path after the source's name. The original request is read
/// from the path after the source, or from `X-Forwarded-*` or `X-Original-*`, by the source's format; the caller's key
/// from `x-api-key` or `Authorization: Bearer`. The gateway itself sends `X-Farebox-Token` (scope `decide`), signs the
/// question, shows a registered client certificate, or asks from a network that its source allows. `X-Farebox-Deny-As: 403` turns refusals that are neither 401 nor 403 into 403.
#[utoipa::path(
    get, path = "/v1/decide/{source}", tag = "access",
    params(("source" = String, Path, description = "The gateway's name, as registered")),
    responses(
        (status = 200, description = "Allowed. `X-Farebox-Decision` is the event's id; `-Consumer`, `-Credential`, `-Subscription`, `-Plan` say whose call it is, on refusals too; `-Api` and `-Api-Version` what is called"),
        (status = 401, body = Problem, description = "No key, or one that is unknown, revoked or expired"),
        (status = 402, body = Problem, description = "An invoice is unpaid beyond the grace that the provider set"),
        (status = 403, body = Problem, description = "No subscription, or not in the plan"),
        (status = 429, body = Problem, description = "Beyond the rate, the quota, or what is free without a key; `RateLimit` says which, `Retry-After` when to come again"),
        (status = 503, body = Problem, description = "Not ready yet, or what decides is older than the provider trusts")
    )
)]
pub async fn ask(Extension(gate): Extension<Arc<Gate>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, _body) = request.into_parts();
    match over_http(&gate, &parts) {
        Ok(response) => {
            metrics::histogram!(DECISION_SECONDS).record(started.elapsed());
            response
        }
        Err(problem) => problem.into_response(),
    }
}

fn over_http(gate: &Gate, parts: &axum::http::request::Parts) -> Result<Response, Problem> {
    let snapshot = gate.snapshot.load();
    let snapshot = snapshot.as_deref().ok_or_else(not_ready)?;
    let (source, after) = split(parts.uri.path()).ok_or_else(|| Problem::not_found("source"))?;
    let token = parts.headers.get("x-farebox-token").map(|token| token.to_str().unwrap_or_default());
    let workspace = ask::workspace(snapshot, source, token, &parts.extensions)?;
    let asked = Asked::over_http(snapshot.format_of(workspace, source), parts, after);
    let deny_as_403 = parts.headers.get("x-farebox-deny-as").is_some_and(|v| v == "403");
    Ok(judged(gate, snapshot, workspace, source, &asked).over_http(deny_as_403))
}

pub fn not_ready() -> Problem {
    Problem::unavailable("Decisions are not ready yet. Try again.", 1)
}

/// Decides and counts.
pub fn judged(gate: &Gate, snapshot: &Snapshot, workspace: &WorkspaceId, source: &str, asked: &Asked) -> Answer {
    static NOTHING_CHOSEN: std::sync::LazyLock<Policy> = std::sync::LazyLock::new(Policy::default);
    let space = snapshot.spaces.get(workspace);
    let policy = space.map_or(&*NOTHING_CHOSEN, |space| &space.policy);
    let called = Called::new(&asked.path, asked.host, asked.headers, policy);
    let now = snapshot.now_in(workspace);
    let question = Question {
        workspace,
        method: &asked.method,
        called: &called,
        key: asked.key(policy.key_header()),
        address: asked.address(policy.proxies),
        mirrored: policy.mirrors.iter().any(|mirror| mirror == source),
        now,
        real_now: clock::now(),
    };
    let taken = decide(snapshot, &question);
    let passed = matches!(taken.outcome, Outcome::Allowed | Outcome::AllowedStale);
    let id = decision::new_id(now, taken.outcome == Outcome::Mirrored);
    let entry = Entry {
        workspace: workspace.as_str(),
        source,
        api: if taken.registered { &called.api } else { "" },
        consumer: taken.consumer.map_or("", |c| c.as_str()),
        subscription: taken.subscription.map_or("", |s| s.id.as_str()),
        feature: taken.entitlement.filter(|_| passed).map_or("", |e| &e.feature),
        outcome: taken.outcome.as_str(),
        minute: floor_minute(now),
    };
    gate.counts.add(entry, passed.then_some(id));
    let mut buffer = Uuid::encode_buffer();
    Answer::new(&taken, &called, id.simple().encode_lower(&mut buffer))
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
