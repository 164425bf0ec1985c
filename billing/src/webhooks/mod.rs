//! Webhooks: a provider's own programs are told what happens, as it happens.
//!
//! Whatever happens writes its event, and one delivery for each address that wants to know, in the transaction in which
//! it happens (`webhook_event` in the database, called by triggers on invoices and keys, and by [`emit`]): so nothing
//! that was rolled back is told, and nothing that was committed is forgotten. [`worker`] sends each delivery until it is
//! taken, with pauses that grow over three days; the id and the bytes stay the same, so who gets one twice can tell.
//! Each is signed as the [Standard Webhooks](https://www.standardwebhooks.com) specification says, and [`guard`] sees to
//! it that an address leads to the public Internet and nowhere else.

mod body;
mod deliveries;
mod guard;
mod http;
mod send;
mod store;
mod worker;

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, WorkspaceId};
use sqlx::PgConnection;

pub use deliveries::{Delivery, deliveries, retry};
pub use http::{router, router_of_secrets};
pub use send::Sender;
pub use store::{Changes, NewWebhook, Webhook, create, get, list, remove, rotate, test, update};
pub use worker::{run, run_once};

/// What can be told.
pub const TYPES: &[&str] = &[
    "invoice.issued",
    "invoice.paid",
    "invoice.past_due",
    "invoice.uncollectible",
    "invoice.void",
    "subscription.created",
    "subscription.changed",
    "key.created",
    "key.revoked",
    "alert.fired",
];

/// All of them, those to come included.
pub const EVERYTHING: &str = "*";

/// Sent on request, to see whether an address works.
const TEST: &str = "webhook.test";

/// Whether what is told says amounts, which not everybody may know.
pub fn tells_amounts(kind: &str) -> bool {
    kind == EVERYTHING || kind.starts_with("invoice.") || kind.starts_with("alert.")
}

/// Something that happened, told when the caller's transaction commits.
#[derive(Debug, Clone)]
pub struct Happened<'a> {
    /// One of [`TYPES`].
    pub kind: &'a str,
    /// The id of what it is about.
    pub subject: &'a str,
    pub consumer: &'a ConsumerId,
    pub data: &'a serde_json::Value,
    pub at: DateTime<Utc>,
}

/// The event's id; none when nobody wants to know.
pub async fn emit(conn: &mut PgConnection, ws: &WorkspaceId, event: &Happened<'_>) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT webhook_event($1, $2, $3, $4, $5, $6)",
        ws.as_str(),
        event.kind,
        event.subject,
        event.consumer.as_str(),
        event.data,
        event.at
    )
    .fetch_one(conn)
    .await
}
