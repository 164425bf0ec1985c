//! Which stretch of whose books a report is about.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::money::Currency;
use farebox_core::period::{Period, start_of_day};
use farebox_core::problem::{FieldError, Problem};
use farebox_core::workspace::Workspace;
use serde::{Deserialize, Serialize};

use super::{Codes, Format};
use crate::BillingError;

/// What places an invoice in a period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// When it was issued: its date in the books.
    #[default]
    Issued,
    /// When the period it bills began.
    Period,
}

#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// csv (default), parquet or xlsx.
    pub format: Option<String>,
    /// From here, inclusive: a day (2026-10-01) or month (2026-10) of the workspace's calendar, or an RFC 3339 instant.
    pub from: String,
    /// To here, exclusive.
    pub to: String,
    #[serde(default)]
    pub by: By,
}

#[derive(Debug, Clone)]
pub struct Scope {
    pub workspace: Workspace,
    pub period: Period,
    pub by: By,
    pub codes: Codes,
}

impl Params {
    pub fn resolve(&self, workspace: Workspace) -> Result<(Scope, Format), Problem> {
        let mut errors = Vec::new();
        let format = Format::parse(self.format.as_deref().unwrap_or("csv"));
        if format.is_none() {
            errors.push(FieldError::new("format", "must be csv, parquet or xlsx"));
        }
        let mut instant = |name: &str, text: &str| {
            let found = instant(text, workspace.time_zone);
            if found.is_none() {
                errors.push(FieldError::new(name, "must be a day (2026-10-01), a month (2026-10) or an RFC 3339 instant"));
            }
            found
        };
        let (from, to) = (instant("from", &self.from), instant("to", &self.to));
        if let (Some(from), Some(to)) = (from, to)
            && to <= from
        {
            errors.push(FieldError::new("to", "must be after `from`; it is exclusive, so October is from=2026-10&to=2026-11"));
        }
        match (format, from, to) {
            (Some(format), Some(start), Some(end)) if errors.is_empty() => {
                Ok((Scope { workspace, period: Period { start, end }, by: self.by, codes: Codes::default() }, format))
            }
            _ => Err(Problem::invalid(errors)),
        }
    }
}

fn instant(text: &str, zone: Tz) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.with_timezone(&Utc));
    }
    let date =
        NaiveDate::parse_from_str(text, "%Y-%m-%d").or_else(|_| NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d")).ok()?;
    // Far enough for every invoice, and no date arithmetic overflows.
    let sane = NaiveDate::from_ymd_opt(1970, 1, 1)? <= date && date <= NaiveDate::from_ymd_opt(9999, 12, 31)?;
    sane.then(|| start_of_day(date, zone))
}

impl Scope {
    pub(super) fn by_period(&self) -> bool {
        self.by == By::Period
    }

    pub(super) fn date(&self, at: DateTime<Utc>) -> NaiveDate {
        farebox_core::period::local_date(at, self.workspace.time_zone)
    }

    /// The days of a report on the ledger, whose entries have no time: [first, next).
    pub(super) fn days(&self) -> (NaiveDate, NaiveDate) {
        (self.date(self.period.start), self.date(self.period.end))
    }

    /// `invoices-2026-10-01-2026-11-01`: the dates of the workspace's calendar.
    pub(super) fn file_name(&self, report: &str) -> String {
        format!("{report}-{}-{}", self.date(self.period.start), self.date(self.period.end))
    }
}

pub(super) fn currency(code: &str) -> Result<Currency, BillingError> {
    code.parse().map_err(|e| BillingError::unreadable("an invoice", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_begin_at_the_workspaces_midnight() {
        let berlin = chrono_tz::Europe::Berlin;
        let at = |text: &str| instant(text, berlin).map(|at| at.to_rfc3339());
        assert_eq!(at("2026-10-01").as_deref(), Some("2026-09-30T22:00:00+00:00"));
        assert_eq!(at("2026-11").as_deref(), Some("2026-10-31T23:00:00+00:00"));
        assert_eq!(at("2026-10-01T00:00:00Z").as_deref(), Some("2026-10-01T00:00:00+00:00"));
        for bad in ["", "2026", "yesterday", "2026-13", "2026-02-30", "0000-01", "2026-10-01 "] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
