//! Migrations on databases that have been lived in.

use std::borrow::Cow;

use farebox_core::postgres::MIGRATIONS;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgPool, Row};

use crate::harness::Suite;

/// What the schema before 0700 held.
const FORMER: &str = include_str!("former_schema.sql");

/// Units as the schema before 0740 has them: a grant of which some are used.
const UNITS: &str = "INSERT INTO unit_grants (id, workspace_id, consumer_id, name, kind, meter, units, balance, effective_at, created_at)
                     VALUES ('units', 'ws', 'con', 'Pack', 'paid', 'requests', 30, 0, '2026-08-01Z', '2026-08-01Z');
                     INSERT INTO unit_entries (workspace_id, grant_id, from_account, to_account, units, at)
                     VALUES ('ws', 'units', 'granted', 'balance', 30, '2026-08-01Z'), ('ws', 'units', 'balance', 'expired', 10, '2026-09-01Z')";

/// As far as a version, that one not included.
async fn migrate(pg: &PgPool, before: i64) {
    let migrations: Vec<_> = MIGRATIONS.iter().filter(|migration| migration.version < before).cloned().collect();
    let migrator = Migrator { migrations: Cow::Owned(migrations), ..Migrator::DEFAULT };
    migrator.run(pg).await.unwrap_or_else(|error| panic!("before {before}: {error}"));
}

/// What is there is kept, under the names of today, and the rules of today hold for it.
pub async fn what_a_former_schema_holds_is_kept(suite: &Suite) {
    let name = format!("former_{}", uuid::Uuid::now_v7().simple());
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).execute(&suite.app.pg).await.expect("PostgreSQL");
    let options: PgConnectOptions = suite.app.config.postgres.url.parse().expect("an address");
    let pg = PgPool::connect_with(options.database(&name)).await.expect("PostgreSQL");
    migrate(&pg, 700).await;
    sqlx::raw_sql(FORMER).execute(&pg).await.expect("what the schema of then takes");
    migrate(&pg, 740).await;
    sqlx::raw_sql(UNITS).execute(&pg).await.expect("what the schema of then takes");
    migrate(&pg, i64::MAX).await;

    let shown = async |sql: &'static str| -> Vec<String> {
        let rows = sqlx::query(sql).fetch_all(&pg).await.expect(sql);
        rows.into_iter().map(|row| row.get::<String, _>(0)).collect()
    };
    let parts =
        "SELECT concat_ws(' ', invoice_id, subscription_id, kind, sequence, period_start AT TIME ZONE 'UTC') FROM invoice_parts ORDER BY 1";
    assert_eq!(shown(parts).await, ["draft sub regular 0 2026-08-31 22:00:00", "inv sub regular 0 2026-07-31 22:00:00"]);
    assert_eq!(
        shown("SELECT concat_ws(' ', invoice_id, coupon_id, subscription_id, amount_minor) FROM invoice_discounts").await,
        ["inv coupon sub 1000"]
    );
    assert_eq!(
        shown("SELECT concat_ws(' ', kind, invoice_id, firing_id, address, day, state, error) FROM mails ORDER BY id").await,
        ["invoice inv 0 sent", "reminder inv 3 queued", "alert firing ops@acme.example 0 failed refused"]
    );
    assert_eq!(
        shown("SELECT concat_ws(' ', variant, medium, convert_from(bytes, 'UTF8')) FROM credit_note_documents").await,
        ["issued pdf as it was"]
    );
    assert_eq!(
        shown("SELECT concat_ws(' ', id, balance_minor, cardinality(prices), withdrawn) FROM credit_grants").await,
        ["grant 2000 0 f"]
    );
    // Nobody knows what they cost: they are worth nothing to the books, now and when they are used.
    assert_eq!(
        shown("SELECT concat_ws(' ', to_account, units, worth_minor) FROM unit_entries ORDER BY id").await,
        ["balance 30 0", "expired 10 0"]
    );
    let pending =
        "SELECT concat_ws(' ', invoice_id, 'entry ' || entry_id, 'units ' || unit_entry_id) FROM ledger_pending GROUP BY 1 ORDER BY 1";
    assert_eq!(shown(pending).await, ["entry 1", "entry 2", "inv"], "what was not booked yet still is to be");

    for (refused, why) in [
        (
            "INSERT INTO invoice_parts SELECT 'draft', subscription_id, workspace_id, kind, sequence, period_start, period_end, label FROM invoice_parts WHERE invoice_id = 'inv'",
            "a period is invoiced once",
        ),
        ("DELETE FROM invoice_parts WHERE invoice_id = 'inv'", "what an issued invoice is for stays"),
        ("UPDATE credit_notes SET total_minor = 120, tax_minor = 20", "an issued credit note stays"),
        ("UPDATE unit_entries SET worth_minor = 1", "entries stay"),
        ("INSERT INTO ledger_pending (workspace_id) VALUES ('ws')", "something is to be booked"),
    ] {
        assert!(sqlx::query(refused).execute(&pg).await.is_err(), "{why}");
    }
    // What was half done then goes on now: the draft is issued, the note is voided, the reminder is sent.
    for goes_on in [
        "UPDATE invoices SET state = 'issued', number = 'F-0002', issued_at = now(), due_at = now() WHERE id = 'draft'",
        "UPDATE credit_notes SET voiding_since = now(), voided_by = 'test' WHERE id = 'note'",
        "UPDATE credit_notes SET state = 'void', voided_at = now() WHERE id = 'note'",
        "UPDATE mails SET state = 'sent', sent_at = now() WHERE kind = 'reminder'",
    ] {
        let done = sqlx::query(goes_on).execute(&pg).await.expect(goes_on);
        assert_eq!(done.rows_affected(), 1, "{goes_on}");
    }
    pg.close().await;
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE \"{name}\" WITH (FORCE)"))).execute(&suite.app.pg).await.expect("PostgreSQL");
}
