//! What one token may send: requests and bytes per second, requests at once. Each instance counts for itself, so several
//! let through that many times as much. Bytes are those of the body as its length says before it is read; gRPC says no
//! length, so there they are the message's, once it is read.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use farebox_core::App;
use farebox_core::auth::{Caller, Limits, Principal};
use farebox_core::ids::TokenId;
use farebox_core::problem::Problem;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, NotUntil, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::grpc;

/// Counter: requests refused because their token's limit was reached, with label `limit`.
pub const REFUSED_TOTAL: &str = "farebox_ingest_refused_total";
/// Tokens with limits that are remembered at once; beyond it all start afresh.
const MAX_TOKENS: usize = 10_000;

struct Gauge {
    limits: Limits,
    requests: Option<DefaultDirectRateLimiter>,
    bytes: Option<DefaultDirectRateLimiter>,
    in_flight: Option<Arc<Semaphore>>,
}

/// What is known of a body before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(u64),
    /// gRPC: whoever reads the message charges it, by [`Uncharged`].
    Later,
    Unknown,
}

impl Length {
    fn of(headers: &HeaderMap) -> Self {
        let said = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        match said {
            Some(bytes) => Self::Known(bytes),
            None if grpc::is_grpc(headers) => Self::Later,
            None => Self::Unknown,
        }
    }
}

/// Left with a call whose length is not known yet.
#[derive(Clone)]
pub struct Uncharged(Arc<Gauge>);

impl Uncharged {
    pub fn charge(&self, bytes: usize) -> Result<(), Problem> {
        self.0.charge(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

static KNOWN: LazyLock<Mutex<HashMap<TokenId, Arc<Gauge>>>> = LazyLock::new(Mutex::default);

impl Gauge {
    fn of(principal: &Principal) -> Option<Arc<Self>> {
        let limits = principal.limits;
        if limits == Limits::default() {
            return None;
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = known.get(&principal.token).filter(|state| state.limits == limits) {
            return Some(state.clone());
        }
        if known.len() >= MAX_TOKENS {
            known.clear();
        }
        let state = Arc::new(Self::new(limits));
        known.insert(principal.token.clone(), state.clone());
        Some(state)
    }

    fn new(limits: Limits) -> Self {
        // A second's worth may come at once.
        let limiter = |n: Option<i32>| Some(RateLimiter::direct(Quota::per_second(NonZeroU32::new(u32::try_from(n?).ok()?)?)));
        Self {
            limits,
            requests: limiter(limits.requests_per_second),
            bytes: limiter(limits.bytes_per_second),
            in_flight: limits.in_flight.and_then(|n| usize::try_from(n).ok()).map(|n| Arc::new(Semaphore::new(n))),
        }
    }

    /// The share of what may be in flight; an error says which limit and when to come again.
    fn admit(&self, length: Length) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        let permit = match &self.in_flight {
            None => None,
            Some(slots) => Some(slots.clone().try_acquire_owned().map_err(|_| {
                let most = self.limits.in_flight.unwrap_or_default();
                refused("in_flight", &format!("At most {most} requests of this token are under way at once. Wait for an answer first."), 1)
            })?),
        };
        if let Some(requests) = &self.requests {
            let most = self.limits.requests_per_second.unwrap_or_default();
            requests.check().map_err(|until| {
                refused(
                    "requests",
                    &format!("This token sends at most {most} requests a second. Send more events at once."),
                    seconds(&until),
                )
            })?;
        }
        match length {
            Length::Known(bytes) => self.charge(bytes)?,
            Length::Later => {}
            Length::Unknown if self.bytes.is_none() => {}
            Length::Unknown => {
                return Err(Problem::new(
                    StatusCode::LENGTH_REQUIRED,
                    "length-required",
                    "The length is not known",
                    "This token has a limit of bytes: send `Content-Length`.",
                ));
            }
        }
        Ok(permit)
    }

    fn charge(&self, bytes: u64) -> Result<(), Problem> {
        let Some(limiter) = &self.bytes else { return Ok(()) };
        let most = self.limits.bytes_per_second.unwrap_or_default();
        let too_large = || {
            metrics::counter!(REFUSED_TOTAL, "limit" => "bytes").increment(1);
            Problem::too_large(usize::try_from(most).unwrap_or_default())
        };
        let Some(bytes) = NonZeroU32::new(u32::try_from(bytes).map_err(|_| too_large())?) else { return Ok(()) };
        limiter.check_n(bytes).map_err(|_| too_large())?.map_err(|until| {
            refused("bytes", &format!("This token sends at most {most} bytes a second. Send more slowly, or packed."), seconds(&until))
        })
    }
}

fn refused(limit: &'static str, detail: &str, retry_after_s: u64) -> Problem {
    metrics::counter!(REFUSED_TOTAL, "limit" => limit).increment(1);
    Problem::too_many_requests(format!("{detail} Nothing was taken; send the same again."), retry_after_s)
}

fn seconds(until: &NotUntil<<DefaultClock as Clock>::Instant>) -> u64 {
    until.wait_time_from(DefaultClock::default().now()).as_secs() + 1
}

/// Before a body is read.
pub async fn middleware(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let over_grpc = grpc::is_grpc(&parts.headers);
    let refuse = |problem: Problem| if over_grpc { grpc::refusal(&problem) } else { problem.into_response() };
    let caller = match Caller::from_request_parts(&mut parts, &app).await {
        Ok(caller) => caller,
        Err(problem) => return refuse(problem),
    };
    let Some(gauge) = Gauge::of(&caller.0) else { return next.run(Request::from_parts(parts, body)).await };
    let length = Length::of(&parts.headers);
    let _in_flight = match gauge.admit(length) {
        Ok(permit) => permit,
        Err(problem) => return refuse(problem),
    };
    if length == Length::Later {
        parts.extensions.insert(Uncharged(gauge));
    }
    next.run(Request::from_parts(parts, body)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests: Option<i32>, bytes: Option<i32>, in_flight: Option<i32>) -> Gauge {
        Gauge::new(Limits { requests_per_second: requests, bytes_per_second: bytes, in_flight })
    }

    fn status(admitted: Result<Option<OwnedSemaphorePermit>, Problem>) -> u16 {
        admitted.map_or_else(|problem| problem.status, |_| 202)
    }

    #[test]
    fn each_limit_is_kept_and_says_which_it_is() {
        let requests = limits(Some(2), None, None);
        assert_eq!([0; 3].map(|_| status(requests.admit(Length::Unknown))), [202, 202, 429]);

        let bytes = limits(None, Some(2000), None);
        assert_eq!(status(bytes.admit(Length::Unknown)), 411, "a limit of bytes needs the length");
        assert_eq!(status(bytes.admit(Length::Known(2001))), 413, "it would never fit");
        assert_eq!(status(bytes.admit(Length::Known(1500))), 202);
        assert_eq!(status(bytes.admit(Length::Known(1500))), 429);
        assert_eq!(status(bytes.admit(Length::Known(0))), 202);
        assert_eq!(status(bytes.admit(Length::Later)), 202, "charged when the message is read");
        assert_eq!(bytes.charge(1500).expect_err("no longer a second's worth").status, 429);

        let in_flight = limits(None, None, Some(1));
        let first = in_flight.admit(Length::Unknown).expect("a slot");
        assert_eq!(status(in_flight.admit(Length::Unknown)), 429);
        drop(first);
        assert_eq!(status(in_flight.admit(Length::Unknown)), 202);
    }
}
