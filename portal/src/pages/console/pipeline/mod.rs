//! From the gateways to what is counted: does everything run, and does it agree.

pub mod gap;
mod sources;
mod state;
mod witnesses;

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Duration, Utc};
use farebox_billing::stripe::settings;
use farebox_core::clock;
use farebox_core::period::Period;
use farebox_core::readiness::{Answer, Readiness};
use farebox_ingest::{dead_letters, tally};
use farebox_metering::sources as registered;

pub use state::{agreement, stages, state, up_to};
pub use witnesses::witnesses_file;

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Badge, Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Equation, Facts, Note, Shell, Table, Tone};
use crate::{Portal, format};

#[derive(Debug, Clone, Template)]
#[template(path = "console/pipeline.html")]
pub struct PipelinePage {
    pub shell: Shell,
    pub subtitle: String,
    pub verdict: Badge,
    pub note: Option<Note>,
    pub equation: Equation,
    pub verdicts: Chart,
    pub stages: Table,
    pub sources: Table,
    pub engines: Table,
    pub complete: Facts,
    pub witnesses: Option<Part>,
    pub dead_letters: Table,
    pub dead_count: String,
    /// Whether the reader may look into them.
    pub may_open: bool,
}

/// Decisions against events, where any decisions were asked for.
#[derive(Debug, Clone)]
pub struct Part {
    pub verdict: Badge,
    pub equation: Equation,
    pub table: Table,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let (app, workspace, tz) = (&portal.app, &ctx.workspace.id, ctx.tz());
    let now = clock::now();
    let always = Period { start: DateTime::<Utc>::UNIX_EPOCH, end: now + Duration::minutes(1) };
    let records = async {
        let mut conn = app.pg.acquire().await?;
        Ok::<_, Failure>((registered::list(&mut conn, workspace).await?, settings::status(&mut conn, workspace).await?))
    };
    let (state, (registered, stripe), verdicts, letters, witnesses, engines) = tokio::try_join!(
        state(&portal, &ctx),
        records,
        async { Ok(tally::counts(app, workspace, always).await?) },
        async { Ok(dead_letters::counts(app, workspace).await?) },
        witnesses::witnesses(&portal, &ctx),
        async { Ok(engines(Readiness::of(app).await)) },
    )?;
    let (agreed, status) = (agreement(&state), &state.status);
    let holding: Vec<_> = status.sources.iter().filter(|s| s.holds_back).map(|s| s.source.as_str()).collect();
    let outstanding: u64 = letters.iter().map(|c| c.outstanding).sum();
    let compared = witnesses.table(&ctx);
    page(&PipelinePage {
        shell: ctx.shell("Pipeline", "/console/pipeline"),
        subtitle: format!("From the gateways to what is counted, {}.", format::clock(ctx.now(), tz)),
        verdict: agreed.verdict,
        note: (!agreed.agrees).then(|| {
            Note::new(
                Tone::Bad,
                "Stored and counted differ.",
                "Events that arrive while this page is made can differ for a moment. If it stays, run `farebox audit pipeline`.",
            )
        }),
        equation: agreed.equation,
        verdicts: rejections(&verdicts),
        stages: stages(&state, &stripe).0,
        sources: sources::table(status, &registered, &verdicts, now),
        engines,
        complete: Facts::default()
            .with(
                "Complete until",
                format!("{}, {}", format::instant(status.complete_until, tz), format::relative(status.complete_until, now)),
            )
            .with("Decided by", if holding.is_empty() { "no source at the moment".to_owned() } else { holding.join(", ") }),
        witnesses: (!compared.is_empty()).then(|| Part { verdict: witnesses.verdict(), equation: witnesses.equation(), table: compared }),
        dead_letters: super::dead_letters::count_table(&letters),
        dead_count: format::count(outstanding),
        may_open: ctx.may_open("/console/dead-letters"),
    })
}

fn rejections(verdicts: &[tally::VerdictCount]) -> Chart {
    let (mut accepted, mut copies) = (0_u64, 0_u64);
    let mut rejected: BTreeMap<&str, u64> = BTreeMap::new();
    for count in verdicts {
        match count.verdict.as_str() {
            "accepted" => accepted += count.n,
            "duplicate_in_batch" => copies += count.n,
            "replayed" => {} // was rejected before
            reason => *rejected.entry(reason).or_default() += count.n,
        }
    }
    let refused: u64 = rejected.values().sum();
    let mut reasons: Vec<_> = rejected.into_iter().collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let rows =
        reasons.iter().map(|(reason, n)| ChartRow { label: crate::words::title(reason), cells: vec![format::count(*n)], now: false });
    let summary = format!(
        "{} accepted, {} copies within a batch, {} rejected: each of {} records had one verdict.",
        format::count(accepted),
        format::count(copies),
        format::count(refused),
        format::count(accepted + copies + refused)
    );
    Chart {
        first: "Reason",
        caption: "Records rejected at the door, by reason".into(),
        empty: "None was rejected.",
        columns: vec![ChartColumn::new("Records", 5)],
        rows: rows.collect(),
        total: vec![format::count(refused)],
        ..Chart::new("verdicts", ChartKind::Bars, "Rejected, by reason", summary)
    }
}

/// What `/readyz` says, with how long each took to say it.
fn engines(found: Readiness) -> Table {
    let row = |name: &str, role: &str, answer: Answer| {
        let badge = if answer.ready { Badge::plain("Ready") } else { Badge::new(Tone::Bad, "Does not answer") };
        let micros = u64::try_from(answer.took.as_micros()).unwrap_or(u64::MAX);
        vec![Cell::text(name).sub(role), Cell::text(if answer.ready { format::took(micros) } else { "–".into() }), badge.into()]
    };
    Table::new("Engines", vec![Column::text("Engine"), Column::number("Answered in"), Column::text("State")]).dense().rows([
        row("Kafka", "the log of events", found.kafka),
        row("ClickHouse", "usage", found.clickhouse),
        row("PostgreSQL", "records", found.postgres),
    ])
}
