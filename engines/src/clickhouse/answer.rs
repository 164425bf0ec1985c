//! Responses, with the headers and the error framing of ClickHouse's server.

use std::convert::Infallible;
use std::io::Write;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::json;

use super::codec;
use super::failure::Failure;
use super::request::Request;
use super::serve::Front;
use super::workers::Reply;

/// A response is written in pieces of at most this size.
const PIECE: usize = 1 << 20;

/// What the client asked its response to look like.
pub struct Shape {
    format: String,
    query_id: String,
    encoding: Encoding,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    /// ClickHouse's own blocks.
    Blocks,
    Gzip,
}

impl Shape {
    pub fn of(request: &Request, parts: &Parts, format: String, query_id: String) -> Self {
        let accepts_gzip =
            parts.headers.get_all(header::ACCEPT_ENCODING).iter().any(|value| value.to_str().is_ok_and(|value| value.contains("gzip")));
        let encoding = match (request.compress, request.http_compression && accepts_gzip) {
            (true, _) => Encoding::Blocks,
            (false, true) => Encoding::Gzip,
            (false, false) => Encoding::Plain,
        };
        Self { format, query_id, encoding }
    }
}

pub fn query_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A result. When the engine fails after the first part went out, the exception follows in the body,
/// marked with the tag that the header announced.
pub fn success(front: &Front, reply: Reply, shape: &Shape) -> Response<Body> {
    let counts = reply.counts;
    let summary = json!({
        "read_rows": counts.read_rows.to_string(),
        "read_bytes": counts.read_bytes.to_string(),
        "written_rows": counts.written_rows.to_string(),
        "written_bytes": counts.written_bytes.to_string(),
        "total_rows_to_read": "0",
        "result_rows": counts.result_rows.to_string(),
        "result_bytes": reply.first.len().to_string(),
        "elapsed_ns": reply.elapsed_ns.to_string(),
    });
    let tag: String = query_id().replace('-', "").chars().take(16).collect();
    let version = front.version.clone();
    let trailer_tag = tag.clone();
    let pieces = split(reply.first).into_iter().map(Ok).collect::<Vec<_>>();
    let rest = stream::unfold(reply.rest, |rest| async move {
        let mut rest = rest?;
        rest.recv().await.map(|part| (part, Some(rest)))
    });
    let parts = stream::iter(pieces).chain(rest.flat_map(|part| match part {
        Ok(bytes) => stream::iter(split(bytes).into_iter().map(Ok).collect::<Vec<_>>()),
        Err(failure) => stream::iter(vec![Err(failure)]),
    }));
    let body = parts.map(move |part| part.unwrap_or_else(|failure| late_failure(&failure, &version, &trailer_tag)));
    let body = match shape.encoding {
        Encoding::Plain => Body::from_stream(body.map(Ok::<_, Infallible>)),
        Encoding::Blocks => Body::from_stream(body.map(|part| Ok::<_, Infallible>(Bytes::from(codec::encode_block(&part))))),
        Encoding::Gzip => Body::from_stream(gzip(body).map(Ok::<_, Infallible>)),
    };
    let mut response = Response::new(body);
    common(&mut response, front, &shape.query_id);
    set(&mut response, "x-clickhouse-format", &shape.format);
    set(&mut response, "x-clickhouse-summary", &summary.to_string());
    set(&mut response, "x-clickhouse-exception-tag", &tag);
    set(&mut response, "content-type", content_type(&shape.format));
    if shape.encoding == Encoding::Gzip {
        set(&mut response, "content-encoding", "gzip");
    }
    response
}

pub fn failure(front: &Front, failure: &Failure, query_id: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text(failure, &front.version)));
    *response.status_mut() = failure.status();
    common(&mut response, front, query_id);
    set(&mut response, "x-clickhouse-exception-code", &failure.code.to_string());
    set(&mut response, "content-type", "text/plain; charset=UTF-8");
    if response.status() == StatusCode::UNAUTHORIZED {
        set(&mut response, "www-authenticate", "Basic realm=\"ClickHouse server HTTP API\"");
    }
    response
}

fn common(response: &mut Response<Body>, front: &Front, query_id: &str) {
    set(response, "x-clickhouse-query-id", query_id);
    set(response, "x-clickhouse-server-display-name", "farebox");
    set(response, "x-clickhouse-timezone", &front.timezone);
}

fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

fn text(failure: &Failure, version: &str) -> String {
    format!("{} (version {version} (embedded))\n", failure.text.trim_end())
}

/// The framing since 25.11, from `WriteBufferFromHTTPServerResponse`; the length counts the line end.
fn late_failure(failure: &Failure, version: &str, tag: &str) -> Bytes {
    let message = text(failure, version);
    format!("\r\n__exception__\r\n{tag}\r\n{message}{} {tag}\r\n__exception__\r\n", message.len()).into()
}

fn split(mut bytes: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while bytes.len() > PIECE {
        pieces.push(bytes.split_to(PIECE));
    }
    if !bytes.is_empty() {
        pieces.push(bytes);
    }
    pieces
}

/// Compresses piece by piece, then ends the stream.
fn gzip(parts: impl futures::Stream<Item = Bytes> + Send + 'static) -> impl futures::Stream<Item = Bytes> + Send + 'static {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    stream::unfold((parts.boxed(), Some(encoder)), |(mut parts, encoder)| async move {
        let mut encoder = encoder?;
        match parts.next().await {
            Some(part) => {
                let written = encoder.write_all(&part).and_then(|()| encoder.flush());
                written.expect("writing to memory");
                let bytes = std::mem::take(encoder.get_mut());
                Some((bytes.into(), (parts, Some(encoder))))
            }
            None => Some((encoder.finish().expect("writing to memory").into(), (parts, None))),
        }
    })
}

fn content_type(format: &str) -> &'static str {
    match format {
        "JSON" | "JSONCompact" | "JSONStrings" => "application/json; charset=UTF-8",
        "JSONEachRow" | "JSONLines" | "NDJSON" => "application/x-ndjson; charset=UTF-8",
        "CSV" | "CSVWithNames" | "CSVWithNamesAndTypes" => "text/csv; charset=UTF-8; header=absent",
        "TabSeparated" | "TSV" | "TabSeparatedWithNames" | "TSVWithNames" => "text/tab-separated-values; charset=UTF-8",
        "RowBinary" | "RowBinaryWithNames" | "RowBinaryWithNamesAndTypes" | "Native" | "Parquet" | "Arrow" => "application/octet-stream",
        _ => "text/plain; charset=UTF-8",
    }
}
