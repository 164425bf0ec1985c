//! Corrections: events voided or amended, by id or by filter, with a reason and an author. Nothing is rewritten: each
//! correction adds a row of a higher revision, which wins over every copy that gateways sent or will send, and touches
//! the minutes, so that all numbers follow by the same recomputation as ever.
//!
//! Every corrected row carries the correction's instant in its version. A correction that died half-way is taken up
//! again, and leaves alone what already carries it.

mod apply;
mod change;
mod choice;
pub(crate) mod effect;

use std::time::Duration;

use chrono::{DateTime, Utc};
use farebox_core::ids::{CorrectionId, WorkspaceId};
use farebox_core::{App, audit_log, clock};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

pub use change::Amendment;
pub use choice::Choice;
pub use effect::{Effect, MeterEffect, MoneyEffect, Price, Priced, price_with};

use crate::{MeteringError, retention, timelines};

/// Events that one correction may change.
pub const MOST_EVENTS: usize = 200_000;
/// One that is still open after so long has died, and is taken up again.
const TAKEN_UP_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The events count nowhere any more.
    Void,
    /// Some of their fields become others.
    Amend,
}

impl Action {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Void => "void",
            Self::Amend => "amend",
        }
    }
}

/// What is to be corrected.
#[derive(Debug, Clone)]
pub struct Request {
    pub action: Action,
    pub choice: Choice,
    /// Of an amendment.
    pub set: Amendment,
    pub reason: String,
    /// A token or person.
    pub author: String,
}

/// One that was made.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Correction {
    pub id: CorrectionId,
    pub action: String,
    #[schema(value_type = Object)]
    pub choice: serde_json::Value,
    /// The fields that became others.
    #[schema(value_type = Object)]
    pub set: serde_json::Value,
    pub reason: String,
    pub author: String,
    /// Events it was to change.
    pub events: i64,
    pub created_at: DateTime<Utc>,
    /// None while it is under way.
    pub applied_at: Option<DateTime<Utc>>,
}

impl Request {
    fn check(&self) -> Result<(), MeteringError> {
        if self.reason.trim().is_empty() || self.reason.len() > 2000 {
            return Err(MeteringError::invalid("/reason", "says why, in 1 to 2000 characters; it stands in the audit log"));
        }
        match self.action {
            Action::Void if !self.set.is_empty() => {
                Err(MeteringError::invalid("/set", "belongs to an amendment; a void changes nothing else"))
            }
            Action::Amend if self.set.is_empty() => Err(MeteringError::invalid("/set", "names the fields that become others")),
            _ => self.set.check(),
        }
    }
}

/// What the correction would do; nothing is changed.
pub async fn preview(app: &App, workspace: &WorkspaceId, request: &Request) -> Result<Effect, MeteringError> {
    request.check()?;
    let chosen = choice::resolve(app, workspace, &request.choice, None).await?;
    request.set.check_for(chosen.len())?;
    check_frozen(app, workspace, request, &chosen).await?;
    effect::of(app, workspace, request, &chosen).await
}

/// Makes the correction. With `expected`, only if exactly so many events are chosen: what was previewed is what is done.
pub async fn apply(app: &App, workspace: &WorkspaceId, request: &Request, expected: Option<u64>) -> Result<Correction, MeteringError> {
    request.check()?;
    let mut transaction = app.pg.begin().await?;
    lock(&mut transaction, workspace).await?;
    // Its copies with other times must not survive the correction of an event.
    if let Choice::Ids(ids) = &request.choice {
        crate::repair::of_ids(app, workspace, ids).await?;
    }
    let chosen = choice::resolve(app, workspace, &request.choice, None).await?;
    request.set.check_for(chosen.len())?;
    check_frozen(app, workspace, request, &chosen).await?;
    if chosen.is_empty() {
        return Err(MeteringError::NotFound("event"));
    }
    if expected.is_some_and(|expected| usize::try_from(expected) != Ok(chosen.len())) {
        return Err(MeteringError::Conflict {
            slug: "choice-changed",
            detail: format!(
                "{} events are chosen now, not {}. Look at the preview again, then apply it.",
                chosen.len(),
                expected.unwrap_or(0)
            ),
        });
    }
    let correction = record(app, workspace, request, chosen.len()).await?;
    apply::run(app, workspace, &request.action, &request.set, correction.created_at, &chosen).await?;
    let applied_at = clock::now();
    sqlx::query!("UPDATE corrections SET applied_at = $2 WHERE id = $1", correction.id.as_str(), applied_at)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Correction { applied_at: Some(applied_at), ..correction })
}

/// Nothing is changed in a month that has expired, and nothing is moved into one.
async fn check_frozen(app: &App, workspace: &WorkspaceId, request: &Request, chosen: &[choice::Chosen]) -> Result<(), MeteringError> {
    // Not what was known some seconds ago: a correction is rare, and one that came too late would be lost.
    let closing = retention::get(&mut *app.pg.acquire().await?, workspace).await?.closing_until;
    let places = chosen.iter().flat_map(|event| apply::moved(event.minute, &request.set).into_iter().chain([event.minute]));
    if places.min().is_some_and(|first| i64::from(first) < closing.timestamp()) {
        return Err(MeteringError::Conflict {
            slug: "period-frozen",
            detail: format!("Raw events before {closing} have expired and their numbers are frozen. Adjust the invoice instead."),
        });
    }
    Ok(())
}

/// Corrections that died half-way are finished.
pub async fn take_up(app: &App) -> Result<(), MeteringError> {
    let before = clock::now() - TAKEN_UP_AFTER;
    let open = sqlx::query!(
        r#"SELECT id AS "id: CorrectionId", workspace_id AS "workspace: WorkspaceId", action, choice, changes, reason, author, events, created_at
           FROM corrections WHERE applied_at IS NULL AND created_at < $1 ORDER BY created_at LIMIT 20"#,
        before
    )
    .fetch_all(&app.pg)
    .await?;
    for row in open {
        let mut transaction = app.pg.begin().await?;
        if !timelines::try_lock(&mut transaction, &key(&row.workspace)).await? {
            continue;
        }
        let choice: Choice = serde_json::from_value(row.choice).map_err(|e| MeteringError::unreadable("a correction", e))?;
        let set: Amendment = serde_json::from_value(row.changes).map_err(|e| MeteringError::unreadable("a correction", e))?;
        let action = if row.action == "void" { Action::Void } else { Action::Amend };
        let chosen = choice::resolve(app, &row.workspace, &choice, Some(row.created_at)).await?;
        apply::run(app, &row.workspace, &action, &set, row.created_at, &chosen).await?;
        sqlx::query!("UPDATE corrections SET applied_at = $2 WHERE id = $1", row.id.as_str(), clock::now())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        tracing::info!(correction = %row.id, "a correction that had been interrupted was finished");
    }
    Ok(())
}

/// Committed at once, before anything is changed.
async fn record(app: &App, workspace: &WorkspaceId, request: &Request, events: usize) -> Result<Correction, MeteringError> {
    let json = |value: Result<serde_json::Value, serde_json::Error>| value.map_err(|e| MeteringError::unreadable("a correction", e));
    let correction = Correction {
        id: CorrectionId::new(),
        action: request.action.as_str().to_owned(),
        choice: json(serde_json::to_value(&request.choice))?,
        set: json(serde_json::to_value(&request.set))?,
        reason: request.reason.clone(),
        author: request.author.clone(),
        events: i64::try_from(events).unwrap_or(i64::MAX),
        created_at: clock::now(),
        applied_at: None,
    };
    let mut transaction = app.pg.begin().await?;
    sqlx::query!(
        "INSERT INTO corrections (id, workspace_id, action, choice, changes, reason, author, events, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        correction.id.as_str(),
        workspace.as_str(),
        correction.action,
        correction.choice,
        correction.set,
        correction.reason,
        correction.author,
        correction.events,
        correction.created_at
    )
    .execute(&mut *transaction)
    .await?;
    let detail =
        serde_json::json!({ "reason": correction.reason, "choice": correction.choice, "set": correction.set, "events": correction.events });
    audit_log::record(
        &mut transaction,
        workspace,
        &correction.author,
        &format!("event.{}", correction.action),
        correction.id.as_str(),
        &detail,
    )
    .await?;
    transaction.commit().await?;
    Ok(correction)
}

/// Up to `limit`, the newest first, those before `before` (an id; empty for the first page).
pub async fn list(conn: &mut PgConnection, workspace: &WorkspaceId, limit: i64, before: &str) -> Result<Vec<Correction>, MeteringError> {
    Ok(sqlx::query_as!(
        Correction,
        r#"SELECT id AS "id: CorrectionId", action, choice, changes AS set, reason, author, events, created_at, applied_at
           FROM corrections WHERE workspace_id = $1 AND ($3 = '' OR id < $3) ORDER BY id DESC LIMIT $2"#,
        workspace.as_str(),
        limit,
        before
    )
    .fetch_all(conn)
    .await?)
}

fn key(workspace: &WorkspaceId) -> String {
    format!("corrections {workspace}")
}

async fn lock(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<(), MeteringError> {
    Ok(timelines::lock(conn, &key(workspace)).await?)
}
