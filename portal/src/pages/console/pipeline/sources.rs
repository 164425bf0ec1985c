//! Each source with what it sent and how it goes.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use farebox_ingest::tally::VerdictCount;
use farebox_metering::pipeline::PipelineStatus;
use farebox_metering::sources::Source;

use crate::format;
use crate::view::{Badge, Cell, Column, Table, Tone};

/// Verdicts of one source. A replayed record was rejected before, so it is not received again.
#[derive(Default)]
struct Received {
    accepted: u64,
    copies: u64,
    rejected: u64,
}

pub fn table(status: &PipelineStatus, registered: &[Source], verdicts: &[VerdictCount], now: DateTime<Utc>) -> Table {
    let mut received: BTreeMap<&str, Received> = BTreeMap::new();
    for count in verdicts {
        let of = received.entry(count.source.as_str()).or_default();
        match count.verdict.as_str() {
            "accepted" => of.accepted += count.n,
            "duplicate_in_batch" => of.copies += count.n,
            "replayed" => {}
            _ => of.rejected += count.n,
        }
    }
    let mut names: BTreeSet<&str> = status.sources.iter().map(|s| s.source.as_str()).collect();
    names.extend(registered.iter().map(|s| s.name.as_str()));
    names.extend(received.keys());
    let columns = vec![
        Column::text("Source"),
        Column::text("Format"),
        Column::text("Newest event"),
        Column::number("Received"),
        Column::number("Copies"),
        Column::number("Rejected"),
        Column::text("State"),
    ];
    Table::new("Sources", columns).rows(names.into_iter().map(|name| {
        let seen = status.sources.iter().find(|s| s.source == name);
        let known = registered.iter().find(|s| s.name == name);
        let none = Received::default();
        let of = received.get(name).unwrap_or(&none);
        vec![
            Cell::text(name),
            Cell::text(known.map_or("not registered", |s| s.format.as_str())),
            Cell::text(seen.map_or_else(|| "–".to_owned(), |seen| format::relative(seen.newest, now))),
            Cell::text(format::count(of.accepted + of.copies + of.rejected)),
            Cell::text(format::count(of.copies)),
            Cell::text(format::count(of.rejected)),
            match (seen, known) {
                (None, _) => Badge::plain("Nothing yet"),
                (_, Some(source)) if source.backfill => Badge::plain("History"),
                (Some(seen), _) if now - seen.received > Duration::seconds(known.map_or(900, |s| s.idle_s.into())) => {
                    Badge::new(Tone::Warn, format!("Silent for {}", format::span(now - seen.received)))
                }
                _ => Badge::plain("Delivering"),
            }
            .into(),
        ]
    }))
}
