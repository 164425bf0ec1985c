//! A month of many subscriptions of ten prices: rated, against a straight loop of the rating functions over the same numbers
//! in memory; drafted, against PostgreSQL's own limit for the same rows in the same tables; and one preview at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use farebox_billing::rating::cycle::{self, Cycle, FOREVER, Part, Source};
use farebox_billing::rating::invoice::{Terms, invoice};
use farebox_billing::rating::{PlanDefinition, Usage};
use farebox_billing::{catalog, close, plans, preview};
use farebox_core::event::{SpecVersion, UsageEvent};
use farebox_core::ids::{ConsumerId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::money::BigDecimal;
use farebox_core::period::Period;
use farebox_metering::block::Block;
use farebox_metering::{recompute, store, timelines};
use sqlx::PgConnection;

use crate::engines::{self, Bench};
use crate::report::{Line, Report, rate};

/// The least ratios to keep.
const LEAST_RATED: f64 = 0.1;
const LEAST_STORED: f64 = 0.5;
const PREVIEWS: usize = 200;
/// A preview in this time would do.
const PREVIEW_MS: f64 = 250.0;
const METERS: usize = 9;

pub async fn measure(bench: &Bench, count: usize, report: &mut Report) -> anyhow::Result<()> {
    let month = last_month()?;
    let (ws, plan) = sell(bench, month).await?;
    populate(bench, &ws, &plan, count, month).await?;

    // As the metering role leaves them.
    recompute::workspace(&bench.app, &ws).await?;

    let straight = straight_loop(&plan.definition, month, count)?;
    let started = Instant::now();
    let rehearsed = close::rehearse(&bench.app, &ws, month).await?;
    let rated = started.elapsed();
    ensure!(rehearsed.invoices == count && rehearsed.problems.is_empty(), "{rehearsed:?}");
    report.note(format!("billing rates {:.0} invoices a second; the goal is above 5,000", rate(count, rated)));
    report.add(Line {
        what: format!("billing, {count} invoices rated"),
        unit: "1/s",
        ours: rate(count, rated),
        yardstick: rate(count, straight),
        yardstick_name: "a straight loop over the numbers in memory",
        least: LEAST_RATED,
        less_is_better: false,
    });

    let (mut slowest, mut conn) = (Vec::with_capacity(PREVIEWS), bench.app.pg.acquire().await?);
    let ids: Vec<SubscriptionId> = sqlx::query_scalar("SELECT id FROM subscriptions WHERE workspace_id = $1 ORDER BY md5(id) LIMIT $2")
        .bind(ws.as_str())
        .bind(i64::try_from(PREVIEWS)?)
        .fetch_all(&mut *conn)
        .await?;
    for id in &ids {
        let started = Instant::now();
        preview::preview(&bench.app, &ws, id).await?;
        slowest.push(started.elapsed());
    }
    slowest.sort_unstable();
    let p99 = slowest.get(slowest.len() * 99 / 100).context("a preview")?.as_secs_f64() * 1e3;
    report.add(Line {
        what: "billing, preview of one invoice, p99".to_owned(),
        unit: "1/s",
        ours: 1e3 / p99,
        yardstick: 1e3 / PREVIEW_MS,
        yardstick_name: "a quarter of a second",
        least: 1.0,
        less_is_better: false,
    });

    let started = Instant::now();
    let drafted = close::draft_month(&bench.app, &ws, month).await?;
    let stored = started.elapsed();
    ensure!(drafted == count, "{drafted} of {count} were drafted");
    let limit = insert_limit(&mut conn, &ws).await?;
    report.add(Line {
        what: format!("billing, {count} invoices drafted"),
        unit: "1/s",
        ours: rate(count, stored),
        yardstick: rate(count, limit),
        yardstick_name: "PostgreSQL's INSERT of the same rows",
        least: LEAST_STORED,
        less_is_better: false,
    });
    Ok(())
}

fn last_month() -> anyhow::Result<Period> {
    let now = farebox_core::clock::now();
    let this = now.date_naive().with_day(1).and_then(|day| day.and_hms_opt(0, 0, 0)).context("a first of the month")?.and_utc();
    let before =
        (this - TimeDelta::days(1)).date_naive().with_day(1).and_then(|day| day.and_hms_opt(0, 0, 0)).context("another")?.and_utc();
    Ok(Period { start: before, end: this })
}

/// A workspace with one plan of ten prices: a fee and nine meters, in the common models.
async fn sell(bench: &Bench, month: Period) -> anyhow::Result<(WorkspaceId, plans::Plan)> {
    let mut conn = bench.app.pg.acquire().await?;
    let name = format!("bench/b{}", uuid::Uuid::now_v7().simple());
    let ws = engines::workspace(&mut conn, &name, "EUR").await?.id;
    let mut text = format!(
        "workspace: {name}\ncurrency: EUR\ntime_zone: UTC\nbilling: {{close_by_hand: true, close_from: {}}}\n\
         taxes: [{{name: VAT, rate: \"0.19\", inclusive: false, countries: []}}]\nmeters:\n",
        month.start.format("%Y-%m-%dT%H:%M:%SZ")
    );
    for n in 1..=METERS {
        text += &format!("  - {{name: m{n}, event: bench.usage, aggregate: sum, value: /m{n}}}\n");
    }
    text += "plans:\n  - name: ten\n    version: 1\n    prices:\n      - {name: Platform, model: flat, amount: \"49\"}\n";
    for n in 1..=METERS {
        text += &match n % 3 {
            0 => format!("      - {{name: P{n}, model: package, meter: m{n}, amount: \"1.5\", package_size: \"100\"}}\n"),
            1 => format!("      - {{name: P{n}, model: per_unit, meter: m{n}, unit_amount: \"0.0125\", included: \"100\"}}\n"),
            _ => format!(
                "      - {{name: P{n}, model: graduated, meter: m{n}, tiers: [{{up_to: \"100\", unit_amount: \"0.02\"}}, \
                 {{up_to: \"1000\", unit_amount: \"0.01\"}}, {{unit_amount: \"0.005\"}}]}}\n"
            ),
        };
    }
    let catalog = catalog::parse(&text).map_err(|errors| anyhow!("{errors:?}"))?;
    catalog::apply(&mut conn, &catalog, "bench").await?;
    let plan = plans::find(&mut conn, &ws, "ten", None).await?.context("the plan is there")?;
    Ok((ws, plan))
}

/// Consumers with a subscription each since the month began, and one event of theirs with nine quantities.
async fn populate(bench: &Bench, ws: &WorkspaceId, plan: &plans::Plan, count: usize, month: Period) -> anyhow::Result<()> {
    let mut tx = bench.app.pg.begin().await?;
    let count = i64::try_from(count)?;
    for sql in [
        "INSERT INTO consumers (id, workspace_id, name, email, signed_up_at, country, created_at)
         SELECT 'con_' || md5($1 || n), $1, 'consumer ' || n, 'c' || n || '@bench.example', $4, 'DE', $4 FROM generate_series(1, $5) n WHERE $2 <> $3",
        "INSERT INTO links (workspace_id, kind, key, valid_from, consumer_id)
         SELECT $1, 'subject', 'con_' || md5($1 || n), '1970-01-01Z', 'con_' || md5($1 || n) FROM generate_series(1, $5) n WHERE $2 <> $3 AND $4 IS NOT NULL",
        "INSERT INTO timeline_outbox (workspace_id, change, created_at)
         SELECT $1, jsonb_build_object('change', 'link', 'kind', 'subject', 'key', 'con_' || md5($1 || n), 'gone', '[]'::jsonb,
                'rows', jsonb_build_array(jsonb_build_object('from', '1970-01-01T00:00:00Z', 'to', null, 'consumer', 'con_' || md5($1 || n), 'environment', '')),
                'affected', jsonb_build_object('from', '1970-01-01T00:00:00Z', 'to', null)), $4 FROM generate_series(1, $5) n WHERE $2 <> $3",
        "INSERT INTO subscriptions (id, workspace_id, consumer_id, product, currency, started_at, created_at, closes_at)
         SELECT 'sub_' || md5($1 || n), $1, 'con_' || md5($1 || n), 'default', 'EUR', $4, $4, $4 + interval '1 month' FROM generate_series(1, $5) n WHERE $2 <> $3",
        "INSERT INTO subscription_phases (subscription_id, workspace_id, plan_version_id, from_at)
         SELECT 'sub_' || md5($1 || n), $1, $2, $4 FROM generate_series(1, $5) n WHERE $2 <> $3",
        "INSERT INTO subscription_timeline (workspace_id, consumer_id, product, valid_from, subscription_id, plan_version_id, plan)
         SELECT $1, 'con_' || md5($1 || n), 'default', $4, 'sub_' || md5($1 || n), $2, $3 FROM generate_series(1, $5) n",
        "INSERT INTO timeline_outbox (workspace_id, change, created_at)
         SELECT $1, jsonb_build_object('change', 'subscription', 'consumer', 'con_' || md5($1 || n), 'product', 'default', 'gone', '[]'::jsonb,
                'rows', jsonb_build_array(jsonb_build_object('from', to_char($4 AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), 'to', null,
                    'subscription', 'sub_' || md5($1 || n), 'plan_version', $2, 'plan', $3)),
                'affected', jsonb_build_object('from', to_char($4 AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), 'to', null)), $4
         FROM generate_series(1, $5) n",
    ] {
        sqlx::query(sql)
            .bind(ws.as_str())
            .bind(plan.version_id.as_str())
            .bind("ten")
            .bind(month.start)
            .bind(count)
            .execute(&mut *tx)
            .await
            .context(sql)?;
    }
    tx.commit().await?;
    sqlx::raw_sql("ANALYZE").execute(&bench.app.pg).await?;
    timelines::sync(&bench.app).await?;
    let consumers: Vec<ConsumerId> =
        sqlx::query_scalar("SELECT id FROM consumers WHERE workspace_id = $1").bind(ws.as_str()).fetch_all(&bench.app.pg).await?;
    for (chunk, consumers) in consumers.chunks(20_000).enumerate() {
        let mut rows = Vec::with_capacity(consumers.len());
        for (n, consumer) in consumers.iter().enumerate() {
            rows.push(event(ws, consumer, chunk * 20_000 + n, month.start)?);
        }
        store::store(&bench.app.clickhouse, &[&Block::of(&rows)]).await?;
    }
    Ok(())
}

fn quantity(n: usize, meter: usize) -> usize {
    (n * 7919 + meter * 104_729) % 5000
}

fn event(ws: &WorkspaceId, consumer: &ConsumerId, n: usize, start: DateTime<Utc>) -> anyhow::Result<UsageEvent> {
    let at = start + TimeDelta::minutes(i64::try_from(n % 40_000)?);
    let properties = (1..=METERS).map(|meter| (format!("/m{meter}"), quantity(n, meter).to_string())).collect();
    Ok(UsageEvent {
        specversion: SpecVersion::V1,
        id: format!("bench/{}", uuid::Uuid::now_v7()),
        source: "bench".to_owned(),
        kind: "bench.usage".to_owned(),
        time: at,
        subject: consumer.to_string(),
        workspace: ws.clone(),
        received_at: at,
        data: farebox_core::event::RequestData { properties, ..Default::default() },
    })
}

/// What rating itself costs: the same plan over as many sets of quantities, with nothing read and nothing kept.
fn straight_loop(plan: &PlanDefinition, month: Period, count: usize) -> anyhow::Result<Duration> {
    let source = Source::Plan(PlanVersionId::new());
    let plans = BTreeMap::from([(source.clone(), plan.clone())]);
    let next = Period { start: month.end, end: month.end + TimeDelta::days(28) };
    let currency = "EUR".parse()?;
    let started = Instant::now();
    for n in 0..count {
        let part = Part {
            source: source.clone(),
            stretch: Period { start: month.start, end: FOREVER },
            trial: false,
            quantity: BigDecimal::from(1),
        };
        let cycle = Cycle {
            currency,
            zone: chrono_tz::UTC,
            anchor: month.start,
            period: month,
            next,
            parts: vec![part],
            interim: false,
            keep_after: None,
            billed: Vec::new(),
            plans: &plans,
        };
        let mut used = BTreeMap::new();
        for (meter, wanted) in cycle::wanted(&cycle)?.into_iter().enumerate() {
            used.insert(wanted.key(), Usage::of(BigDecimal::from(u32::try_from(quantity(n, meter))?)));
        }
        let lines = cycle::lines(&cycle, &used)?.into_iter().map(|line| line.line).collect();
        let rated = invoice(lines, &Terms::default(), currency)?;
        ensure!(std::hint::black_box(rated).total.minor >= 4900, "a fee at least");
    }
    Ok(started.elapsed())
}

/// The rows that the close wrote, written once more into the same tables of another schema, in batches of the same size.
async fn insert_limit(conn: &mut PgConnection, ws: &WorkspaceId) -> anyhow::Result<Duration> {
    let tables = ["invoices", "invoice_lines", "counted_periods"];
    // Keys, checks and indexes alike; triggers and foreign keys are ours alone, and count against us.
    for table in tables {
        let sql = format!("CREATE TABLE bare_{table} (LIKE {table} INCLUDING ALL)");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    // In memory, in the shape they are sent in.
    let parts: Vec<String> =
        sqlx::query_scalar("SELECT id FROM invoices WHERE workspace_id = $1 ORDER BY id").bind(ws.as_str()).fetch_all(&mut *conn).await?;
    let mut spent = Duration::ZERO;
    for part in parts.chunks(250) {
        let mut texts = Vec::new();
        for (table, key) in [("invoices", "t.id"), ("invoice_lines", "t.invoice_id")] {
            let sql = format!("SELECT coalesce(jsonb_agg(t), '[]')::text FROM {table} t WHERE {key} = ANY($1)");
            let text: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(part).fetch_one(&mut *conn).await?;
            texts.push((table, text));
        }
        let sql = "SELECT coalesce(jsonb_agg(t), '[]')::text FROM counted_periods t JOIN invoices i ON i.subscription_id = t.subscription_id WHERE i.id = ANY($1)";
        texts.push(("counted_periods", sqlx::query_scalar(sql).bind(part).fetch_one(&mut *conn).await?));
        // Taken apart before the clock starts: what is measured is the insert.
        for (table, text) in &texts {
            let sql = format!("CREATE TEMP TABLE part_{table} AS SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1::jsonb)");
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(text).execute(&mut *conn).await?;
        }
        let started = Instant::now();
        for (table, _) in &texts {
            let sql = format!("INSERT INTO bare_{table} SELECT * FROM part_{table}");
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *conn).await?;
        }
        spent += started.elapsed();
        for (table, _) in &texts {
            sqlx::query(sqlx::AssertSqlSafe(format!("DROP TABLE part_{table}"))).execute(&mut *conn).await?;
        }
    }
    Ok(spent)
}
