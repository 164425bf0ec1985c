//! Query parameters, read by hand so that every wrong one is named at once: unknown, repeated or unreadable.

use std::fmt::Display;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use farebox_core::problem::FieldError;

use crate::action::CallFilter;
use crate::calendar::{Interval, WeekStart};
use crate::error::KpiError;
use crate::kpis::{Common, Moment, Unit};

/// The longest window or range of intervals that is taken: three years.
const MAX_WINDOW_DAYS: i64 = 1096;

pub struct Query {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl Query {
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Self { left: pairs, known: Vec::new(), errors: Vec::new() }
    }

    /// Takes a parameter out and reads it. A wrong value is noted, and None returned.
    pub fn read<T, E: Display>(&mut self, name: &'static str, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        self.known.push(name);
        let given: Vec<_> = self.left.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect();
        match given.as_slice() {
            [] => None,
            [value] => match read(value) {
                Ok(value) => Some(value),
                Err(error) => {
                    self.errors.push(FieldError::new(name, error.to_string()));
                    None
                }
            },
            _ => {
                self.errors.push(FieldError::new(name, "is given more than once"));
                None
            }
        }
    }

    /// A parameter with a closed list of values.
    pub fn choose<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.read(name, |text| {
            let found = choices.iter().find(|(choice, _)| *choice == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
                format!("`{text}` is not one of {}", names.join(", "))
            })
        })
    }

    pub fn number(&mut self, name: &'static str, least: i64, most: i64) -> Option<i64> {
        self.read(name, |text| match text.parse::<i64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(format!("`{text}` is not a whole number from {least} to {most}")),
        })
    }

    pub fn moment(&mut self, name: &'static str) -> Option<Moment> {
        self.read(name, moment)
    }

    /// `from`, `to`, `interval`, `time_zone`, `week_start`, `unit`, `filter[...]`.
    pub fn common(&mut self) -> Common {
        let from = self.read("from", moment);
        let to = self.read("to", moment);
        let interval = self.choose("interval", &[("day", Interval::Day), ("week", Interval::Week), ("month", Interval::Month)]);
        let time_zone = self.read("time_zone", |text| {
            text.parse().map_err(|_| format!("`{text}` is not a time zone of the IANA database, such as Europe/Berlin"))
        });
        let week_start = self.choose("week_start", &[("monday", WeekStart::Monday), ("sunday", WeekStart::Sunday)]);
        let unit = self.choose("unit", &[("consumer", Unit::Consumer), ("credential", Unit::Credential)]);
        let filter = self.filters();
        Common { from, to, interval, time_zone, week_start: week_start.unwrap_or_default(), unit: unit.unwrap_or_default(), filter }
    }

    fn filters(&mut self) -> CallFilter {
        let mut filter = CallFilter::default();
        self.known.extend(["filter[api]", "filter[version]", "filter[route]"]);
        let given: Vec<_> = self.left.extract_if(.., |(key, _)| key.starts_with("filter[") && key.ends_with(']')).collect();
        for (key, value) in given {
            if let Err(detail) = filter.set(&key["filter[".len()..key.len() - 1], &value) {
                self.errors.push(FieldError::new(key, detail));
            }
        }
        filter
    }

    /// What is left over is unknown. Err names everything that is wrong.
    pub fn finish(mut self, kpi: &str) -> Result<(), KpiError> {
        for (name, _) in std::mem::take(&mut self.left) {
            let detail = format!("is not a parameter of {kpi}, which takes {}", self.known.join(", "));
            self.errors.push(FieldError::new(name, detail));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(KpiError::Invalid(self.errors)) }
    }
}

/// `2026-06-10` (midnight in the time zone asked for) or an RFC 3339 instant.
fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(date) = NaiveDate::from_str(text) {
        return Ok(Moment::Date(date));
    }
    DateTime::parse_from_rfc3339(text)
        .map(|at| Moment::Instant(at.with_timezone(&Utc)))
        .map_err(|_| format!("`{text}` is neither a date such as 2026-06-10 nor a time such as 2026-06-10T00:00:00Z"))
}

/// `14d`, `36h`, `2w`.
pub fn window(text: &str) -> Result<TimeDelta, String> {
    let wrong = || format!("`{text}` is not a length of time such as 36h, 14d or 2w, of at most {MAX_WINDOW_DAYS}d");
    let split = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let length = match unit {
        "h" => TimeDelta::try_hours(number.into()),
        "d" => TimeDelta::try_days(number.into()),
        "w" => TimeDelta::try_weeks(number.into()),
        _ => None,
    };
    length.filter(|length| TimeDelta::zero() < *length && *length <= TimeDelta::days(MAX_WINDOW_DAYS)).ok_or_else(wrong)
}

/// A window as it is written in parameters.
pub fn window_text(window: TimeDelta) -> String {
    if window == TimeDelta::days(window.num_days()) { format!("{}d", window.num_days()) } else { format!("{}h", window.num_hours()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: &[(&str, &str)]) -> Query {
        Query::new(of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let mut query = pairs(&[
            ("from", "yesterday"),
            ("interval", "year"),
            ("time_zone", "Mars/Olympus"),
            ("filter[plan]", "x"),
            ("unit", "consumer"),
            ("unit", "consumer"),
            ("periods", "0"),
            ("colour", "red"),
        ]);
        query.common();
        query.number("periods", 1, 400);
        let Err(KpiError::Invalid(errors)) = query.finish("retention") else { panic!("nothing was found wrong") };
        let text: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.pointer, e.detail)).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        from: `yesterday` is neither a date such as 2026-06-10 nor a time such as 2026-06-10T00:00:00Z
        interval: `year` is not one of day, week, month
        time_zone: `Mars/Olympus` is not a time zone of the IANA database, such as Europe/Berlin
        unit: is given more than once
        filter[plan]: `plan` cannot be filtered by; it must be one of api, version, route
        periods: `0` is not a whole number from 1 to 400
        colour: is not a parameter of retention, which takes from, to, interval, time_zone, week_start, unit, filter[api], filter[version], filter[route], periods
        ");
    }

    #[test]
    fn windows_read_as_they_are_written() {
        for text in ["14d", "36h", "1096d"] {
            assert_eq!(window(text).map(window_text).as_deref(), Ok(text));
        }
        assert_eq!(window("2w"), Ok(TimeDelta::days(14)));
        for bad in ["", "d", "0d", "-1d", "14", "14 d", "1097d", "99999999999d", "14é"] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }
}
