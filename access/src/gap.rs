//! A gap: calls of a source's hour that were decided and let pass, but never told of, because the gateway lost its log.
//! It is shown by number; a provider may choose to bill it. Then an event is made from each decision that has none, marked
//! `from_decision`, with the decision's identity: so it counts once however often that is chosen, and the true log replaces
//! it whenever it comes after all.
//!
//! Such an event knows whose call it was, when, and of which API; neither route, status nor sizes.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use farebox_core::auth::{Caller, Scope};
use farebox_core::decision::{self, STAND_IN};
use farebox_core::event::{self, RequestData, SpecVersion, UsageEvent, kafka_key};
use farebox_core::http::{Json, Params};
use farebox_core::ids::WorkspaceId;
use farebox_core::kafka::EVENTS;
use farebox_core::period::Period;
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log};
use farebox_metering::{MeteringError, decided};
use futures::future::join_all;
use rdkafka::producer::FutureRecord;
use serde::{Deserialize, Serialize};

use crate::reconcile::{self, floor_hour};

/// Decisions that are billed with one call, at most; the rest with the next.
const MOST: usize = 200_000;
/// Events handed to Kafka at once.
const AT_ONCE: usize = 5000;

#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// The gateway.
    pub source: String,
    /// Any instant of the hour in which was decided.
    pub hour: DateTime<Utc>,
}

impl Which {
    fn period(&self) -> Period {
        let start = floor_hour(self.hour);
        Period { start, end: start + TimeDelta::hours(1) }
    }
}

/// A consumer's calls of an API that have no event.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Missing {
    pub consumer: String,
    /// Empty where it is not registered.
    pub api: String,
    pub calls: u64,
}

/// What of an hour can be billed from decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Gap {
    pub source: String,
    pub hour: DateTime<Utc>,
    /// Decided and without an event of a gateway, refusals among them.
    pub missing: u64,
    /// Of the missing, those that were billed from the decision.
    pub billed_from_decisions: u64,
    /// Let pass, without any event: what would be billed.
    pub billable: u64,
    pub by: Vec<Missing>,
    /// Whether events of the hour may still be under way: it is not billed before.
    pub complete: bool,
}

/// What passed by source and hour, with its ids; as [`decided::untold`] asks for it.
fn listed(period: Period) -> String {
    format!(
        "SELECT arrayJoin(extractAll(ids, '.{{32}}')) AS id, consumer, toString(api) AS api FROM decisions AS d FINAL
         WHERE workspace = {{ws:String}} AND source = {{source:String}} AND outcome IN ('allowed', 'allowed_stale') AND consumer != ''
         AND minute >= fromUnixTimestamp({}) AND minute < fromUnixTimestamp({})",
        period.start.timestamp(),
        period.end.timestamp()
    )
}

fn asked(app: &App, workspace: &WorkspaceId, source: &str, sql: &str) -> clickhouse::query::Query {
    app.clickhouse.query_raw(sql).with_setting("max_execution_time", "60").param("ws", workspace.as_str()).param("source", source)
}

pub async fn of(app: &App, workspace: &WorkspaceId, which: &Which) -> Result<Gap, MeteringError> {
    let period = which.period();
    let sql = format!(
        "SELECT consumer, api, count() AS calls FROM ({}) GROUP BY consumer, api ORDER BY calls DESC, consumer, api",
        decided::untold(&listed(period), period)
    );
    let asked = asked(app, workspace, &which.source, &sql);
    let by = async { Ok::<Vec<Missing>, MeteringError>(asked.fetch_all().await?) };
    let (by, hours) = tokio::try_join!(by, reconcile::hours(app, workspace, period))?;
    let hour = hours.into_iter().find(|hour| hour.source == which.source && hour.hour == period.start);
    Ok(Gap {
        source: which.source.clone(),
        hour: period.start,
        missing: hour.as_ref().map_or(0, |hour| hour.missing),
        billed_from_decisions: hour.as_ref().map_or(0, |hour| hour.billed_from_decisions),
        billable: by.iter().map(|row| row.calls).sum(),
        by,
        complete: hour.is_some_and(|hour| hour.complete),
    })
}

#[derive(Row, Deserialize)]
struct Untold {
    id: String,
    consumer: String,
    api: String,
}

/// What was billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Billed {
    pub source: String,
    pub hour: DateTime<Utc>,
    /// Events that were made.
    pub events: u64,
    /// Whether there are more than one call bills; send it again once these are counted.
    pub more: bool,
}

/// Makes the events and notes who chose so and why. Safe to repeat.
pub async fn bill(app: &App, workspace: &WorkspaceId, which: &Which, reason: &str, actor: &str) -> Result<Billed, Problem> {
    if reason.trim().is_empty() || reason.len() > 500 {
        return Err(Problem::invalid_field("/reason", "must say in 1 to 500 characters why: it stands in the audit log"));
    }
    let gap = of(app, workspace, which).await?;
    if !gap.complete {
        return Err(Problem::conflict(
            "hour-not-complete",
            "Events of this hour may still be under way. Bill it once the reconciliation says that it is complete.",
        ));
    }
    let period = which.period();
    let sql = format!("{} ORDER BY id LIMIT {MOST}", decided::untold(&listed(period), period));
    let untold: Vec<Untold> = asked(app, workspace, &which.source, &sql).fetch_all().await?;
    let mut by: BTreeMap<&str, u64> = BTreeMap::new();
    for row in &untold {
        *by.entry(&row.consumer).or_default() += 1;
    }
    // Before the events: what is billed is never without a name, and what was noted and not done is done by a repetition.
    let detail =
        serde_json::json!({ "source": which.source, "hour": gap.hour, "reason": reason.trim(), "events": untold.len(), "by_consumer": by });
    let mut conn = app.pg.acquire().await?;
    let target = format!("{} {}", which.source, gap.hour.format("%Y-%m-%dT%HZ"));
    audit_log::record(&mut conn, workspace, actor, "decisions.bill_gap", &target, &detail).await?;
    drop(conn);
    for some in untold.chunks(AT_ONCE) {
        let events: Vec<UsageEvent> = some.iter().filter_map(|row| stand_in(workspace, &which.source, row)).collect();
        produce(app, &events).await?;
    }
    let events = u64::try_from(untold.len()).unwrap_or(u64::MAX);
    Ok(Billed { source: which.source.clone(), hour: gap.hour, events, more: untold.len() == MOST })
}

fn stand_in(workspace: &WorkspaceId, source: &str, row: &Untold) -> Option<UsageEvent> {
    let time = decision::taken_at(&row.id)?;
    let data = RequestData { api: row.api.clone(), decision: row.id.clone(), marker: STAND_IN.to_owned(), ..RequestData::default() };
    Some(UsageEvent {
        specversion: SpecVersion::V1,
        id: event::identity(source, "", &row.id),
        source: source.to_owned(),
        kind: event::REQUEST.to_owned(),
        time,
        // A consumer's id is a subject of theirs.
        subject: row.consumer.clone(),
        workspace: workspace.clone(),
        // With the decision it was known here; and a source that is silent is not awake again.
        received_at: time,
        data,
    })
}

async fn produce(app: &App, events: &[UsageEvent]) -> Result<(), Problem> {
    let topic = app.kafka.name(EVENTS);
    let unavailable = || Problem::unavailable("Kafka does not take the events right now. Send the same again: nothing counts twice.", 2);
    let mut deliveries = Vec::with_capacity(events.len());
    for event in events {
        let (key, payload) = (kafka_key(event), serde_json::to_vec(event).map_err(|e| Problem::internal(&e))?);
        let record = FutureRecord::to(&topic).key(&key).payload(&payload);
        deliveries.push(app.kafka.producer.send_result(record).map_err(|_| unavailable())?);
    }
    for delivered in join_all(deliveries).await {
        delivered.map_err(|_| unavailable())?.map_err(|_| unavailable())?;
    }
    Ok(())
}

/// Show what of a gap can be billed
///
/// Of a source's hour: calls that were let pass and never told of, by consumer and API.
#[utoipa::path(
    get, path = "/api/v1/decisions/gap", tag = "access", params(Which),
    responses((status = 200, body = Gap), (status = 403, body = Problem), (status = 422, body = Problem))
)]
pub async fn show(State(app): State<App>, caller: Caller, Params(which): Params<Which>) -> Result<axum::Json<Gap>, Problem> {
    caller.0.require(Scope::Read)?;
    Ok(axum::Json(of(&app, &caller.0.workspace, &which).await?))
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BillGap {
    /// The gateway.
    pub source: String,
    /// Any instant of the hour in which was decided.
    pub hour: DateTime<Utc>,
    /// Why, for the audit log.
    pub reason: String,
}

/// Bill a gap from decisions
///
/// Makes an event, marked `from_decision`, for each call of a source's hour that was let pass and never told of. Its
/// identity is the decision, so that a repetition counts nothing twice and the true log, where it comes after all, takes
/// its place. Only hours that are complete; noted in the audit log. To take it back, void the events with this marker.
#[utoipa::path(
    post, path = "/api/v1/decisions/gap", tag = "access", request_body = BillGap,
    responses(
        (status = 202, body = Billed), (status = 403, body = Problem),
        (status = 409, body = Problem, description = "Events of the hour may still be under way"), (status = 422, body = Problem),
        (status = 503, body = Problem)
    )
)]
pub async fn post(
    State(app): State<App>,
    caller: Caller,
    Json(chosen): Json<BillGap>,
) -> Result<(StatusCode, axum::Json<Billed>), Problem> {
    caller.0.require(Scope::Finance)?;
    let which = Which { source: chosen.source, hour: chosen.hour };
    let billed = bill(&app, &caller.0.workspace, &which, &chosen.reason, caller.0.token.as_str()).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(billed)))
}
