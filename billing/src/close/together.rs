//! Subscriptions that are invoiced together: those of a consumer for whom it is so set, in one currency, whose periods end at the
//! same instant. They are taken, rated and drafted in one transaction, all or none: so there is one invoice however many workers
//! run, and a constraint for each subscription's period stands behind it as behind any other invoice.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use sqlx::PgConnection;

use crate::BillingError;
use crate::gather::{Gathered, Span};
use crate::subscriptions::Subscription;

/// By consumer, everything that may have to be invoiced with one of `ids`; nothing of consumers who have an invoice for each.
pub(super) async fn with(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    ids: &[SubscriptionId],
    until: DateTime<Utc>,
) -> Result<HashMap<ConsumerId, Vec<SubscriptionId>>, BillingError> {
    let wanted: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        r#"SELECT s.id AS "id: SubscriptionId", s.consumer_id AS "consumer: ConsumerId" FROM subscriptions s
           JOIN consumer_billing b ON b.workspace_id = s.workspace_id AND b.consumer_id = s.consumer_id AND b.consolidated
           WHERE s.workspace_id = $1 AND s.consumer_id IN (SELECT consumer_id FROM subscriptions WHERE workspace_id = $1 AND id = ANY($2))
             AND (s.closes_at <= $3 OR s.id = ANY($2)) ORDER BY s.id"#,
        ws.as_str(),
        &wanted,
        until
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<ConsumerId, Vec<SubscriptionId>> = HashMap::new();
    for row in rows {
        found.entry(row.consumer).or_default().push(row.id);
    }
    Ok(found)
}

/// Of each consumer in `consolidated` those whose periods end first, in one currency, as one group, the one that begins first
/// before the others; everything else by itself. And what has to wait for its turn.
pub(super) fn groups<'k>(
    due: Vec<(&'k Subscription, Span)>,
    consolidated: &HashSet<ConsumerId>,
) -> (Vec<Vec<(&'k Subscription, Span)>>, Vec<&'k Subscription>) {
    let (mut groups, mut together) = (Vec::new(), BTreeMap::new());
    for (subscription, span) in due {
        if consolidated.contains(&subscription.consumer) {
            let of: &mut BTreeMap<_, Vec<_>> = together.entry(subscription.consumer.clone()).or_default();
            of.entry((span.period.end, subscription.currency.clone())).or_default().push((subscription, span));
        } else {
            groups.push(vec![(subscription, span)]);
        }
    }
    let mut waiting = Vec::new();
    for of in together.into_values() {
        let mut of = of.into_values();
        let mut first = of.next().unwrap_or_default();
        first.sort_by_key(|(subscription, span)| (span.period.start, subscription.product.clone(), subscription.id.clone()));
        groups.push(first);
        waiting.extend(of.flatten().map(|(subscription, _)| subscription));
    }
    (groups, waiting)
}

/// What was gathered for each, as of one invoice: on the terms of the first.
pub(super) fn merged(gathered: Vec<Gathered>) -> Option<Gathered> {
    let mut all = gathered.into_iter();
    let mut first = all.next()?;
    for mut other in all {
        first.lines.append(&mut other.lines);
        first.plans.append(&mut other.plans);
        first.counted.append(&mut other.counted);
        first.units.append(&mut other.units);
        first.left_out.add(other.left_out);
    }
    Some(first)
}

/// What keeps one of them keeps them all.
pub(super) fn refused<T>(
    id: SubscriptionId,
    others: Vec<SubscriptionId>,
    error: BillingError,
) -> Vec<(SubscriptionId, Result<T, BillingError>)> {
    let detail = format!(
        "It is invoiced together with {id}, which cannot be: {error}. Repair that, or set the consumer to be invoiced by subscription."
    );
    let others = others.into_iter().map(|other| (other, Err(BillingError::conflict("consolidated", detail.clone()))));
    let others: Vec<_> = others.collect();
    std::iter::once((id, Err(error))).chain(others).collect()
}

/// Why one has not its turn.
pub(super) fn waits(why: &str) -> BillingError {
    BillingError::conflict("consolidated", format!("It waits for an earlier invoice of its consumer: {why}"))
}

/// How many of its kind there are already for the same end: more than none only where a subscription began in the past since.
pub(super) async fn sequence(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &Subscription,
    end: DateTime<Utc>,
) -> Result<i32, BillingError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*)::int AS "n!" FROM invoices
           WHERE workspace_id = $1 AND consumer_id = $2 AND currency = $3 AND period_end = $4 AND kind = 'regular' AND consolidated"#,
        ws.as_str(),
        subscription.consumer.as_str(),
        subscription.currency,
        end
    )
    .fetch_one(conn)
    .await?)
}
