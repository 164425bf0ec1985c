//! A rejected event as it came, but for secrets, with why, whence and when: one message of [`DEAD_LETTERS`]. The same message
//! again with `resolved_at` says that a replay has brought it in.
//!
//! [`DEAD_LETTERS`]: farebox_core::kafka::DEAD_LETTERS

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use farebox_core::ids::{DeadLetterId, WorkspaceId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::admit::Arrival;
use crate::formats::Format;
use crate::verdict::Rejection;

/// Longer ones are cut, because Kafka takes messages up to 1 MB; they cannot be replayed.
const MAX_BYTES: usize = 512 << 10;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Derived from the origin, so that the same record rejected again is the same dead letter.
    pub id: DeadLetterId,
    pub workspace: WorkspaceId,
    /// The source it came through.
    pub source: String,
    pub format: String,
    /// `http/<hash of the body>/<index>`, `kafka/<topic>/<partition>/<offset>/<timestamp>/<index>`, or
    /// `file/<file>/<offset>`.
    pub origin: String,
    pub received_at: DateTime<Utc>,
    pub reason: String,
    pub detail: String,
    pub event_source: String,
    pub event_id: String,
    /// The id that it gets when it carries none: the one it would have had.
    pub fallback_id: String,
    /// The bytes as they came, but for secrets (see [`crate::mask`]), in base64.
    pub body: String,
    pub truncated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<DateTime<Utc>>,
}

impl DeadLetter {
    pub fn new(arrival: &Arrival, format: &Format, origin: &str, rejection: &Rejection, raw: &[u8]) -> Self {
        let raw = format.masked(raw);
        Self {
            id: id_of(arrival.workspace, arrival.source, origin),
            workspace: arrival.workspace.clone(),
            source: arrival.source.to_owned(),
            format: format.as_str().to_owned(),
            origin: origin.to_owned(),
            received_at: arrival.received_at,
            reason: rejection.reason.as_str().to_owned(),
            detail: rejection.detail.clone(),
            event_source: rejection.source.clone(),
            event_id: rejection.id.clone(),
            fallback_id: arrival.fallback_id.to_owned(),
            body: STANDARD.encode(&raw[..raw.len().min(MAX_BYTES)]),
            truncated: raw.len() > MAX_BYTES,
            resolved_at: None,
        }
    }

    /// What was kept of it.
    pub fn all_bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.body).unwrap_or_default()
    }

    /// All of it; None when it was cut or is no base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        if self.truncated { None } else { STANDARD.decode(&self.body).ok() }
    }
}

fn id_of(workspace: &WorkspaceId, source: &str, origin: &str) -> DeadLetterId {
    let digest = Sha256::new()
        .chain_update(workspace.as_str())
        .chain_update([0])
        .chain_update(source)
        .chain_update([0])
        .chain_update(origin)
        .finalize();
    format!("{}{}", DeadLetterId::PREFIX, hex::encode(&digest[..16])).parse().expect("32 hexadecimal digits after the prefix")
}
