//! Takes due rows of the outbox, and compares everything from time to time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{ConsumerId, CredentialId, WorkspaceId};
use farebox_core::seal::{Purpose, Vault};
use farebox_core::{App, clock, workspace};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::apisix::Apisix;
use super::desired::{self, Desired, Group};
use super::kong::Kong;
use super::remote::{Gateway, RemoteError};
use super::sync;
use super::targets::{self, Allowance, Kind, Target};
use crate::snapshot::SnapshotError;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const RECONCILE_EVERY: TimeDelta = TimeDelta::minutes(10);
/// Rows taken at once, and for how long nobody else takes them.
const BATCH: i64 = 50;
const LEASE: TimeDelta = TimeDelta::minutes(5);

#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Seal(#[from] farebox_core::seal::SealError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Until `stop`. Several instances share the work.
pub async fn run(app: App, stop: CancellationToken) {
    let mut failing = false;
    loop {
        let busy = match tick(&app).await {
            Ok(busy) => {
                failing = false;
                busy
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("gateways are provisioned later: {error}");
                }
                false
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY), if !busy => {}
            () = std::future::ready(()), if busy => {}
        }
    }
}

/// Whether there may be more to do at once.
async fn tick(app: &App) -> Result<bool, WorkError> {
    let due = sqlx::query_as!(
        Target,
        r#"UPDATE provision_targets SET reconcile_at = $1 + interval '5 minutes' WHERE id = (
               SELECT id FROM provision_targets WHERE reconcile_at <= $1 ORDER BY reconcile_at LIMIT 1 FOR UPDATE SKIP LOCKED)
           RETURNING id, workspace_id AS "workspace: WorkspaceId", kind AS "kind: Kind", url, admin_key_sealed, anonymous"#,
        clock::now()
    )
    .fetch_optional(&app.pg)
    .await?;
    if let Some(target) = &due {
        reconcile(app, target).await?;
    }
    let now = clock::now();
    let rows = sqlx::query_as!(
        Row,
        r#"UPDATE provision_outbox SET next_at = $2, attempts = attempts + 1 WHERE (target_id, consumer_id) IN (
               SELECT target_id, consumer_id FROM provision_outbox WHERE next_at <= $1 ORDER BY next_at LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING target_id, consumer_id AS "consumer: ConsumerId", version, attempts"#,
        now,
        now + LEASE,
        BATCH
    )
    .fetch_all(&app.pg)
    .await?;
    let mut by_target: HashMap<i64, Vec<Row>> = HashMap::new();
    let taken = rows.len();
    for row in rows {
        by_target.entry(row.target_id).or_default().push(row);
    }
    for (target, rows) in by_target {
        let Some(target) = by_id(app, target).await? else { continue };
        match gateway(app, &target)? {
            AnyGateway::Apisix(gateway) => bring(app, &target, &gateway, &rows).await?,
            AnyGateway::Kong(gateway) => bring(app, &target, &gateway, &rows).await?,
        }
    }
    Ok(due.is_some() || i64::try_from(taken).unwrap_or(0) == BATCH)
}

struct Row {
    target_id: i64,
    consumer: ConsumerId,
    version: i64,
    attempts: i32,
}

enum AnyGateway {
    Apisix(Apisix),
    Kong(Kong),
}

fn gateway(app: &App, target: &Target) -> Result<AnyGateway, WorkError> {
    let vault = Vault::new(&app.config.billing.encryption_key)?;
    let open = |sealed: &Vec<u8>| vault.open(&target.workspace, Purpose::GatewayKey, sealed).map(|key| key.reveal().to_owned());
    let key = target.admin_key_sealed.as_ref().map(open).transpose()?;
    Ok(match target.kind {
        Kind::Apisix => AnyGateway::Apisix(Apisix::new(&target.url, key, &target.workspace)?),
        Kind::Kong => AnyGateway::Kong(Kong::new(&target.url, key, &target.workspace)?),
    })
}

async fn by_id(app: &App, id: i64) -> Result<Option<Target>, sqlx::Error> {
    sqlx::query_as!(
        Target,
        r#"SELECT id, workspace_id AS "workspace: WorkspaceId", kind AS "kind: Kind", url, admin_key_sealed, anonymous
           FROM provision_targets WHERE id = $1"#,
        id
    )
    .fetch_optional(&app.pg)
    .await
}

/// What should be there, by the workspace's clock.
async fn desired(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<(HashMap<ConsumerId, Desired>, DateTime<Utc>), WorkError> {
    let found = workspace::by_id(conn, workspace).await.map_err(SnapshotError::from)?;
    let now = found.map(|w| w.clock).unwrap_or_default().now();
    Ok((desired::all(conn, workspace, now).await?, now))
}

/// Sees to the anonymous consumer and to groups, and puts every consumer that should be or is there into the outbox.
async fn reconcile(app: &App, target: &Target) -> Result<(), WorkError> {
    let desired = desired(&mut *app.pg.acquire().await?, &target.workspace).await?.0;
    let compared = match gateway(app, target)? {
        AnyGateway::Apisix(gateway) => compare(&gateway, target, &desired).await,
        AnyGateway::Kong(gateway) => compare(&gateway, target, &desired).await,
    };
    let now = clock::now();
    match compared {
        Ok(consumers) => {
            let consumers: Vec<String> = consumers.iter().map(|c| c.as_str().to_owned()).collect();
            sqlx::query!(
                "INSERT INTO provision_outbox (target_id, consumer_id, next_at) SELECT $1, consumer, $3 FROM unnest($2::text[]) AS consumer
                 ON CONFLICT (target_id, consumer_id) DO UPDATE SET version = provision_outbox.version + 1, next_at = excluded.next_at, attempts = 0",
                target.id,
                &consumers,
                now
            )
            .execute(&app.pg)
            .await?;
            sqlx::query!(
                "UPDATE provision_targets SET reconciled_at = $2, reconcile_at = $3, error = NULL WHERE id = $1",
                target.id,
                now,
                now + RECONCILE_EVERY
            )
            .execute(&app.pg)
            .await?;
        }
        Err(error) => {
            tracing::warn!(target = target.id, "a gateway cannot be compared with what should be there: {error}");
            sqlx::query!(
                "UPDATE provision_targets SET error = $2, reconcile_at = $3 WHERE id = $1",
                target.id,
                error.to_string(),
                now + TimeDelta::seconds(10)
            )
            .execute(&app.pg)
            .await?;
        }
    }
    Ok(())
}

async fn compare<G: Gateway>(
    gateway: &G,
    target: &Target,
    desired: &HashMap<ConsumerId, Desired>,
) -> Result<BTreeSet<ConsumerId>, RemoteError> {
    let anonymous: Option<Allowance> = target.anonymous.clone().and_then(|stored| serde_json::from_value(stored).ok());
    gateway.put_anonymous(anonymous.as_ref()).await?;
    let mut consumers: BTreeSet<ConsumerId> = gateway.consumers().await?.into_iter().collect();
    consumers.extend(desired.keys().cloned());
    let kept: Vec<Group> = desired.values().flat_map(|d| d.groups.clone()).collect();
    gateway.delete_other_groups(&kept).await?;
    Ok(consumers)
}

/// Brings consumers to the gateway, each for itself: one that fails is tried again later, and the others go on.
async fn bring<G: Gateway>(app: &App, target: &Target, gateway: &G, rows: &[Row]) -> Result<(), WorkError> {
    let loaded_at = clock::now();
    let mut conn = app.pg.acquire().await?;
    let (desired, now) = desired(&mut conn, &target.workspace).await?;
    let secrets = secrets(app, &mut conn, target, rows).await?;
    drop(conn);
    for row in rows {
        let wanted = desired.get(&row.consumer);
        match sync::consumer(gateway, &row.consumer, wanted, &secrets, now).await {
            Ok(done) => settle(app, target, row, wanted.is_some(), &done, loaded_at, now).await?,
            Err(error) => {
                tracing::warn!(target = target.id, consumer = %row.consumer, "a consumer cannot be brought to a gateway yet: {error}");
                let wait = TimeDelta::seconds(2_i64.pow(u32::try_from(row.attempts.clamp(0, 8)).unwrap_or(0)));
                sqlx::query!(
                    "UPDATE provision_outbox SET next_at = $4, error = $5 WHERE target_id = $1 AND consumer_id = $2 AND version = $3",
                    target.id,
                    row.consumer.as_str(),
                    row.version,
                    clock::now() + wait,
                    error.to_string()
                )
                .execute(&app.pg)
                .await?;
            }
        }
    }
    Ok(())
}

async fn secrets(app: &App, conn: &mut PgConnection, target: &Target, rows: &[Row]) -> Result<HashMap<CredentialId, String>, WorkError> {
    let vault = Vault::new(&app.config.billing.encryption_key)?;
    let consumers: Vec<String> = rows.iter().map(|row| row.consumer.as_str().to_owned()).collect();
    let kept = sqlx::query!(
        r#"SELECT credential_id AS "credential: CredentialId", sealed FROM provision_secrets WHERE target_id = $1 AND consumer_id = ANY($2)"#,
        target.id,
        &consumers
    )
    .fetch_all(conn)
    .await?;
    let mut secrets = HashMap::new();
    for row in kept {
        secrets.insert(row.credential, vault.open(&target.workspace, Purpose::ConsumerKey, &row.sealed)?.reveal().to_owned());
    }
    Ok(secrets)
}

/// Notes what is there, forgets the keys that were delivered, and closes the row unless something changed meanwhile.
async fn settle(
    app: &App,
    target: &Target,
    row: &Row,
    there: bool,
    done: &sync::Done,
    loaded_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), WorkError> {
    let mut tx = app.pg.begin().await?;
    if there {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        targets::note(&mut tx, target.id, &row.consumer, count(done.keys), count(done.missing), i64::from(count(done.writes))).await?;
    } else {
        sqlx::query!("DELETE FROM provision_state WHERE target_id = $1 AND consumer_id = $2", target.id, row.consumer.as_str())
            .execute(&mut *tx)
            .await?;
    }
    let delivered: Vec<String> = done.delivered.iter().map(|c| c.as_str().to_owned()).collect();
    // Those of revoked keys, too; but not of one that was issued while this went on.
    sqlx::query!(
        "DELETE FROM provision_secrets WHERE target_id = $1 AND consumer_id = $2 AND (credential_id = ANY($3) OR created_at < $4)",
        target.id,
        row.consumer.as_str(),
        &delivered,
        loaded_at - TimeDelta::minutes(5)
    )
    .execute(&mut *tx)
    .await?;
    // A key that is over goes when it is.
    let again = done.next_expiry.map(|at| clock::now() + (at - now).max(TimeDelta::zero()));
    sqlx::query!(
        "UPDATE provision_outbox SET next_at = $4, attempts = 0, error = NULL WHERE target_id = $1 AND consumer_id = $2 AND version = $3 AND $4::timestamptz IS NOT NULL",
        target.id,
        row.consumer.as_str(),
        row.version,
        again
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM provision_outbox WHERE target_id = $1 AND consumer_id = $2 AND version = $3 AND $4::timestamptz IS NULL",
        target.id,
        row.consumer.as_str(),
        row.version,
        again
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}
