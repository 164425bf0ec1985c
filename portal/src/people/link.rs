//! Links that sign someone in: how an owner comes in the first time, how colleagues are asked in, and how a demo is
//! one click away.

use chrono::{DateTime, Duration, Utc};
use farebox_core::clock;
use farebox_core::ids::{PersonId, WorkspaceId};
use sqlx::PgConnection;

use super::session::Token;
use super::{PeopleError, Person, Side};

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
    let link = sqlx::query!(
        r#"SELECT person_id AS "person: PersonId", reusable, expires_at FROM login_links
           WHERE token_hash = $1 AND expires_at > $2 AND (reusable OR used_at IS NULL)"#,
        &token.hash()[..],
        clock::now()
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(link) = link else { return Ok(None) };
    let person = super::find(conn, workspace, &link.person).await?.filter(|person| person.role.side() == side);
    Ok(person.map(|person| Found { person, reusable: link.reusable, expires_at: link.expires_at }))
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
