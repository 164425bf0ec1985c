//! Prepaid credits: grants, and a double-entry ledger of what became of them. A balance is never below zero: the
//! database refuses it.

use std::collections::HashMap;

use chrono::{DateTime, Days, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, GrantId, InvoiceId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::resolve;
use farebox_core::workspace::Workspace;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};

use crate::BillingError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum GrantKind {
    Paid,
    Promotional,
    Included,
    /// What was left of another grant at its expiry.
    Rollover,
    /// By a credit note, instead of being paid back.
    Balance,
}

impl GrantKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Promotional => "promotional",
            Self::Included => "included",
            Self::Rollover => "rollover",
            Self::Balance => "balance",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Grant {
    pub id: GrantId,
    pub consumer: ConsumerId,
    pub name: String,
    pub kind: GrantKind,
    #[schema(value_type = String)]
    pub currency: Currency,
    #[schema(value_type = String)]
    pub amount: Money,
    #[schema(value_type = String)]
    pub balance: Money,
    /// It stands for money already taxed, and is used after tax.
    pub taxed: bool,
    /// Lower is used first; then the soonest expiry, then the oldest.
    pub priority: i32,
    pub effective_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub rollover: Option<Rollover>,
    /// Only for this subscription, whose plan includes it.
    pub subscription: Option<SubscriptionId>,
    /// Only for lines of prices of these names; for all when empty.
    pub prices: Vec<String>,
}

/// What goes on at the expiry: at most `most` of what is left, for `days` days more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Rollover {
    #[schema(value_type = String)]
    pub most: Money,
    pub days: i32,
}

#[derive(Debug, Clone)]
pub struct NewGrant {
    pub consumer: ConsumerId,
    pub name: String,
    pub kind: GrantKind,
    pub amount: Money,
    pub taxed: bool,
    pub priority: i32,
    pub effective_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub rollover: Option<Rollover>,
}

/// Where an amount came from and went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Entry {
    pub grant: GrantId,
    pub from: String,
    pub to: String,
    #[schema(value_type = String)]
    pub amount: Money,
    pub invoice: Option<InvoiceId>,
    pub at: DateTime<Utc>,
}

pub async fn grant(conn: &mut PgConnection, ws: &WorkspaceId, new: NewGrant) -> Result<Grant, BillingError> {
    if new.amount.minor <= 0 {
        return Err(BillingError::invalid("/amount", "must be above 0"));
    }
    let rollover = new.rollover.map(|rollover| (rollover.days, rollover.most.minor > 0));
    check_given(conn, ws, &new.consumer, new.kind, (new.effective_at, new.expires_at), rollover).await?;
    let id = insert(conn, ws, &new, &Origin::default()).await?.ok_or(BillingError::NotFound("grant"))?;
    get(conn, ws, &id).await?.ok_or(BillingError::NotFound("grant"))
}

/// What holds of every grant that somebody gives, of money or of units. `rollover`: its days, and whether anything goes on.
pub(crate) async fn check_given(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    kind: GrantKind,
    (effective_at, expires_at): (DateTime<Utc>, Option<DateTime<Utc>>),
    rollover: Option<(i32, bool)>,
) -> Result<(), BillingError> {
    if !matches!(kind, GrantKind::Paid | GrantKind::Promotional) {
        return Err(BillingError::invalid("/kind", "is paid or promotional: the others come about by themselves"));
    }
    if expires_at.is_some_and(|end| end <= effective_at) {
        return Err(BillingError::invalid("/expires_at", "must be after `effective_at`"));
    }
    if let Some((days, goes_on)) = rollover {
        if expires_at.is_none() {
            return Err(BillingError::invalid("/rollover", "needs an expiry: without one nothing has to go on"));
        }
        if days < 1 || !goes_on {
            return Err(BillingError::invalid("/rollover", "needs at least one day, and more than 0 that goes on"));
        }
    }
    if farebox_metering::consumers::get(conn, ws, consumer).await?.is_none() {
        return Err(BillingError::NotFound("consumer"));
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
    pub prices: &'a [String],
}

/// None when it is there already: a period comes with it once.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    new: &NewGrant,
    origin: &Origin<'_>,
) -> Result<Option<GrantId>, BillingError> {
    let id = GrantId::new();
    let made = sqlx::query!(
        "INSERT INTO credit_grants (id, workspace_id, consumer_id, name, kind, currency, amount_minor, balance_minor, taxed, priority, effective_at,
                                    expires_at, rollover_minor, rollover_days, rolled_from, created_at, subscription_id, period_start, plan_version_id, prices)
         SELECT $1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11, $12, $13, $14, $15::timestamptz + make_interval(secs => w.clock_ahead_s), $16, $17, $18, $19
         FROM workspaces w WHERE w.id = $2
         ON CONFLICT (subscription_id, period_start, name) WHERE period_start IS NOT NULL AND NOT withdrawn DO NOTHING",
        id.as_str(),
        ws.as_str(),
        new.consumer.as_str(),
        new.name,
        new.kind.as_str(),
        new.amount.currency.code(),
        new.amount.minor,
        new.taxed,
        new.priority,
        new.effective_at,
        new.expires_at,
        new.rollover.map(|r| r.most.minor),
        new.rollover.map(|r| r.days),
        origin.rolled_from.map(GrantId::as_str),
        clock::now(),
        origin.subscription.map(SubscriptionId::as_str),
        origin.period.map(|(start, _)| start),
        origin.period.map(|(_, version)| version.as_str()),
        origin.prices
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Ok(None);
    }
    post(conn, ws, &id, ("granted", "balance"), new.amount.minor, None).await?;
    Ok(Some(id))
}

/// Takes back what is left of a grant that came with a period, since the period comes with another, or with none. What was used
/// of it stays used.
pub(crate) async fn withdraw(conn: &mut PgConnection, ws: &WorkspaceId, id: &GrantId) -> Result<Money, BillingError> {
    let voided = void(conn, ws, id).await?;
    sqlx::query!("UPDATE credit_grants SET withdrawn = true WHERE id = $1", id.as_str()).execute(&mut *conn).await?;
    let used = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(CASE WHEN to_account = 'used' THEN amount_minor ELSE -amount_minor END), 0)::bigint AS "used!" FROM credit_entries
           WHERE grant_id = $1 AND 'used' IN (from_account, to_account)"#,
        id.as_str()
    )
    .fetch_one(conn)
    .await?;
    Ok(Money::new(used, voided.currency))
}

/// Moves an amount, by the workspace's clock; the grant's balance follows.
async fn post(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    grant: &GrantId,
    (from, to): (&str, &str),
    amount: i64,
    invoice: Option<&InvoiceId>,
) -> Result<(), BillingError> {
    if amount == 0 {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO credit_entries (workspace_id, grant_id, from_account, to_account, amount_minor, invoice_id, at)
         SELECT $1, $2, $3, $4, $5, $6, $7::timestamptz + make_interval(secs => w.clock_ahead_s) FROM workspaces w WHERE w.id = $1",
        ws.as_str(),
        grant.as_str(),
        from,
        to,
        amount,
        invoice.map(InvoiceId::as_str),
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn get(conn: &mut PgConnection, ws: &WorkspaceId, id: &GrantId) -> Result<Option<Grant>, BillingError> {
    Ok(select(conn, ws, Some(id), None).await?.pop())
}

/// Of one consumer or all, in the order of use.
pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId, consumer: Option<&ConsumerId>) -> Result<Vec<Grant>, BillingError> {
    select(conn, ws, None, consumer.map(|consumer| vec![consumer.to_string()]).as_deref()).await
}

/// In the order of use.
async fn select(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: Option<&GrantId>,
    consumers: Option<&[String]>,
) -> Result<Vec<Grant>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: GrantId", consumer_id AS "consumer: ConsumerId", name, kind AS "kind: GrantKind", currency, amount_minor, balance_minor,
                  taxed, priority, effective_at, expires_at, rollover_minor, rollover_days, subscription_id AS "subscription: SubscriptionId", prices
           FROM credit_grants WHERE workspace_id = $1 AND ($2::text IS NULL OR id = $2) AND ($3::text[] IS NULL OR consumer_id = ANY($3))
           ORDER BY priority, expires_at NULLS LAST, id"#,
        ws.as_str(),
        id.map(GrantId::as_str),
        consumers
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("a grant", e))?;
            let money = |minor| Money::new(minor, currency);
            let rollover = row.rollover_minor.zip(row.rollover_days).map(|(most, days)| Rollover { most: money(most), days });
            Ok(Grant {
                id: row.id,
                consumer: row.consumer,
                name: row.name,
                kind: row.kind,
                currency,
                amount: money(row.amount_minor),
                balance: money(row.balance_minor),
                taxed: row.taxed,
                priority: row.priority,
                effective_at: row.effective_at,
                expires_at: row.expires_at,
                rollover,
                subscription: row.subscription,
                prices: row.prices,
            })
        })
        .collect()
}

pub async fn entries(conn: &mut PgConnection, ws: &WorkspaceId, grant: &GrantId) -> Result<Vec<Entry>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT e.from_account, e.to_account, e.amount_minor, e.invoice_id AS "invoice: InvoiceId", e.at, g.currency
           FROM credit_entries e JOIN credit_grants g ON g.id = e.grant_id WHERE e.workspace_id = $1 AND e.grant_id = $2 ORDER BY e.id"#,
        ws.as_str(),
        grant.as_str()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("a grant", e))?;
            Ok(Entry {
                grant: grant.clone(),
                from: row.from_account,
                to: row.to_account,
                amount: Money::new(row.amount_minor, currency),
                invoice: row.invoice,
                at: row.at,
            })
        })
        .collect()
}

/// What is left to consumers, in the order of use. When it is to be used it is locked until the transaction ends, and what is
/// over expires or rolls over first, so that the period after finds it.
pub(crate) async fn usable(
    conn: &mut PgConnection,
    workspace: &Workspace,
    consumers: &[String],
    lock: bool,
) -> Result<HashMap<ConsumerId, Vec<Grant>>, BillingError> {
    let ws = &workspace.id;
    if lock {
        let sql =
            "SELECT id FROM credit_grants WHERE workspace_id = $1 AND consumer_id = ANY($2) AND balance_minor > 0 ORDER BY id FOR UPDATE";
        sqlx::query(sql).bind(ws.as_str()).bind(consumers).execute(&mut *conn).await?;
        expire(conn, workspace, Some(consumers), workspace.clock.now()).await?;
    }
    let mut found: HashMap<ConsumerId, Vec<Grant>> = HashMap::new();
    for grant in select(conn, ws, None, Some(consumers)).await?.into_iter().filter(|grant| grant.balance.minor > 0) {
        found.entry(grant.consumer.clone()).or_default().push(grant);
    }
    Ok(found)
}

/// Takes from the grants what an invoice used of them.
pub(crate) async fn burn(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &InvoiceId,
    used: &[(String, Money)],
) -> Result<(), BillingError> {
    for (grant, amount) in used {
        let grant: GrantId = grant.parse().map_err(|e| BillingError::unreadable("a grant", e))?;
        post(conn, ws, &grant, ("balance", "used"), amount.minor, Some(invoice)).await?;
    }
    Ok(())
}

/// Gives back exactly what a void invoice took.
pub(crate) async fn give_back(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &InvoiceId) -> Result<(), BillingError> {
    sqlx::query!(
        "INSERT INTO credit_entries (workspace_id, grant_id, from_account, to_account, amount_minor, invoice_id, at)
         SELECT e.workspace_id, e.grant_id, 'used', 'balance', e.amount_minor, e.invoice_id, $3::timestamptz + make_interval(secs => w.clock_ahead_s)
         FROM credit_entries e JOIN workspaces w ON w.id = e.workspace_id
         WHERE e.workspace_id = $1 AND e.invoice_id = $2 AND e.to_account = 'used' ORDER BY e.grant_id
         ON CONFLICT DO NOTHING",
        ws.as_str(),
        invoice.as_str(),
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes back what is left of a grant.
pub async fn void(conn: &mut PgConnection, ws: &WorkspaceId, id: &GrantId) -> Result<Grant, BillingError> {
    let row =
        sqlx::query!("SELECT balance_minor FROM credit_grants WHERE workspace_id = $1 AND id = $2 FOR UPDATE", ws.as_str(), id.as_str())
            .fetch_optional(&mut *conn)
            .await?;
    let row = row.ok_or(BillingError::NotFound("grant"))?;
    post(conn, ws, id, ("balance", "voided"), row.balance_minor, None).await?;
    sqlx::query!(
        "UPDATE credit_grants g SET closed_at = coalesce(g.closed_at, $2::timestamptz + make_interval(secs => w.clock_ahead_s))
         FROM workspaces w WHERE g.id = $1 AND w.id = g.workspace_id",
        id.as_str(),
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("grant"))
}

/// Expires what is over by `now`, and rolls over what may go on: of these consumers, or of all. All of it or nothing, and safe
/// to repeat. What a period that is not closed yet may still use is left until then.
pub(crate) async fn expire(
    conn: &mut PgConnection,
    workspace: &Workspace,
    consumers: Option<&[String]>,
    now: DateTime<Utc>,
) -> Result<usize, BillingError> {
    let ws = &workspace.id;
    let mut transaction = conn.begin().await?;
    // Credits serve a period whose last minute they are valid in.
    let due = sqlx::query_scalar!(
        r#"SELECT id AS "id: GrantId" FROM credit_grants g
           WHERE workspace_id = $1 AND balance_minor > 0 AND expires_at <= $2 AND ($3::text[] IS NULL OR consumer_id = ANY($3))
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
        let rolled = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM credit_grants WHERE rolled_from = $1) AS "rolled!""#, id.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        let goes_on = grant.rollover.filter(|_| !rolled).map_or(0, |r| r.most.minor.min(grant.balance.minor));
        if let (Some(rollover), Some(expiry), true) = (grant.rollover, grant.expires_at, goes_on > 0) {
            post(&mut transaction, ws, id, ("balance", "rolled_over"), goes_on, None).await?;
            let next = NewGrant {
                consumer: grant.consumer.clone(),
                name: grant.name.clone(),
                kind: GrantKind::Rollover,
                amount: Money::new(goes_on, grant.currency),
                taxed: grant.taxed,
                priority: grant.priority,
                effective_at: expiry,
                expires_at: Some(days_after(expiry, rollover.days, workspace.time_zone)),
                rollover: None,
            };
            let origin = Origin { rolled_from: Some(id), subscription: grant.subscription.as_ref(), period: None, prices: &grant.prices };
            insert(&mut transaction, ws, &next, &origin).await?;
        }
        post(&mut transaction, ws, id, ("balance", "expired"), grant.balance.minor - goes_on, None).await?;
    }
    transaction.commit().await?;
    Ok(due.len())
}

/// By the workspace's calendar: where clocks change a day is not 24 hours, and a period's end would be missed by one.
pub(crate) fn days_after(at: DateTime<Utc>, days: i32, zone: Tz) -> DateTime<Utc> {
    let local = at.with_timezone(&zone).naive_local().checked_add_days(Days::new(u64::from(days.unsigned_abs())));
    local.map_or(at + TimeDelta::days(i64::from(days)), |local| resolve(local, zone))
}
