//! One consumer at one gateway: what is there is made what should be.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, CredentialId};

use super::desired::Desired;
use super::remote::{Gateway, RemoteError};

/// What was found and done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Keys that are there now.
    pub keys: usize,
    /// Keys that should be there, but of which only the hash is left.
    pub missing: usize,
    pub writes: usize,
    pub delivered: Vec<CredentialId>,
    /// When the next key is over, and has to go.
    pub next_expiry: Option<DateTime<Utc>>,
}

/// `secrets`: the keys that wait for their delivery.
pub async fn consumer<G: Gateway>(
    gateway: &G,
    id: &ConsumerId,
    desired: Option<&Desired>,
    secrets: &HashMap<CredentialId, String>,
    now: DateTime<Utc>,
) -> Result<Done, RemoteError> {
    let Some(desired) = desired else {
        gateway.delete_consumer(id).await?;
        return Ok(Done::default());
    };
    let mut done = Done { next_expiry: desired.keys.iter().filter_map(|key| key.expires_at).min(), ..Done::default() };
    done.writes += usize::from(gateway.put_consumer(desired).await?);
    let found = gateway.keys(id).await?;
    // First what must no longer work.
    for key in &found {
        if !desired.keys.iter().any(|wanted| wanted.hash == key.hash) {
            gateway.delete_key(id, &key.id).await?;
            done.writes += 1;
        }
    }
    for wanted in &desired.keys {
        if found.iter().any(|key| key.hash == wanted.hash) {
            done.keys += 1;
            done.delivered.push(wanted.credential.clone());
        } else if let Some(secret) = secrets.get(&wanted.credential) {
            let ttl_s = wanted.expires_at.map(|at| (at - now).num_seconds().max(1));
            gateway.put_key(id, &wanted.credential, secret, ttl_s).await?;
            done.keys += 1;
            done.writes += 1;
            done.delivered.push(wanted.credential.clone());
        } else {
            done.missing += 1;
        }
    }
    Ok(done)
}
