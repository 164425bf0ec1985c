//! Grants of units, and their entries.

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, GrantId, InvoiceId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money, decimal_string};
use farebox_core::workspace::Workspace;
use farebox_metering::meters;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::credits::{GrantKind, check_given, days_after};
use crate::rating::plan::Price;
use crate::rating::units::{ONLY_QUANTITIES, charged_beside, takes_units};
use crate::{BillingError, plans, subscriptions};

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct UnitGrant {
    pub id: GrantId,
    pub consumer: ConsumerId,
    pub name: String,
    pub kind: GrantKind,
    pub meter: String,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub units: BigDecimal,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub balance: BigDecimal,
    /// What all of them were bought for, without tax: owed until they are used or expire. None where the books know of no price.
    #[schema(value_type = Option<String>)]
    pub price: Option<Money>,
    #[schema(value_type = Option<String>)]
    pub currency: Option<Currency>,
    /// Lower is used first; then the soonest expiry, then the oldest.
    pub priority: i32,
    pub effective_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub rollover: Option<UnitRollover>,
    /// Only for this subscription, whose plan includes it.
    pub subscription: Option<SubscriptionId>,
}

/// What goes on at the expiry: at most `most` of what is left, for `days` days more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct UnitRollover {
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub most: BigDecimal,
    pub days: i32,
}

#[derive(Debug, Clone)]
pub struct NewUnitGrant {
    pub consumer: ConsumerId,
    pub name: String,
    pub kind: GrantKind,
    pub meter: String,
    pub units: BigDecimal,
    pub price: Option<Money>,
    pub priority: i32,
    pub effective_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub rollover: Option<UnitRollover>,
}

/// Where units came from and went.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct UnitEntry {
    pub grant: GrantId,
    pub from: String,
    pub to: String,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub units: BigDecimal,
    pub invoice: Option<InvoiceId>,
    /// What they were bought for: what is no longer owed for them, or is again.
    #[schema(value_type = Option<String>)]
    pub worth: Option<Money>,
    /// Whose usage they covered.
    pub subscription: Option<SubscriptionId>,
    pub at: DateTime<Utc>,
}

pub async fn grant(conn: &mut PgConnection, ws: &WorkspaceId, new: NewUnitGrant) -> Result<UnitGrant, BillingError> {
    let zero = BigDecimal::from(0);
    if new.units <= zero {
        return Err(BillingError::invalid("/units", "must be above 0"));
    }
    if let Some(price) = new.price {
        if new.kind != GrantKind::Paid {
            return Err(BillingError::invalid("/price", "is for units that were paid for; leave it out of those that are given away"));
        }
        if price.minor <= 0 {
            return Err(BillingError::invalid("/price", "must be above 0; units that cost nothing are promotional"));
        }
    }
    let rollover = new.rollover.as_ref().map(|rollover| (rollover.days, rollover.most > zero));
    check_given(conn, ws, &new.consumer, new.kind, (new.effective_at, new.expires_at), rollover).await?;
    if meters::get(conn, ws, &new.meter).await?.is_none() {
        return Err(BillingError::invalid("/meter", format!("there is no meter named `{}`", new.meter)));
    }
    could_cover(conn, ws, &new).await?;
    let id = insert(conn, ws, &new, &Origin::default()).await?.ok_or(BillingError::NotFound("grant"))?;
    get(conn, ws, &id).await?.ok_or(BillingError::NotFound("grant"))
}

/// Units that no price of the consumer's could ever take would be lost without a word, and what they cover must not be charged by
/// another price. Who has no price of the meter yet may get one.
async fn could_cover(conn: &mut PgConnection, ws: &WorkspaceId, new: &NewUnitGrant) -> Result<(), BillingError> {
    let (mut covered, mut priced) = (false, false);
    for subscription in subscriptions::current(conn, ws, &new.consumer).await? {
        // What ended before the units begin has nothing to do with them.
        for phase in subscription.phases.iter().filter(|phase| phase.to.is_none_or(|to| to > new.effective_at)) {
            let Some(plan) = plans::by_version(conn, ws, &phase.plan_version).await? else { continue };
            let of_meter = |price: &&Price| price.meter.as_ref() == Some(&new.meter);
            let (quantities, others): (Vec<_>, Vec<_>) =
                plan.definition.prices.iter().filter(of_meter).partition(|price| takes_units(price));
            if let (Some(covered), Some(other)) = (quantities.first(), others.first()) {
                return Err(BillingError::invalid("/meter", charged_beside(&new.meter, &covered.name, &other.name)));
            }
            let mut added = subscription.add_ons.iter().map(|own| &own.price).filter(of_meter);
            covered |= !quantities.is_empty() || added.any(takes_units);
            priced |= !others.is_empty() || subscription.add_ons.iter().map(|own| &own.price).any(|price| of_meter(&price));
        }
    }
    if priced && !covered {
        let detail = format!("the consumer's plans have no price of `{}` that units could cover: {ONLY_QUANTITIES}", new.meter);
        return Err(BillingError::invalid("/meter", detail));
    }
    Ok(())
}

/// Where a grant comes from, if nobody gave it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin<'a> {
    pub rolled_from: Option<&'a GrantId>,
    pub subscription: Option<&'a SubscriptionId>,
    /// Of the period it comes with: where it begins, and the plan version that includes it.
    pub period: Option<(DateTime<Utc>, &'a PlanVersionId)>,
}

/// None when it is there already: a period comes with it once.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    new: &NewUnitGrant,
    origin: &Origin<'_>,
) -> Result<Option<GrantId>, BillingError> {
    let id = GrantId::new();
    let made = sqlx::query!(
        "INSERT INTO unit_grants (id, workspace_id, consumer_id, name, kind, meter, units, balance, priority, effective_at, expires_at,
                                  rollover_units, rollover_days, rolled_from, created_at, subscription_id, period_start, plan_version_id,
                                  price_minor, price_currency)
         SELECT $1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11, $12, $13, $14::timestamptz + make_interval(secs => w.clock_ahead_s), $15, $16, $17,
                $18, $19
         FROM workspaces w WHERE w.id = $2
         ON CONFLICT (subscription_id, period_start, name) WHERE period_start IS NOT NULL AND NOT withdrawn DO NOTHING",
        id.as_str(),
        ws.as_str(),
        new.consumer.as_str(),
        new.name,
        new.kind.as_str(),
        new.meter,
        new.units,
        new.priority,
        new.effective_at,
        new.expires_at,
        new.rollover.as_ref().map(|r| r.most.clone()),
        new.rollover.as_ref().map(|r| r.days),
        origin.rolled_from.map(GrantId::as_str),
        clock::now(),
        origin.subscription.map(SubscriptionId::as_str),
        origin.period.map(|(start, _)| start),
        origin.period.map(|(_, version)| version.as_str()),
        new.price.map(|price| price.minor),
        new.price.map(|price| price.currency.code())
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Ok(None);
    }
    move_units(conn, ws, &id, ("granted", "balance"), &new.units).await?;
    Ok(Some(id))
}

/// Moves units between accounts that no invoice is about, by the workspace's clock; the grant's balance follows. Answers what
/// they were bought for, in minor units.
async fn move_units(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    grant: &GrantId,
    (from, to): (&str, &str),
    units: &BigDecimal,
) -> Result<i64, BillingError> {
    if *units <= BigDecimal::from(0) {
        return Ok(0);
    }
    Ok(sqlx::query_scalar!(
        "INSERT INTO unit_entries (workspace_id, grant_id, from_account, to_account, units, at)
         SELECT $1, $2, $3, $4, $5, $6::timestamptz + make_interval(secs => w.clock_ahead_s) FROM workspaces w WHERE w.id = $1
         RETURNING worth_minor",
        ws.as_str(),
        grant.as_str(),
        from,
        to,
        units,
        clock::now()
    )
    .fetch_one(conn)
    .await?)
}

pub async fn get(conn: &mut PgConnection, ws: &WorkspaceId, id: &GrantId) -> Result<Option<UnitGrant>, BillingError> {
    Ok(select(conn, ws, Some(id), None).await?.pop())
}

/// Of one consumer or all, in the order of use.
pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId, consumer: Option<&ConsumerId>) -> Result<Vec<UnitGrant>, BillingError> {
    select(conn, ws, None, consumer.map(|consumer| vec![consumer.to_string()]).as_deref()).await
}

/// In the order of use.
pub(super) async fn select(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: Option<&GrantId>,
    consumers: Option<&[String]>,
) -> Result<Vec<UnitGrant>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: GrantId", consumer_id AS "consumer: ConsumerId", name, kind AS "kind: GrantKind", meter, units, balance, priority,
                  effective_at, expires_at, rollover_units, rollover_days, subscription_id AS "subscription: SubscriptionId",
                  price_minor, price_currency
           FROM unit_grants WHERE workspace_id = $1 AND ($2::text IS NULL OR id = $2) AND ($3::text[] IS NULL OR consumer_id = ANY($3))
           ORDER BY priority, expires_at NULLS LAST, id"#,
        ws.as_str(),
        id.map(GrantId::as_str),
        consumers
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let currency = read_currency(row.price_currency.as_deref())?;
            Ok(UnitGrant {
                id: row.id,
                consumer: row.consumer,
                name: row.name,
                kind: row.kind,
                meter: row.meter,
                units: row.units,
                balance: row.balance,
                price: row.price_minor.zip(currency).map(|(minor, currency)| Money::new(minor, currency)),
                currency,
                priority: row.priority,
                effective_at: row.effective_at,
                expires_at: row.expires_at,
                rollover: row.rollover_units.zip(row.rollover_days).map(|(most, days)| UnitRollover { most, days }),
                subscription: row.subscription,
            })
        })
        .collect()
}

fn read_currency(code: Option<&str>) -> Result<Option<Currency>, BillingError> {
    code.map(|code| code.parse().map_err(|e| BillingError::unreadable("a grant of units", e))).transpose()
}

pub async fn entries(conn: &mut PgConnection, ws: &WorkspaceId, grant: &GrantId) -> Result<Vec<UnitEntry>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT e.from_account, e.to_account, e.units, e.worth_minor, e.invoice_id AS "invoice: InvoiceId",
                  e.subscription_id AS "subscription: SubscriptionId", e.at, g.price_currency
           FROM unit_entries e JOIN unit_grants g ON g.id = e.grant_id WHERE e.workspace_id = $1 AND e.grant_id = $2 ORDER BY e.id"#,
        ws.as_str(),
        grant.as_str()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(UnitEntry {
                grant: grant.clone(),
                from: row.from_account,
                to: row.to_account,
                units: row.units,
                worth: read_currency(row.price_currency.as_deref())?.map(|currency| Money::new(row.worth_minor, currency)),
                invoice: row.invoice,
                subscription: row.subscription,
                at: row.at,
            })
        })
        .collect()
}

/// Takes back what is left of a grant.
pub async fn void(conn: &mut PgConnection, ws: &WorkspaceId, id: &GrantId) -> Result<UnitGrant, BillingError> {
    let balance =
        sqlx::query_scalar!("SELECT balance FROM unit_grants WHERE workspace_id = $1 AND id = $2 FOR UPDATE", ws.as_str(), id.as_str())
            .fetch_optional(&mut *conn)
            .await?
            .ok_or(BillingError::NotFound("grant"))?;
    move_units(conn, ws, id, ("balance", "voided"), &balance).await?;
    sqlx::query!(
        "UPDATE unit_grants g SET closed_at = coalesce(g.closed_at, $2::timestamptz + make_interval(secs => w.clock_ahead_s))
         FROM workspaces w WHERE g.id = $1 AND w.id = g.workspace_id",
        id.as_str(),
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("grant"))
}

/// Takes back what is left of a grant that came with a period, since the period comes with another, or with none. Answers what
/// was used of it, which stays used.
pub(crate) async fn withdraw(conn: &mut PgConnection, ws: &WorkspaceId, id: &GrantId) -> Result<BigDecimal, BillingError> {
    void(conn, ws, id).await?;
    sqlx::query!("UPDATE unit_grants SET withdrawn = true WHERE id = $1", id.as_str()).execute(&mut *conn).await?;
    Ok(sqlx::query_scalar!(
        r#"SELECT coalesce(sum(CASE WHEN to_account = 'used' THEN units ELSE -units END), 0) AS "used!" FROM unit_entries
           WHERE grant_id = $1 AND 'used' IN (from_account, to_account)"#,
        id.as_str()
    )
    .fetch_one(conn)
    .await?)
}

/// As of credits in money: see [`crate::credits`].
pub(crate) async fn expire(
    conn: &mut PgConnection,
    workspace: &Workspace,
    consumers: Option<&[String]>,
    now: DateTime<Utc>,
) -> Result<usize, BillingError> {
    let ws = &workspace.id;
    let mut transaction = conn.begin().await?;
    let due = sqlx::query_scalar!(
        r#"SELECT id AS "id: GrantId" FROM unit_grants g
           WHERE workspace_id = $1 AND balance > 0 AND expires_at <= $2 AND ($3::text[] IS NULL OR consumer_id = ANY($3))
             AND NOT EXISTS (SELECT FROM subscriptions s WHERE s.workspace_id = $1 AND s.consumer_id = g.consumer_id
                             AND s.closes_at < g.expires_at + interval '1 minute')
           ORDER BY id FOR UPDATE SKIP LOCKED"#,
        ws.as_str(),
        now,
        consumers
    )
    .fetch_all(&mut *transaction)
    .await?;
    for id in &due {
        let Some(grant) = get(&mut transaction, ws, id).await? else { continue };
        let rolled = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM unit_grants WHERE rolled_from = $1) AS "rolled!""#, id.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        let mut left = grant.balance.clone();
        if let (Some(rollover), Some(expiry), false) = (&grant.rollover, grant.expires_at, rolled) {
            let goes_on = rollover.most.clone().min(grant.balance.clone());
            let worth = move_units(&mut transaction, ws, id, ("balance", "rolled_over"), &goes_on).await?;
            left -= &goes_on;
            let next = NewUnitGrant {
                consumer: grant.consumer.clone(),
                name: grant.name.clone(),
                kind: GrantKind::Rollover,
                meter: grant.meter.clone(),
                units: goes_on,
                price: grant.currency.map(|currency| Money::new(worth, currency)).filter(|worth| !worth.is_zero()),
                priority: grant.priority,
                effective_at: expiry,
                expires_at: Some(days_after(expiry, rollover.days, workspace.time_zone)),
                rollover: None,
            };
            insert(&mut transaction, ws, &next, &Origin { rolled_from: Some(id), subscription: grant.subscription.as_ref(), period: None })
                .await?;
        }
        move_units(&mut transaction, ws, id, ("balance", "expired"), &left).await?;
    }
    transaction.commit().await?;
    Ok(due.len())
}
