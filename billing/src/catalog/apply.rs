//! Brings a workspace to what the file says. What the file does not mention stays: consumers sign up by themselves,
//! and retiring something is an act of its own.

use std::collections::BTreeSet;

use farebox_core::clock;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::period::floor_minute;
use farebox_core::{audit_log, intake_settings, workspace};
use farebox_metering::{apis, consumers, formats, links, meters, sources};
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use super::alerts::AlertEntry;
use super::check::Catalog;
use super::consumers::{ConsumerEntry, SubscriptionEntry};
use super::coupons::CouponEntry;
use crate::alerts::NewAlert;
use crate::coupons::Put;
use crate::plans::Published;
use crate::{BillingError, alerts, coupons, decision_policy, margin, plans, settings, subscriptions};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Applied {
    /// Empty when the workspace was already as the file says.
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Change {
    /// `create`, `change` or `publish`.
    pub action: String,
    /// `plan growth version 2`.
    pub what: String,
}

impl Applied {
    fn note(&mut self, action: &str, what: impl Into<String>) {
        self.changes.push(Change { action: action.to_owned(), what: what.into() });
    }
}

/// Applies all of it or nothing: in a transaction of its own within the caller's. `actor` is who does it, for the
/// audit log.
pub async fn apply(conn: &mut PgConnection, catalog: &Catalog, actor: &str) -> Result<Applied, BillingError> {
    let mut transaction = conn.begin().await?;
    let applied = write(&mut transaction, catalog, actor).await?;
    transaction.commit().await?;
    Ok(applied)
}

/// What [`apply`] would change. It is done and taken back, so that it says exactly that, refusals included.
pub async fn diff(conn: &mut PgConnection, catalog: &Catalog) -> Result<Applied, BillingError> {
    let mut transaction = conn.begin().await?;
    let applied = write(&mut transaction, catalog, "diff").await;
    transaction.rollback().await?;
    applied
}

async fn write(conn: &mut PgConnection, catalog: &Catalog, actor: &str) -> Result<Applied, BillingError> {
    let workspace = workspace::by_name(conn, &catalog.workspace).await?.ok_or_else(|| {
        BillingError::invalid(
            "/workspace",
            format!("There is no workspace named `{}` here. Create it first, or correct the name.", catalog.workspace),
        )
    })?;
    let ws = &workspace.id;
    let mut applied = Applied { changes: Vec::new() };
    if (workspace.currency, workspace.time_zone, &workspace.seller, &workspace.taxes)
        != (catalog.currency, catalog.time_zone, &catalog.seller, &catalog.taxes)
    {
        workspace::update_settings(conn, ws, catalog.currency, catalog.time_zone, &catalog.seller, &catalog.taxes).await?;
        applied.note("change", format!("settings of {}", workspace.name));
    }
    if let Some(after) = &catalog.intake
        && intake_settings::of(conn, ws).await? != *after
    {
        intake_settings::set(conn, ws, after).await?;
        applied.note("change", "what is taken in");
    }
    if let Some(after) = &catalog.decisions
        && decision_policy::get(conn, ws).await? != *after
    {
        decision_policy::set(conn, ws, after).await?;
        applied.note("change", "what decisions go by");
    }
    for format in &catalog.formats {
        let before = formats::upsert(conn, ws, format).await?;
        note(&mut applied, before.as_ref(), format, || format!("format {}", format.name));
    }
    if let Some(billing) = &catalog.billing
        && settings::set(conn, ws, billing).await?
    {
        applied.note("change", format!("billing of {}", workspace.name));
    }
    for source in &catalog.sources {
        let before = sources::by_name(conn, ws, &source.name).await?;
        let mut after = sources::upsert(conn, ws, &source.name, &source.format, source.kafka_topic.as_deref(), source.backfill).await?;
        if after.networks != source.networks {
            sources::set_networks(conn, ws, &source.name, &source.networks).await?;
            after.networks.clone_from(&source.networks);
        }
        note(&mut applied, before.as_ref(), &after, || format!("source {}", source.name));
    }
    let apis_before = apis::list(conn, ws).await?;
    for api in &catalog.apis {
        let before = apis_before.iter().find(|before| before.name == api.name);
        if before.is_some_and(|before| before.product == api.product && before.versions == api.versions) {
            continue;
        }
        let after = apis::upsert(conn, ws, &api.name, &api.product, &api.versions).await?;
        note(&mut applied, before, &after, || format!("api {}", api.name));
    }
    for meter in &catalog.meters {
        let before = meters::get(conn, ws, &meter.name).await?;
        let after = meters::upsert(conn, ws, meter).await?;
        note(&mut applied, before.as_ref(), &after, || format!("meter {} version {}", meter.name, after.version));
    }
    for plan in &catalog.plans {
        if plans::publish(conn, ws, plan).await? == Published::New {
            applied.note("publish", format!("plan {} version {}", plan.name, plan.version));
        }
    }
    for name in catalog.plans.iter().map(|plan| &plan.name).collect::<BTreeSet<_>>() {
        let retired = catalog.retired.contains(name);
        if plans::set_retired(conn, ws, name, retired).await? {
            applied.note("change", format!("plan {name}: {}", if retired { "retired" } else { "offered again" }));
        }
    }
    for entry in &catalog.coupons {
        coupon(conn, ws, entry, &mut applied).await?;
    }
    for entry in &catalog.consumers {
        consumer(conn, ws, entry, &mut applied).await?;
    }
    if let Some(costs) = &catalog.costs
        && margin::costs::set(conn, ws, costs).await?
    {
        applied.note("change", "what calls cost");
    }
    for entry in &catalog.alerts {
        alert(conn, ws, entry, &mut applied).await?;
    }
    if !applied.changes.is_empty() {
        let detail = serde_json::to_value(&applied).map_err(|e| BillingError::unreadable("the changes", e))?;
        audit_log::record(conn, ws, actor, "catalog.apply", &workspace.name, &detail).await?;
    }
    Ok(applied)
}

fn note<T: PartialEq>(applied: &mut Applied, before: Option<&T>, after: &T, what: impl Fn() -> String) {
    match before {
        None => applied.note("create", what()),
        Some(before) if before != after => applied.note("change", what()),
        Some(_) => {}
    }
}

async fn consumer(conn: &mut PgConnection, ws: &WorkspaceId, entry: &ConsumerEntry, applied: &mut Applied) -> Result<(), BillingError> {
    let before = consumers::find_by_name(conn, ws, &entry.name).await?;
    let new = consumers::NewConsumer {
        name: entry.name.clone(),
        email: entry.email.clone(),
        signed_up_at: entry.signed_up.or(before.as_ref().map(|c| c.signed_up_at)).unwrap_or_else(clock::now),
        country: None,
        address: entry.address.clone(),
        subjects: entry.subjects.clone(),
    };
    let id = if let Some(before) = before {
        let linked = links::subjects_of(conn, ws, &before.id).await?;
        let after = consumers::update(conn, ws, &before.id, new).await?.ok_or(BillingError::NotFound("consumer"))?;
        if after != before || entry.subjects.iter().any(|subject| !linked.contains(subject)) {
            applied.note("change", format!("consumer {}", entry.name));
        }
        before.id
    } else {
        applied.note("create", format!("consumer {}", entry.name));
        consumers::create(conn, ws, new).await?.id
    };
    if let Some(billing) = &entry.billing
        && settings::of_consumer(conn, ws, &id).await? != *billing
    {
        settings::set_consumer(conn, ws, &id, billing).await?;
        applied.note("change", format!("billing of {}", entry.name));
    }
    for subscription in &entry.subscriptions {
        self::subscription(conn, ws, &id, entry, subscription, applied).await?;
    }
    Ok(())
}

async fn coupon(conn: &mut PgConnection, ws: &WorkspaceId, entry: &CouponEntry, applied: &mut Applied) -> Result<(), BillingError> {
    let code = &entry.coupon.code;
    for plan in &entry.coupon.plans {
        if plans::find(conn, ws, plan, None).await?.is_none() {
            return Err(BillingError::invalid("/coupons", format!("`{code}` is for the plan `{plan}`: there is no such plan")));
        }
    }
    match coupons::put(conn, ws, &entry.coupon, entry.retired).await? {
        Put::Created => applied.note("create", format!("coupon {code}")),
        Put::Changed => applied.note("change", format!("coupon {code}")),
        Put::Unchanged => {}
    }
    Ok(())
}

async fn alert(conn: &mut PgConnection, ws: &WorkspaceId, entry: &AlertEntry, applied: &mut Applied) -> Result<(), BillingError> {
    let name = &entry.alert.name;
    let consumer = match &entry.consumer {
        None => None,
        Some(consumer) => {
            let found = consumers::find_by_name(conn, ws, consumer).await?;
            Some(
                found
                    .ok_or_else(|| BillingError::invalid("/alerts", format!("`{name}` is about `{consumer}`: there is no such consumer")))?
                    .id,
            )
        }
    };
    let wanted = NewAlert { consumer, ..entry.alert.clone() };
    let (was_there, changed) = alerts::put_named(conn, ws, &wanted).await.map_err(|error| match error {
        BillingError::Invalid { field, detail } => {
            BillingError::invalid("/alerts", format!("`{name}`, {}: {detail}", field.trim_start_matches('/')))
        }
        other => other,
    })?;
    if changed {
        applied.note(if was_there { "change" } else { "create" }, format!("alert {name}"));
    }
    Ok(())
}

/// The same plan from the same minute on is the same subscription, whatever became of it since.
async fn subscription(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    entry: &ConsumerEntry,
    wanted: &SubscriptionEntry,
    applied: &mut Applied,
) -> Result<(), BillingError> {
    let from = floor_minute(wanted.from);
    let exists = subscriptions::list(conn, ws, Some(consumer), i64::MAX, "").await?;
    if exists.iter().any(|s| s.started_at == from && s.phases.first().is_none_or(|phase| phase.plan == wanted.plan)) {
        return Ok(());
    }
    subscriptions::subscribe_to_version(conn, ws, consumer, &wanted.plan, wanted.version, from).await.map_err(|error| match error {
        BillingError::NotFound(what) => {
            BillingError::invalid("/consumers", format!("`{}` subscribes to `{}`: there is no such {what}", entry.name, wanted.plan))
        }
        other => other,
    })?;
    applied.note("create", format!("subscription of {} to {} from {from}", entry.name, wanted.plan));
    Ok(())
}
