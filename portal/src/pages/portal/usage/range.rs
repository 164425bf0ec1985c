//! What is looked at: whole days of the workspace's zone, and what they are compared with.

use chrono::{Duration, NaiveDate};
use farebox_core::period::{Period, local_date, start_of_day};
use serde::Deserialize;

use crate::context::Ctx;
use crate::{account, format};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    range: String,
    from: String,
    to: String,
    pub live: String,
    pub by: String,
}

/// What is looked at: whole days of the workspace's zone.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub name: &'static str,
    pub from: NaiveDate,
    pub until: NaiveDate,
    /// What it is compared with: right before, ending where the range begins.
    pub before: (NaiveDate, NaiveDate),
}

pub const RANGES: [(&str, &str); 5] =
    [("month", "This month"), ("last", "Last month"), ("7d", "Last 7 days"), ("30d", "Last 30 days"), ("custom", "Days below")];

impl Range {
    pub fn this_month(ctx: &Ctx) -> Self {
        Self::of(ctx, &Asked::default())
    }

    pub fn of(ctx: &Ctx, asked: &Asked) -> Self {
        let tz = ctx.tz();
        let today = local_date(ctx.now(), tz);
        let day = |at| local_date(at, tz);
        let month = account::month_of(ctx, ctx.now());
        let last = account::month_before(ctx, month);
        let back = |days: i64| {
            let from = today - Duration::days(days - 1);
            Self {
                name: if days == 7 { "7d" } else { "30d" },
                from,
                until: today + Duration::days(1),
                before: (from - Duration::days(days), from),
            }
        };
        let this = Self { name: "month", from: day(month.start), until: day(month.end), before: (day(last.start), day(last.end)) };
        match asked.range.as_str() {
            "last" => {
                let before = account::month_before(ctx, last);
                Self { name: "last", from: day(last.start), until: day(last.end), before: (day(before.start), day(before.end)) }
            }
            "7d" => back(7),
            "30d" => back(30),
            "custom" => match (asked.from.parse::<NaiveDate>(), asked.to.parse::<NaiveDate>()) {
                (Ok(from), Ok(to)) if from <= to && (to - from).num_days() < 400 => {
                    let until = to + Duration::days(1);
                    Self { name: "custom", from, until, before: (from - (until - from), from) }
                }
                _ => this,
            },
            _ => this,
        }
    }

    pub fn period(&self, ctx: &Ctx) -> Period {
        Period { start: start_of_day(self.from, ctx.tz()), end: start_of_day(self.until, ctx.tz()) }
    }

    /// From the beginning of what it is compared with to its end.
    pub fn compared(&self, ctx: &Ctx) -> Period {
        Period { start: start_of_day(self.before.0, ctx.tz()), end: start_of_day(self.until, ctx.tz()) }
    }

    pub fn words(&self) -> String {
        format::days(self.from, self.until)
    }

    pub fn before_words(&self) -> String {
        match self.name {
            "month" => "last month".into(),
            "last" => "the month before".into(),
            _ => format::days(self.before.0, self.before.1),
        }
    }

    pub fn query(&self) -> String {
        format!("range={}&from={}&to={}", self.name, self.from, self.until - Duration::days(1))
    }

    pub fn days(&self) -> impl Iterator<Item = NaiveDate> {
        self.from.iter_days().take_while(|day| *day < self.until)
    }
}
