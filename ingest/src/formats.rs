//! One small file per format: the bytes of one record to a [`Draft`], or a reason. A decoder knows nothing of
//! workspaces, windows or stores; [`crate::admit`] does the rest alike for all. Adding a format is a file and its lines
//! in this one.
//!
//! Common to all that gateways write by themselves (not to CloudEvents, which are written for us): fields that are
//! not set are absent, null, empty or `-`; numbers may be in quotes; bytes that are no UTF-8 are replaced; what a
//! client chooses freely (method, path, user) is cut off where it is too long, because a rejection would make the call
//! free. Never kept: headers, query strings, addresses, bodies.

pub mod apisix;
pub mod aws;
pub mod cloudevents;
pub mod envoy;
pub mod envoy_otlp;
pub mod kong;
pub mod mapped;
pub mod nginx;
pub(crate) mod otlp;
mod times;
pub mod traefik;
pub mod traefik_otlp;
pub mod tyk;
pub mod wso2;

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::api_path;
use farebox_core::event::{REQUEST, RequestData};
use serde_json::value::RawValue;

use self::mapped::Mapped;
use crate::fields::said_whole;
use crate::intake::hash_of;
use crate::mask::{masked, masked_hash};
use crate::verdict::Rejection;

/// A format that comes with Farebox.
#[derive(Debug)]
pub struct BuiltIn {
    pub name: &'static str,
    pub decode: fn(&[u8]) -> Result<Draft, Rejection>,
}

macro_rules! built_in {
    ($($name:ident),* $(,)?) => {
        /// Every format that comes with Farebox; its name is its module's.
        pub static BUILT_IN: &[BuiltIn] = &[$(BuiltIn { name: stringify!($name), decode: $name::decode }),*];

        /// A true record of each, with values of our own.
        #[cfg(test)]
        const SAMPLES: &[(&str, &str)] =
            &[$((stringify!($name), include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/", stringify!($name), ".json")))),*];
    };
}

built_in!(apisix, aws, cloudevents, envoy, envoy_otlp, kong, nginx, traefik, traefik_otlp, tyk, wso2);

/// How a source writes its events. Chosen by configuration, never guessed from the content.
#[derive(Debug, Clone)]
pub enum Format {
    BuiltIn(&'static BuiltIn),
    /// An operator's own log, read by the field map of the catalogue.
    Mapped(Arc<Mapped>),
}

impl Format {
    /// The format that comes with Farebox under this name.
    pub fn parse(name: &str) -> Option<Self> {
        BUILT_IN.iter().find(|format| format.name == name).map(Self::BuiltIn)
    }

    pub fn cloudevents() -> Self {
        Self::parse("cloudevents").expect("it is in the list")
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::BuiltIn(format) => format.name,
            Self::Mapped(mapped) => mapped.name(),
        }
    }

    /// The record as it may be kept where people see it: without secrets. CloudEvents are written for us and stay.
    pub fn masked<'a>(&self, record: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Self::BuiltIn(format) if format.name == "cloudevents" => Cow::Borrowed(record),
            Self::BuiltIn(_) => masked(record, &[]),
            Self::Mapped(mapped) => mapped.masked(record),
        }
    }

    /// Reads one record.
    pub fn decode(&self, record: &[u8]) -> Result<Draft, Rejection> {
        match self {
            Self::BuiltIn(format) => (format.decode)(record),
            Self::Mapped(mapped) => mapped.decode(record),
        }
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::BuiltIn(one), Self::BuiltIn(other)) => one.name == other.name,
            (Self::Mapped(one), Self::Mapped(other)) => one == other,
            _ => false,
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

impl Draft {
    /// One call, as a gateway's log tells it.
    fn call(time: DateTime<Utc>, id: Option<String>, subject: String, data: RequestData) -> Self {
        Self { source: None, id, kind: REQUEST.to_owned(), time: Some(micros(time)), subject: clipped(without_secret(subject), 256), data }
    }
}

/// Whole microseconds; finer digits are cut off.
fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// When a call began that ended at `end` and took so long.
fn began(end: DateTime<Utc>, took_us: u64) -> DateTime<Utc> {
    let took = i64::try_from(took_us).map_or(TimeDelta::MAX, TimeDelta::microseconds);
    end.checked_sub_signed(took).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// A latency that does not fit (beyond 71 minutes, such as a long-lived stream) is kept as the largest.
fn latency(us: u64) -> u32 {
    u32::try_from(us).unwrap_or(u32::MAX)
}

/// 0 (the client vanished before an answer), or an HTTP status.
fn status(value: u64, pointer: impl FnOnce() -> String) -> Result<u16, Rejection> {
    match u16::try_from(value) {
        Ok(status @ (0 | 100..=599)) => Ok(status),
        _ => Err(Rejection::out_of_range(pointer(), "an HTTP status (100 to 599), or 0 when there was no answer")),
    }
}

/// The API that a gateway names, else the one that the path tells, with the version in the path. A path that matched no
/// route names nothing of ours.
fn api_of(named: String, path: &str, routed: bool) -> (String, String) {
    if !routed {
        return (named, String::new());
    }
    let (api, version) = api_path::api_and_version(api_path::without_query(path));
    (if named.is_empty() { clipped(api, 128) } else { named }, version)
}

/// A path as a route, for gateways that have no name for it: without its query, and not longer than is kept.
fn route_of(path: &str) -> String {
    clipped(api_path::without_query(path).to_owned(), 512)
}

/// As gateways log it: in capitals, and not longer than is kept.
fn method(text: String) -> String {
    clipped(text, 32)
}

/// At most so many bytes, cut between characters.
fn clipped(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// A decision's id, which `/v1/decide` makes as a UUID. Anything else (a log may have the decision's status under this
/// name) is none: it would make many calls one.
fn decision(text: String) -> String {
    if matches!(text.len(), 32 | 36) && uuid::Uuid::try_parse(&text).is_ok() { text } else { String::new() }
}

/// An id that a client may choose, joined with what it cannot choose, so that a client which repeats one is billed for
/// every call. None without an id.
fn joined(id: &str, own: impl FnOnce() -> String) -> Option<String> {
    (!id.is_empty()).then(|| format!("{}/{}", clipped(id.to_owned(), 256), own()))
}

/// A hash of the whole record, which no client can choose. The same for a dead letter, which is kept without secrets.
fn own_hash(record: &[u8]) -> String {
    hash_of(&masked(record, &[]))
}

/// A hash of a secret, as it is kept.
fn hashed(secret: &str) -> String {
    format!("sha256:{}", hex::encode(farebox_core::secret::hash(secret)))
}

/// A member that is a secret, as its hash; empty when not set. A dead letter has the hash already.
fn secret<P: FnOnce() -> String>(raw: &RawValue, pointer: P) -> Result<String, Rejection> {
    if let Some(hash) = masked_hash(raw.get()) {
        return Ok(format!("sha256:{hash}"));
    }
    let secret = said_whole(raw, pointer)?;
    Ok(if secret.is_empty() { secret } else { hashed(&secret) })
}

/// What looks like a secret is kept as its hash only.
fn without_secret(text: String) -> String {
    if farebox_core::secret::is_well_formed(&text) { hashed(&text) } else { text }
}

/// The true record of a format.
#[cfg(test)]
fn sample(name: &str) -> &'static str {
    SAMPLES.iter().find(|(n, _)| *n == name).map(|(_, sample)| str::trim_end(sample)).expect("there is a sample")
}

#[cfg(test)]
mod tests;
