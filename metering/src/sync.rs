//! Copies timeline changes from PostgreSQL's outbox to ClickHouse, then touches the minutes they affect.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Serialize;

use crate::facts::{bound, minute_sql};
use crate::timelines::{Affected, Change};
use crate::{MeteringError, rule, store};

/// Changes per transaction.
const BATCH: i64 = 500;

#[derive(Row, Serialize)]
struct Link {
    workspace: String,
    kind: &'static str,
    key: String,
    valid_from: u32,
    valid_to: u32,
    consumer: String,
    environment: String,
    version: u64,
    is_deleted: u8,
}

#[derive(Row, Serialize)]
struct Sub {
    workspace: String,
    consumer: String,
    product: String,
    valid_from: u32,
    valid_to: u32,
    subscription: String,
    plan: String,
    plan_version: String,
    version: u64,
    is_deleted: u8,
}

#[derive(Row, Serialize)]
struct ApiProduct {
    workspace: String,
    api: String,
    product: String,
    version: u64,
}

/// Copies all changes that were committed before the call; afterwards every answer sees them. Waits for another
/// instance that is just copying. Returns how many changes were copied.
pub async fn sync(app: &App) -> Result<usize, MeteringError> {
    let mut copied = 0;
    loop {
        let mut transaction = app.pg.begin().await?;
        let rows = sqlx::query!(
            r#"SELECT id, workspace_id AS "workspace: WorkspaceId", change FROM timeline_outbox ORDER BY id LIMIT $1 FOR UPDATE"#,
            BATCH
        )
        .fetch_all(&mut *transaction)
        .await?;
        if rows.is_empty() {
            return Ok(copied);
        }
        let mut changes = Vec::with_capacity(rows.len());
        for row in &rows {
            let change: Change =
                serde_json::from_value(row.change.clone()).map_err(|e| MeteringError::unreadable("a timeline change", e))?;
            changes.push((row.workspace.clone(), u64::try_from(row.id).unwrap_or(0), change));
        }
        copy(app, &changes).await?;
        touch(app, &changes).await?;
        // Dying before this line repeats the copy, which changes nothing.
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        sqlx::query!("DELETE FROM timeline_outbox WHERE id = ANY($1)", &ids).execute(&mut *transaction).await?;
        transaction.commit().await?;
        copied += ids.len();
    }
}

fn start(at: DateTime<Utc>) -> u32 {
    u32::try_from(at.timestamp().max(0)).unwrap_or(u32::MAX)
}

fn end(at: Option<DateTime<Utc>>) -> u32 {
    at.map_or(u32::MAX, start)
}

async fn copy(app: &App, changes: &[(WorkspaceId, u64, Change)]) -> Result<(), MeteringError> {
    let (mut links, mut subs, mut apis) = (Vec::new(), Vec::new(), Vec::new());
    for (workspace, version, change) in changes {
        let (workspace, version) = (workspace.to_string(), *version);
        match change {
            Change::Link { kind, key, rows, gone, .. } => {
                let row = |valid_from, valid_to, consumer: &str, environment: &str, is_deleted| Link {
                    workspace: workspace.clone(),
                    kind: kind.as_str(),
                    key: key.clone(),
                    valid_from,
                    valid_to,
                    consumer: consumer.to_owned(),
                    environment: environment.to_owned(),
                    version,
                    is_deleted,
                };
                links.extend(rows.iter().map(|r| row(start(r.at.from), end(r.at.to), r.consumer.as_str(), &r.environment, 0)));
                links.extend(gone.iter().map(|from| row(start(*from), 0, "", "", 1)));
            }
            Change::Subscription { consumer, product, rows, gone, .. } => {
                let row = |valid_from, valid_to, subscription: &str, plan: &str, plan_version: &str, is_deleted| Sub {
                    workspace: workspace.clone(),
                    consumer: consumer.to_string(),
                    product: product.clone(),
                    valid_from,
                    valid_to,
                    subscription: subscription.to_owned(),
                    plan: plan.to_owned(),
                    plan_version: plan_version.to_owned(),
                    version,
                    is_deleted,
                };
                let live =
                    rows.iter().map(|r| row(start(r.at.from), end(r.at.to), r.subscription.as_str(), &r.plan, r.plan_version.as_str(), 0));
                subs.extend(live);
                subs.extend(gone.iter().map(|from| row(start(*from), 0, "", "", "", 1)));
            }
            Change::Api { name, product } => apis.push(ApiProduct { workspace, api: name.clone(), product: product.clone(), version }),
            Change::Rule | Change::Touch { .. } => {}
        }
    }
    insert(app, "link", &links).await?;
    insert(app, "sub", &subs).await?;
    insert(app, "api_product", &apis).await
}

async fn insert<T>(app: &App, table: &str, rows: &[T]) -> Result<(), MeteringError>
where
    T: clickhouse::RowOwned + clickhouse::RowWrite,
{
    if rows.is_empty() {
        return Ok(());
    }
    let mut insert = app.clickhouse.insert::<T>(table).await?.with_setting("async_insert", "0").with_setting("insert_deduplicate", "0");
    for row in rows {
        insert.write(row).await?;
    }
    Ok(insert.end().await?)
}

/// Touches the minutes that have events which the changes may re-attribute. One scan per workspace and kind of change,
/// whatever their number.
async fn touch(app: &App, changes: &[(WorkspaceId, u64, Change)]) -> Result<(), MeteringError> {
    let mut scans: HashMap<(&WorkspaceId, &'static str), (Vec<&str>, Affected)> = HashMap::new();
    for (workspace, _, change) in changes {
        let (what, key, affected) = match change {
            Change::Link { kind, key, affected, .. } => (kind.as_str(), key.as_str(), *affected),
            Change::Subscription { consumer, affected, .. } => ("consumer", consumer.as_str(), *affected),
            Change::Api { name, .. } => ("api", name.as_str(), ALWAYS),
            Change::Rule => ("all", "", ALWAYS),
            Change::Touch { minutes } => {
                store::touch(&app.clickhouse, workspace, minutes).await?;
                continue;
            }
        };
        let (keys, span) = scans.entry((workspace, what)).or_insert_with(|| (Vec::new(), affected));
        keys.push(key);
        span.from = span.from.min(affected.from);
        span.to = span.to.zip(affected.to).map(|(a, b)| a.max(b));
    }
    for ((workspace, what), (keys, span)) in scans {
        let whose = match what {
            "subject" => "subject IN {keys:Array(String)}",
            "credential" => "credential IN {keys:Array(String)}",
            "api" => "api IN {keys:Array(String)}",
            "consumer" => {
                "(subject IN (SELECT key FROM link WHERE workspace = {ws:String} AND kind = 'subject' AND consumer IN {keys:Array(String)}) \
                 OR credential IN (SELECT key FROM link WHERE workspace = {ws:String} AND kind = 'credential' AND consumer IN {keys:Array(String)}))"
            }
            _ => "length({keys:Array(String)}) > 0",
        };
        let sql = format!(
            "INSERT INTO touched (workspace, minute, n) SELECT {{ws:String}}, toStartOfMinute(time) AS m, 1 FROM events \
             WHERE workspace = {{ws:String}} AND toStartOfMinute(time) >= {} AND toStartOfMinute(time) < {} AND {whose} GROUP BY m",
            minute_sql(span.from.timestamp()),
            minute_sql(i64::from(end(span.to)))
        );
        bound(app, workspace, &sql)
            .param("keys", keys)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0")
            .execute()
            .await?;
    }
    Ok(())
}

const ALWAYS: Affected = Affected { from: crate::timelines::BEGINNING, to: None };

/// The highest version of what ClickHouse knows of a workspace's timelines, and of the rule: what a proof names.
pub(crate) async fn versions(app: &App, workspace: &WorkspaceId) -> Result<Versions, MeteringError> {
    let (links, subscriptions): (u64, u64) = bound(
        app,
        workspace,
        "SELECT max(of_link), max(of_sub) FROM (SELECT version AS of_link, toUInt64(0) AS of_sub FROM link WHERE workspace = {ws:String} \
         UNION ALL SELECT toUInt64(0) AS of_link, version AS of_sub FROM sub WHERE workspace = {ws:String})",
    )
    .fetch_one()
    .await?;
    let rule = rule::current(&mut *app.pg.acquire().await?, workspace).await?.0;
    Ok(Versions { links, subscriptions, rule })
}

/// What an attribution was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Versions {
    pub links: u64,
    pub subscriptions: u64,
    /// Of the counting rule; 0 for the default one.
    pub rule: i32,
}
