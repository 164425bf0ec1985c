//! Whose a subject or a credential is, when. Events keep what the gateway saw; the consumer follows from these links
//! by event time, so that a link made later, or moved, re-attributes past usage.

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::period::floor_minute;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::MeteringError;
use crate::timelines::{self, Affected, Change, Interval, LinkRow};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The consumer's key as the gateway knows it.
    Subject,
    /// The id of an API key; wins over the subject.
    Credential,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Credential => "credential",
        }
    }
}

/// Makes `subject` the consumer's in [from, to), rounded down to minutes; to the end of time without `to`. What it
/// was there before is replaced, what it was outside stays.
pub async fn link_subject(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    subject: &str,
    consumer: &ConsumerId,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
) -> Result<(), MeteringError> {
    assign(conn, workspace, Kind::Subject, subject, consumer, "", from, to).await
}

/// As [`link_subject`], for an API key that moves to another consumer.
pub async fn link_credential(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    credential: &str,
    consumer: &ConsumerId,
    environment: &str,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
) -> Result<(), MeteringError> {
    assign(conn, workspace, Kind::Credential, credential, consumer, environment, from, to).await
}

/// The subjects that are the consumer's at some time.
pub async fn subjects_of(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<String>, MeteringError> {
    Ok(sqlx::query_scalar!(
        "SELECT DISTINCT key FROM links WHERE workspace_id = $1 AND consumer_id = $2 AND kind = 'subject' ORDER BY key",
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_all(conn)
    .await?)
}

#[allow(clippy::too_many_arguments)] // one row of the table
pub(crate) async fn assign(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    kind: Kind,
    key: &str,
    consumer: &ConsumerId,
    environment: &str,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
) -> Result<(), MeteringError> {
    if key.is_empty() {
        return Err(MeteringError::invalid("/subjects", "a subject must not be empty"));
    }
    let (from, to) = (floor_minute(from), to.map(floor_minute));
    if to.is_some_and(|to| to <= from) {
        return Err(MeteringError::invalid("/to", "must be at least a minute after `from`"));
    }
    timelines::lock(conn, &format!("link {workspace} {} {key}", kind.as_str())).await?;
    let old = rows_of(conn, workspace, kind, key).await?;
    let new = LinkRow { at: Interval { from, to }, consumer: consumer.clone(), environment: environment.to_owned() };
    let rows = timelines::overlay(&old, new, |row| row.at, |row, at| LinkRow { at, ..row.clone() });
    if rows == old {
        return Ok(());
    }
    sqlx::query!("DELETE FROM links WHERE workspace_id = $1 AND kind = $2 AND key = $3", workspace.as_str(), kind.as_str(), key)
        .execute(&mut *conn)
        .await?;
    for row in &rows {
        sqlx::query!(
            "INSERT INTO links (workspace_id, kind, key, valid_from, valid_to, consumer_id, environment) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            workspace.as_str(),
            kind.as_str(),
            key,
            row.at.from,
            row.at.to,
            row.consumer.as_str(),
            row.environment
        )
        .execute(&mut *conn)
        .await?;
    }
    let gone = timelines::gone(old.iter().map(|r| r.at), rows.iter().map(|r| r.at));
    let change = Change::Link { kind, key: key.to_owned(), rows, gone, affected: Affected { from, to } };
    timelines::write_outbox(conn, workspace, &change).await?;
    Ok(())
}

/// Takes a key from a consumer for all of the time it had it.
pub(crate) async fn remove(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    kind: Kind,
    key: &str,
    consumer: &ConsumerId,
) -> Result<(), MeteringError> {
    let mut transaction = sqlx::Connection::begin(conn).await?;
    timelines::lock(&mut transaction, &format!("link {workspace} {} {key}", kind.as_str())).await?;
    let old = rows_of(&mut transaction, workspace, kind, key).await?;
    let (theirs, rows): (Vec<_>, Vec<_>) = old.into_iter().partition(|row| row.consumer == *consumer);
    let Some(first) = theirs.first() else { return Ok(()) };
    sqlx::query!(
        "DELETE FROM links WHERE workspace_id = $1 AND kind = $2 AND key = $3 AND consumer_id = $4",
        workspace.as_str(),
        kind.as_str(),
        key,
        consumer.as_str()
    )
    .execute(&mut *transaction)
    .await?;
    let affected = Affected { from: first.at.from, to: theirs.last().and_then(|row| row.at.to) };
    let gone = theirs.iter().map(|row| row.at.from).collect();
    let change = Change::Link { kind, key: key.to_owned(), rows, gone, affected };
    timelines::write_outbox(&mut transaction, workspace, &change).await?;
    Ok(transaction.commit().await?)
}

async fn rows_of(conn: &mut PgConnection, workspace: &WorkspaceId, kind: Kind, key: &str) -> Result<Vec<LinkRow>, MeteringError> {
    let rows = sqlx::query!(
        r#"SELECT valid_from, valid_to, consumer_id AS "consumer: ConsumerId", environment
           FROM links WHERE workspace_id = $1 AND kind = $2 AND key = $3 ORDER BY valid_from"#,
        workspace.as_str(),
        kind.as_str(),
        key
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| LinkRow {
            at: Interval { from: row.valid_from, to: row.valid_to },
            consumer: row.consumer,
            environment: row.environment,
        })
        .collect())
}
