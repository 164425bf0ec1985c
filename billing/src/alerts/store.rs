//! The rules.

use bigdecimal::{BigDecimal, Zero};
use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{AlertId, ConsumerId, WorkspaceId};
use farebox_core::mail::is_address;
use farebox_core::money::{Currency, Money, decimal_string};
use farebox_metering::meters;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::judge::Kind;
use crate::{BillingError, plans};

/// Of one workspace, without those of consumers; and of one consumer.
const MOST: usize = 500;
const MOST_OWN: usize = 20;
const MOST_ADDRESSES: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Alert {
    pub id: AlertId,
    pub name: String,
    pub kind: Kind,
    /// Of `usage` and `anomaly`.
    pub meter: Option<String>,
    /// Percent, units, an amount, or how many times: by its kind.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub threshold: BigDecimal,
    /// Of `spend`.
    pub currency: Option<String>,
    /// Of `anomaly`: hours with less are not judged.
    #[serde(serialize_with = "optional")]
    #[schema(value_type = Option<String>)]
    pub at_least: Option<BigDecimal>,
    /// Only this consumer's subscriptions.
    pub consumer: Option<ConsumerId>,
    /// Only subscriptions on this plan (name).
    pub plan: Option<String>,
    /// Set by the consumer, who alone is told.
    pub own: bool,
    pub emails: Vec<String>,
    /// The consumer's address is told, too.
    pub mail_consumer: bool,
    pub created_at: DateTime<Utc>,
    /// How often the threshold was raised, and one.
    #[serde(skip)]
    pub arming: i32,
}

#[allow(clippy::ref_option)] // as serde calls it
fn optional<S: serde::Serializer>(value: &Option<BigDecimal>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => decimal_string::serialize(value, serializer),
        None => serializer.serialize_none(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAlert {
    /// Unique in the workspace.
    pub name: String,
    pub kind: Kind,
    /// For `usage` and `anomaly`: which meter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
    /// `allowance`: percent of what the plan holds. `usage`: units of the meter in a period of the subscription. `spend`:
    /// what the gathering invoice comes to, without tax. `anomaly`: how many times what the same hour of the past four
    /// weeks had on average, more or less.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String, example = "80")]
    pub threshold: BigDecimal,
    /// For `spend`; the workspace's unless given. Subscriptions in another one are not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// For `anomaly`: hours in which both this one and the usual one have less are not judged; 100 unless given.
    #[serde(
        default,
        deserialize_with = "crate::http::optional_decimal::deserialize",
        serialize_with = "optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>)]
    pub at_least: Option<BigDecimal>,
    /// Only the subscriptions of this consumer (id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub consumer: Option<ConsumerId>,
    /// Only subscriptions on this plan (name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Who is told by e-mail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<String>,
    /// Tells the consumer by e-mail, too.
    #[serde(default)]
    pub mail_consumer: bool,
}

/// What can be said about a rule without looking anything up: as the catalogue reads it.
pub(crate) fn check_of_catalogue(new: &NewAlert) -> Result<(), BillingError> {
    let wrong = |field: &str, detail: &str| BillingError::invalid(field, detail);
    if new.name.trim().is_empty() || new.name.len() > 100 {
        return Err(wrong("/name", "has 1 to 100 bytes"));
    }
    let metered = matches!(new.kind, Kind::Usage | Kind::Anomaly);
    if new.meter.is_some() != metered {
        let detail = if metered { "names what is counted, such as requests" } else { "is only for `usage` and `anomaly`" };
        return Err(wrong("/meter", detail));
    }
    if new.currency.is_some() && new.kind != Kind::Spend {
        return Err(wrong("/currency", "is only for `spend`"));
    }
    if new.at_least.is_some() && new.kind != Kind::Anomaly {
        return Err(wrong("/at_least", "is only for `anomaly`"));
    }
    if new.at_least.as_ref().is_some_and(|least| *least < BigDecimal::zero()) {
        return Err(wrong("/at_least", "must not be negative"));
    }
    if new.threshold <= BigDecimal::zero() || new.threshold.digits() > 26 {
        return Err(wrong("/threshold", "must be above 0, with at most 26 digits"));
    }
    if new.kind == Kind::Anomaly && new.threshold <= BigDecimal::from(1) {
        return Err(wrong("/threshold", "must be above 1: 3 means three times what is usual, or a third"));
    }
    if new.emails.len() > MOST_ADDRESSES {
        return Err(wrong("/emails", &format!("has at most {MOST_ADDRESSES} addresses")));
    }
    if let Some(address) = new.emails.iter().find(|address| !is_address(address)) {
        let shown: String = address.chars().take(80).collect();
        return Err(wrong("/emails", &format!("`{shown}` is no e-mail address such as ops@acme.example")));
    }
    Ok(())
}

/// As stored: what was left out filled in, and what it names looked up.
async fn checked(conn: &mut PgConnection, ws: &WorkspaceId, new: &NewAlert, of_workspace: Currency) -> Result<NewAlert, BillingError> {
    check_of_catalogue(new)?;
    let mut whole = new.clone();
    if let Some(meter) = &new.meter
        && meters::get(conn, ws, meter).await?.is_none()
    {
        return Err(BillingError::invalid("/meter", format!("there is no meter `{meter}`; see GET /api/v1/meters")));
    }
    if let Some(plan) = &new.plan
        && plans::find(conn, ws, plan, None).await?.is_none()
    {
        return Err(BillingError::invalid("/plan", format!("there is no plan `{plan}`; see GET /api/v1/plans")));
    }
    if let Some(consumer) = &new.consumer
        && farebox_metering::consumers::get(conn, ws, consumer).await?.is_none()
    {
        return Err(BillingError::invalid("/consumer", "there is no such consumer"));
    }
    if new.kind == Kind::Spend {
        let currency: Currency = match &new.currency {
            Some(code) => code.parse().map_err(|_| BillingError::invalid("/currency", "is an ISO 4217 code such as USD"))?,
            None => of_workspace,
        };
        Money::exact(&new.threshold, currency).map_err(|e| BillingError::invalid("/threshold", e.to_string()))?;
        whole.currency = Some(currency.code().to_owned());
    }
    if new.kind == Kind::Anomaly {
        whole.at_least = Some(new.at_least.clone().unwrap_or_else(|| BigDecimal::from(100)));
    }
    Ok(whole)
}

async fn currency_of(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Currency, BillingError> {
    Ok(farebox_core::workspace::by_id(conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?.currency)
}

/// A rule of the provider's.
pub async fn create(conn: &mut PgConnection, ws: &WorkspaceId, new: &NewAlert) -> Result<Alert, BillingError> {
    if find_named(conn, ws, &new.name).await?.is_some() {
        let detail = format!("There is an alert named `{}` already. Change it, or choose another name.", new.name);
        return Err(BillingError::conflict("alert-exists", detail));
    }
    if list(conn, ws).await?.len() >= MOST {
        return Err(BillingError::conflict("too-many-alerts", format!("A workspace has at most {MOST} alerts. Remove one first.")));
    }
    insert(conn, ws, new, false).await
}

/// A rule that a consumer sets about itself; `email` is told.
pub async fn create_own(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId, new: &NewAlert) -> Result<Alert, BillingError> {
    if list_own(conn, ws, consumer).await?.len() >= MOST_OWN {
        return Err(BillingError::conflict("too-many-alerts", format!("At most {MOST_OWN} alerts can be set. Remove one first.")));
    }
    let new = NewAlert { consumer: Some(consumer.clone()), plan: None, mail_consumer: false, ..new.clone() };
    insert(conn, ws, &new, true).await
}

async fn insert(conn: &mut PgConnection, ws: &WorkspaceId, new: &NewAlert, own: bool) -> Result<Alert, BillingError> {
    let currency = currency_of(conn, ws).await?;
    let (id, now, new) = (AlertId::new(), clock::now(), checked(conn, ws, new, currency).await?);
    sqlx::query!(
        "INSERT INTO alerts (id, workspace_id, name, kind, meter, threshold, currency, at_least, consumer_id, plan, own, emails, mail_consumer,
                             created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)",
        id.as_str(),
        ws.as_str(),
        new.name,
        new.kind.as_str(),
        new.meter,
        new.threshold,
        new.currency,
        new.at_least,
        new.consumer.as_ref().map(ConsumerId::as_str),
        new.plan,
        own,
        &new.emails,
        new.mail_consumer,
        now
    )
    .execute(&mut *conn)
    .await?;
    get(conn, ws, &id).await?.ok_or(BillingError::NotFound("alert"))
}

/// Another threshold, and whom to tell. A higher threshold may be raised again in the same period; what it is about stays.
pub async fn update(conn: &mut PgConnection, ws: &WorkspaceId, id: &AlertId, new: &NewAlert) -> Result<Alert, BillingError> {
    let before = get(conn, ws, id).await?.filter(|alert| !alert.own).ok_or(BillingError::NotFound("alert"))?;
    let currency = currency_of(conn, ws).await?;
    let new = checked(conn, ws, new, currency).await?;
    if (before.kind, &before.meter, &before.currency, &before.consumer, &before.plan)
        != (new.kind, &new.meter, &new.currency, &new.consumer, &new.plan)
    {
        let detail = "What an alert is about stays: kind, meter, currency, consumer and plan. Remove it and make another.";
        return Err(BillingError::conflict("alert-about-else", detail));
    }
    if find_named(conn, ws, &new.name).await?.is_some_and(|named| named.id != *id) {
        return Err(BillingError::conflict("alert-exists", format!("There is an alert named `{}` already.", new.name)));
    }
    sqlx::query!(
        "UPDATE alerts SET name = $3, arming = arming + (threshold < $4)::integer, threshold = $4, at_least = $5, emails = $6, mail_consumer = $7,
                updated_at = $8
         WHERE workspace_id = $1 AND id = $2",
        ws.as_str(),
        id.as_str(),
        new.name,
        new.threshold,
        new.at_least,
        &new.emails,
        new.mail_consumer,
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("alert"))
}

/// As the catalogue has it: by name. Whether it was there, and whether that changed anything.
pub(crate) async fn put_named(conn: &mut PgConnection, ws: &WorkspaceId, new: &NewAlert) -> Result<(bool, bool), BillingError> {
    let Some(before) = find_named(conn, ws, &new.name).await? else {
        insert(conn, ws, new, false).await?;
        return Ok((false, true));
    };
    let after = update(conn, ws, &before.id, new).await?;
    Ok((true, after != Alert { arming: after.arming, ..before }))
}

/// The provider's, by name.
pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<Alert>, BillingError> {
    let mut found = find(conn, ws, None).await?;
    found.retain(|alert| !alert.own);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Those a consumer set, oldest first.
pub async fn list_own(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Alert>, BillingError> {
    let mut found = find(conn, ws, None).await?;
    found.retain(|alert| alert.own && alert.consumer.as_ref() == Some(consumer));
    Ok(found)
}

pub async fn get(conn: &mut PgConnection, ws: &WorkspaceId, id: &AlertId) -> Result<Option<Alert>, BillingError> {
    Ok(find(conn, ws, Some(id)).await?.pop())
}

async fn find_named(conn: &mut PgConnection, ws: &WorkspaceId, name: &str) -> Result<Option<Alert>, BillingError> {
    Ok(list(conn, ws).await?.into_iter().find(|alert| alert.name == name))
}

pub(super) async fn find(conn: &mut PgConnection, ws: &WorkspaceId, id: Option<&AlertId>) -> Result<Vec<Alert>, BillingError> {
    Ok(sqlx::query_as!(
        Alert,
        r#"SELECT id AS "id: AlertId", name, kind AS "kind: Kind", meter, threshold, currency, at_least, consumer_id AS "consumer: ConsumerId", plan,
                  own, emails, mail_consumer, created_at, arming
           FROM alerts WHERE workspace_id = $1 AND removed_at IS NULL AND ($2::text IS NULL OR id = $2) ORDER BY id"#,
        ws.as_str(),
        id.map(AlertId::as_str)
    )
    .fetch_all(conn)
    .await?)
}

/// Nothing is judged by it any more; what was raised stays on record. False when it was not there.
pub async fn remove(conn: &mut PgConnection, ws: &WorkspaceId, id: &AlertId) -> Result<bool, BillingError> {
    let done = sqlx::query!(
        "UPDATE alerts SET removed_at = $3 WHERE workspace_id = $1 AND id = $2 AND removed_at IS NULL AND NOT own",
        ws.as_str(),
        id.as_str(),
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn remove_own(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId, id: &AlertId) -> Result<bool, BillingError> {
    let done = sqlx::query!(
        "UPDATE alerts SET removed_at = $4 WHERE workspace_id = $1 AND id = $2 AND removed_at IS NULL AND own AND consumer_id = $3",
        ws.as_str(),
        id.as_str(),
        consumer.as_str(),
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
