//! Contracts: a plan agreed with one consumer, as a plan of its own that departs from another and that nobody else
//! sees. A change of the contract is its next version.

use farebox_core::ids::{ConsumerId, WorkspaceId};
use serde_json::Value;
use sqlx::PgConnection;

use crate::plans::{self, Plan};
use crate::{BillingError, catalog};

/// Publishes `changes` to the newest version of `plan` for the consumer, under the name `plan (consumer)`.
pub async fn agree(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    plan: &str,
    changes: &Value,
) -> Result<Plan, BillingError> {
    let base = plans::find(conn, ws, plan, None).await?.ok_or(BillingError::NotFound("plan"))?;
    let who = farebox_metering::consumers::get(conn, ws, consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
    let workspace = farebox_core::workspace::by_id(conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let name = if base.consumer.is_some() { base.name.clone() } else { format!("{} ({})", base.name, who.name) };
    let version = plans::find(conn, ws, &name, None).await?.map_or(1, |before| before.version + 1);
    let mut entry = catalog::written(&base.definition).map_err(|e| BillingError::unreadable("a plan", e))?;
    apply(&mut entry, changes)?;
    entry["name"] = name.clone().into();
    entry["version"] = version.into();
    let (definition, _) = catalog::parse_plan(&entry.to_string(), workspace.currency).map_err(|errors| {
        let shown: Vec<_> = errors.iter().map(|error| format!("{}: {}", error.path, error.message)).collect();
        BillingError::invalid("/changes", shown.join("; "))
    })?;
    plans::publish_for(conn, ws, &definition, Some(consumer)).await?;
    plans::find(conn, ws, &name, Some(version)).await?.ok_or(BillingError::NotFound("plan"))
}

/// Fields replace fields; prices replace those of their name, and others are added.
fn apply(entry: &mut Value, changes: &Value) -> Result<(), BillingError> {
    let Value::Object(changes) = changes else { return Err(BillingError::invalid("/changes", "is an object, as an entry of `plans`")) };
    for (field, wanted) in changes {
        match (field.as_str(), wanted) {
            ("name" | "version" | "product", _) => {
                return Err(BillingError::invalid(format!("/changes/{field}"), "follows from the plan and the consumer; leave it out"));
            }
            ("prices", Value::Array(wanted)) => {
                let mut prices = entry.get("prices").and_then(Value::as_array).cloned().unwrap_or_default();
                for price in wanted {
                    match prices.iter_mut().find(|own| own.get("name") == price.get("name")) {
                        Some(own) => *own = price.clone(),
                        None => prices.push(price.clone()),
                    }
                }
                entry["prices"] = prices.into();
            }
            _ => entry[field] = wanted.clone(),
        }
    }
    Ok(())
}
