//! Timelines: who is whose, and which subscription is in force, when. PostgreSQL holds them; each change is written to
//! an outbox in its transaction, and [`sync`] copies it to ClickHouse and touches the minutes it affects.

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::period::floor_minute;
use farebox_core::{App, clock};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::links::Kind;
use crate::{MeteringError, store};

pub(crate) use crate::sync::versions;
pub use crate::sync::{Versions, sync};

/// The beginning of time: 1970, where ClickHouse's clock starts.
pub const BEGINNING: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// [from, to) in whole minutes; without end when `to` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
}

/// The stretch whose events a change may re-attribute.
pub type Affected = Interval;

/// One stretch of a consumer's subscription to a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEntry {
    /// Rounded down to the minute, as is `to`.
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    pub subscription: SubscriptionId,
    pub plan_version: PlanVersionId,
    /// The plan's name.
    pub plan: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkRow {
    #[serde(flatten)]
    pub at: Interval,
    pub consumer: ConsumerId,
    pub environment: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubscriptionRow {
    #[serde(flatten)]
    pub at: Interval,
    pub subscription: SubscriptionId,
    pub plan_version: PlanVersionId,
    pub plan: String,
}

/// What the outbox carries: all rows of one key, the starts of those that are gone, and the stretch affected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(crate) enum Change {
    Link {
        kind: Kind,
        key: String,
        rows: Vec<LinkRow>,
        gone: Vec<DateTime<Utc>>,
        affected: Affected,
    },
    Subscription {
        consumer: ConsumerId,
        product: String,
        rows: Vec<SubscriptionRow>,
        gone: Vec<DateTime<Utc>>,
        affected: Affected,
    },
    /// An api moved to another product.
    Api {
        name: String,
        product: String,
    },
    /// Another counting rule is in force.
    Rule,
    /// Events of these minutes are being removed; see [`crate::repair`].
    Touch {
        minutes: Vec<u32>,
    },
}

/// Replaces a consumer's whole timeline for a product. Entries must not overlap; those shorter than a minute after
/// rounding vanish.
pub async fn set_subscription_timeline(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    product: &str,
    entries: &[TimelineEntry],
) -> Result<(), MeteringError> {
    lock(conn, &format!("subscription {workspace} {consumer} {product}")).await?;
    let old = subscription_rows(conn, workspace, consumer, product).await?;
    let mut rows: Vec<_> = entries
        .iter()
        .map(|entry| SubscriptionRow {
            at: Interval { from: floor_minute(entry.from), to: entry.to.map(floor_minute) },
            subscription: entry.subscription.clone(),
            plan_version: entry.plan_version.clone(),
            plan: entry.plan.clone(),
        })
        .filter(|row| row.at.to.is_none_or(|to| row.at.from < to))
        .collect();
    rows.sort_by_key(|row| row.at.from);
    let Some(affected) = affected(&old, &rows) else { return Ok(()) };
    sqlx::query!(
        "DELETE FROM subscription_timeline WHERE workspace_id = $1 AND consumer_id = $2 AND product = $3",
        workspace.as_str(),
        consumer.as_str(),
        product
    )
    .execute(&mut *conn)
    .await?;
    for row in &rows {
        sqlx::query!(
            "INSERT INTO subscription_timeline (workspace_id, consumer_id, product, valid_from, valid_to, subscription_id, plan_version_id, plan)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            workspace.as_str(),
            consumer.as_str(),
            product,
            row.at.from,
            row.at.to,
            row.subscription.as_str(),
            row.plan_version.as_str(),
            row.plan
        )
        .execute(&mut *conn)
        .await
        .map_err(|e| {
            MeteringError::on_constraint(e, "subscription_timeline_one_in_force", "subscriptions-overlap", || {
                format!("The consumer would have two subscriptions to the product `{product}` at once. End one before the other starts.")
            })
        })?;
    }
    let gone = gone(old.iter().map(|r| r.at), rows.iter().map(|r| r.at));
    let change = Change::Subscription { consumer: consumer.clone(), product: product.to_owned(), rows, gone, affected };
    write_outbox(conn, workspace, &change).await?;
    Ok(())
}

async fn subscription_rows(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    product: &str,
) -> Result<Vec<SubscriptionRow>, MeteringError> {
    let rows = sqlx::query!(
        r#"SELECT valid_from, valid_to, subscription_id AS "subscription: SubscriptionId", plan_version_id AS "plan_version: PlanVersionId", plan
           FROM subscription_timeline WHERE workspace_id = $1 AND consumer_id = $2 AND product = $3 ORDER BY valid_from"#,
        workspace.as_str(),
        consumer.as_str(),
        product
    )
    .fetch_all(conn)
    .await?;
    let read = rows.into_iter().map(|row| SubscriptionRow {
        at: Interval { from: row.valid_from, to: row.valid_to },
        subscription: row.subscription,
        plan_version: row.plan_version,
        plan: row.plan,
    });
    Ok(read.collect())
}

/// The least stretch that holds every row in which both differ; none when they are equal.
fn affected(old: &[SubscriptionRow], new: &[SubscriptionRow]) -> Option<Affected> {
    let differing = || old.iter().filter(|row| !new.contains(row)).chain(new.iter().filter(|row| !old.contains(row)));
    let from = differing().map(|row| row.at.from).min()?;
    let open = differing().any(|row| row.at.to.is_none());
    let to = if open { None } else { differing().filter_map(|row| row.at.to).max() };
    Some(Affected { from, to })
}

/// `old` with `new` laid over it: what it covers is cut away, the rest stays. Sorted by start.
pub(crate) fn overlay<R: Clone>(old: &[R], new: R, at: impl Fn(&R) -> Interval, with: impl Fn(&R, Interval) -> R) -> Vec<R> {
    let cut = at(&new);
    let mut rows = Vec::with_capacity(old.len() + 2);
    for row in old {
        let own = at(row);
        let before_end = own.to.map_or(cut.from, |to| to.min(cut.from));
        if own.from < before_end {
            rows.push(with(row, Interval { from: own.from, to: Some(before_end) }));
        }
        if let Some(cut_to) = cut.to {
            let after_start = own.from.max(cut_to);
            if own.to.is_none_or(|to| after_start < to) {
                rows.push(with(row, Interval { from: after_start, to: own.to }));
            }
        }
    }
    rows.push(new);
    rows.sort_by_key(|row| at(row).from);
    rows
}

/// Starts that `old` has and `new` has not.
pub(crate) fn gone(old: impl Iterator<Item = Interval>, new: impl Iterator<Item = Interval>) -> Vec<DateTime<Utc>> {
    let kept: Vec<_> = new.map(|at| at.from).collect();
    old.map(|at| at.from).filter(|from| !kept.contains(from)).collect()
}

/// Changes of one key follow each other, so that their outbox ids are in their order.
pub(crate) async fn lock(conn: &mut PgConnection, key: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", key).execute(conn).await?;
    Ok(())
}

/// As [`lock`], without waiting; false when another has it.
pub(crate) async fn try_lock(conn: &mut PgConnection, key: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS "locked!""#, key).fetch_one(conn).await
}

/// Several at once, in their order, so that two that wait never wait for each other.
pub(crate) async fn lock_all(conn: &mut PgConnection, keys: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended(key, 0)) FROM unnest($1::text[]) AS key", keys).execute(conn).await?;
    Ok(())
}

/// As [`lock_all`], without waiting; for each, whether it is ours.
pub(crate) async fn try_lock_all(conn: &mut PgConnection, keys: &[String]) -> Result<Vec<bool>, sqlx::Error> {
    let sql = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(hashtextextended(key, 0)) AS "locked!"
           FROM unnest($1::text[]) WITH ORDINALITY AS asked (key, n) ORDER BY n"#,
        keys
    );
    sql.fetch_all(conn).await
}

/// Returns the change's number.
pub(crate) async fn write_outbox(conn: &mut PgConnection, workspace: &WorkspaceId, change: &Change) -> Result<i64, MeteringError> {
    let json = serde_json::to_value(change).map_err(|e| MeteringError::unreadable("a timeline change", e))?;
    Ok(sqlx::query_scalar!(
        "INSERT INTO timeline_outbox (workspace_id, change, created_at) VALUES ($1, $2, $3) RETURNING id",
        workspace.as_str(),
        json,
        clock::now()
    )
    .fetch_one(conn)
    .await?)
}

/// Minutes that are about to change, held until they are touched. Dying in between must not leave them untouched: the
/// intent is written first, and the next copying of timelines touches them.
pub(crate) struct Held {
    transaction: sqlx::Transaction<'static, sqlx::Postgres>,
    intent: i64,
    minutes: Vec<u32>,
}

impl Held {
    pub async fn new(app: &App, workspace: &WorkspaceId, minutes: Vec<u32>) -> Result<Self, MeteringError> {
        loop {
            let change = Change::Touch { minutes: minutes.clone() };
            let intent = write_outbox(&mut *app.pg.acquire().await?, workspace, &change).await?;
            let mut transaction = app.pg.begin().await?;
            let held =
                sqlx::query!("SELECT id FROM timeline_outbox WHERE id = $1 FOR UPDATE", intent).fetch_optional(&mut *transaction).await?;
            // Taken already, by a copying that happened right then: another one.
            if held.is_some() {
                return Ok(Self { transaction, intent, minutes });
            }
        }
    }

    /// After the change.
    pub async fn touch(mut self, app: &App, workspace: &WorkspaceId) -> Result<(), MeteringError> {
        store::touch(&app.clickhouse, workspace, &self.minutes).await?;
        sqlx::query!("DELETE FROM timeline_outbox WHERE id = $1", self.intent).execute(&mut *self.transaction).await?;
        Ok(self.transaction.commit().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    fn minute(n: i64) -> DateTime<Utc> {
        BEGINNING + TimeDelta::minutes(n)
    }

    proptest! {
        /// Laid over one another, intervals never overlap, and each minute belongs to whoever took it last.
        #[test]
        fn the_last_link_wins_where_it_lies(takes in prop::collection::vec((0_i64..40, prop::option::of(1_i64..20), 0_u8..4), 1..12)) {
            let mut rows: Vec<(Interval, u8)> = Vec::new();
            let mut owner = [None; 80];
            for (from, length, who) in takes {
                let at = Interval { from: minute(from), to: length.map(|n| minute(from + n)) };
                rows = overlay(&rows, (at, who), |r| r.0, |r, at| (at, r.1));
                let end = length.map_or(80, |n| from + n);
                for slot in from..end {
                    owner[usize::try_from(slot).expect("in range")] = Some(who);
                }
            }
            for (n, expected) in owner.iter().enumerate() {
                let at = minute(i64::try_from(n).expect("in range"));
                let found: Vec<_> = rows.iter().filter(|(i, _)| i.from <= at && i.to.is_none_or(|to| at < to)).map(|r| r.1).collect();
                prop_assert_eq!(found, expected.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
