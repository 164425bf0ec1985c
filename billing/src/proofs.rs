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
pub enum Sealed {
    Counted(Arc<Proof>),
    /// Of another shape, as JSON.
    Evidence(Arc<RawValue>),
}

impl Sealed {
    pub fn evidence(evidence: &impl Serialize) -> Result<Self, BillingError> {
        Ok(Self::Evidence(raw(evidence)?.into()))
    }

    /// As JSON, without the query that is kept apart.
    pub fn own(&self) -> Result<Box<RawValue>, BillingError> {
        match self {
            Self::Counted(proof) => raw(&Proof { query: "".into(), ..(**proof).clone() }),
            Self::Evidence(evidence) => Ok((**evidence).to_owned()),
        }
    }

    fn query(&self) -> Option<&str> {
        match self {
            Self::Counted(proof) => Some(&proof.query),
            Self::Evidence(_) => None,
        }
    }
}

fn raw(proof: &impl Serialize) -> Result<Box<RawValue>, BillingError> {
    serde_json::value::to_raw_value(proof).map_err(|e| BillingError::unreadable("a proof", e))
}

/// The queries of some proofs, with the ids by which they are kept: the SHA-256 of their texts.
#[derive(Debug, Default)]
pub struct Queries<'a>(BTreeMap<&'a str, String>);

impl<'a> Queries<'a> {
    pub fn of(proofs: impl Iterator<Item = &'a Sealed>) -> Self {
        let mut queries = BTreeMap::new();
        for query in proofs.filter_map(Sealed::query) {
            queries.entry(query).or_insert_with(|| hex::encode(Sha256::digest(query)));
        }
        Self(queries)
    }

    pub fn id(&self, proof: &Sealed) -> Option<String> {
        self.0.get(proof.query()?).cloned()
    }

    /// In the transaction of the lines.
    pub async fn keep(&self, conn: &mut PgConnection) -> Result<(), BillingError> {
        let (texts, ids): (Vec<_>, Vec<_>) = self.0.iter().map(|(text, id)| ((*text).to_owned(), id.clone())).unzip();
        // In one order, so that of two transactions one waits for the other.
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
}

/// A proof as it was sealed, from what is kept of it.
pub fn unsealed(mut own: Value, query: Option<String>) -> Value {
    if let (Some(query), Some(members)) = (query, own.as_object_mut()) {
        members.insert("query".to_owned(), query.into());
    }
    own
}
