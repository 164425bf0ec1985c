//! Persons: members of the workspace, who see the console, and consumers' people, who see the portal. They sign in by
//! password or by a link, and a session remembers them.

pub mod erasure;
pub mod link;
pub mod password;
pub mod role;
pub mod session;
pub mod throttle;

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, PersonId, WorkspaceId};
use sqlx::PgConnection;

pub use role::{Role, Side};

#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    #[error("someone signs in with this e-mail already")]
    EmailTaken,
    #[error("this is not an e-mail address")]
    EmailInvalid,
    #[error("{0}")]
    Password(#[from] password::PasswordError),
    #[error("person `{0}` has a role or an id which this version does not know")]
    Unreadable(String),
    #[error(transparent)]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for PeopleError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().and_then(sqlx::error::DatabaseError::constraint) {
            Some("people_member_email" | "people_consumer_email") => Self::EmailTaken,
            _ => Self::Database(error),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub id: PersonId,
    pub workspace: WorkspaceId,
    pub email: String,
    pub name: String,
    pub role: Role,
    /// Whose portal it is; `None` for members of the workspace.
    pub consumer: Option<ConsumerId>,
    pub created_at: DateTime<Utc>,
    pub last_sign_in_at: Option<DateTime<Utc>>,
    pub has_password: bool,
}

struct Row {
    id: String,
    workspace_id: String,
    consumer_id: Option<String>,
    email: String,
    name: String,
    role: String,
    created_at: DateTime<Utc>,
    last_sign_in_at: Option<DateTime<Utc>>,
    has_password: bool,
}

impl TryFrom<Row> for Person {
    type Error = PeopleError;
    fn try_from(row: Row) -> Result<Self, PeopleError> {
        let side = if row.consumer_id.is_some() { Side::Portal } else { Side::Console };
        let person = (|| {
            Some(Self {
                id: row.id.parse().ok()?,
                workspace: row.workspace_id.parse().ok()?,
                consumer: row.consumer_id.map(|id| id.parse()).transpose().ok()?,
                role: Role::parse(side, &row.role)?,
                email: row.email,
                name: row.name,
                created_at: row.created_at,
                last_sign_in_at: row.last_sign_in_at,
                has_password: row.has_password,
            })
        })();
        person.ok_or(PeopleError::Unreadable(row.id))
    }
}

/// Who is to be added. `role` and `consumer` must be of the same side, which the database checks too.
#[derive(Debug, Clone)]
pub struct NewPerson<'a> {
    pub workspace: &'a WorkspaceId,
    pub consumer: Option<&'a ConsumerId>,
    pub email: &'a str,
    pub name: &'a str,
    pub role: Role,
    /// From [`password::hash`].
    pub password_hash: Option<String>,
}

/// Lower case and without blanks around; the rough form of an address, for the rest shows when mail arrives.
pub fn normal_email(text: &str) -> Result<String, PeopleError> {
    let email = text.trim().to_lowercase();
    let (local, domain) = email.rsplit_once('@').ok_or(PeopleError::EmailInvalid)?;
    let plain =
        |part: &str| !part.is_empty() && !part.chars().any(|c| c.is_whitespace() || c.is_control() || c == '@' || c == '<' || c == '>');
    if email.len() <= 254 && plain(local) && plain(domain) && !domain.starts_with('.') && !domain.ends_with('.') {
        return Ok(email);
    }
    Err(PeopleError::EmailInvalid)
}

pub async fn create(conn: &mut PgConnection, new: NewPerson<'_>) -> Result<PersonId, PeopleError> {
    let (id, email) = (PersonId::new(), normal_email(new.email)?);
    sqlx::query!(
        "INSERT INTO people (id, workspace_id, consumer_id, email, name, role, password_hash, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        id.as_str(),
        new.workspace.as_str(),
        new.consumer.map(ConsumerId::as_str),
        email,
        new.name.trim(),
        new.role.as_str(),
        new.password_hash,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(id)
}

/// Nobody who was disabled is found, here or below.
pub async fn find(conn: &mut PgConnection, workspace: &WorkspaceId, id: &PersonId) -> Result<Option<Person>, PeopleError> {
    sqlx::query_as!(
        Row,
        r#"SELECT id, workspace_id, consumer_id, email, name, role, created_at, last_sign_in_at, password_hash IS NOT NULL AS "has_password!"
           FROM people WHERE workspace_id = $1 AND id = $2 AND disabled_at IS NULL"#,
        workspace.as_str(),
        id.as_str()
    )
    .fetch_optional(conn)
    .await?
    .map(Person::try_from)
    .transpose()
}

/// The person who signs in with this address on one side, and the hash of the password when there is one.
pub async fn find_by_email(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    side: Side,
    email: &str,
) -> Result<Option<(Person, Option<String>)>, PeopleError> {
    let row = sqlx::query!(
        r#"SELECT id AS "id: PersonId", password_hash FROM people WHERE workspace_id = $1 AND email = $2 AND (consumer_id IS NOT NULL) = $3"#,
        workspace.as_str(),
        email.trim().to_lowercase(),
        side == Side::Portal
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(find(conn, workspace, &row.id).await?.map(|person| (person, row.password_hash)))
}

/// Members of the workspace, oldest first.
pub async fn members(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<Person>, PeopleError> {
    sqlx::query_as!(
        Row,
        r#"SELECT id, workspace_id, consumer_id, email, name, role, created_at, last_sign_in_at, password_hash IS NOT NULL AS "has_password!"
           FROM people WHERE workspace_id = $1 AND consumer_id IS NULL AND disabled_at IS NULL ORDER BY created_at, id"#,
        workspace.as_str()
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(Person::try_from)
    .collect()
}

/// A consumer's people, oldest first.
pub async fn of_consumer(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Vec<Person>, PeopleError> {
    sqlx::query_as!(
        Row,
        r#"SELECT id, workspace_id, consumer_id, email, name, role, created_at, last_sign_in_at, password_hash IS NOT NULL AS "has_password!"
           FROM people WHERE workspace_id = $1 AND consumer_id = $2 AND disabled_at IS NULL ORDER BY created_at, id"#,
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(Person::try_from)
    .collect()
}

pub async fn set_password(conn: &mut PgConnection, person: &PersonId, password_hash: &str) -> Result<(), PeopleError> {
    sqlx::query!("UPDATE people SET password_hash = $2 WHERE id = $1", person.as_str(), password_hash).execute(conn).await?;
    Ok(())
}

pub async fn signed_in(conn: &mut PgConnection, person: &PersonId) -> Result<(), PeopleError> {
    sqlx::query!("UPDATE people SET last_sign_in_at = $2 WHERE id = $1", person.as_str(), clock::now()).execute(conn).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_in_one_form_and_nonsense_is_refused() {
        assert_eq!(normal_email(" Robin@Northbank.Example ").expect("an address"), "robin@northbank.example");
        for bad in ["", "robin", "@x.example", "robin@", "a b@x.example", "robin@.example", "<a@b>", "a@b@c\n"] {
            assert!(normal_email(bad).is_err(), "{bad}");
        }
    }
}
