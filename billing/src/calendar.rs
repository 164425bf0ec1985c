//! Billing periods: calendar months in the workspace's zone.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::period::{Period, Window, month, window_of};

use crate::BillingError;

/// The billing period that `instant` falls into.
pub fn period_of(instant: DateTime<Utc>, zone: Tz) -> Result<Period, BillingError> {
    window_of(instant, Window::Month, zone).ok_or_else(|| BillingError::invalid("period", "is beyond the calendar"))
}

/// `2026-10`, in `zone`.
pub fn parse(text: &str, zone: Tz) -> Result<Period, BillingError> {
    let wrong = || BillingError::invalid("/period", "is a month such as 2026-10");
    let (year, number) = text.split_once('-').ok_or_else(wrong)?;
    let (year, number) = (year.parse().map_err(|_| wrong())?, number.parse().map_err(|_| wrong())?);
    month(year, number, zone).ok_or_else(wrong)
}

/// As a person writes it: `2026-10`.
pub fn name(period: Period, zone: Tz) -> String {
    period.start.with_timezone(&zone).format("%Y-%m").to_string()
}
