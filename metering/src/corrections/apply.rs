//! Writes the rows of a correction.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::floor_minute;

use super::choice::Chosen;
use super::{Action, Amendment};
use crate::MeteringError;
use crate::facts::bound;
use crate::filter::Parameters;
use crate::repair::{COLUMNS, IDS};
use crate::store::{MOST_REVISIONS, RECEPTION_BITS, RECEPTION_MASK, stamp};
use crate::timelines::Held;

/// Safe to repeat with what is still chosen.
pub(super) async fn run(
    app: &App,
    workspace: &WorkspaceId,
    action: &Action,
    set: &Amendment,
    at: DateTime<Utc>,
    chosen: &[Chosen],
) -> Result<(), MeteringError> {
    for part in chosen.chunks(IDS) {
        let minutes: BTreeSet<u32> = part.iter().map(|event| event.minute).collect();
        let mut touched = minutes.clone();
        if set.moves() {
            touched.extend(minutes.iter().flat_map(|minute| moved(*minute, set)));
        }
        let held = Held::new(app, workspace, touched.into_iter().collect()).await?;
        let ids: Vec<_> = part.iter().map(|event| event.id.as_str()).collect();
        let minutes: Vec<_> = minutes.iter().map(u32::to_string).collect();
        let stands = format!(
            "FROM events FINAL WHERE workspace = {{ws:String}} AND toStartOfMinute(time) IN ({}) AND id IN {{ids:Array(String)}}",
            minutes.join(", ")
        );
        if *action == Action::Amend {
            // An event that moves is first there, then no longer here: dying in between leaves it twice, until the
            // repair of copies keeps the higher revision; never not at all.
            let mut parameters = Parameters::default();
            let columns: Vec<_> = COLUMNS.split(", ").map(|name| set.column(name.trim(), &mut parameters)).collect();
            let revision = if set.moves() { 2 } else { 1 };
            insert(app, workspace, &format!("SELECT {}, {}, 0 {stands}", columns.join(", "), version_sql(revision, at)), &parameters, &ids)
                .await?;
        }
        if *action == Action::Void || set.moves() {
            // What has just moved carries the stamp, and stays.
            let here = format!("{stands} AND bitAnd(bitShiftRight(version, 1), toUInt64({RECEPTION_MASK})) != {}", stamp(at));
            insert(app, workspace, &format!("SELECT {COLUMNS}, {}, 1 {here}", version_sql(1, at)), &Parameters::default(), &ids).await?;
        }
        held.touch(app, workspace).await?;
    }
    Ok(())
}

/// So many revisions higher than the row, with the correction's instant.
fn version_sql(higher: u64, at: DateTime<Utc>) -> String {
    let shift = RECEPTION_BITS + 1;
    let revision = format!("least(bitShiftRight(version, {shift}) + {higher}, {MOST_REVISIONS})");
    format!("bitOr(bitShiftLeft(toUInt64({revision}), {shift}), toUInt64({}))", stamp(at) << 1)
}

/// The minutes that an event of this one may move to.
pub(super) fn moved(minute: u32, set: &Amendment) -> Vec<u32> {
    let of = |at: DateTime<Utc>| u32::try_from(floor_minute(at).timestamp()).unwrap_or(0);
    match (set.time, set.shift_seconds) {
        (Some(at), _) => vec![of(at)],
        (None, Some(seconds)) => {
            let start = DateTime::from_timestamp(i64::from(minute) + seconds, 0).unwrap_or_default();
            vec![of(start), of(start + TimeDelta::seconds(59))]
        }
        (None, None) => Vec::new(),
    }
}

async fn insert(app: &App, workspace: &WorkspaceId, select: &str, parameters: &Parameters, ids: &[&str]) -> Result<(), MeteringError> {
    let sql = format!("INSERT INTO events ({COLUMNS}, version, is_deleted) {select}");
    parameters
        .bind(bound(app, workspace, &sql))
        .param("ids", ids)
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "0")
        .with_setting("optimize_on_insert", "0")
        .execute()
        .await?;
    Ok(())
}
