//! What may be used of prepaid units on invoices, and what was.

use std::collections::{BTreeMap, HashMap};

use bigdecimal::BigDecimal;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, InvoiceId, SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use sqlx::PgConnection;

use super::store::{self, UnitGrant};
use crate::BillingError;
use crate::rating::Usage;
use crate::rating::cycle::{UsedKey, Wanted};
use crate::rating::units::{Covered, Prepaid, Stretch, Taken, cover};
use crate::subscriptions::Subscription;

/// What covers the stretches of a subscription by earlier invoices.
pub(crate) type Covers = HashMap<Stretch, Covered>;

/// What a consumer has left, in the order of use. One invoice has one, so that nothing is used twice on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Purse(Vec<UnitGrant>);

impl Purse {
    /// Covers the usage of a period that ends at `end`: units serve the periods that end while they are valid.
    pub fn cover(
        &mut self,
        subscription: &Subscription,
        end: DateTime<Utc>,
        wanted: &[Wanted],
        used: &mut BTreeMap<UsedKey, Usage>,
        covers: &Covers,
    ) -> Vec<Taken> {
        let at = end - TimeDelta::minutes(1);
        let serves = |grant: &UnitGrant| {
            grant.effective_at <= at
                && grant.expires_at.is_none_or(|end| end > at)
                && grant.subscription.as_ref().is_none_or(|own| *own == subscription.id)
        };
        let mut usable: Vec<_> = self
            .0
            .iter()
            .filter(|grant| serves(grant))
            .map(|grant| Prepaid { grant: grant.id.to_string(), meter: grant.meter.clone(), left: grant.balance.clone() })
            .collect();
        let taken = cover(wanted, used, &mut usable, covers);
        for prepaid in usable {
            if let Some(grant) = self.0.iter_mut().find(|grant| grant.id.as_str() == prepaid.grant) {
                grant.balance = prepaid.left;
            }
        }
        taken
    }

    /// By id, what a grant is called.
    pub fn name(&self, grant: &str) -> Option<&str> {
        self.0.iter().find(|own| own.id.as_str() == grant).map(|own| own.name.as_str())
    }
}

/// What is left to consumers. When it is to be used it is locked until the transaction ends, and what is over expires or rolls
/// over first.
pub(crate) async fn load(
    conn: &mut PgConnection,
    workspace: &Workspace,
    consumers: &[String],
    lock: bool,
) -> Result<HashMap<ConsumerId, Purse>, BillingError> {
    let ws = &workspace.id;
    if lock {
        let sql = "SELECT id FROM unit_grants WHERE workspace_id = $1 AND consumer_id = ANY($2) AND balance > 0 ORDER BY id FOR UPDATE";
        sqlx::query(sql).bind(ws.as_str()).bind(consumers).execute(&mut *conn).await?;
        store::expire(conn, workspace, Some(consumers), workspace.clock.now()).await?;
    }
    let mut found: HashMap<ConsumerId, Purse> = HashMap::new();
    for grant in store::select(conn, ws, None, Some(consumers)).await?.into_iter().filter(|grant| grant.balance > BigDecimal::from(0)) {
        found.entry(grant.consumer.clone()).or_default().0.push(grant);
    }
    Ok(found)
}

/// What covers stretches of each subscription whose price's period ends after an instant.
pub(crate) async fn covers(
    conn: &mut PgConnection,
    since: &[(&Subscription, DateTime<Utc>)],
) -> Result<HashMap<SubscriptionId, Covers>, BillingError> {
    let (ids, from): (Vec<_>, Vec<_>) = since.iter().map(|(subscription, from)| (subscription.id.as_str().to_owned(), *from)).unzip();
    let rows = sqlx::query!(
        r#"SELECT e.subscription_id AS "subscription!: SubscriptionId", g.meter, e.stretch_start AS "start!", e.period_end AS "end!", e.grant_id,
                  sum(CASE WHEN e.to_account = 'used' THEN e.units WHEN e.voided THEN 0 ELSE -e.units END) AS "covers!",
                  sum(CASE WHEN e.to_account = 'used' THEN e.units ELSE -e.units END) AS "taken!"
           FROM unnest($1::text[], $2::timestamptz[]) AS w (subscription_id, since)
           JOIN unit_entries e ON e.subscription_id = w.subscription_id AND e.period_end > w.since
           JOIN unit_grants g ON g.id = e.grant_id
           GROUP BY e.subscription_id, g.meter, e.stretch_start, e.period_end, e.grant_id ORDER BY min(e.id)"#,
        &ids,
        &from
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<SubscriptionId, Covers> = HashMap::new();
    for row in rows {
        let stretch = (row.meter, Period { start: row.start, end: row.end });
        let own = found.entry(row.subscription).or_default().entry(stretch).or_default();
        own.units += row.covers;
        own.taken.push((row.grant_id, row.taken));
    }
    Ok(found)
}

/// Moves what an invoice takes, and gives back; without one, what a credit note corrects.
pub(crate) async fn post(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: Option<&InvoiceId>,
    taken: &[(SubscriptionId, Taken)],
) -> Result<(), BillingError> {
    let zero = BigDecimal::from(0);
    for (subscription, taken) in taken {
        let (from, to) = if taken.units > zero { ("balance", "used") } else { ("used", "balance") };
        sqlx::query!(
            "INSERT INTO unit_entries (workspace_id, grant_id, from_account, to_account, units, invoice_id, subscription_id, stretch_start, period_end, at)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::timestamptz + make_interval(secs => w.clock_ahead_s) FROM workspaces w WHERE w.id = $1",
            ws.as_str(),
            taken.grant,
            from,
            to,
            taken.units.abs(),
            invoice.map(InvoiceId::as_str),
            subscription.as_str(),
            taken.stretch.1.start,
            taken.stretch.1.end,
            clock::now()
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Gives back exactly what a void invoice took, less what a correction gave back already.
pub(crate) async fn give_back(conn: &mut PgConnection, ws: &WorkspaceId, invoice: &InvoiceId) -> Result<(), BillingError> {
    sqlx::query!(
        "INSERT INTO unit_entries (workspace_id, grant_id, from_account, to_account, units, invoice_id, subscription_id, stretch_start, period_end, voided, at)
         SELECT e.workspace_id, e.grant_id, 'used', 'balance', least(e.units, n.units), e.invoice_id, e.subscription_id, e.stretch_start, e.period_end,
                true, $3::timestamptz + make_interval(secs => w.clock_ahead_s)
         FROM unit_entries e JOIN workspaces w ON w.id = e.workspace_id
         CROSS JOIN LATERAL (
             SELECT sum(CASE WHEN o.to_account = 'used' THEN o.units ELSE -o.units END) AS units FROM unit_entries o
             WHERE (o.grant_id, o.subscription_id, o.stretch_start, o.period_end) = (e.grant_id, e.subscription_id, e.stretch_start, e.period_end)
         ) n
         WHERE e.workspace_id = $1 AND e.invoice_id = $2 AND e.to_account = 'used' AND n.units > 0 ORDER BY e.grant_id, e.id
         ON CONFLICT DO NOTHING",
        ws.as_str(),
        invoice.as_str(),
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}
