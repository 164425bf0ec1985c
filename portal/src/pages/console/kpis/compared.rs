//! Two versions of an API side by side: figures, and the consumers that have met the new one.

use farebox_core::ids::WorkspaceId;
use farebox_insights::kpis::{self, Compared, ComparedParams};

use super::{Asked, Sheet, percent};
use crate::failure::Failure;
use crate::view::{Cell, Column, Table};
use crate::{Portal, format};

/// Consumers on the page; `GET /api/v1/kpis/versions/compare` has all.
const SHOWN: usize = 20;

/// The two tables; nothing where no two versions are chosen.
pub async fn sheets(portal: &Portal, workspace: &WorkspaceId, asked: &Asked) -> Result<Vec<Sheet>, Failure> {
    if asked.api.is_empty() || asked.base.is_empty() || asked.canary.is_empty() || asked.base == asked.canary {
        return Ok(Vec::new());
    }
    let params = ComparedParams { api: asked.api.clone(), base: asked.base.clone(), canary: asked.canary.clone(), from: None, to: None };
    let answer = kpis::compared(&portal.app, workspace, &params).await?;
    let title = format!("{} {} against {}", answer.api, answer.canary.version, answer.base.version);
    let columns = vec![
        Column::text("Version"),
        Column::number("Share"),
        Column::number("Calls"),
        Column::number("Consumers"),
        Column::number("4xx"),
        Column::number("5xx"),
        Column::number("Errors"),
        Column::number("p50"),
        Column::number("p95"),
        Column::number("p99"),
    ];
    let whole = [&answer.base, &answer.canary].map(|side| {
        let mut row = vec![Cell::text(&side.version), Cell::text(percent(side.share))];
        row.extend([side.calls, side.consumers, side.client_errors, side.server_errors].map(|n| Cell::text(format::count(n))));
        row.push(Cell::text(percent(side.error_rate)));
        row.extend([side.p50_us, side.p95_us, side.p99_us].map(|us| Cell::text(took(us))));
        row
    });
    let pair = |base: String, canary: String| Cell::text(canary).sub(format!("{base} on {}", answer.base.version));
    let rows = answer.consumers.iter().take(SHOWN).map(|c| {
        let both = |of: fn(&Compared) -> String| pair(of(&c.base), of(&c.canary));
        vec![
            Cell::link(&c.consumer.name, format!("/console/consumers/{}", c.consumer.id)),
            both(|side| format::count(side.calls)),
            both(|side| percent(side.error_rate)),
            both(|side| percent(side.server_error_rate)),
            both(|side| took(side.p50_us)),
            both(|side| took(side.p95_us)),
        ]
    });
    let by_consumer = vec![
        Column::text("Consumer"),
        Column::number("Calls"),
        Column::number("Errors"),
        Column::number("5xx"),
        Column::number("p50"),
        Column::number("p95"),
    ];
    Ok(vec![
        Sheet {
            id: "compared".to_owned(),
            title: title.clone(),
            note: "The last seven days, every call; latencies are exact.".to_owned(),
            table: Table::new(title, columns).dense().rows(whole),
            empty: "",
        },
        Sheet {
            id: "compared-consumers".to_owned(),
            title: format!("Who has met {}", answer.canary.version),
            note: "Below each figure what the other version gave the same consumer.".to_owned(),
            table: Table::new(format!("Consumers on {}", answer.canary.version), by_consumer).dense().rows(rows),
            empty: "Nobody known has called it in the last seven days.",
        },
    ])
}

fn took(us: Option<u64>) -> String {
    us.map_or_else(|| "–".to_owned(), format::took)
}
