//! How far events have come, for the pipeline page and the overview.

use chrono::Duration;
use farebox_billing::stripe::settings;
use farebox_core::clock;
use farebox_metering::{pipeline, stored};

use crate::context::Ctx;
use crate::failure::Failure;
use crate::view::{Badge, Cell, Column, Equation, Table, Term, Tone};
use crate::{Portal, format};

/// A consumer group this far behind for a moment is ordinary.
const LAG: i64 = 50_000;

pub struct State {
    pub status: pipeline::PipelineStatus,
    /// Counted one by one.
    pub stored: u64,
}

pub async fn state(portal: &Portal, ctx: &Ctx) -> Result<State, Failure> {
    let (app, workspace) = (&portal.app, &ctx.workspace.id);
    let status = pipeline::status(app, workspace).await?;
    let stored = stored::before(app, workspace, status.until).await?;
    Ok(State { status, stored })
}

/// What came in, what is stored, what is counted, and whether they agree.
pub struct Agreement {
    pub verdict: Badge,
    pub equation: Equation,
    pub agrees: bool,
}

/// What is stored, each once, is what usage counts. Two ways to the same number, from the rows themselves
/// and from the rollups.
pub fn agreement(state: &State) -> Agreement {
    let State { status, stored } = state;
    let difference = i128::from(*stored) - i128::from(status.counted);
    let waiting = status.partitions.as_ref().map_or(0, |all| all.iter().map(|p| p.lag).sum::<i64>());
    let equation = Equation {
        terms: vec![
            Term::new("", "Stored, each once", format::count(*stored), "counted one by one"),
            Term::new("=", "Counted in usage", format::count(status.counted), "from rollups and what is not yet in them"),
        ],
        difference: Some(Term::new(
            "",
            "Difference",
            format::count(difference),
            if waiting > 0 { format!("{} on their way", format::count(waiting)) } else { String::new() },
        )),
    };
    let agrees = difference == 0;
    let verdict = if agrees { Badge::new(Tone::Ok, "Agrees to the last event") } else { Badge::new(Tone::Bad, "Does not agree") };
    Agreement { verdict, equation, agrees }
}

/// What the equation is about.
pub fn up_to(status: &pipeline::PipelineStatus, tz: chrono_tz::Tz) -> String {
    format!("Every event before {}; what happens now is still on its way. A copy is stored once.", format::instant(status.until, tz))
}

/// From a gateway to an invoice, with what waits where.
pub fn stages(state: &State, stripe: &settings::Status) -> (Table, String) {
    let (now, status) = (clock::now(), &state.status);
    let badge = |slow: bool, what: &str| if slow { Badge::new(Tone::Warn, what) } else { Badge::plain("Normal") };
    let delivering = status.sources.iter().filter(|s| now - s.received < Duration::minutes(15)).count();
    let lag: Option<i64> = status.partitions.as_ref().map(|all| all.iter().map(|p| p.lag).sum());
    let newest = status.sources.iter().map(|s| s.received).max();
    let dirty = i64::try_from(status.dirty_minutes).unwrap_or(i64::MAX);
    let row = |stage: &str, what: String, state: Badge| vec![Cell::text(stage), Cell::text(what), state.into()];
    let rows = vec![
        row(
            "Gateways",
            newest.map_or_else(|| "nothing yet".into(), |at| format!("last event {}", format::relative(at, now))),
            Badge::plain(format!("{delivering} of {} delivering", status.sources.len())),
        ),
        row(
            "Log (Kafka)",
            lag.map_or_else(|| "not reachable".into(), |lag| format!("{} waiting", format::count(lag))),
            match lag {
                None => Badge::new(Tone::Bad, "Away"),
                Some(lag) => badge(lag > LAG, "Behind"),
            },
        ),
        row("Counting", format!("{} not yet in rollups", format::counted(dirty, "minute", "minutes")), badge(dirty > 600, "Behind")),
        row(
            "Stripe",
            format!("{} on the way", format::counted(stripe.invoices.queued, "invoice", "invoices")),
            if stripe.invoices.blocked > 0 {
                Badge::new(Tone::Bad, format!("{} held back", stripe.invoices.blocked))
            } else {
                Badge::plain(if stripe.configured { "Normal" } else { "Not set up" })
            },
        ),
    ];
    let note = if dirty > 0 {
        "Minutes that are not yet in rollups are read from their events: usage is exact meanwhile."
    } else {
        "Everything that arrived is counted."
    };
    (
        Table::new("Stages", vec![Column::text("Stage"), Column::text("What waits"), Column::text("State")]).dense().rows(rows),
        note.to_owned(),
    )
}
