//! From one snapshot of PostgreSQL to the caller, a piece at a time.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use farebox_core::App;
use farebox_core::problem::Problem;
use farebox_core::workspace::Workspace;
use futures::StreamExt;
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync::{Semaphore, mpsc};

use super::csv::Csv;
use super::manifest::{Manifest, Tally};
use super::parquet::Parquet;
use super::scope::{Params, Scope};
use super::table::Row;
use super::xlsx::{self, Xlsx};
use super::{Format, Report, Source, codes};
use crate::{BillingError, ledger};

/// Each holds a connection until the caller has taken everything.
const AT_ONCE: usize = 4;
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(AT_ONCE));
/// How long a caller may keep a piece waiting.
const PATIENCE: Duration = Duration::from_secs(60);
const PIECE: usize = 64 << 10;
/// Pieces under way.
const AHEAD: usize = 4;

/// The answer to a request for a report, streamed. The caller's right to it was checked before.
pub async fn respond(app: &App, workspace: Workspace, report: &'static Report, params: &Params) -> Result<Response, Problem> {
    let (mut scope, format) = params.resolve(workspace)?;
    if !report.formats().contains(&format) {
        return Err(Problem::invalid_field("format", format!("{} comes as csv only", report.name)));
    }
    let turn = TURNS
        .try_acquire()
        .map_err(|_| Problem::too_many_requests(format!("{AT_ONCE} exports are running. Try again when one has ended."), 5))?;
    if report.source == Source::Ledger {
        ledger::settle(&app.pg, &scope.workspace.id).await?;
    }
    let mut snapshot = app.pg.begin().await?;
    sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *snapshot).await?;
    if let Some(system) = report.system() {
        scope.codes = codes::codes(&mut snapshot, &scope.workspace.id, system).await?;
    }
    let manifest = Manifest::new(report, &scope, (report.totals)(&mut snapshot, &scope).await?);
    if format == Format::Xlsx && manifest.rows > xlsx::MOST_ROWS {
        let detail = format!("{} rows are too many for a workbook (at most {}). Ask for csv or parquet.", manifest.rows, xlsx::MOST_ROWS);
        return Err(Problem::invalid_field("format", detail));
    }
    let told = serde_json::to_string(&manifest).map_err(|e| Problem::internal(&e))?;
    let name = format!("attachment; filename=\"{}.{}\"", scope.file_name(report.name), format.as_str());
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _turn = turn;
        if let Err(error) = produce(snapshot, report, format, &scope, &manifest, &sender).await {
            tracing::warn!(workspace = scope.workspace.name, report = report.name, "an export was broken off: {error}");
            // The connection is cut instead of ended, so that no one takes the part for the whole.
            let _ = sender.send(Err(io::Error::other("the export was broken off"))).await;
        }
    });
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        (header::CONTENT_DISPOSITION, header_value(&name)?),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::HeaderName::from_static("x-farebox-manifest"), header_value(&told)?),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

fn header_value(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text).map_err(|e| Problem::internal(&e))
}

type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

async fn produce(
    mut snapshot: Transaction<'static, Postgres>,
    report: &'static Report,
    format: Format,
    scope: &Scope,
    manifest: &Manifest,
    sender: &Sender,
) -> Result<(), BillingError> {
    let mut tally = Tally::new(report.columns);
    match format {
        Format::Csv => {
            let mut file = Csv::new(report.columns)?;
            let mut held = 0_usize;
            let mut rows = (report.rows)(&mut snapshot, scope);
            while let Some(row) = rows.next().await {
                let row = row?;
                tally.add(&row);
                file.row(&row)?;
                held += 1;
                if held == 200 {
                    send(sender, file.take()?).await?;
                    held = 0;
                }
            }
            drop(rows);
            tally.check(manifest)?;
            send(sender, file.take()?).await
        }
        Format::Parquet => {
            let mut file = Parquet::new(report.columns, manifest)?;
            let mut rows = (report.rows)(&mut snapshot, scope);
            while let Some(row) = rows.next().await {
                let row = row?;
                tally.add(&row);
                file.row(row)?;
                send(sender, file.take()).await?;
            }
            drop(rows);
            tally.check(manifest)?;
            send(sender, file.finish()?).await
        }
        Format::Xlsx => {
            let rows = collect(&mut snapshot, report, scope, &mut tally).await?;
            tally.check(manifest)?;
            drop(snapshot);
            let (columns, manifest) = (report.columns, manifest.clone());
            let made = tokio::task::spawn_blocking(move || {
                let mut file = Xlsx::new(columns, &manifest)?;
                for row in &rows {
                    file.row(row)?;
                }
                file.finish(&manifest)
            });
            send(sender, made.await.map_err(|e| BillingError::unreadable("an export", e))??).await
        }
    }
}

/// No more than [`xlsx::MOST_ROWS`]: counted before.
async fn collect(conn: &mut PgConnection, report: &'static Report, scope: &Scope, tally: &mut Tally) -> Result<Vec<Row>, BillingError> {
    let mut found = Vec::new();
    let mut rows = (report.rows)(conn, scope);
    while let Some(row) = rows.next().await {
        let row = row?;
        tally.add(&row);
        found.push(row);
    }
    Ok(found)
}

/// In pieces; gives up on a caller who does not take them.
async fn send(sender: &Sender, bytes: Vec<u8>) -> Result<(), BillingError> {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        sender.send_timeout(Ok(piece), PATIENCE).await.map_err(|_| BillingError::conflict("not-taken", "the caller does not take it"))?;
    }
    Ok(())
}
