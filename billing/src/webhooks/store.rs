//! Addresses and what they want to know. A secret is shown when it is made, and sealed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::clock;
use farebox_core::config::Config;
use farebox_core::ids::{WebhookId, WorkspaceId};
use farebox_core::seal::{Purpose, Revealed, Vault};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{EVERYTHING, Sender, TEST, TYPES};
use crate::BillingError;

/// After a rotation the old secret signs too for so long.
const BOTH: TimeDelta = TimeDelta::hours(24);
/// Of one workspace.
const MOST: i64 = 50;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Webhook {
    pub id: WebhookId,
    pub url: String,
    pub description: String,
    /// Types of events it is told; `*`: all.
    pub events: Vec<String>,
    pub created_at: DateTime<Utc>,
    /// Until then deliveries are signed with the secret before, too.
    pub rotating_until: Option<DateTime<Utc>>,
    /// Nothing is sent since then.
    pub disabled_at: Option<DateTime<Utc>>,
    pub disabled_reason: Option<String>,
    /// Waiting to be sent or sent again.
    pub queued: i64,
}

#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Public, and over HTTPS.
    pub url: String,
    #[serde(default)]
    pub description: String,
    /// Such as `invoice.paid`; `*` for all.
    pub events: Vec<String>,
}

/// What is left out stays as it is.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookChanges)]
pub struct Changes {
    pub url: Option<String>,
    pub description: Option<String>,
    pub events: Option<Vec<String>>,
    /// False: nothing is sent, and what happens meanwhile is not kept for it. True: sends again, also after Farebox
    /// switched it off.
    pub enabled: Option<bool>,
}

fn check(sender: &Sender, url: &str, description: &str, events: &[String]) -> Result<(), BillingError> {
    sender.check(url).map_err(|why| BillingError::invalid("/url", why))?;
    if description.len() > 200 {
        return Err(BillingError::invalid("/description", "has at most 200 bytes"));
    }
    let unknown = events.iter().find(|kind| *kind != EVERYTHING && !TYPES.contains(&kind.as_str()));
    if let Some(unknown) = unknown {
        let shown: String = unknown.chars().take(64).collect();
        return Err(BillingError::invalid(
            "/events",
            format!("`{shown}` is no type of event; there are {} and `*` for all", TYPES.join(", ")),
        ));
    }
    if events.is_empty() || events.len() > TYPES.len() {
        return Err(BillingError::invalid("/events", "names what the address is told, each once, such as [\"invoice.paid\"]"));
    }
    Ok(())
}

fn vault(config: &Config) -> Result<Vault, BillingError> {
    Vault::new(&config.billing.encryption_key).map_err(|e| BillingError::unreadable("the encryption key", e))
}

/// As the specification has it: 24 random bytes in base64.
fn new_secret() -> Revealed {
    Revealed::new(format!("whsec_{}", STANDARD.encode(rand::rng().random::<[u8; 24]>())))
}

/// The secret is returned this once.
pub async fn create(
    conn: &mut PgConnection,
    config: &Config,
    sender: &Sender,
    ws: &WorkspaceId,
    new: &NewWebhook,
) -> Result<(Webhook, Revealed), BillingError> {
    check(sender, &new.url, &new.description, &new.events)?;
    let there =
        sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM webhooks WHERE workspace_id = $1"#, ws.as_str()).fetch_one(&mut *conn).await?;
    if there >= MOST {
        return Err(BillingError::conflict("too-many-webhooks", format!("A workspace has at most {MOST} webhooks. Remove one first.")));
    }
    let (id, secret) = (WebhookId::new(), new_secret());
    sqlx::query!(
        "INSERT INTO webhooks (id, workspace_id, url, description, events, sealed, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        id.as_str(),
        ws.as_str(),
        new.url,
        new.description,
        &new.events,
        vault(config)?.seal(ws, Purpose::WebhookSecret, secret.reveal()),
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    let made = get(conn, ws, &id).await?.ok_or(BillingError::NotFound("webhook"))?;
    Ok((made, secret))
}

pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<Webhook>, BillingError> {
    find(conn, ws, None).await
}

pub async fn get(conn: &mut PgConnection, ws: &WorkspaceId, id: &WebhookId) -> Result<Option<Webhook>, BillingError> {
    Ok(find(conn, ws, Some(id)).await?.pop())
}

async fn find(conn: &mut PgConnection, ws: &WorkspaceId, id: Option<&WebhookId>) -> Result<Vec<Webhook>, BillingError> {
    Ok(sqlx::query_as!(
        Webhook,
        r#"SELECT id AS "id: WebhookId", url, description, events, created_at, CASE WHEN previous_until > $3 THEN previous_until END AS rotating_until,
                  disabled_at, disabled_reason,
                  (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = webhooks.id AND d.state = 'queued') AS "queued!"
           FROM webhooks WHERE workspace_id = $1 AND ($2::text IS NULL OR id = $2) ORDER BY id"#,
        ws.as_str(),
        id.map(WebhookId::as_str),
        clock::now()
    )
    .fetch_all(conn)
    .await?)
}

pub async fn update(
    conn: &mut PgConnection,
    sender: &Sender,
    ws: &WorkspaceId,
    id: &WebhookId,
    changes: &Changes,
) -> Result<Webhook, BillingError> {
    let now = get(conn, ws, id).await?.ok_or(BillingError::NotFound("webhook"))?;
    let url = changes.url.as_ref().unwrap_or(&now.url);
    let description = changes.description.as_ref().unwrap_or(&now.description);
    let events = changes.events.as_ref().unwrap_or(&now.events);
    check(sender, url, description, events)?;
    let (disabled_at, reason) = match changes.enabled {
        Some(true) => (None, None),
        Some(false) => (
            Some(now.disabled_at.unwrap_or_else(clock::now)),
            Some(now.disabled_reason.unwrap_or_else(|| "switched off by hand".to_owned())),
        ),
        None => (now.disabled_at, now.disabled_reason),
    };
    sqlx::query!(
        "UPDATE webhooks SET url = $3, description = $4, events = $5, disabled_at = $6, disabled_reason = $7 WHERE workspace_id = $1 AND id = $2",
        ws.as_str(),
        id.as_str(),
        url,
        description,
        events,
        disabled_at,
        reason
    )
    .execute(&mut *conn)
    .await?;
    get(conn, ws, id).await?.ok_or(BillingError::NotFound("webhook"))
}

/// With what was to be sent to it. False when it was not there.
pub async fn remove(conn: &mut PgConnection, ws: &WorkspaceId, id: &WebhookId) -> Result<bool, BillingError> {
    let done = sqlx::query!("DELETE FROM webhooks WHERE workspace_id = $1 AND id = $2", ws.as_str(), id.as_str()).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// Another secret, returned this once; for a day both sign, so that a receiver can change over.
pub async fn rotate(
    conn: &mut PgConnection,
    config: &Config,
    ws: &WorkspaceId,
    id: &WebhookId,
) -> Result<(Webhook, Revealed), BillingError> {
    let secret = new_secret();
    let done = sqlx::query!(
        "UPDATE webhooks SET previous_sealed = sealed, previous_until = $4, sealed = $3 WHERE workspace_id = $1 AND id = $2",
        ws.as_str(),
        id.as_str(),
        vault(config)?.seal(ws, Purpose::WebhookSecret, secret.reveal()),
        clock::now() + BOTH
    )
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        return Err(BillingError::NotFound("webhook"));
    }
    let rotated = get(conn, ws, id).await?.ok_or(BillingError::NotFound("webhook"))?;
    Ok((rotated, secret))
}

/// What deliveries are signed with now.
pub(super) fn secrets(
    config: &Config,
    ws: &WorkspaceId,
    sealed: &[u8],
    previous: Option<(&[u8], DateTime<Utc>)>,
) -> Result<Vec<Revealed>, BillingError> {
    let vault = vault(config)?;
    let open =
        |sealed: &[u8]| vault.open(ws, Purpose::WebhookSecret, sealed).map_err(|e| BillingError::unreadable("a webhook's secret", e));
    let mut secrets = vec![open(sealed)?];
    if let Some((sealed, until)) = previous
        && clock::now() < until
    {
        secrets.push(open(sealed)?);
    }
    Ok(secrets)
}

/// Sends it a test event, whatever it wants to know; its id. Found in the deliveries.
pub async fn test(conn: &mut PgConnection, ws: &WorkspaceId, id: &WebhookId) -> Result<String, BillingError> {
    let webhook = get(conn, ws, id).await?.ok_or(BillingError::NotFound("webhook"))?;
    if webhook.disabled_at.is_some() {
        return Err(BillingError::conflict("webhook-disabled", "Nothing is sent to a webhook that is switched off. Switch it on first."));
    }
    let event = sqlx::query_scalar!(
        "INSERT INTO webhook_events (workspace_id, type, subject, data, at) VALUES ($1, $2, $3, $4, $5) RETURNING id",
        ws.as_str(),
        TEST,
        id.as_str(),
        json!({ "webhook": id }),
        clock::now()
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO webhook_deliveries (workspace_id, webhook_id, event_id) VALUES ($1, $2, $3)",
        ws.as_str(),
        id.as_str(),
        event
    )
    .execute(conn)
    .await?;
    Ok(event)
}
