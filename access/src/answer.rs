//! A decision as a gateway understands it: status, who the caller is, how far the limit is, and for a refusal a problem
//! that the gateway passes on.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use farebox_core::problem::Problem;

use crate::decide::{Decision, Outcome};
use crate::rate::Standing;

/// `deny_as_403`: the gateway knows only 401 and 403 (nginx); the true status is in `x-farebox-status`.
pub fn respond(decision: &Decision, decision_id: &str, deny_as_403: bool) -> Response {
    let mut response = match problem(decision) {
        None => StatusCode::OK.into_response(),
        Some(problem) => refusal(problem, deny_as_403),
    };
    let headers = response.headers_mut();
    put(headers, "x-farebox-decision", Some(decision_id));
    put(headers, "x-farebox-consumer", decision.consumer.as_ref().map(AsRef::as_ref));
    put(headers, "x-farebox-credential", decision.credential.as_ref().map(AsRef::as_ref));
    put(headers, "x-farebox-subscription", decision.subscription.as_ref().map(AsRef::as_ref));
    put(headers, "x-farebox-plan", decision.plan.as_deref());
    if let Some(standing) = &decision.limit {
        rate_limit(headers, standing);
    }
    response
}

fn put(headers: &mut HeaderMap, name: &'static str, value: Option<&str>) {
    if let Some(value) = value.and_then(|v| HeaderValue::from_str(v).ok()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>: quota and window in seconds; what remains.
fn rate_limit(headers: &mut HeaderMap, standing: &Standing) {
    let name: String = standing.feature.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
    put(headers, "ratelimit-policy", Some(&format!("\"{name}\";q={};w={}", standing.limit, standing.window_s)));
    let reset = standing.retry_after_s.unwrap_or(standing.window_s);
    put(headers, "ratelimit", Some(&format!("\"{name}\";r={};t={reset}", standing.remaining)));
}

fn refusal(problem: Problem, deny_as_403: bool) -> Response {
    // A gateway that drops the body (nginx) finds it here.
    let body = ascii(&serde_json::to_string(&problem).unwrap_or_default());
    let mut response = problem.into_response();
    let status = response.status();
    if deny_as_403 && status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN {
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    put(response.headers_mut(), "x-farebox-status", Some(status.as_str()));
    put(response.headers_mut(), "x-farebox-problem", Some(&body));
    response
}

/// JSON with nothing but ASCII, as a header needs it.
fn ascii(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            escaped.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

fn problem(decision: &Decision) -> Option<Problem> {
    let plan = decision.plan.as_deref().unwrap_or_default();
    let unauthorized = |slug: &str, detail: &str| Problem::new(StatusCode::UNAUTHORIZED, slug, "The API key is not accepted", detail);
    Some(match decision.outcome {
        Outcome::Allowed => return None,
        Outcome::NoKey => unauthorized("no-key", "Send an API key as `x-api-key` or `Authorization: Bearer`."),
        Outcome::UnknownKey => {
            unauthorized("unknown-key", "This key is unknown or was revoked. Check it, or take a new one in the developer portal.")
        }
        Outcome::ExpiredKey => unauthorized("expired-key", "This key has expired. Take a new one in the developer portal."),
        Outcome::NoSubscription => Problem::new(
            StatusCode::FORBIDDEN,
            "no-subscription",
            "No plan is in force",
            "There is no subscription in force for this API. Choose a plan in the developer portal.",
        ),
        Outcome::NotInPlan => Problem::new(
            StatusCode::FORBIDDEN,
            "not-in-plan",
            "The plan does not include this",
            format!("The plan `{plan}` does not include this route. Choose another plan in the developer portal."),
        ),
        Outcome::RateLimited => {
            let standing = decision.limit.as_ref()?;
            let wait = standing.retry_after_s.unwrap_or(1);
            let detail = format!(
                "The plan `{plan}` allows {} calls in {} seconds of `{}`. Try again in {wait} seconds.",
                standing.limit, standing.window_s, standing.feature
            );
            let mut problem = Problem::too_many_requests(detail, wait);
            "urn:farebox:problem:rate-limited".clone_into(&mut problem.kind);
            problem
        }
    })
}

#[cfg(test)]
mod tests {
    use farebox_core::ids::ConsumerId;

    use super::*;

    fn limited() -> Decision {
        Decision {
            outcome: Outcome::RateLimited,
            consumer: Some(ConsumerId::new()),
            credential: None,
            subscription: None,
            plan: Some("größer".to_owned()),
            limit: Some(Standing { feature: "orders".to_owned(), limit: 100, window_s: 1, remaining: 0, retry_after_s: Some(2) }),
        }
    }

    fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    #[test]
    fn a_refusal_says_everything_in_headers_too() {
        let response = respond(&limited(), "d1", false);
        assert_eq!(response.status(), 429);
        assert_eq!(header(&response, "retry-after"), "2");
        assert_eq!(header(&response, "ratelimit-policy"), "\"orders\";q=100;w=1");
        assert_eq!(header(&response, "ratelimit"), "\"orders\";r=0;t=2");
        assert_eq!(header(&response, "x-farebox-decision"), "d1");
        assert!(header(&response, "x-farebox-consumer").starts_with("con_"));
        let problem: serde_json::Value = serde_json::from_str(header(&response, "x-farebox-problem")).expect("JSON");
        assert_eq!(problem["type"], "urn:farebox:problem:rate-limited");
        assert!(problem["detail"].as_str().expect("a text").contains("`größer`"));
    }

    #[test]
    fn what_a_gateway_cannot_say_is_403_with_the_true_status_beside() {
        let response = respond(&limited(), "d1", true);
        assert_eq!((response.status().as_u16(), header(&response, "x-farebox-status")), (403, "429"));
        let no_key = Decision { outcome: Outcome::NoKey, limit: None, ..limited() };
        assert_eq!(respond(&no_key, "d1", true).status(), 401);
    }
}
