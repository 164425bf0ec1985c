//! Times as gateways write them.

use chrono::{DateTime, Utc};

use crate::fields::Log;
use crate::verdict::{Reason, Rejection};

/// Before this a number of milliseconds is one of seconds: 1970-01-12 in milliseconds, 1 January 2001 in seconds.
pub const LEAST: i64 = 978_307_200;

/// A time as a number of a unit that is ten to the `-power` seconds: 0 for seconds, 3 for milliseconds. A fraction is
/// read exactly. None when not set.
pub fn epoch(log: &impl Log, key: &str, power: i64) -> Result<Option<DateTime<Utc>>, Rejection> {
    at_least(log.amount(key, 6 - power)?, || log.place(key))
}

/// Microseconds since 1970. What is too small for its unit is told, because a unit taken for another would put a call
/// into another period.
pub fn at_least(us: Option<u64>, place: impl FnOnce() -> String) -> Result<Option<DateTime<Utc>>, Rejection> {
    let Some(us) = us else { return Ok(None) };
    match i64::try_from(us).ok().and_then(DateTime::from_timestamp_micros) {
        Some(time) if time.timestamp() >= LEAST => Ok(Some(time)),
        _ => {
            let at = place();
            Err(Rejection::new(
                Reason::InvalidTime,
                &at,
                format!("{at} is not a time since 2001 in the unit that is expected. Check its unit."),
            ))
        }
    }
}

/// RFC 3339, such as `2026-11-21T13:40:35.123Z`, and ISO 8601 with an offset without a colon.
pub fn iso(text: &str, place: impl FnOnce() -> String) -> Result<DateTime<Utc>, Rejection> {
    let parsed = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"));
    parsed.map(|time| time.with_timezone(&Utc)).map_err(|_| {
        let at = place();
        Rejection::new(Reason::InvalidTime, &at, format!("{at} must be RFC 3339 with a time zone, such as 2026-11-21T13:40:35.123Z."))
    })
}

/// The common log format's, such as `21/Nov/2026:13:40:35 +0100`, in brackets or not.
pub fn clf(text: &str, place: impl FnOnce() -> String) -> Result<DateTime<Utc>, Rejection> {
    let text = text.trim_start_matches('[').trim_end_matches(']');
    DateTime::parse_from_str(text, "%d/%b/%Y:%H:%M:%S %z").map(|time| time.with_timezone(&Utc)).map_err(|_| {
        let at = place();
        Rejection::new(Reason::InvalidTime, &at, format!("{at} must be written as 21/Nov/2026:13:40:35 +0100."))
    })
}

/// Either a number of milliseconds or RFC 3339, for gateways that write one or the other by version.
pub fn iso_or_millis(log: &impl Log, key: &str) -> Result<Option<DateTime<Utc>>, Rejection> {
    let text = log.said(key)?;
    if text.is_empty() {
        return Ok(None);
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return epoch(log, key, 3);
    }
    iso(&text, || log.place(key)).map(Some)
}
