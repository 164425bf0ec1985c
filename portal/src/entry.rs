//! Ways in that the command line opens: the owner's first link, and links that show a demo in one click.

use chrono::Duration;
use farebox_core::audit_log;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use sqlx::PgConnection;

use crate::people::link::{self, Link};
use crate::people::{self, NewPerson, PeopleError, Person, Role, Side};

/// A fresh one-time link for the owner of a workspace, who is created when there is none yet. `farebox up` prints it
/// on the first start, `farebox login-link` whenever asked. The path is to be put after the public address.
pub async fn owner_login_link(conn: &mut PgConnection, workspace: &WorkspaceId, email: &str) -> Result<Link, PeopleError> {
    let owner = owner(conn, workspace, email).await?;
    audit_log::record(conn, workspace, "farebox", "login_link.create", owner.id.as_str(), &serde_json::json!({})).await?;
    link::create(conn, &owner, false, link::ONCE_FOR).await
}

/// As [`owner_login_link`], but good for any number of clicks until it expires: for demos only.
pub async fn owner_demo_link(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    email: &str,
    good_for: Duration,
) -> Result<Link, PeopleError> {
    let owner = owner(conn, workspace, email).await?;
    link::create(conn, &owner, true, good_for).await
}

/// Whether anybody can sign in to the console yet: the first start prints a link when not.
pub async fn has_owner(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<bool, PeopleError> {
    Ok(people::members(conn, workspace).await?.iter().any(|person| person.role == Role::Owner && person.has_password))
}

async fn owner(conn: &mut PgConnection, workspace: &WorkspaceId, email: &str) -> Result<Person, PeopleError> {
    if let Some(owner) = people::members(conn, workspace).await?.into_iter().find(|person| person.role == Role::Owner) {
        return Ok(owner);
    }
    let new = NewPerson { workspace, consumer: None, email, name: "Owner", role: Role::Owner, password_hash: None };
    let id = people::create(conn, new).await?;
    people::find(conn, workspace, &id).await?.ok_or_else(|| PeopleError::Unreadable(id.to_string()))
}

/// Someone who signs in for a consumer, without a password until they set one. The one who is there already when the
/// address is known.
pub async fn consumer_user(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    email: &str,
    name: &str,
) -> Result<Person, PeopleError> {
    if let Some((person, _)) = people::find_by_email(conn, workspace, Side::Portal, email).await? {
        return if person.consumer.as_ref() == Some(consumer) { Ok(person) } else { Err(PeopleError::EmailTaken) };
    }
    let new = NewPerson { workspace, consumer: Some(consumer), email, name, role: Role::ConsumerAdmin, password_hash: None };
    let id = people::create(conn, new).await?;
    people::find(conn, workspace, &id).await?.ok_or_else(|| PeopleError::Unreadable(id.to_string()))
}

/// A one-click link to a consumer's portal, good for any number of clicks until it expires: for demos only.
pub async fn consumer_demo_link(conn: &mut PgConnection, person: &Person, good_for: Duration) -> Result<Link, PeopleError> {
    link::create(conn, person, true, good_for).await
}
