//! Decisions set against events, by gateway and hour: two counts made apart from each other.

use axum::extract::State;
use axum::response::Response;
use chrono::Duration;
use farebox_access::reconcile::{self, Hour};
use farebox_core::clock;
use farebox_core::period::{Period, local_date};

use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Badge, Cell, Column, Equation, Table, Term, Tone};
use crate::{Portal, csv, format};

/// How far back it looks.
const HOURS: i64 = 24;
/// Rows shown; the file has them all.
const SHOWN: usize = 24;

/// Hours of gateways that ask before a call, the newest first.
pub struct Witnesses(Vec<Hour>);

pub async fn witnesses(portal: &Portal, ctx: &Ctx) -> Result<Witnesses, Failure> {
    let now = clock::now();
    let period = Period { start: now - Duration::hours(HOURS), end: now + Duration::minutes(1) };
    let mut hours = reconcile::hours(&portal.app, &ctx.workspace.id, period).await?;
    // A source that never asks has nothing to compare.
    hours.retain(|hour| hour.decisions > 0 || hour.events > 0);
    hours.reverse();
    Ok(Witnesses(hours))
}

fn gap(hour: &Hour) -> i128 {
    i128::from(hour.decisions) - i128::from(hour.events)
}

impl Witnesses {
    fn over(&self) -> impl Iterator<Item = &Hour> {
        self.0.iter().filter(|hour| hour.complete)
    }

    pub fn verdict(&self) -> Badge {
        match self.over().filter(|hour| gap(hour) != 0).count() {
            _ if self.over().next().is_none() => Badge::plain("Nothing to compare yet"),
            0 => Badge::plain("No gap"),
            n => Badge::new(Tone::Bad, format!("{} with a gap", format::counted(i64::try_from(n).unwrap_or(i64::MAX), "hour", "hours"))),
        }
    }

    pub fn equation(&self) -> Equation {
        let sum = |of: fn(&Hour) -> u64| self.over().map(of).sum::<u64>();
        let (decisions, events) = (sum(|hour| hour.decisions), sum(|hour| hour.events));
        Equation {
            terms: vec![
                Term::new("", "Decisions", format::count(decisions), "counted by what gateways ask before a call"),
                Term::new("=", "Events with a decision", format::count(events), "told by the same gateways after it"),
            ],
            difference: Some(Term::new("", "Difference", format::count(i128::from(decisions) - i128::from(events)), "in whole hours")),
        }
    }

    pub fn table(&self, ctx: &Ctx) -> Table {
        let columns = vec![
            Column::text("Hour"),
            Column::text("Gateway"),
            Column::number("Decisions"),
            Column::number("Events"),
            Column::number("Gap"),
            Column::number("Not asked for"),
            Column::text("State"),
        ];
        // Gaps are never cut off.
        let shown = self.0.iter().enumerate().filter(|(n, hour)| *n < SHOWN || (hour.complete && gap(hour) != 0));
        let may_bill = ctx.may_open("/console/pipeline/gap");
        Table::new("Decisions and events by gateway and hour", columns).dense().rows(shown.map(|(_, hour)| {
            vec![
                Cell::text(format!("{} {}", format::day_month(local_date(hour.hour, ctx.tz())), format::clock(hour.hour, ctx.tz()))),
                Cell::text(&hour.source),
                Cell::text(format::count(hour.decisions)),
                Cell::text(format::count(hour.events)),
                gap_cell(hour, may_bill),
                Cell::text(format::count(hour.undecided)),
                state(hour).into(),
            ]
        }))
    }
}

/// Who may bill it looks into it from here.
fn gap_cell(hour: &Hour, may_bill: bool) -> Cell {
    let number = format::count(gap(hour));
    let cell = if may_bill && hour.missing > 0 && hour.complete {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("source", &hour.source).append_pair("hour", &hour.hour.to_rfc3339());
        Cell::link(number, format!("/console/pipeline/gap?{}", query.finish()))
    } else {
        Cell::text(number)
    };
    match hour.billed_from_decisions {
        0 => cell,
        n => cell.sub(format!("{} billed from decisions", format::count(n))),
    }
}

fn state(hour: &Hour) -> Badge {
    match gap(hour) {
        _ if !hour.complete => Badge::plain("Not finished"),
        0 => Badge::plain("No gap"),
        gap if gap > 0 => Badge::new(Tone::Bad, format!("{} not told of", format::count(gap))),
        gap => Badge::new(Tone::Bad, format!("{} not counted", format::count(-gap))),
    }
}

/// `GET /console/pipeline/decisions.csv`
pub async fn witnesses_file(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let found = witnesses(&portal, &ctx).await?;
    let rows = found.0.iter().map(|hour| {
        let numbers = [hour.decisions, hour.events].map(|n| n.to_string());
        let [decisions, events] = numbers;
        let at = hour.hour.to_rfc3339();
        vec![at, hour.source.clone(), decisions, events, gap(hour).to_string(), hour.undecided.to_string(), hour.complete.to_string()]
    });
    Ok(csv::file("decisions", &["hour", "gateway", "decisions", "events", "gap", "not_asked_for", "finished"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn hour(n: i64, decisions: u64, events: u64, complete: bool) -> Hour {
        let (missing, uncounted) = (decisions.saturating_sub(events), events.saturating_sub(decisions));
        let hour = DateTime::UNIX_EPOCH + Duration::hours(n);
        Hour { source: "edge".into(), hour, decisions, events, missing, billed_from_decisions: 0, uncounted, undecided: 0, complete }
    }

    #[test]
    fn a_gap_is_told_by_its_number_and_the_running_hour_is_not_compared() {
        let agrees = Witnesses(vec![hour(3, 7, 5, false), hour(2, 4, 4, true)]);
        assert_eq!(agrees.verdict().text, "No gap");
        assert_eq!(agrees.equation().terms[0].value, "4");
        let differs = Witnesses(vec![hour(2, 4, 1, true), hour(1, 1, 2, true)]);
        assert_eq!(differs.verdict().text, "2 hours with a gap");
        assert_eq!(state(&differs.0[0]).text, "3 not told of");
        assert_eq!(state(&differs.0[1]).text, "1 not counted");
        assert_eq!(Witnesses(vec![hour(3, 1, 1, false)]).verdict().text, "Nothing to compare yet");
    }
}
