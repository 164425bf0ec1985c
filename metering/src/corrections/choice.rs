//! Which events a correction is about.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use serde::{Deserialize, Serialize};

use super::MOST_EVENTS;
use crate::facts::{Column, Facts, Table, bound};
use crate::filter::{Test, of_definition};
use crate::meters::Meter;
use crate::repair::IDS;
use crate::selection::Selection;
use crate::store::{RECEPTION_MASK, stamp};
use crate::{MeteringError, plan, rule};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// By identity.
    Ids(Vec<String>),
    /// As in a meter's definition: dimension -> values or a condition.
    Filter { period: Period, filter: BTreeMap<String, Test> },
}

/// An event that stands: where it lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Row, Deserialize)]
pub(super) struct Chosen {
    pub minute: u32,
    pub id: String,
}

/// The events chosen that stand now, but for those that a correction of the instant `but` has already changed.
pub(super) async fn resolve(
    app: &App,
    workspace: &WorkspaceId,
    choice: &Choice,
    but: Option<DateTime<Utc>>,
) -> Result<Vec<Chosen>, MeteringError> {
    let but = match but {
        None => "true".to_owned(),
        Some(at) => format!("bitAnd(bitShiftRight(version, 1), toUInt64({RECEPTION_MASK})) != {}", stamp(at)),
    };
    let mut chosen = match choice {
        Choice::Ids(ids) => by_ids(app, workspace, ids, &but).await?,
        Choice::Filter { period, filter } => by_filter(app, workspace, *period, filter, &but).await?,
    };
    if chosen.len() > MOST_EVENTS {
        return Err(MeteringError::invalid(
            "/filter",
            format!("chooses more than {MOST_EVENTS} events; narrow it down, such as to a shorter time, and correct in steps"),
        ));
    }
    chosen.sort();
    Ok(chosen)
}

async fn by_ids(app: &App, workspace: &WorkspaceId, ids: &[String], but: &str) -> Result<Vec<Chosen>, MeteringError> {
    if ids.is_empty() || ids.len() > 10_000 {
        return Err(MeteringError::invalid("/ids", "has 1 to 10000 ids; choose more by a filter"));
    }
    let mut chosen = Vec::new();
    for ids in ids.chunks(IDS) {
        let sql = format!(
            "SELECT toUnixTimestamp(toStartOfMinute(time)) AS minute, id FROM events FINAL WHERE workspace = {{ws:String}} AND id IN {{ids:Array(String)}} AND {but}"
        );
        chosen.extend(bound(app, workspace, &sql).param("ids", ids).fetch_all::<Chosen>().await?);
    }
    Ok(chosen)
}

async fn by_filter(
    app: &App,
    workspace: &WorkspaceId,
    period: Period,
    filter: &BTreeMap<String, Test>,
    but: &str,
) -> Result<Vec<Chosen>, MeteringError> {
    if period.is_empty() {
        return Err(MeteringError::invalid("/to", "must be after `from`"));
    }
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.1;
    let calls = Meter::builtin("calls").ok_or(MeteringError::NotFound("meter"))?;
    let selection = Selection::new(&calls, &of_definition(filter)?, &[])?;
    let columns = vec![Column::of_event("at_minute", "toUnixTimestamp(minute)"), Column::of_event("id", "id")];
    let raw = format!("{} AND {but}", selection.raw);
    let facts = Facts {
        table: Table::Raw,
        period,
        whole: &plan::never,
        columns,
        rolled: String::new(),
        raw,
        scope: String::new(),
        rule: &rule,
        may_be_partial: false,
    };
    let outer = format!("SELECT at_minute AS minute, id FROM ({{facts}}) LIMIT {}", MOST_EVENTS + 1);
    Ok(selection.parameters.bind(facts.query(app, workspace, &outer).await?).fetch_all().await?)
}
