//! What was done to history: hours that were audited, backfills, corrections, and copies that were removed.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::Duration;
use farebox_core::auth::list_tokens;
use farebox_metering::audit::{self, PipelineAudit};
use farebox_metering::corrections::{self, Correction};
use farebox_metering::duplicates;
use farebox_metering::history::{self, Job, Preview};

use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::people::members;
use crate::view::{Badge, Cell, Column, Shell, Table, Tone};
use crate::{Portal, format};

/// Rows of each table; the API has them all.
const SHOWN: i64 = 24;
/// Days of arrival in which copies are looked for.
const DAYS: i64 = 30;

#[derive(Debug, Clone, Template)]
#[template(path = "console/history.html")]
pub struct HistoryPage {
    pub shell: Shell,
    pub audits: Table,
    pub backfills: Table,
    pub corrections: Table,
    pub copies: Table,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let (app, workspace) = (&portal.app, &ctx.workspace.id);
    let today = ctx.now().date_naive();
    let copies = duplicates::report(app, workspace, today - Duration::days(DAYS), today + Duration::days(1)).await?;
    let (audits, jobs, made, names) = {
        let mut conn = app.pg.acquire().await?;
        let people = members(&mut conn, workspace).await?.into_iter().map(|person| (person.id.to_string(), person.name));
        let tokens = list_tokens(&mut conn, workspace).await?.into_iter().map(|token| (token.id.to_string(), token.name));
        let names: BTreeMap<String, String> = people.chain(tokens).collect();
        let audits = audit::recent(&mut conn, workspace, SHOWN).await?;
        let jobs = history::list(&mut conn, workspace, SHOWN, "").await?;
        (audits, jobs, corrections::list(&mut conn, workspace, SHOWN, "").await?, names)
    };
    let mut backfills = Vec::new();
    for job in jobs {
        let preview = if job.state == "open" { history::preview(app, workspace, &job.id).await.ok() } else { None };
        backfills.push((job, preview));
    }
    page(&HistoryPage {
        shell: ctx.shell("History", "/console/pipeline"),
        audits: audited(&audits, &ctx),
        backfills: table(&backfills, &names, &ctx),
        corrections: corrected(&made, &names, &ctx),
        copies: removed(&copies),
    })
}

fn audited(audits: &[PipelineAudit], ctx: &Ctx) -> Table {
    let columns = [Column::text("Hour")].into_iter().chain(["Produced", "Stored", "Rolled up", "Queried"].map(Column::number));
    Table::new("Audited hours", columns.chain([Column::text("State")]).collect()).dense().rows(audits.iter().map(|audit| {
        let sum = |of: &dyn Fn(&audit::Hour) -> u64| audit.hours.iter().map(of).sum::<u64>();
        let rolled =
            |hour: &audit::Hour| hour.rolled_up.iter().map(|(name, n)| n + hour.not_yet.get(name).unwrap_or(&0)).min().unwrap_or(0);
        let produced: Option<u64> = audit.places.iter().map(|place| place.produced).sum();
        let state = match audit.differences.as_slice() {
            [] => Badge::plain("Agrees"),
            [one] => Badge::new(Tone::Bad, one),
            [first, rest @ ..] => Badge::new(Tone::Bad, format!("{first}; and {} more", rest.len())),
        };
        vec![
            Cell::text(format::period(audit.period.start, audit.period.end, ctx.tz())),
            Cell::text(produced.map_or_else(|| "–".to_owned(), format::count)),
            Cell::text(format::count(audit.places.iter().map(|place| place.stored).sum::<u64>())),
            Cell::text(format::count(sum(&rolled))),
            Cell::text(format::count(sum(&|hour| hour.queried))),
            state.into(),
        ]
    }))
}

/// Who did it: a person or a token by its name, where it still has one.
fn who(author: &str, names: &BTreeMap<String, String>) -> Cell {
    names.get(author).map_or_else(|| Cell::mono(format::abbreviated(author, 8, 4)), Cell::text)
}

fn table(jobs: &[(Job, Option<Preview>)], names: &BTreeMap<String, String>, ctx: &Ctx) -> Table {
    let columns = [Column::text("Events of")].into_iter().chain(["Collected", "Refused", "New", "Already there"].map(Column::number));
    let columns = columns.chain(["State", "By", "Begun"].map(Column::text));
    Table::new("Backfills", columns.collect()).rows(jobs.iter().map(|(job, preview)| {
        let from = job.topic.as_ref().map_or_else(|| "a file".to_owned(), |topic| format!("topic {topic}"));
        let told = |done: Option<i64>, seen: Option<u64>| match (done, seen) {
            (Some(n), _) => format::count(n),
            (None, Some(n)) => format::count(n),
            (None, None) => "–".to_owned(),
        };
        vec![
            Cell::text(&job.source).sub(format!("{from}, {}", job.format)),
            Cell::text(format::count(job.accepted)),
            Cell::text(format::count(job.rejected)),
            Cell::text(told(job.new, preview.as_ref().map(|preview| preview.new))),
            Cell::text(told(job.already_there, preview.as_ref().map(|preview| preview.already_there))),
            state(job).into(),
            who(&job.author, names),
            Cell::text(format::instant(job.created_at, ctx.tz())),
        ]
    }))
}

fn state(job: &Job) -> Badge {
    let (done, all) = (format::count(job.minutes_done), format::counted(job.minutes.into(), "minute", "minutes"));
    match job.state.as_str() {
        "reading" => Badge::new(Tone::Accent, "Reads the topic"),
        "open" => Badge::new(Tone::Warn, "Waits for its commit"),
        "committing" => Badge::new(Tone::Accent, format!("{done} of {all}")),
        "done" => Badge::plain("Done"),
        "cancelled" => Badge::plain("Cancelled"),
        other => Badge::plain(other),
    }
}

fn corrected(made: &[Correction], names: &BTreeMap<String, String>, ctx: &Ctx) -> Table {
    let columns = vec![
        Column::text("What"),
        Column::number("Events"),
        Column::text("Why"),
        Column::text("By"),
        Column::text("When"),
        Column::text("State"),
    ];
    Table::new("Corrections", columns).rows(made.iter().map(|correction| {
        let state = if correction.applied_at.is_some() { Badge::plain("Done") } else { Badge::new(Tone::Accent, "Under way") };
        vec![
            Cell::text(if correction.action == "void" { "Voided" } else { "Amended" }),
            Cell::text(format::count(correction.events)),
            Cell::text(&correction.reason),
            who(&correction.author, names),
            Cell::text(format::instant(correction.created_at, ctx.tz())),
            state.into(),
        ]
    }))
}

/// Days without a copy are left out.
fn removed(days: &[duplicates::Day]) -> Table {
    let columns = [Column::text("Source"), Column::text("Arrived")];
    let columns = columns.into_iter().chain(["Deliveries", "Events", "Same time", "Other time"].map(Column::number));
    let some = days.iter().filter(|day| day.same_time + day.other_time > 0);
    let total = |of: fn(&duplicates::Day) -> u64| Cell::text(format::count(days.iter().map(of).sum::<u64>()));
    Table::new("Copies that were removed", columns.collect())
        .dense()
        .rows(some.map(|day| {
            let mut row = vec![Cell::text(&day.source), Cell::text(format::date(day.day))];
            row.extend([day.deliveries, day.events, day.same_time, day.other_time].map(|n| Cell::text(format::count(n))));
            row
        }))
        .foot(vec![
            Cell::text("All days"),
            Cell::text(""),
            total(|day| day.deliveries),
            total(|day| day.events),
            total(|day| day.same_time),
            total(|day| day.other_time),
        ])
}
