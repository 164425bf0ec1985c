//! Sessions: a random token in a cookie that scripts cannot read, its hash in the database, an end that is near when
//! nobody is there and certain after a while.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use farebox_core::clock;
use farebox_core::ids::{PersonId, WorkspaceId};
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::{PeopleError, Person, Side};

const IDLE: Duration = Duration::hours(12);
const ABSOLUTE: Duration = Duration::days(14);
/// `last_seen_at` is written at most this often.
const SEEN_EVERY: Duration = Duration::minutes(1);

/// 256 random bits, in the clear: only ever in a cookie or a link.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn generate() -> Self {
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// As it came from outside; anything of another form is nobody's.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')).then(|| Self(text.to_owned()))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Someone who is signed in.
#[derive(Debug, Clone)]
pub struct Session {
    pub person: Person,
    pub token: Token,
    pub created_at: DateTime<Utc>,
}

impl Session {
    /// What this session's forms carry: fresh for each page, so that compression gives nothing away, and only good
    /// with this session's cookie.
    pub fn csrf(&self) -> String {
        let mut nonce = [0_u8; 16];
        rand::rng().fill_bytes(&mut nonce);
        URL_SAFE_NO_PAD.encode([&nonce[..], &self.mac(&nonce).finalize().into_bytes()].concat())
    }

    pub fn accepts(&self, csrf: &str) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(csrf) else { return false };
        let Some((nonce, tag)) = bytes.split_at_checked(16) else { return false };
        self.mac(nonce).verify_slice(tag).is_ok()
    }

    fn mac(&self, nonce: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.token.reveal().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(b"csrf");
        mac.update(nonce);
        mac
    }
}

/// Where the session of one side is kept. `__Host-` binds it to this host and to TLS, where there is TLS.
pub fn cookie_name(side: Side, secure: bool) -> &'static str {
    match (side, secure) {
        (Side::Portal, true) => "__Host-farebox-portal",
        (Side::Console, true) => "__Host-farebox-console",
        (Side::Portal, false) => "farebox-portal",
        (Side::Console, false) => "farebox-console",
    }
}

pub fn set_cookie(side: Side, secure: bool, token: &Token) -> HeaderValue {
    cookie(side, secure, token.reveal(), ABSOLUTE.num_seconds())
}

pub fn clear_cookie(side: Side, secure: bool) -> HeaderValue {
    cookie(side, secure, "", 0)
}

fn cookie(side: Side, secure: bool, value: &str, max_age_s: i64) -> HeaderValue {
    let end = if secure { "; Secure" } else { "" };
    let text = format!("{}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{end}", cookie_name(side, secure));
    HeaderValue::from_str(&text).expect("a cookie of letters, digits and punctuation")
}

/// The token in a request's cookies.
pub fn token_in(headers: &HeaderMap, side: Side, secure: bool) -> Option<Token> {
    let name = cookie_name(side, secure);
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|line| line.split(';'));
    pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| *key == name).and_then(|(_, value)| Token::parse(value))
}

/// Starts a session. `browser` and `address` are for the person to recognise it by.
pub async fn start(conn: &mut PgConnection, person: &PersonId, address: &str, browser: &str) -> Result<Token, PeopleError> {
    let (token, now) = (Token::generate(), clock::now());
    sqlx::query!("DELETE FROM sessions WHERE expires_at < $1 OR last_seen_at < $2", now, now - IDLE).execute(&mut *conn).await?;
    sqlx::query!(
        "INSERT INTO sessions (token_hash, person_id, created_at, last_seen_at, expires_at, address, browser) VALUES ($1, $2, $3, $3, $4, $5, $6)",
        &token.hash()[..],
        person.as_str(),
        now,
        now + ABSOLUTE,
        address,
        browser.chars().take(200).collect::<String>()
    )
    .execute(&mut *conn)
    .await?;
    super::signed_in(conn, person).await?;
    Ok(token)
}

/// Who the token belongs to, on this side of this workspace, if it still counts.
pub async fn find(conn: &mut PgConnection, workspace: &WorkspaceId, side: Side, token: Token) -> Result<Option<Session>, PeopleError> {
    let (now, hash) = (clock::now(), token.hash());
    let row = sqlx::query!(
        r#"SELECT person_id AS "person: PersonId", created_at, last_seen_at FROM sessions
           WHERE token_hash = $1 AND expires_at > $2 AND last_seen_at > $3"#,
        &hash[..],
        now,
        now - IDLE
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let person = super::find(conn, workspace, &row.person).await?.filter(|person| person.role.side() == side);
    let Some(person) = person else { return Ok(None) };
    if now - row.last_seen_at > SEEN_EVERY {
        sqlx::query!("UPDATE sessions SET last_seen_at = $2 WHERE token_hash = $1", &hash[..], now).execute(conn).await?;
    }
    Ok(Some(Session { person, token, created_at: row.created_at }))
}

pub async fn end(conn: &mut PgConnection, token: &Token) -> Result<(), PeopleError> {
    sqlx::query!("DELETE FROM sessions WHERE token_hash = $1", &token.hash()[..]).execute(conn).await?;
    Ok(())
}

/// Ends all sessions of a person but one, as after a change of password.
pub async fn end_others(conn: &mut PgConnection, person: &PersonId, but: &Token) -> Result<(), PeopleError> {
    sqlx::query!("DELETE FROM sessions WHERE person_id = $1 AND token_hash <> $2", person.as_str(), &but.hash()[..]).execute(conn).await?;
    Ok(())
}

/// A person's session as they recognise it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub address: String,
    pub browser: String,
    pub this: bool,
}

pub async fn list(conn: &mut PgConnection, session: &Session) -> Result<Vec<Seen>, PeopleError> {
    let now = clock::now();
    let rows = sqlx::query!(
        r#"SELECT created_at, last_seen_at, address, browser, token_hash = $2 AS "this!" FROM sessions
           WHERE person_id = $1 AND expires_at > $3 AND last_seen_at > $4 ORDER BY last_seen_at DESC LIMIT 20"#,
        session.person.id.as_str(),
        &session.token.hash()[..],
        now,
        now - IDLE
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| Seen { created_at: r.created_at, last_seen_at: r.last_seen_at, address: r.address, browser: r.browser, this: r.this })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::Role;

    fn session() -> Session {
        let person = Person {
            id: PersonId::new(),
            workspace: WorkspaceId::new(),
            email: "a@b.example".into(),
            name: "A".into(),
            role: Role::Owner,
            consumer: None,
            created_at: clock::now(),
            last_sign_in_at: None,
            has_password: true,
        };
        Session { person, token: Token::generate(), created_at: clock::now() }
    }

    #[test]
    fn a_forms_token_is_good_for_its_own_session_only() {
        let (mine, theirs) = (session(), session());
        let (first, second) = (mine.csrf(), mine.csrf());
        assert_ne!(first, second);
        assert!(mine.accepts(&first) && mine.accepts(&second));
        assert!(!theirs.accepts(&first));
        for bad in ["", "AAAA", "not base64 !", &first[1..]] {
            assert!(!mine.accepts(bad), "{bad}");
        }
    }

    #[test]
    fn the_cookie_is_read_back_and_bound_to_the_host_under_tls() {
        let token = Token::generate();
        let value = set_cookie(Side::Console, true, &token);
        let text = value.to_str().expect("text");
        assert!(text.starts_with("__Host-farebox-console="));
        assert!(text.contains("; Path=/;") && text.contains("HttpOnly") && text.contains("SameSite=Lax") && text.ends_with("; Secure"));
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(&format!("x=1; {}", text.split(';').next().expect("a pair"))).expect("text"));
        assert_eq!(token_in(&headers, Side::Console, true), Some(token));
        assert_eq!(token_in(&headers, Side::Portal, true), None);
        assert_eq!(token_in(&headers, Side::Console, false), None);
    }
}
