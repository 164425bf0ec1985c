//! Consumers' API keys: shown once, kept as a hash, known by their first and last characters.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::config::Config;
use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};
use farebox_core::secret::Secret;
use farebox_core::workspace::Workspace;
use farebox_metering::MeteringError;
use farebox_metering::credentials::{self, NewCredential};
use sqlx::PgConnection;

use crate::provision::targets;

pub use farebox_metering::credentials::Credential;

/// How long a key's name may be.
const NAME_LENGTH: usize = 100;

/// Issues a key that does not expire. The secret is returned once and never again.
pub async fn issue(
    conn: &mut PgConnection,
    config: &Config,
    workspace: &Workspace,
    consumer: &ConsumerId,
    name: &str,
) -> Result<(Credential, Secret), MeteringError> {
    issue_until(conn, config, workspace, consumer, name, None).await
}

/// As [`issue`], for a key that expires.
pub async fn issue_until(
    conn: &mut PgConnection,
    config: &Config,
    workspace: &Workspace,
    consumer: &ConsumerId,
    name: &str,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(Credential, Secret), MeteringError> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_LENGTH {
        return Err(MeteringError::invalid("/name", format!("must have 1 to {NAME_LENGTH} characters")));
    }
    let now = workspace.clock.now();
    if expires_at.is_some_and(|at| at <= now) {
        return Err(MeteringError::invalid("/expires_at", "must lie ahead"));
    }
    let secret = Secret::generate(&prefix(&workspace.name));
    let new = NewCredential {
        name: name.to_owned(),
        hint: secret.hint(),
        hash: secret.hash(),
        // A workspace is an environment of its own: what calls a test workspace is that one's production.
        environment: "production".to_owned(),
        created_at: now,
        expires_at,
    };
    let credential = credentials::add(conn, &workspace.id, consumer, new).await?;
    // Gateways that check keys themselves need the key; sealed until it was delivered to each.
    targets::keep(conn, config, &workspace.id, consumer, &credential.id, &secret).await?;
    Ok((credential, secret))
}

/// `acme/live` -> `acme_live_`, so that a key found somewhere tells whose it is and where it works.
fn prefix(workspace: &str) -> String {
    format!("{}_", workspace.replace(['/', '-'], "_"))
}

/// False when the consumer has no such key, or it was revoked before. Refused everywhere within a second.
pub async fn revoke(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    id: &CredentialId,
) -> Result<bool, MeteringError> {
    let owns = credentials::list(conn, workspace, consumer).await?.iter().any(|key| key.id == *id);
    if !owns {
        return Ok(false);
    }
    credentials::revoke(conn, workspace, id, clock::now()).await
}

/// The consumer's keys, newest first, revoked ones included.
pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Credential>, MeteringError> {
    credentials::list(conn, workspace, consumer).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_whose_it_is() {
        assert_eq!(prefix("acme/live"), "acme_live_");
        assert_eq!(prefix("blue-sky/test"), "blue_sky_test_");
    }
}
