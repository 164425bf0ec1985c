//! Proofs as they are kept with invoice lines. Of all that is counted alike the query is the same: its text is kept once.

use std::collections::BTreeMap;
use std::sync::Arc;

use farebox_metering::proof::Proof;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::BillingError;

/// What a line was counted from.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// As JSON, without its query where that is kept apart.
    pub own: Arc<RawValue>,
    pub query: Option<Query>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// SHA-256 of the text.
    pub id: Arc<str>,
    text: Arc<str>,
}

impl Query {
    pub fn new(text: &str) -> Self {
        Self { id: hex::encode(Sha256::digest(text)).into(), text: text.into() }
    }
}

impl Sealed {
    /// `query`: the proof's own.
    pub fn new(mut proof: Proof, query: Query) -> Result<Self, BillingError> {
        proof.query.clear();
        Ok(Self { own: raw(&proof)?, query: Some(query) })
    }

    /// Of another shape, kept whole.
    pub fn whole(proof: &impl Serialize) -> Result<Self, BillingError> {
        Ok(Self { own: raw(proof)?, query: None })
    }
}

fn raw(proof: &impl Serialize) -> Result<Arc<RawValue>, BillingError> {
    serde_json::value::to_raw_value(proof).map(Arc::from).map_err(|e| BillingError::unreadable("a proof", e))
}

/// Keeps the queries, in the transaction of the lines.
pub async fn keep(conn: &mut PgConnection, queries: impl Iterator<Item = &Query>) -> Result<(), BillingError> {
    // In one order, so that two transactions wait for each other in one direction only.
    let distinct: BTreeMap<&str, &str> = queries.map(|query| (&*query.id, &*query.text)).collect();
    let (ids, texts): (Vec<_>, Vec<_>) = distinct.into_iter().map(|(id, text)| (id.to_owned(), text.to_owned())).unzip();
    sqlx::query!(
        "INSERT INTO proof_queries (id, query) SELECT id, query FROM unnest($1::text[], $2::text[]) AS w (id, query)
         WHERE NOT EXISTS (SELECT FROM proof_queries p WHERE p.id = w.id) ORDER BY id ON CONFLICT DO NOTHING",
        &ids,
        &texts
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A proof as it was sealed, from what is kept of it.
pub fn unsealed(mut own: Value, query: Option<String>) -> Value {
    if let (Some(query), Some(members)) = (query, own.as_object_mut()) {
        members.insert("query".to_owned(), query.into());
    }
    own
}
