//! Guessing is slow: failed sign-ins are counted by account and by address, sign-ups by address.

use chrono::Duration;
use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use sqlx::PgConnection;

/// Failures of one account from one address, of one account from anywhere, and of one address for any account, within
/// [`WINDOW`]. The second is high, so that a stranger cannot lock someone out with a few tries.
const PER_BOTH: i64 = 8;
const PER_ACCOUNT: i64 = 60;
const PER_ADDRESS: i64 = 60;
/// Accounts made from one address within [`WINDOW`].
const SIGN_UPS: i64 = 40;
const WINDOW: Duration = Duration::minutes(15);

/// Seconds to wait before the next try; `None` when it may be tried now.
pub async fn wait_s(conn: &mut PgConnection, account: &str, address: &str) -> Result<Option<i64>, sqlx::Error> {
    let now = clock::now();
    let counts = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE account = $1 AND address = $2) AS "both!", count(*) FILTER (WHERE account = $1) AS "account!",
                  count(*) FILTER (WHERE address = $2) AS "address!", min(at) AS oldest
           FROM sign_in_attempts WHERE (account = $1 OR (address = $2 AND account NOT LIKE '%/sign-up')) AND at > $3"#,
        account,
        address,
        now - WINDOW
    )
    .fetch_one(conn)
    .await?;
    let blocked = counts.both >= PER_BOTH || counts.account >= PER_ACCOUNT || counts.address >= PER_ADDRESS;
    Ok(blocked.then(|| counts.oldest.map_or(60, |oldest| (oldest + WINDOW - now).num_seconds().max(1))))
}

pub async fn failed(conn: &mut PgConnection, account: &str, address: &str) -> Result<(), sqlx::Error> {
    let now = clock::now();
    sqlx::query!("INSERT INTO sign_in_attempts (account, address, at) VALUES ($1, $2, $3)", account, address, now)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM sign_in_attempts WHERE at < $1", now - Duration::days(1)).execute(conn).await?;
    Ok(())
}

/// Seconds to wait before another account may be made from this address; records the try when none.
pub async fn sign_up(conn: &mut PgConnection, workspace: &WorkspaceId, address: &str) -> Result<Option<i64>, sqlx::Error> {
    let (now, account) = (clock::now(), format!("{workspace}/sign-up"));
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM sign_in_attempts WHERE account = $1 AND address = $2 AND at > $3"#,
        account,
        address,
        now - WINDOW
    )
    .fetch_one(&mut *conn)
    .await?;
    if count >= SIGN_UPS {
        return Ok(Some(WINDOW.num_seconds()));
    }
    failed(conn, &account, address).await?;
    Ok(None)
}

/// The right password from here clears what was mistyped from here.
pub async fn succeeded(conn: &mut PgConnection, account: &str, address: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM sign_in_attempts WHERE account = $1 AND address = $2", account, address).execute(conn).await?;
    Ok(())
}
