//! The workspace, as the file that would make it.

use farebox_core::ids::WorkspaceId;
use farebox_core::intake_settings::{self, IntakeSettings};
use farebox_core::workspace;
use farebox_metering::{apis, consumers, formats, links, meters, sources};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::alerts::NewAlert;
use crate::decision_policy::Policy;
use crate::rating::PlanDefinition;
use crate::settings::{self, BillingSettings, ConsumerBilling};
use crate::{BillingError, alerts, coupons, decision_policy, margin, plans, subscriptions};

#[derive(Serialize)]
struct File {
    workspace: String,
    currency: String,
    time_zone: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    seller: Value,
    taxes: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    intake: Option<IntakeSettings>,
    #[serde(skip_serializing_if = "Value::is_null")]
    decisions: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    formats: Vec<Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    billing: Value,
    sources: Vec<Value>,
    apis: Vec<Value>,
    meters: Vec<Value>,
    plans: Vec<Value>,
    consumers: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    coupons: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alerts: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    costs: Vec<Value>,
}

/// YAML that [`super::apply`] finds nothing to change about.
pub async fn export(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<String, BillingError> {
    let workspace = workspace::by_id(conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let to_value = |value: Result<Value, serde_json::Error>| value.map(pruned).map_err(|e| BillingError::unreadable("the catalogue", e));
    let mut file = File {
        workspace: workspace.name,
        currency: workspace.currency.code().to_owned(),
        time_zone: workspace.time_zone.name().to_owned(),
        seller: if workspace.seller.get("name").is_some() { workspace.seller } else { Value::Null },
        taxes: workspace.taxes,
        intake: Some(intake_settings::of(conn, ws).await?).filter(|settings| *settings != IntakeSettings::default()),
        decisions: match decision_policy::get(conn, ws).await? {
            policy if policy == Policy::default() => Value::Null,
            policy => to_value(serde_json::to_value(policy))?,
        },
        formats: Vec::new(),
        billing: match settings::of(conn, ws).await? {
            settings if settings == BillingSettings::default() => Value::Null,
            settings => to_value(serde_json::to_value(settings))?,
        },
        sources: Vec::new(),
        apis: Vec::new(),
        meters: Vec::new(),
        plans: Vec::new(),
        consumers: Vec::new(),
        coupons: Vec::new(),
        alerts: Vec::new(),
        costs: Vec::new(),
    };
    for format in formats::list(conn, ws).await? {
        file.formats.push(to_value(serde_json::to_value(format))?);
    }
    for s in sources::list(conn, ws).await? {
        file.sources.push(pruned(
            json!({ "name": s.name, "format": s.format, "kafka_topic": s.kafka_topic, "backfill": s.backfill, "networks": s.networks }),
        ));
    }
    for api in apis::list(conn, ws).await? {
        file.apis.push(pruned(json!({ "name": api.name, "product": api.product, "versions": api.versions })));
    }
    for meter in meters::list(conn, ws).await?.into_iter().filter(|meter| meter.version > 0) {
        file.meters.push(to_value(serde_json::to_value(meter.definition))?);
    }
    // Contracts are made with their consumer, not by the file.
    for plan in plans::all_versions(conn, ws).await?.into_iter().filter(|plan| plan.consumer.is_none()) {
        let retired = plan.retired;
        let mut plan = written(&plan.definition).map_err(|e| BillingError::unreadable("the catalogue", e))?;
        if retired {
            plan["retired"] = json!(true);
        }
        file.plans.push(plan);
    }
    for consumer in consumers::all(conn, ws).await? {
        let mut subjects = links::subjects_of(conn, ws, &consumer.id).await?;
        subjects.retain(|subject| subject != consumer.id.as_str());
        let mut own = Vec::new();
        for subscription in subscriptions::list(conn, ws, Some(&consumer.id), i64::MAX, "").await? {
            let Some(first) = subscription.phases.first() else { continue };
            own.push(json!({ "plan": first.plan, "version": first.version, "from": subscription.started_at }));
        }
        let billing = settings::of_consumer(conn, ws, &consumer.id).await?;
        let billing = (billing != ConsumerBilling::default()).then(|| serde_json::to_value(&billing).map(pruned)).transpose();
        let billing = billing.map_err(|e| BillingError::unreadable("the catalogue", e))?;
        let address = Some(consumer.address).filter(|address| address.get("country").is_some());
        file.consumers.push(pruned(json!({
            "name": consumer.name, "email": consumer.email, "signed_up": consumer.signed_up_at,
            "address": address, "billing": billing, "subjects": subjects, "subscriptions": own,
        })));
    }
    for c in coupons::list(conn, ws).await? {
        let name = (c.name != c.code).then_some(c.name);
        let mut coupon = pruned(json!({
            "code": c.code, "name": name, "share": c.share, "amount": c.amounts, "periods": c.periods, "prices": c.prices, "plans": c.plans,
            "redeem_by": c.redeem_by, "max_redemptions": c.max_redemptions,
        }));
        if c.archived {
            coupon["retired"] = json!(true);
        }
        file.coupons.push(coupon);
    }
    for cost in margin::costs::list(conn, ws).await? {
        file.costs.push(to_value(serde_json::to_value(cost))?);
    }
    for alert in alerts::list(conn, ws).await? {
        let consumer = match &alert.consumer {
            Some(id) => consumers::get(conn, ws, id).await?.map(|consumer| consumer.name),
            None => None,
        };
        let written = NewAlert {
            name: alert.name,
            kind: alert.kind,
            meter: alert.meter,
            threshold: alert.threshold,
            currency: alert.currency,
            at_least: alert.at_least,
            consumer: None,
            plan: alert.plan,
            emails: alert.emails,
            mail_consumer: alert.mail_consumer,
        };
        let mut written = to_value(serde_json::to_value(written))?;
        if let Some(consumer) = consumer {
            written["consumer"] = json!(consumer);
        }
        file.alerts.push(written);
    }
    serde_saphyr::to_string(&file).map_err(|e| BillingError::unreadable("the catalogue", e))
}

/// A plan as an entry of the file.
pub fn written(plan: &PlanDefinition) -> Result<Value, serde_json::Error> {
    let mut plan = pruned(serde_json::to_value(plan)?);
    for price in plan.get_mut("prices").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        // What holds without being written is not written.
        for (field, unwritten) in [("included", json!("0")), ("counts_to_minimum", json!(true)), ("flat_at_zero", json!(false))] {
            if price.get(field) == Some(&unwritten) {
                price.remove(field);
            }
        }
    }
    Ok(plan)
}

/// Without what is null or empty.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, pruned(value)))
                .filter(|(_, value)| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(pruned).collect()),
        other => other,
    }
}
