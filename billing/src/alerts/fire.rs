//! A threshold was reached: written down once, with what tells of it, in one transaction.

use std::collections::HashSet;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::ids::{AlertId, ConsumerId, FiringId, SubscriptionId, WorkspaceId};
use farebox_core::money::{decimal_string, plain};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_core::{App, clock};
use farebox_metering::consumers;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::judge::Kind;
use super::store::Alert;
use super::words;
use crate::subscriptions::Subscription;
use crate::webhooks::{self, Happened};
use crate::{BillingError, faults};

/// What is told once.
pub type Key = (AlertId, i32, SubscriptionId, DateTime<Utc>);

/// Where a subscription stands, at or beyond a threshold.
#[derive(Debug)]
pub struct Reached {
    consumer: ConsumerId,
    subscription: SubscriptionId,
    period: Period,
    value: BigDecimal,
    against: Option<BigDecimal>,
    detail: String,
}

impl Reached {
    pub fn of(subscription: &Subscription, period: Period, value: BigDecimal, against: Option<BigDecimal>, detail: String) -> Self {
        Self { consumer: subscription.consumer.clone(), subscription: subscription.id.clone(), period, value, against, detail }
    }
}

/// What was told of periods that ended after `since`, so that it is not tried again and again.
pub(super) async fn since(conn: &mut PgConnection, ws: &WorkspaceId, since: DateTime<Utc>) -> Result<HashSet<Key>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT alert_id AS "alert: AlertId", arming, subscription_id AS "subscription: SubscriptionId", period_start FROM alert_firings
           WHERE workspace_id = $1 AND period_end > $2"#,
        ws.as_str(),
        since
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.alert, row.arming, row.subscription, row.period_start)).collect())
}

/// False when it was told before, or another worker was faster.
pub(super) async fn fire(app: &App, workspace: &Workspace, alert: &Alert, reached: &Reached) -> Result<bool, BillingError> {
    let (ws, id, now) = (&workspace.id, FiringId::new(), workspace.clock.now());
    let mut tx = app.pg.begin().await?;
    let written = sqlx::query!(
        "INSERT INTO alert_firings (id, workspace_id, alert_id, arming, consumer_id, subscription_id, period_start, period_end, threshold, value,
                                    against, detail, fired_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT ON CONSTRAINT alert_firings_once DO NOTHING",
        id.as_str(),
        ws.as_str(),
        alert.id.as_str(),
        alert.arming,
        reached.consumer.as_str(),
        reached.subscription.as_str(),
        reached.period.start,
        reached.period.end,
        alert.threshold,
        reached.value,
        reached.against,
        reached.detail,
        now
    )
    .execute(&mut *tx)
    .await?;
    if written.rows_affected() == 0 {
        return Ok(false);
    }
    let consumer = consumers::get(&mut tx, ws, &reached.consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
    // What a consumer watches for itself is nobody else's.
    if !alert.own {
        let data = json!({
            "firing": id,
            "alert": { "id": alert.id, "name": alert.name, "kind": alert.kind, "meter": alert.meter, "currency": alert.currency },
            "consumer": { "id": consumer.id, "name": consumer.name },
            "subscription": reached.subscription,
            "period": reached.period,
            "threshold": plain(&alert.threshold),
            "value": plain(&reached.value),
            "against": reached.against.as_ref().map(plain),
            "detail": reached.detail,
        });
        let event = Happened { kind: "alert.fired", subject: id.as_str(), consumer: &consumer.id, data: &data, at: now };
        webhooks::emit(&mut tx, ws, &event).await?;
    }
    let base = &app.config.http.public_url;
    let of_consumer = words::to_consumer(&workspace.display_name, &reached.detail, &format!("{base}/usage/alerts"));
    let of_provider =
        words::to_provider(&alert.name, &consumer.name, &reached.detail, &format!("{base}/console/consumers/{}", consumer.id));
    let (to, mail) = if alert.own { (&alert.emails, &of_consumer) } else { (&alert.emails, &of_provider) };
    for address in to {
        queue(&mut tx, ws, &id, address, mail).await?;
    }
    if alert.mail_consumer
        && let Some(address) = &consumer.email
    {
        queue(&mut tx, ws, &id, address, &of_consumer).await?;
    }
    faults::point("alert.before_commit");
    tx.commit().await?;
    faults::point("alert.decided");
    metrics::counter!("farebox_alerts_fired_total", "kind" => alert.kind.as_str()).increment(1);
    Ok(true)
}

async fn queue(conn: &mut PgConnection, ws: &WorkspaceId, firing: &FiringId, address: &str, mail: &words::Mail) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mails (workspace_id, kind, firing_id, address, subject, body, next_at, created_at) VALUES ($1, 'alert', $2, $3, $4, $5, $6, $6)
         ON CONFLICT ON CONSTRAINT mails_firing_once DO NOTHING",
        ws.as_str(),
        firing.as_str(),
        address,
        mail.subject,
        mail.text,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A time that a threshold was reached.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = AlertFiring)]
pub struct Firing {
    pub id: FiringId,
    pub alert: AlertId,
    pub name: String,
    pub kind: Kind,
    pub consumer: ConsumerId,
    pub subscription: SubscriptionId,
    pub period: Period,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub threshold: BigDecimal,
    /// When it was noticed.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub value: BigDecimal,
    pub detail: String,
    pub fired_at: DateTime<Utc>,
}

/// Whose eyes a list of firings is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// All of the provider's alerts.
    Provider,
    /// The consumer's own alerts, and what the provider had told them.
    Consumer,
}

#[derive(Debug, Clone)]
pub struct FiringFilter<'a> {
    pub eyes: For,
    pub consumer: Option<&'a ConsumerId>,
    /// Without those that say amounts.
    pub without_amounts: bool,
}

/// Newest first; those before `before` (an id; empty for the first page). Up to `limit`.
pub async fn firings(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    filter: &FiringFilter<'_>,
    limit: i64,
    before: &str,
) -> Result<Vec<Firing>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT f.id AS "id: FiringId", f.alert_id AS "alert: AlertId", a.name, a.kind AS "kind: Kind", f.consumer_id AS "consumer: ConsumerId",
                  f.subscription_id AS "subscription: SubscriptionId", f.period_start, f.period_end, f.threshold, f.value, f.detail, f.fired_at
           FROM alert_firings f JOIN alerts a ON a.id = f.alert_id
           WHERE f.workspace_id = $1 AND ($2::text IS NULL OR f.consumer_id = $2) AND CASE WHEN $3 THEN a.own OR a.mail_consumer ELSE NOT a.own END
             AND NOT ($4 AND a.kind = 'spend') AND ($5 = '' OR f.id < $5)
           ORDER BY f.id DESC LIMIT $6"#,
        ws.as_str(),
        filter.consumer.map(ConsumerId::as_str),
        filter.eyes == For::Consumer,
        filter.without_amounts,
        before,
        limit
    )
    .fetch_all(conn)
    .await?;
    let read = rows.into_iter().map(|row| Firing {
        id: row.id,
        alert: row.alert,
        name: row.name,
        kind: row.kind,
        consumer: row.consumer,
        subscription: row.subscription,
        period: Period { start: row.period_start, end: row.period_end },
        threshold: row.threshold,
        value: row.value,
        detail: row.detail,
        fired_at: row.fired_at,
    });
    Ok(read.collect())
}
