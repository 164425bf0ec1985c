//! One small file per format: the bytes of one record to a [`Draft`], or a reason. A decoder knows nothing of
//! workspaces, windows or stores; [`crate::admit`] does the rest alike for all. Adding a format is a file and a line
//! in [`Format`].

pub mod apisix;
pub mod cloudevents;
pub mod envoy_otlp;

use chrono::{DateTime, Utc};
use farebox_core::event::RequestData;
use serde::{Deserialize, Serialize};

use crate::verdict::Rejection;

/// How a source writes its events. Chosen by configuration, never guessed from the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Cloudevents,
    Apisix,
    EnvoyOtlp,
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Cloudevents, Self::Apisix, Self::EnvoyOtlp];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cloudevents => "cloudevents",
            Self::Apisix => "apisix",
            Self::EnvoyOtlp => "envoy_otlp",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }

    /// Reads one record.
    pub fn decode(self, record: &[u8]) -> Result<Draft, Rejection> {
        match self {
            Self::Cloudevents => cloudevents::decode(record),
            Self::Apisix => apisix::decode(record),
            Self::EnvoyOtlp => envoy_otlp::decode(record),
        }
    }
}

/// What a record says, before it is known whether it may come in.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The source that the event itself names; None: the one that it came through.
    pub source: Option<String>,
    /// The id it carries; None: one is derived from where it stood.
    pub id: Option<String>,
    pub kind: String,
    /// None: when it was received.
    pub time: Option<DateTime<Utc>>,
    pub subject: String,
    pub data: RequestData,
}

/// Whole microseconds; finer digits are cut off.
fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// A latency that does not fit (beyond 71 minutes, such as a long-lived stream) is kept as the largest.
fn latency(us: u64) -> u32 {
    u32::try_from(us).unwrap_or(u32::MAX)
}

/// 0 (the client vanished before an answer), or an HTTP status.
fn status(value: u64, pointer: &str) -> Result<u16, Rejection> {
    match u16::try_from(value) {
        Ok(status @ (0 | 100..=599)) => Ok(status),
        _ => Err(Rejection::out_of_range(pointer, "an HTTP status (100 to 599), or 0 when there was no answer")),
    }
}

/// What looks like a secret is kept as its hash only.
fn without_secret(text: String) -> String {
    if farebox_core::secret::is_well_formed(&text) {
        return format!("sha256:{}", hex::encode(farebox_core::secret::hash(&text)));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_decoder_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            for format in Format::ALL {
                let _ = format.decode(&bytes);
            }
        }

        /// Almost right: a true sample with a few bytes changed.
        #[test]
        fn no_decoder_panics_on_damaged_samples(
            sample in 0_usize..3,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let sample = [cloudevents::SAMPLE, apisix::SAMPLE, envoy_otlp::SAMPLE][sample];
            let mut bytes = sample.as_bytes().to_vec();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for format in Format::ALL {
                let _ = format.decode(&bytes);
            }
        }
    }

    #[test]
    fn names_are_the_serialised_ones() {
        for format in Format::ALL {
            assert_eq!(serde_json::to_value(format).expect("a unit variant"), format.as_str());
        }
    }

    #[test]
    fn a_secret_is_kept_as_its_hash() {
        let secret = farebox_core::secret::Secret::generate("acme_live_");
        let kept = without_secret(secret.reveal().to_owned());
        assert_eq!(kept, format!("sha256:{}", hex::encode(secret.hash())));
        assert_eq!(without_secret("initech-prod".to_owned()), "initech-prod");
    }
}
