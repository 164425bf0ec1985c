//! The HTTP side: a request in, a statement to the workers, a response out.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::answer;
use super::codec::Decoder;
use super::failure::Failure;
use super::request::{Request, boundary};
use super::sql;
use super::workers::{Statement, Workers, can_stream};

/// The text of a query, and data inline with it.
const LARGEST_QUERY: usize = 64 << 20;
/// The data of one insert, uncompressed.
const LARGEST_INSERT: usize = 1 << 30;

/// What every request needs.
pub struct Front {
    pub workers: Workers,
    /// Empty: no password is asked for.
    pub password: String,
    pub version: String,
    pub timezone: String,
}

pub fn router(front: Front) -> Router {
    Router::new().route("/ping", get(|| async { "Ok.\n" })).fallback(entry).with_state(Arc::new(front))
}

async fn entry(State(front): State<Arc<Front>>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.uri.path() != "/" {
        return (axum::http::StatusCode::NOT_FOUND, format!("There is no handle {}\n", parts.uri.path())).into_response();
    }
    let query_id = answer::query_id();
    match handle(&front, &parts, body, query_id.clone()).await {
        Ok(response) => response,
        Err(failure) => answer::failure(&front, &failure, &query_id),
    }
}

async fn handle(front: &Front, parts: &Parts, body: Body, query_id: String) -> Result<Response, Failure> {
    let mut request = Request::of(parts)?;
    authenticate(front, &request)?;
    let encoding = parts.headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if !matches!(parts.method, Method::GET | Method::POST | Method::HEAD) {
        return Err(Failure::new(48, "NOT_IMPLEMENTED", &format!("The method {} is not supported", parts.method)));
    }

    let mut body = Some(Source { pieces: body.into_data_stream(), decoder: Decoder::new(request.decompress, encoding)? });
    if let Some(boundary) = boundary(&parts.headers) {
        let form = take(&mut body, LARGEST_QUERY).await?;
        request.form(&boundary, &form)?;
    }
    if request.query.is_empty() && parts.method == Method::GET {
        return Ok("Ok.\n".into_response());
    }
    let mut text = std::mem::take(&mut request.query).into_bytes();
    // The query is the URL's, then the body's. Only the data of an insert can be too large to be held as text.
    let insert_in_url = matches!(sql::parse(&text), Ok(sql::Statement::Insert(_)));
    if !insert_in_url {
        let rest = take(&mut body, LARGEST_QUERY).await?;
        if !text.is_empty() && !rest.is_empty() {
            text.push(b'\n');
        }
        text.extend(rest);
    }
    let statement = statement(&mut request, &text, body).await?;
    let format = statement.format.clone();
    let reply = front.workers.run(statement).await?;
    let query_id = request.query_id.clone().unwrap_or(query_id);
    Ok(answer::success(front, reply, &answer::Shape::of(&request, parts, format, query_id)))
}

async fn statement(request: &mut Request, text: &[u8], body: Option<Source>) -> Result<Statement, Failure> {
    let fallback = request.default_format.clone().unwrap_or_else(|| "TabSeparated".into());
    let parsed = sql::parse(text)?;
    let mut statement = Statement {
        text: String::new(),
        format: fallback,
        params: std::mem::take(&mut request.params),
        settings: std::mem::take(&mut request.settings),
        database: std::mem::take(&mut request.database),
        readonly: request.readonly,
        streams: false,
        changes_session: false,
        data: None,
    };
    match parsed {
        sql::Statement::Query(query) => {
            statement.text = query.text.to_owned();
            statement.format = query.format.map_or(statement.format, str::to_owned);
            statement.streams = query.is_select && can_stream(&statement.format);
            statement.changes_session = query.changes_session;
        }
        sql::Statement::Insert(insert) => {
            let mut data = Data::new()?;
            data.write(insert.data)?;
            if let Some(mut body) = body {
                while let Some(piece) = body.next().await? {
                    data.write(&piece)?;
                }
            }
            let sql::Insert { into, settings, format, .. } = insert;
            let (format, file) = (format.unwrap_or("Values"), data.file.as_raw_fd());
            statement.text = format!("{into} FROM INFILE '/proc/self/fd/{file}' {settings} FORMAT {format}");
            statement.data = Some(data.file);
        }
    }
    Ok(statement)
}

fn authenticate(front: &Front, request: &Request) -> Result<(), Failure> {
    let (given, expected) = (request.password.as_bytes(), front.password.as_bytes());
    let different = given.iter().zip(expected).fold(0, |seen, (a, b)| seen | (a ^ b));
    if expected.is_empty() || (given.len() == expected.len() && different == 0) {
        return Ok(());
    }
    let text = format!("{}: Authentication failed: password is incorrect, or there is no user with such name", request.user);
    Err(Failure::new(516, "AUTHENTICATION_FAILED", &text))
}

/// The rows of an insert, in memory as a file the engine can read: given inline after `FORMAT
/// RowBinary`, binary data is cut at a line end.
struct Data {
    file: File,
    length: usize,
}

impl Data {
    fn new() -> Result<Self, Failure> {
        let file = memfd_create("insert", MFdFlags::MFD_CLOEXEC).map_err(|error| unwritable(&error.to_string()))?;
        Ok(Self { file: file.into(), length: 0 })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.length += piece.len();
        if self.length > LARGEST_INSERT {
            return Err(too_large(LARGEST_INSERT));
        }
        self.file.write_all(piece).map_err(|error| unwritable(&error.to_string()))
    }
}

fn unwritable(why: &str) -> Failure {
    Failure::new(75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR", &format!("Cannot hold the data of the insert: {why}"))
}

fn too_large(limit: usize) -> Failure {
    Failure::new(460, "QUERY_IS_TOO_LARGE", &format!("The body is larger than {limit} bytes"))
}

/// A body and what undoes its compression.
struct Source {
    pieces: BodyDataStream,
    decoder: Decoder,
}

impl Source {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self.pieces.next().await {
            Some(Ok(piece)) => self.decoder.push(&piece).map(Some),
            // An insert whose client went away is not run with half of its rows.
            Some(Err(error)) => Err(Failure::new(210, "NETWORK_ERROR", &format!("The body ended early: {error}"))),
            None => {
                let decoder = std::mem::replace(&mut self.decoder, Decoder::Plain);
                let last = decoder.finish()?;
                Ok((!last.is_empty()).then_some(last))
            }
        }
    }
}

async fn take(source: &mut Option<Source>, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut all = Vec::new();
    if let Some(mut source) = source.take() {
        while let Some(piece) = source.next().await? {
            all.extend(piece);
            if all.len() > limit {
                return Err(too_large(limit));
            }
        }
    }
    Ok(all)
}
