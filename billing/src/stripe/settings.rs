//! A workspace's Stripe keys: sealed at rest, never logged, never given out again.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::WorkspaceId;
use farebox_core::{App, audit_log, clock, config};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::client::{Form, Stripe};
use super::error::StripeError;
use farebox_core::seal::{Purpose, Revealed, Vault};

/// How long the webhook secrets before the newest stay valid.
const ROLL_OVER: TimeDelta = TimeDelta::hours(24);

/// What may be shown.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Status {
    /// Whether a secret key is set.
    pub configured: bool,
    /// `live` or `test`.
    pub mode: Option<String>,
    /// Enough of the key to tell which one it is.
    pub key_hint: Option<String>,
    /// How many webhook signing secrets are valid.
    pub webhook_secrets: i64,
    /// The webhook endpoint that Farebox registered at Stripe.
    pub webhook_url: Option<String>,
    pub updated_at: Option<DateTime<Utc>>,
    pub invoices: Pushes,
}

/// Invoices on their way to Stripe.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct Pushes {
    pub queued: i64,
    pub done: i64,
    /// Needs a person: see `blocked_invoices`.
    pub blocked: i64,
    pub blocked_invoices: Vec<Blocked>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Blocked {
    pub invoice: String,
    pub reason: String,
}

/// Sets the secret key and, when given, a webhook signing secret (the ones before stay valid for a day).
/// Invoices that wait for better keys are tried again at once.
pub async fn set(
    conn: &mut PgConnection,
    config: &config::Billing,
    workspace: &WorkspaceId,
    secret_key: &str,
    webhook_secret: Option<&str>,
    actor: &str,
) -> Result<(), StripeError> {
    let live = is_live(secret_key)?;
    let sealed = Vault::new(&config.encryption_key)?.seal(workspace, Purpose::StripeSecretKey, secret_key);
    sqlx::query!(
        "INSERT INTO stripe_settings (workspace_id, secret_key_sealed, live, key_hint, updated_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (workspace_id) DO UPDATE SET secret_key_sealed = $2, live = $3, key_hint = $4, updated_at = $5,
             test_clocks = stripe_settings.test_clocks AND NOT $3",
        workspace.as_str(),
        sealed,
        live,
        hint(secret_key),
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    if let Some(secret) = webhook_secret {
        add_webhook_secret(conn, config, workspace, secret).await?;
    }
    sqlx::query!("UPDATE stripe_pushes SET next_at = $2 WHERE workspace_id = $1 AND state = 'queued'", workspace.as_str(), clock::now())
        .execute(&mut *conn)
        .await?;
    let detail = serde_json::json!({"key": hint(secret_key), "live": live, "webhook_secret": webhook_secret.is_some()});
    audit_log::record(conn, workspace, actor, "stripe.set", workspace.as_str(), &detail).await?;
    Ok(())
}

/// Adds a webhook signing secret; those before it expire in a day.
/// Whether new customers at Stripe live by test clocks that go with the workspace's.
pub async fn set_test_clocks(conn: &mut PgConnection, workspace: &WorkspaceId, on: bool) -> Result<(), StripeError> {
    let test_mode = sqlx::query_scalar!("SELECT test_mode FROM workspaces WHERE id = $1", workspace.as_str()).fetch_one(&mut *conn).await?;
    if on && !test_mode {
        return Err(StripeError::BadKey("Stripe's test clocks go with the clock of a workspace in test mode, which this one is not"));
    }
    sqlx::query!("UPDATE stripe_settings SET test_clocks = $2 WHERE workspace_id = $1 AND NOT live", workspace.as_str(), on)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn add_webhook_secret(
    conn: &mut PgConnection,
    config: &config::Billing,
    workspace: &WorkspaceId,
    secret: &str,
) -> Result<(), StripeError> {
    let (vault, now) = (Vault::new(&config.encryption_key)?, clock::now());
    let fingerprint: [u8; 32] = Sha256::new().chain_update(workspace.as_str()).chain_update("|").chain_update(secret).finalize().into();
    sqlx::query!(
        "UPDATE stripe_webhook_secrets SET expires_at = $3 WHERE workspace_id = $1 AND fingerprint <> $2 AND expires_at IS NULL",
        workspace.as_str(),
        &fingerprint[..],
        now + ROLL_OVER
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO stripe_webhook_secrets (workspace_id, fingerprint, sealed, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (workspace_id, fingerprint) DO UPDATE SET expires_at = NULL",
        workspace.as_str(),
        &fingerprint[..],
        vault.seal(workspace, Purpose::StripeWebhookSecret, secret),
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn status(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Status, sqlx::Error> {
    let row =
        sqlx::query!("SELECT live, key_hint, endpoint_url, updated_at FROM stripe_settings WHERE workspace_id = $1", workspace.as_str())
            .fetch_optional(&mut *conn)
            .await?;
    let secrets = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM stripe_webhook_secrets WHERE workspace_id = $1 AND (expires_at IS NULL OR expires_at > $2)"#,
        workspace.as_str(),
        clock::now()
    )
    .fetch_one(&mut *conn)
    .await?;
    let invoices = pushes(conn, workspace).await?;
    let (mode, key_hint, webhook_url, updated_at) = match row {
        Some(row) => (Some(mode(row.live).to_owned()), Some(row.key_hint), row.endpoint_url, Some(row.updated_at)),
        None => (None, None, None, None),
    };
    Ok(Status { configured: mode.is_some(), mode, key_hint, webhook_secrets: secrets, webhook_url, updated_at, invoices })
}

async fn pushes(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Pushes, sqlx::Error> {
    let counts = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE state = 'queued') AS "queued!", count(*) FILTER (WHERE state = 'done') AS "done!",
                  count(*) FILTER (WHERE state = 'blocked') AS "blocked!" FROM stripe_pushes WHERE workspace_id = $1"#,
        workspace.as_str()
    )
    .fetch_one(&mut *conn)
    .await?;
    let blocked_invoices = sqlx::query_as!(
        Blocked,
        r#"SELECT invoice_id AS invoice, COALESCE(reason, '') AS "reason!" FROM stripe_pushes
           WHERE workspace_id = $1 AND state = 'blocked' ORDER BY invoice_id DESC LIMIT 100"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?;
    Ok(Pushes { queued: counts.queued, done: counts.done, blocked: counts.blocked, blocked_invoices })
}

/// The workspace's account, ready to be called.
pub async fn stripe(app: &App, conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Stripe, StripeError> {
    let row = sqlx::query!("SELECT secret_key_sealed, live FROM stripe_settings WHERE workspace_id = $1", workspace.as_str())
        .fetch_optional(conn)
        .await?
        .ok_or(StripeError::NotConfigured)?;
    let key = Vault::new(&app.config.billing.encryption_key)?.open(workspace, Purpose::StripeSecretKey, &row.secret_key_sealed)?;
    Ok(Stripe::new(app, workspace.clone(), key, row.live))
}

pub async fn webhook_secrets(app: &App, conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Revealed>, StripeError> {
    let sealed = sqlx::query_scalar!(
        "SELECT sealed FROM stripe_webhook_secrets WHERE workspace_id = $1 AND (expires_at IS NULL OR expires_at > $2)
         ORDER BY created_at DESC LIMIT 8",
        workspace.as_str(),
        clock::now()
    )
    .fetch_all(conn)
    .await?;
    let vault = Vault::new(&app.config.billing.encryption_key)?;
    sealed.iter().map(|sealed| Ok(vault.open(workspace, Purpose::StripeWebhookSecret, sealed)?)).collect()
}

/// Asks Stripe whether it takes the key, before it is stored.
pub async fn probe(app: &App, workspace: &WorkspaceId, secret_key: &str) -> Result<(), StripeError> {
    let live = is_live(secret_key)?;
    let stripe = Stripe::new(app, workspace.clone(), Revealed::new(secret_key.to_owned()), live);
    match stripe.get::<serde_json::Value>("/invoices", &Form::new().with("limit", "1")).await {
        Err(error) if error.is_about_the_key() => Err(StripeError::BadKey(
            "Stripe does not accept this key, or it may not read invoices. Copy it again from the Stripe dashboard",
        )),
        result => result.map(drop),
    }
}

fn is_live(secret_key: &str) -> Result<bool, StripeError> {
    let plausible = secret_key.len() <= 255 && secret_key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match secret_key.splitn(3, '_').collect::<Vec<_>>()[..] {
        ["sk" | "rk", "live", rest] if plausible && !rest.is_empty() => Ok(true),
        ["sk" | "rk", "test", rest] if plausible && !rest.is_empty() => Ok(false),
        ["pk", ..] => {
            Err(StripeError::BadKey("this is a publishable key; the secret key begins with sk_live_, sk_test_, rk_live_ or rk_test_"))
        }
        _ => Err(StripeError::BadKey("a Stripe secret key begins with sk_live_, sk_test_, rk_live_ or rk_test_")),
    }
}

fn mode(live: bool) -> &'static str {
    if live { "live" } else { "test" }
}

/// `sk_test_…wxyz`; the last four only of keys so long that they tell nothing.
fn hint(secret_key: &str) -> String {
    let prefix: String = secret_key.splitn(3, '_').take(2).map(|part| format!("{part}_")).collect();
    let end = if secret_key.len() >= 24 { &secret_key[secret_key.len() - 4..] } else { "" };
    format!("{prefix}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_hints_give_nothing_away() {
        assert!(is_live("sk_live_51Nabc").is_ok_and(|live| live));
        assert!(is_live("rk_test_51Nabc").is_ok_and(|live| !live));
        for bad in ["", "sk_live_", "pk_test_51N", "whsec_1", "sk_test_a b", "sk_test_\u{e9}", "sk_prod_1"] {
            assert!(matches!(is_live(bad), Err(StripeError::BadKey(_))), "{bad}");
        }
        assert_eq!(hint("sk_test_51NabcdefghijklmnopqrWXYZ"), "sk_test_…WXYZ");
        assert_eq!(hint("sk_test_farebox"), "sk_test_…");
    }
}
