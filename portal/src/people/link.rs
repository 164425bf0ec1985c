//! Links that sign someone in: how an owner comes in the first time, how colleagues are asked in, and how a demo is
//! one click away.

use chrono::{DateTime, Duration, Utc};
use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use sqlx::PgConnection;

use super::session::Token;
use super::{PeopleError, Person, Row, Side};

/// How long a link is good.
pub const ONCE_FOR: Duration = Duration::hours(24);

/// A link's path, such as `/console/welcome/<token>`, to be put after the public address.
#[derive(Debug, Clone)]
pub struct Link {
    pub path: String,
    pub expires_at: DateTime<Utc>,
}

/// `reusable`: good until it expires, and signs in with one click (demos); otherwise it works once, after a click on
/// the page it opens, so that a mail scanner that follows links does not use it up.
pub async fn create(conn: &mut PgConnection, person: &Person, reusable: bool, good_for: Duration) -> Result<Link, PeopleError> {
    let (token, now) = (Token::generate(), clock::now());
    let expires_at = now + good_for;
    sqlx::query!("DELETE FROM login_links WHERE expires_at < $1", now).execute(&mut *conn).await?;
    sqlx::query!(
        "INSERT INTO login_links (token_hash, person_id, reusable, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        &token.hash()[..],
        person.id.as_str(),
        reusable,
        now,
        expires_at
    )
    .execute(conn)
    .await?;
    let base = if person.role.side() == Side::Console { "/console/welcome" } else { "/welcome" };
    Ok(Link { path: format!("{base}/{}", token.reveal()), expires_at })
}

#[derive(Debug, Clone)]
pub struct Found {
    pub person: Person,
    pub reusable: bool,
    pub expires_at: DateTime<Utc>,
}

/// The link's person, while the link is good. Does not use it up.
pub async fn find(conn: &mut PgConnection, workspace: &WorkspaceId, side: Side, token: &Token) -> Result<Option<Found>, PeopleError> {
    let row = sqlx::query!(
        r#"SELECT p.id, p.workspace_id, p.consumer_id, p.email, p.name, p.role, p.created_at, p.last_sign_in_at,
                  p.password_hash IS NOT NULL AS "has_password!", l.reusable, l.expires_at
           FROM login_links l JOIN people p ON p.id = l.person_id
           WHERE l.token_hash = $1 AND p.workspace_id = $2 AND (p.consumer_id IS NOT NULL) = $3 AND p.disabled_at IS NULL
             AND l.expires_at > $4 AND (l.reusable OR l.used_at IS NULL)"#,
        &token.hash()[..],
        workspace.as_str(),
        side == Side::Portal,
        clock::now()
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let (reusable, expires_at) = (row.reusable, row.expires_at);
        let person = Person::try_from(Row {
            id: row.id,
            workspace_id: row.workspace_id,
            consumer_id: row.consumer_id,
            email: row.email,
            name: row.name,
            role: row.role,
            created_at: row.created_at,
            last_sign_in_at: row.last_sign_in_at,
            has_password: row.has_password,
        })?;
        Ok(Found { person, reusable, expires_at })
    })
    .transpose()
}

/// Uses the link: true for exactly one of any number of callers, always for a reusable one.
pub async fn consume(conn: &mut PgConnection, token: &Token) -> Result<bool, PeopleError> {
    let done = sqlx::query!(
        "UPDATE login_links SET used_at = $2 WHERE token_hash = $1 AND expires_at > $2 AND (reusable OR used_at IS NULL)",
        &token.hash()[..],
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
