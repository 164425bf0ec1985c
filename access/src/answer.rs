//! A decision as a gateway understands it: status, who the caller is, how far the limits are, and for a refusal a
//! problem that the gateway passes on. Headers that begin with `x-farebox-` are for the gateway, the others for the
//! caller.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use farebox_core::decision::MIRROR;
use farebox_core::problem::Problem;

use crate::decide::{Decision, Outcome};
use crate::quota::Quota;
use crate::rate::Standing;
use crate::version::Called;

pub const OURS: &str = "x-farebox-";

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Of a refusal.
    pub body: Option<String>,
}

impl Answer {
    pub fn new(decision: &Decision, called: &Called, id: &str) -> Self {
        let mut answer = problem(decision).map_or_else(Self::allowed, Self::refused);
        let headers = &mut answer.headers;
        put(headers, "x-farebox-decision", Some(id));
        put(headers, "x-farebox-consumer", decision.consumer.map(AsRef::as_ref));
        put(headers, "x-farebox-credential", decision.credential.map(AsRef::as_ref));
        put(headers, "x-farebox-subscription", decision.subscription.map(|s| s.id.as_ref()));
        put(headers, "x-farebox-plan", decision.plan());
        if decision.registered {
            put(headers, "x-farebox-api", Some(&called.api));
            put(headers, "x-farebox-api-version", Some(called.version.as_str()).filter(|version| !version.is_empty()));
        }
        put(headers, "x-farebox-marker", (decision.outcome == Outcome::Mirrored).then_some(MIRROR));
        put(headers, "x-farebox-over-quota", decision.over.map(Quota::feature));
        headers.insert(HeaderName::from_static("x-farebox-snapshot-age"), decision.snapshot_age_s.into());
        if let Some(age) = decision.usage_age_s {
            headers.insert(HeaderName::from_static("x-farebox-usage-age"), age.into());
        }
        if let Some(lifetime) = decision.lifetime {
            // RFC 9745, and RFC 8594 with the date as HTTP writes it.
            put(headers, "deprecation", lifetime.deprecated.map(|at| format!("@{}", at.timestamp())).as_deref());
            put(headers, "sunset", lifetime.sunset.map(http_date).as_deref());
        }
        rate_limits(headers, &decision.limits);
        answer
    }

    fn allowed() -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::with_capacity(16), body: None }
    }

    fn refused(problem: Problem) -> Self {
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let (parts, _) = problem.into_response().into_parts();
        let mut headers = parts.headers;
        headers.remove("content-length");
        put(&mut headers, "x-farebox-status", Some(parts.status.as_str()));
        // A gateway that drops the body (nginx) finds it here.
        put(&mut headers, "x-farebox-problem", Some(&ascii(&body)));
        Self { status: parts.status, headers, body: Some(body) }
    }

    /// `deny_as_403`: the gateway knows only 401 and 403 (nginx); the true status is in `x-farebox-status`.
    pub fn over_http(self, deny_as_403: bool) -> Response {
        let known = [StatusCode::OK, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        let status = if deny_as_403 && !known.contains(&self.status) { StatusCode::FORBIDDEN } else { self.status };
        let mut response = Response::new(self.body.map_or_else(Body::empty, Body::from));
        *response.status_mut() = status;
        *response.headers_mut() = self.headers;
        response
    }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: Option<&str>) {
    if let Some(value) = value.and_then(|v| HeaderValue::from_str(v).ok()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn http_date(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>: for each policy its quota and window in
/// seconds; what remains, and after how many seconds more does.
fn rate_limits(headers: &mut HeaderMap, limits: &[Standing]) {
    let (mut policies, mut remaining) = (String::new(), String::new());
    for limit in limits {
        let separator = if policies.is_empty() { "" } else { ", " };
        let name: String = limit.name.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
        policies.push_str(&format!("{separator}\"{name}\";q={};w={}", limit.limit, limit.window_s));
        remaining.push_str(&format!("{separator}\"{name}\";r={};t={}", limit.remaining, limit.reset_s));
    }
    put(headers, "ratelimit-policy", Some(policies.as_str()).filter(|p| !p.is_empty()));
    put(headers, "ratelimit", Some(remaining.as_str()).filter(|r| !r.is_empty()));
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

/// None when the call passes.
fn problem(decision: &Decision) -> Option<Problem> {
    let plan = decision.plan().unwrap_or_default();
    let portal = decision.space.map_or("", |space| space.portal.as_str());
    let unauthorized = |slug: &str, detail: &str| Problem::new(StatusCode::UNAUTHORIZED, slug, "The API key is not accepted", detail);
    let forbidden = |slug: &str, title: &str, detail: String| Problem::new(StatusCode::FORBIDDEN, slug, title, detail);
    Some(match decision.outcome {
        Outcome::Allowed | Outcome::AllowedStale | Outcome::Anonymous | Outcome::Mirrored => return None,
        Outcome::NoKey => {
            let header = decision.space.map_or("x-api-key", |space| space.policy.key_header());
            unauthorized("no-key", &format!("Send an API key as `{header}` or `Authorization: Bearer`."))
        }
        Outcome::UnknownKey => {
            unauthorized("unknown-key", "This key is unknown or was revoked. Check it, or take a new one in the developer portal.")
        }
        Outcome::ExpiredKey => unauthorized("expired-key", "This key has expired. Take a new one in the developer portal."),
        Outcome::NoSubscription => forbidden(
            "no-subscription",
            "No plan is in force",
            "There is no subscription in force for this API. Choose a plan in the developer portal.".to_owned(),
        ),
        Outcome::NotInPlan => forbidden(
            "not-in-plan",
            "The plan does not include this",
            format!("The plan `{plan}` does not include this route. Choose another plan in the developer portal."),
        ),
        Outcome::Unpaid => {
            let owes = decision.owes?;
            let place = owes.hosted_url.clone().unwrap_or_else(|| format!("{portal}/"));
            let due = owes.due_at.format("%Y-%m-%d");
            let detail =
                format!("Invoice {} was due on {due} and is not paid. Pay it at {place}; calls pass again right after.", owes.number);
            Problem::new(StatusCode::PAYMENT_REQUIRED, "unpaid", "An invoice is not paid", detail)
        }
        Outcome::RateLimited => {
            let limit = decision.limits.last()?;
            let detail = format!(
                "The plan `{plan}` allows {} calls in {} seconds of `{}`. Try again in {} seconds.",
                limit.limit, limit.window_s, limit.name, limit.reset_s
            );
            too_many("rate-limited", detail, limit.reset_s)
        }
        Outcome::OverQuota => {
            let (limit, quota) = (decision.limits.last()?, decision.entitlement?.quota.as_ref()?);
            let detail = format!(
                "The plan `{plan}` includes {} of `{}` each {} for `{}`, and they are used. It begins anew in {} seconds; \
                 a larger plan is in the developer portal.",
                quota.limit(),
                quota.meter(),
                quota.per(),
                quota.feature(),
                limit.reset_s
            );
            too_many("over-quota", detail, limit.reset_s)
        }
        Outcome::AnonymousLimited => {
            let limit = decision.limits.last()?;
            let detail = format!(
                "Without a key, {} calls in {} seconds are free. Sign up for a key at {portal}/sign-up, or try again in {} seconds.",
                limit.limit, limit.window_s, limit.reset_s
            );
            too_many("anonymous-limit", detail, limit.reset_s)
        }
        Outcome::Stale => Problem::unavailable("Whether this call is allowed is not known right now. Try again.", 2),
    })
}

fn too_many(slug: &str, detail: String, wait_s: u64) -> Problem {
    let mut problem = Problem::too_many_requests(detail, wait_s);
    problem.kind = format!("urn:farebox:problem:{slug}");
    problem
}

#[cfg(test)]
mod tests {
    use farebox_core::ids::ConsumerId;

    use super::*;
    use crate::snapshot::{Lifetime, Subscription};

    fn decision<'a>(outcome: Outcome, subscription: &'a Subscription, consumer: &'a ConsumerId) -> Decision<'a> {
        let standing = |name: &str, refused| Standing { name: name.into(), limit: 100, window_s: 60, remaining: 0, reset_s: 2, refused };
        let day = |text: &str| text.parse().ok();
        Decision {
            outcome,
            space: None,
            consumer: Some(consumer),
            credential: None,
            subscription: Some(subscription),
            entitlement: None,
            registered: true,
            lifetime: Some(Lifetime { deprecated: day("2026-09-01T00:00:00Z"), sunset: day("2027-03-01T00:00:00Z") }),
            owes: None,
            limits: vec![standing("all", false), standing("orders", true)],
            over: None,
            snapshot_age_s: 1,
            usage_age_s: None,
        }
    }

    fn subscription() -> Subscription {
        Subscription {
            id: farebox_core::ids::SubscriptionId::new(),
            product: "default".to_owned(),
            plan: "größer".to_owned(),
            from: farebox_core::clock::now(),
            to: None,
            entitlements: Vec::new(),
            counters: Vec::new(),
        }
    }

    fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
        headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    #[test]
    fn a_refusal_says_everything_in_headers_too() {
        let (subscription, consumer) = (subscription(), ConsumerId::new());
        let answer = Answer::new(&decision(Outcome::RateLimited, &subscription, &consumer), &Called::by_path("/v1/orders"), "d1");
        let headers = &answer.headers;
        assert_eq!(answer.status, 429);
        assert_eq!(header(headers, "retry-after"), "2");
        assert_eq!(header(headers, "ratelimit-policy"), "\"all\";q=100;w=60, \"orders\";q=100;w=60");
        assert_eq!(header(headers, "ratelimit"), "\"all\";r=0;t=2, \"orders\";r=0;t=2");
        assert_eq!((header(headers, "deprecation"), header(headers, "sunset")), ("@1788220800", "Mon, 01 Mar 2027 00:00:00 GMT"));
        assert_eq!((header(headers, "x-farebox-decision"), header(headers, "x-farebox-api-version")), ("d1", "v1"));
        assert!(header(headers, "x-farebox-consumer").starts_with("con_"));
        let problem: serde_json::Value = serde_json::from_str(header(headers, "x-farebox-problem")).expect("JSON");
        assert_eq!(problem["type"], "urn:farebox:problem:rate-limited");
        assert!(problem["detail"].as_str().expect("a text").contains("`größer`"));
        assert_eq!(answer.over_http(false).status(), 429);
    }

    #[test]
    fn what_a_gateway_cannot_say_is_403_with_the_true_status_beside() {
        let (subscription, consumer) = (subscription(), ConsumerId::new());
        let as_403 = |outcome| {
            let response = Answer::new(&decision(outcome, &subscription, &consumer), &Called::by_path("/"), "d1").over_http(true);
            (response.status().as_u16(), header(response.headers(), "x-farebox-status").to_owned())
        };
        assert_eq!(as_403(Outcome::RateLimited), (403, "429".to_owned()));
        assert_eq!(as_403(Outcome::Stale), (403, "503".to_owned()));
        assert_eq!(as_403(Outcome::NoKey), (401, "401".to_owned()));
        assert_eq!(as_403(Outcome::Allowed), (200, String::new()));
    }
}
