//! Stripe's webhook signature, checked over the raw bytes: `Stripe-Signature: t=<unix s>,v1=<hex>,...` where v1 is
//! HMAC-SHA256 of `<t>.<body>`. Several `v1` and several secrets are tried, because a secret is rolled over by both
//! being valid for a day. Format: <https://docs.stripe.com/webhooks#verify-manually>.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// How far `t` may be from now, in seconds: what replays are refused by.
const TOLERANCE_S: i64 = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the Stripe-Signature header is missing or has no `t` and `v1`")]
    Malformed,
    #[error("the signature's time is more than 300 s from now")]
    OutsideTolerance,
    #[error("no signature fits any of the webhook secrets")]
    Mismatch,
}

/// Constant time per comparison: nothing is learned about how much of a signature was right.
pub fn verify(header: &str, body: &[u8], secrets: &[impl AsRef<[u8]>], now_s: i64) -> Result<(), SignatureError> {
    let (timestamp, signatures) = parse(header).ok_or(SignatureError::Malformed)?;
    let time: i64 = timestamp.parse().map_err(|_| SignatureError::Malformed)?;
    if now_s.abs_diff(time) > TOLERANCE_S.unsigned_abs() {
        return Err(SignatureError::OutsideTolerance);
    }
    for secret in secrets {
        let mac = mac(secret.as_ref(), timestamp, body);
        if signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok()) {
            return Ok(());
        }
    }
    Err(SignatureError::Mismatch)
}

fn mac(secret: &[u8], timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret)
        .expect("HMAC takes keys of any length")
        .chain_update(timestamp.as_bytes())
        .chain_update(b".")
        .chain_update(body)
}

/// The time as it was signed, and every `v1`. Other schemes (`v0`, of test events) prove nothing and are skipped.
fn parse(header: &str) -> Option<(&str, Vec<Vec<u8>>)> {
    let mut timestamp = None;
    let mut signatures = Vec::new();
    for part in header.split(',').take(32) {
        match part.trim().split_once('=')? {
            ("t", time) => timestamp = Some(time),
            ("v1", digits) => signatures.extend(hex::decode(digits).ok()),
            _ => {}
        }
    }
    Some((timestamp?, signatures)).filter(|(_, signatures)| !signatures.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &[u8] = br#"{"id":"evt_1","object":"event","type":"invoice.paid"}"#;
    const TIME: i64 = 1_790_000_000;
    /// Computed with Python's hmac module: hmac.new(b"whsec_one", b"1790000000." + BODY, sha256).
    const BY_ONE: &str = "e146bc7bcaf9812286e5d948235009dfd9b3b1b51d4b165ab03082a32c899a3b";
    const BY_TWO: &str = "9f123c6c5f1a8e265b2de1ddc5175f00a2d50671c822ac3fffdb73814d604b4f";

    #[test]
    fn accepts_what_an_independent_implementation_signed() {
        let header = format!("t={TIME},v1={BY_ONE}");
        assert_eq!(verify(&header, BODY, &["whsec_one"], TIME), Ok(()));
        assert_eq!(verify(&header, BODY, &["whsec_two"], TIME), Err(SignatureError::Mismatch));
    }

    #[test]
    fn either_secret_and_either_signature_will_do_during_a_roll() {
        let both = format!("t={TIME},v1={BY_TWO},v1={BY_ONE},v0={BY_TWO}");
        assert_eq!(verify(&both, BODY, &["whsec_one"], TIME), Ok(()));
        assert_eq!(verify(&format!("t={TIME},v1={BY_TWO}"), BODY, &["whsec_one", "whsec_two"], TIME), Ok(()));
        let only_v0 = format!("t={TIME},v0={BY_ONE}");
        assert_eq!(verify(&only_v0, BODY, &["whsec_one"], TIME), Err(SignatureError::Malformed));
    }

    #[test]
    fn refuses_old_and_future_times_and_nonsense() {
        let header = format!("t={TIME},v1={BY_ONE}");
        assert_eq!(verify(&header, BODY, &["whsec_one"], TIME + 300), Ok(()));
        assert_eq!(verify(&header, BODY, &["whsec_one"], TIME + 301), Err(SignatureError::OutsideTolerance));
        assert_eq!(verify(&header, BODY, &["whsec_one"], TIME - 301), Err(SignatureError::OutsideTolerance));
        for bad in ["", "t=", "t=x,v1=00", "v1=00", "t=1790000000", "t=1790000000,v1=zz", "garbage"] {
            assert_eq!(verify(bad, BODY, &["whsec_one"], TIME), Err(SignatureError::Malformed), "{bad}");
        }
        assert_eq!(verify("t=-9223372036854775808,v1=00", BODY, &["whsec_one"], TIME), Err(SignatureError::OutsideTolerance));
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_noticed(body in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let signature = hex::encode(mac(b"whsec_one", "1790000000", &body).finalize().into_bytes());
            let header = format!("t={TIME},v1={signature}");
            prop_assert_eq!(verify(&header, &body, &["whsec_one"], TIME), Ok(()));
            let mut changed = body;
            let at = at.index(changed.len());
            changed[at] ^= flip;
            prop_assert_eq!(verify(&header, &changed, &["whsec_one"], TIME), Err(SignatureError::Mismatch));
        }
    }
}
