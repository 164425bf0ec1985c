//! Numbers and steps as a person writes them.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::money::{BigDecimal, plain};
use farebox_core::period::Period;

/// `1234567.5` as `1,234,567.5`.
pub fn human(value: &BigDecimal) -> String {
    let text = plain(value);
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("−", digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut grouped = String::with_capacity(text.len() + whole.len() / 3);
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(|| format!("{sign}{grouped}"), |fraction| format!("{sign}{grouped}.{fraction}"))
}

pub fn join(steps: &[String]) -> String {
    steps.join("; ")
}

/// `1 Oct 2026 00:00 to 15 Oct 2026 14:30`, in local time; midnight is left out, the end being exclusive.
pub fn stretch(period: Period, zone: Tz) -> String {
    format!("{} to {}", instant(period.start, zone), instant(period.end, zone))
}

pub fn instant(at: DateTime<Utc>, zone: Tz) -> String {
    let local = at.with_timezone(&zone);
    let date = local.format("%-d %b %Y");
    if local.time() == chrono::NaiveTime::MIN { date.to_string() } else { format!("{date} {}", local.format("%H:%M")) }
}
