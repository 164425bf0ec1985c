//! What an answer of Stripe's means for the request that got it. Pure.

use std::time::Duration;

/// The longest we let a `Retry-After` hold a request back.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// What is known of an answer besides its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    pub status: u16,
    /// `Stripe-Should-Retry`.
    pub should_retry: Option<bool>,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// `Idempotent-Replayed`: the answer was stored with the key earlier.
    pub replayed: bool,
    /// The error's type is `idempotency_error`: the key was used with other parameters, or is in use.
    pub idempotency_error: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// The same bytes and key again, after at least this time.
    Retry(Option<Duration>),
    /// The key will give nothing but this answer. Whether the request had an effect is unknown: look, and only then
    /// take another key.
    KeySpent,
    /// Stripe understood and declined; sending it again changes nothing.
    Refused,
}

/// Stripe's `Stripe-Should-Retry` wins over the status (<https://docs.stripe.com/error-low-level>).
pub fn judge(signs: Signs) -> Verdict {
    let wait = signs.retry_after.map(|wait| wait.min(LONGEST_WAIT));
    let server_error = signs.status >= 500;
    match signs.status {
        200..300 => Verdict::Done,
        // A stored failure comes back for every further use of the key.
        500.. if signs.replayed => Verdict::KeySpent,
        _ if signs.should_retry == Some(true) => Verdict::Retry(wait),
        _ if signs.should_retry == Some(false) && server_error => Verdict::KeySpent,
        400 if signs.idempotency_error => Verdict::KeySpent,
        _ if signs.should_retry == Some(false) => Verdict::Refused,
        // A redirect comes from something in between, not from Stripe's API.
        300..400 | 408 | 409 | 424 | 429 | 500.. => Verdict::Retry(wait),
        _ => Verdict::Refused,
    }
}

/// How long to wait before attempt `attempts + 1`: doubling, at most five minutes, of which a random half is cut off
/// so that those who failed together do not return together. `random` is in 0..1024.
pub fn backoff(attempts: u32, random: u32) -> Duration {
    let whole = FIRST_BACKOFF.saturating_mul(1_u32.checked_shl(attempts.min(16)).unwrap_or(u32::MAX)).min(LONGEST_BACKOFF);
    whole / 2 + whole / 2 * (random % 1024) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(status: u16) -> Signs {
        Signs { status, ..Signs::default() }
    }

    #[test]
    fn by_status() {
        for retried in [302, 408, 409, 424, 429, 500, 502, 503, 504] {
            assert_eq!(judge(status(retried)), Verdict::Retry(None), "{retried}");
        }
        for refused in [400, 401, 402, 403, 404] {
            assert_eq!(judge(status(refused)), Verdict::Refused, "{refused}");
        }
        assert_eq!(judge(status(200)), Verdict::Done);
    }

    #[test]
    fn the_header_wins_and_a_stored_failure_spends_the_key() {
        assert_eq!(judge(Signs { should_retry: Some(true), ..status(400) }), Verdict::Retry(None));
        assert_eq!(judge(Signs { should_retry: Some(false), ..status(409) }), Verdict::Refused);
        assert_eq!(judge(Signs { should_retry: Some(false), ..status(500) }), Verdict::KeySpent);
        assert_eq!(judge(Signs { replayed: true, ..status(500) }), Verdict::KeySpent);
        assert_eq!(judge(Signs { replayed: true, should_retry: Some(true), ..status(500) }), Verdict::KeySpent);
        assert_eq!(judge(Signs { replayed: true, ..status(200) }), Verdict::Done);
        assert_eq!(judge(Signs { idempotency_error: true, ..status(400) }), Verdict::KeySpent);
        assert_eq!(judge(Signs { idempotency_error: true, ..status(409) }), Verdict::Retry(None));
        let wait = |seconds| Signs { retry_after: Some(Duration::from_secs(seconds)), ..status(429) };
        assert_eq!(judge(wait(7)), Verdict::Retry(Some(Duration::from_secs(7))));
        assert_eq!(judge(wait(1_000_000)), Verdict::Retry(Some(LONGEST_WAIT)));
    }

    proptest! {
        #[test]
        fn backoff_grows_within_bounds(attempts in 0_u32..10_000, random in any::<u32>()) {
            let wait = backoff(attempts, random);
            prop_assert!(wait >= FIRST_BACKOFF / 2 && wait <= LONGEST_BACKOFF);
            prop_assert!(wait >= backoff(attempts, 0));
        }
    }
}
