//! How numbers, amounts and times read on a page. The only place that turns them into text; integers and exact
//! decimals go in, and nothing is ever computed in floating point.

use bigdecimal::{BigDecimal, RoundingMode, Zero};
use chrono::{DateTime, Datelike, Duration, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::money::{Currency, Money, plain};

const MINUS: char = '\u{2212}';

/// `366204` -> `366,204`; `-7.5` -> `−7.5`. The digits are those given, neither rounded nor padded.
pub fn digits(plain: &str) -> String {
    let (sign, rest) = plain.strip_prefix('-').map_or((None, plain), |rest| (Some(MINUS), rest));
    let (whole, fraction) = rest.split_once('.').map_or((rest, None), |(w, f)| (w, Some(f)));
    let mut out = String::with_capacity(plain.len() + plain.len() / 3 + 3);
    out.extend(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// An exact quantity: `1234567.5` -> `1,234,567.5`.
pub fn quantity(value: &BigDecimal) -> String {
    digits(&plain(value))
}

pub fn count(value: impl Into<i128>) -> String {
    digits(&value.into().to_string())
}

/// `1 call`, `2 calls`, `1,204 calls`.
pub fn counted(value: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(value), if value == 1 { one } else { many })
}

/// What stands before an amount: `$`, or `CHF ` where signs would be mistaken.
pub fn currency_sign(currency: Currency) -> String {
    match currency.code() {
        "USD" => "$".into(),
        "EUR" => "€".into(),
        "GBP" => "£".into(),
        "JPY" => "¥".into(),
        code => format!("{code}\u{a0}"), // many currencies share a sign: the code is never mistaken
    }
}

fn with_symbol(plain: &str, currency: Currency) -> String {
    match plain.strip_prefix('-') {
        Some(positive) => format!("{MINUS}{}{}", currency_sign(currency), digits(positive)),
        None => format!("{}{}", currency_sign(currency), digits(plain)),
    }
}

/// `$149.00`, `−$7.45`, `¥1,200`, `CHF 12.50`: always all decimals of the currency.
pub fn money(amount: Money) -> String {
    with_symbol(&amount.to_string(), amount.currency)
}

/// Without decimals when they are zero, for prices in running text: `$49`, `$0.50`.
pub fn money_short(amount: Money) -> String {
    let full = money(amount);
    match full.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => whole.to_owned(),
        _ => full,
    }
}

/// A unit price, which may be finer than the currency's minor unit: `$0.0004`, `$49`.
pub fn unit_price(amount: &BigDecimal, currency: Currency) -> String {
    with_symbol(&plain(amount), currency)
}

/// `part / whole` in per cent with one decimal, half away from zero; `None` when the whole is zero.
pub fn percent(part: &BigDecimal, whole: &BigDecimal) -> Option<String> {
    percent_to(part, whole, 1)
}

/// As [`percent`], to whole per cents: for matrices and steps.
pub fn percent_whole(part: &BigDecimal, whole: &BigDecimal) -> Option<String> {
    percent_to(part, whole, 0)
}

fn percent_to(part: &BigDecimal, whole: &BigDecimal, decimals: i64) -> Option<String> {
    if whole.is_zero() {
        return None;
    }
    let share = (part * BigDecimal::from(100) / whole).with_scale_round(decimals, RoundingMode::HalfUp);
    Some(format!("{}\u{a0}%", digits(&plain(&share))))
}

/// `+5.4 %` or `−3.0 %` from `before` to `now`; `None` when there is nothing to compare with.
pub fn change(now: &BigDecimal, before: &BigDecimal) -> Option<String> {
    let difference = now - before;
    let text = percent(&difference, before)?;
    Some(if difference > BigDecimal::zero() { format!("+{text}") } else { text })
}

/// The style sheet's class for a share of `whole`, in half per cents: `v54`, `v54_5`. Held within 0 and 100.
pub fn share_class(part: &BigDecimal, whole: &BigDecimal) -> String {
    if whole.is_zero() {
        return "v0".into();
    }
    let halves = (part * BigDecimal::from(200) / whole).with_scale_round(0, RoundingMode::HalfUp);
    let halves: i32 = halves.to_plain_string().parse().unwrap_or(if part > whole { 200 } else { 0 });
    let halves = halves.clamp(0, 200);
    format!("v{}{}", halves / 2, if halves % 2 == 1 { "_5" } else { "" })
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

fn month_name(date: NaiveDate) -> &'static str {
    MONTHS[date.month0() as usize % 12]
}

/// `1 Dec 2026`.
pub fn date(day: NaiveDate) -> String {
    format!("{} {}", day_month(day), day.year())
}

/// `1 Dec`.
pub fn day_month(day: NaiveDate) -> String {
    format!("{} {}", day.day(), &month_name(day)[..3])
}

/// `Wednesday 18 November 2026`.
pub fn date_long(day: NaiveDate) -> String {
    format!("{} {} {} {}", day.format("%A"), day.day(), month_name(day), day.year())
}

/// `November 2026`.
pub fn month(day: NaiveDate) -> String {
    format!("{} {}", month_name(day), day.year())
}

/// `UTC`, `CET`; a zone without a name of its own is shown as its offset.
pub fn zone(at: DateTime<Utc>, tz: Tz) -> String {
    let name = at.with_timezone(&tz).format("%Z").to_string();
    if name.starts_with(['+', '-']) { format!("UTC{name}") } else { name }
}

/// `2 Nov 2026, 09:22 UTC`.
pub fn instant(at: DateTime<Utc>, tz: Tz) -> String {
    let local = at.with_timezone(&tz);
    format!("{}, {} {}", date(local.date_naive()), local.format("%H:%M"), zone(at, tz))
}

/// `14:20 UTC`.
pub fn clock(at: DateTime<Utc>, tz: Tz) -> String {
    format!("{} {}", at.with_timezone(&tz).format("%H:%M"), zone(at, tz))
}

/// `14:20:07.412`, for a log whose heading names day and zone.
pub fn clock_millis(at: DateTime<Utc>, tz: Tz) -> String {
    at.with_timezone(&tz).format("%H:%M:%S%.3f").to_string()
}

/// `4 seconds ago`, `2 hours ago`, `3 days ago`; a time ahead reads `in ...`.
pub fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let distance = now - at;
    if distance.abs() < Duration::seconds(1) {
        return "just now".into();
    }
    if distance < Duration::zero() { format!("in {}", span(-distance)) } else { format!("{} ago", span(distance)) }
}

/// The largest whole unit: `1 minute`, `12 days`.
pub fn span(length: Duration) -> String {
    let seconds = length.num_seconds();
    let (value, one, many) = match seconds {
        ..60 => (seconds, "second", "seconds"),
        60..3600 => (length.num_minutes(), "minute", "minutes"),
        3600..86_400 => (length.num_hours(), "hour", "hours"),
        _ => (length.num_days(), "day", "days"),
    };
    counted(value, one, many)
}

/// Short for tables: `350 ms`, `41 s`, `2 min`, `3 h`, `5 days`.
pub fn lag(length: Duration) -> String {
    match length.num_milliseconds() {
        i64::MIN..1000 => format!("{} ms", length.num_milliseconds().max(0)),
        1000..60_000 => format!("{} s", length.num_seconds()),
        60_000..3_600_000 => format!("{} min", length.num_minutes()),
        3_600_000..86_400_000 => format!("{} h", length.num_hours()),
        _ => span(length),
    }
}

/// Microseconds as a reader wants them: `0.4 ms`, `41 ms`, `1.25 s`.
pub fn took(micros: u64) -> String {
    match micros {
        0..1_000 => format!("0.{} ms", micros / 100),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

/// A half-open stretch of days as people say it: `October 2026`, `1 to 18 November 2026`, `28 Oct to 3 Nov 2026`.
pub fn days(from: NaiveDate, until: NaiveDate) -> String {
    let last = until.pred_opt().filter(|last| *last >= from).unwrap_or(from);
    if last == from {
        return date(from);
    }
    if (from.year(), from.month()) == (last.year(), last.month()) {
        if from.day() == 1 && until.day() == 1 {
            return month(from);
        }
        return format!("{} to {} {}", from.day(), last.day(), month(from));
    }
    if from.year() == last.year() {
        return format!("{} to {}", day_month(from), date(last));
    }
    format!("{} to {}", date(from), date(last))
}

/// A half-open period in a zone, by its days where both ends are midnights, else to the minute.
pub fn period(from: DateTime<Utc>, until: DateTime<Utc>, tz: Tz) -> String {
    let (start, end) = (from.with_timezone(&tz).naive_local(), until.with_timezone(&tz).naive_local());
    let midnight = chrono::NaiveTime::MIN;
    if start.time() == midnight && end.time() == midnight {
        return days(start.date(), end.date());
    }
    format!("{} to {}", instant(from, tz), instant(until, tz))
}

/// `sha256:9f2c41d0...` is long: the beginning and the end, as keys are shown.
pub fn abbreviated(text: &str, head: usize, tail: usize) -> String {
    let length = text.chars().count();
    if length <= head + tail + 1 {
        return text.to_owned();
    }
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    fn dec(text: &str) -> BigDecimal {
        text.parse().expect("a decimal")
    }

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn quantities_keep_every_digit() {
        for (given, shown) in [
            ("0", "0"),
            ("999", "999"),
            ("1000", "1,000"),
            ("1234567.5", "1,234,567.5"),
            ("-12480", "−12,480"),
            ("123456789012345678901234567890", "123,456,789,012,345,678,901,234,567,890"),
            ("0.000000000001", "0.000000000001"),
        ] {
            assert_eq!(quantity(&dec(given)), shown);
        }
    }

    #[test]
    fn money_shows_the_currencys_own_decimals() {
        let show = |minor, code: &str| money(Money::new(minor, code.parse().expect("known")));
        assert_eq!(show(14_900, "USD"), "$149.00");
        assert_eq!(show(-745, "USD"), "−$7.45");
        assert_eq!(show(1_234_567, "EUR"), "€12,345.67");
        assert_eq!(show(1_200, "JPY"), "¥1,200");
        assert_eq!(show(12_500, "KWD"), "KWD\u{a0}12.500");
        assert_eq!(money_short(Money::new(4_900, "USD".parse().expect("known"))), "$49");
        assert_eq!(money_short(Money::new(50, "USD".parse().expect("known"))), "$0.50");
        assert_eq!(unit_price(&dec("0.00040"), "USD".parse().expect("known")), "$0.0004");
    }

    #[test]
    fn shares_are_exact_and_bounded() {
        assert_eq!(percent(&dec("133796"), &dec("500000")).as_deref(), Some("26.8\u{a0}%"));
        assert_eq!(percent(&dec("1"), &dec("1")).as_deref(), Some("100\u{a0}%"));
        assert_eq!(percent(&dec("1"), &dec("0")), None);
        assert_eq!(percent_whole(&dec("25"), &dec("41")).as_deref(), Some("61\u{a0}%"));
        assert_eq!(change(&dec("105.4"), &dec("100")).as_deref(), Some("+5.4\u{a0}%"));
        assert_eq!(change(&dec("82"), &dec("100")).as_deref(), Some("−18\u{a0}%"));
        assert_eq!(share_class(&dec("54.25"), &dec("100")), "v54_5");
        assert_eq!(share_class(&dec("600000"), &dec("500000")), "v100");
        assert_eq!(share_class(&dec("-1"), &dec("3")), "v0");
        assert_eq!(share_class(&dec("1"), &dec("0")), "v0");
    }

    #[test]
    fn half_open_days_read_inclusively() {
        for (from, until, shown) in [
            ("2026-10-01", "2026-11-01", "October 2026"),
            ("2026-12-01", "2027-01-01", "December 2026"),
            ("2026-11-01", "2026-11-19", "1 to 18 November 2026"),
            ("2026-10-28", "2026-11-04", "28 Oct to 3 Nov 2026"),
            ("2026-11-18", "2026-11-19", "18 Nov 2026"),
            ("2026-12-28", "2027-01-04", "28 Dec 2026 to 3 Jan 2027"),
            ("2026-01-01", "2027-01-01", "1 Jan to 31 Dec 2026"),
        ] {
            assert_eq!(days(day(from), day(until)), shown);
        }
    }

    #[test]
    fn times_are_in_the_workspaces_zone_across_its_clock_changes() {
        let berlin = chrono_tz::Europe::Berlin;
        let winter = Utc.with_ymd_and_hms(2026, 11, 2, 9, 22, 0).single().expect("a time");
        let summer = Utc.with_ymd_and_hms(2026, 7, 2, 22, 30, 0).single().expect("a time");
        assert_eq!(instant(winter, berlin), "2 Nov 2026, 10:22 CET");
        assert_eq!(instant(summer, berlin), "3 Jul 2026, 00:30 CEST");
        assert_eq!(instant(winter, Tz::UTC), "2 Nov 2026, 09:22 UTC");
        let october = (
            Utc.with_ymd_and_hms(2026, 9, 30, 22, 0, 0).single().expect("a time"),
            Utc.with_ymd_and_hms(2026, 10, 31, 23, 0, 0).single().expect("a time"),
        );
        assert_eq!(period(october.0, october.1, berlin), "October 2026");
    }

    #[test]
    fn distances_read_in_their_largest_unit() {
        let now = Utc.with_ymd_and_hms(2026, 11, 18, 14, 20, 0).single().expect("a time");
        assert_eq!(relative(now - Duration::seconds(4), now), "4 seconds ago");
        assert_eq!(relative(now - Duration::seconds(61), now), "1 minute ago");
        assert_eq!(relative(now + Duration::days(12), now), "in 12 days");
        assert_eq!(relative(now + Duration::milliseconds(300), now), "just now");
        assert_eq!(relative(now, now), "just now");
        assert_eq!((took(412), took(41_300), took(1_254_000)), ("0.4 ms".into(), "41 ms".into(), "1.25 s".into()));
        assert_eq!((lag(Duration::milliseconds(350)), lag(Duration::seconds(90))), ("350 ms".into(), "1 min".into()));
        assert_eq!(abbreviated("sky_live_8Qz11111141Kd", 12, 4), "sky_live_8Qz…41Kd");
    }
}
