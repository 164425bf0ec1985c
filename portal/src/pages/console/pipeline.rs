use std::collections::BTreeMap;
use std::time::Instant;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Duration, Utc};
use farebox_billing::stripe::settings;
use farebox_core::clock;
use farebox_core::period::Period;
use farebox_ingest::{dead_letters, tally};
use farebox_metering::{pipeline, sources};

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Badge, Cell, Chart, ChartColumn, ChartKind, ChartRow, Column, Equation, Facts, Note, Shell, Table, Term, Tone};
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
    pub dead_letters: Table,
    pub dead_count: String,
}

/// Dead letters shown on the page; the others are counted.
const LETTERS: u64 = 30;
/// A consumer group this far behind for a moment is ordinary.
const LAG: i64 = 50_000;

/// What came in, what is stored, what is counted, and whether they agree.
pub struct Agreement {
    pub verdict: Badge,
    pub equation: Equation,
    pub agrees: bool,
}

/// Received less copies is stored; stored is counted by usage. Two ways to the same number, from the rows themselves
/// and from the rollups.
pub fn agreement(status: &pipeline::PipelineStatus, stored: u64) -> Agreement {
    let difference = i128::from(stored) - i128::from(status.counted);
    let waiting = status.partitions.as_ref().map_or(0, |all| all.iter().map(|p| p.lag).sum::<i64>());
    let equation = Equation {
        terms: vec![
            Term::new("", "Stored, each once", format::count(stored), "counted one by one"),
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
pub async fn stages(portal: &Portal, ctx: &Ctx, status: &pipeline::PipelineStatus) -> Result<(Table, String), Failure> {
    let now = clock::now();
    let stripe = settings::status(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?;
    let state = |slow: bool, what: &str| if slow { Badge::new(Tone::Warn, what) } else { Badge::plain("Normal") };
    let delivering = status.sources.iter().filter(|s| now - s.received < Duration::minutes(15)).count();
    let lag: Option<i64> = status.partitions.as_ref().map(|all| all.iter().map(|p| p.lag).sum());
    let newest = status.sources.iter().map(|s| s.received).max();
    let dirty = i64::try_from(status.dirty_minutes).unwrap_or(i64::MAX);
    let row = |stage: &str, what: String, badge: Badge| vec![Cell::text(stage), Cell::text(what), badge.into()];
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
                Some(lag) => state(lag > LAG, "Behind"),
            },
        ),
        row("Counting", format!("{} not yet in rollups", format::counted(dirty, "minute", "minutes")), state(dirty > 600, "Behind")),
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
    Ok((
        Table::new("Stages", vec![Column::text("Stage"), Column::text("What waits"), Column::text("State")]).dense().rows(rows),
        note.to_owned(),
    ))
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let (app, workspace, tz) = (&portal.app, &ctx.workspace.id, ctx.tz());
    let now = clock::now();
    let status = pipeline::status(app, workspace).await?;
    let stored = pipeline::stored(app, workspace, status.until).await?;
    let agreed = agreement(&status, stored);
    let (stages, _) = stages(&portal, &ctx, &status).await?;
    let registered = sources::list(&mut *app.pg.acquire().await?, workspace).await?;
    let always = Period { start: DateTime::<Utc>::UNIX_EPOCH, end: now + Duration::minutes(1) };
    let verdicts = tally::counts(app, workspace, always).await?;
    let counts = dead_letters::counts(app, workspace).await?;
    let letters = dead_letters::list(app, workspace, &dead_letters::Filter::default(), LETTERS, None).await?;

    let rows = status.sources.iter().map(|seen| {
        let known = registered.iter().find(|s| s.name == seen.source);
        let silent = now - seen.received > Duration::seconds(known.map_or(900, |s| i64::from(s.idle_s)));
        let badge = match known {
            Some(source) if source.backfill => Badge::plain("History"),
            _ if silent => Badge::new(Tone::Warn, format!("Silent for {}", format::span(now - seen.received))),
            _ => Badge::plain("Delivering"),
        };
        vec![
            Cell::text(&seen.source),
            Cell::text(known.map_or("not registered", |s| s.format.as_str())),
            Cell::text(format::relative(seen.newest, now)),
            Cell::text(format::count(seen.deliveries)),
            badge.into(),
        ]
    });
    let columns = vec![
        Column::text("Source"),
        Column::text("Format"),
        Column::text("Newest event"),
        Column::number("Received"),
        Column::text("State"),
    ];
    let mut sources = Table::new("Sources", columns).rows(rows);
    for source in registered.iter().filter(|s| !status.sources.iter().any(|seen| seen.source == s.name)) {
        sources.rows.push(vec![
            Cell::text(&source.name),
            Cell::text(&source.format),
            Cell::text("–"),
            Cell::text("0"),
            Badge::plain("Nothing yet").into(),
        ]);
    }
    let holding: Vec<_> = status.sources.iter().filter(|s| s.holds_back).map(|s| s.source.as_str()).collect();
    let outstanding: u64 = counts.iter().map(|c| c.outstanding).sum();
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
        stages,
        sources,
        engines: engines(&portal).await,
        complete: Facts::default()
            .with(
                "Complete until",
                format!("{}, {}", format::instant(status.complete_until, tz), format::relative(status.complete_until, now)),
            )
            .with("Decided by", if holding.is_empty() { "no source at the moment".to_owned() } else { holding.join(", ") }),
        dead_letters: letters_table(&letters, &ctx),
        dead_count: format::count(outstanding),
    })
}

fn rejections(verdicts: &[tally::VerdictCount]) -> Chart {
    let (mut accepted, mut copies) = (0_u64, 0_u64);
    let mut rejected: BTreeMap<&str, u64> = BTreeMap::new();
    for count in verdicts {
        match count.verdict.as_str() {
            "accepted" => accepted += count.n,
            "duplicate_in_batch" => copies += count.n,
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
        columns: vec![ChartColumn::new("Records", 5)],
        rows: rows.collect(),
        total: vec![format::count(refused)],
        ..Chart::new("verdicts", ChartKind::Bars, "Rejected, by reason", summary)
    }
}

fn letters_table(letters: &[farebox_ingest::dead_letter::DeadLetter], ctx: &Ctx) -> Table {
    let columns = vec![Column::text("When"), Column::text("Source"), Column::text("Reason"), Column::text("Detail")];
    Table::new("Dead letters, the newest first", columns).dense().rows(letters.iter().map(|letter| {
        let id = if letter.event_id.is_empty() { String::new() } else { format!("event {}", format::abbreviated(&letter.event_id, 24, 8)) };
        let reason = Cell::text(crate::words::title(&letter.reason));
        vec![
            Cell::text(format::instant(letter.received_at, ctx.tz())),
            Cell::text(&letter.source).sub(&letter.format),
            if id.is_empty() { reason } else { reason.sub(id) },
            Cell::text(&letter.detail),
        ]
    }))
}

/// Each engine, asked now.
async fn engines(portal: &Portal) -> Table {
    let app = &portal.app;
    let postgres = async {
        let start = Instant::now();
        let answered = sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&app.pg).await.is_ok();
        (answered, start.elapsed())
    };
    let clickhouse = async {
        let start = Instant::now();
        let answered = app.clickhouse.query("SELECT 1").fetch_one::<u8>().await.is_ok();
        (answered, start.elapsed())
    };
    let kafka = async {
        let start = Instant::now();
        (app.kafka.is_ready().await, start.elapsed())
    };
    let (postgres, clickhouse, kafka) = tokio::join!(postgres, clickhouse, kafka);
    let row = |name: &str, role: &str, (answered, took): (bool, std::time::Duration)| {
        let badge = if answered { Badge::plain("Ready") } else { Badge::new(Tone::Bad, "Does not answer") };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        vec![Cell::text(name).sub(role), Cell::text(if answered { format::took(micros) } else { "–".into() }), badge.into()]
    };
    Table::new("Engines", vec![Column::text("Engine"), Column::number("Answered in"), Column::text("State")]).dense().rows([
        row("Kafka", "the log of events", kafka),
        row("ClickHouse", "usage", clickhouse),
        row("PostgreSQL", "records", postgres),
    ])
}
