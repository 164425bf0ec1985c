//! Reading a body within bounds: bytes on the wire, bytes after decompression (a gzip bomb is refused, not unpacked),
//! bytes of all bodies in flight, and the time a sender may take.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use farebox_core::problem::Problem;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::intake::Intake;

const READ_WITHIN: Duration = Duration::from_secs(30);
/// What is read of a body that is too large, and thrown away, so that its sender gets the answer: one who is still writing
/// when the connection closes sees only that it broke. Beyond it the sender is not listened to.
const DRAIN_BYTES: usize = 32 << 20;
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// A body, and its share of what may be in flight until it is dropped.
pub struct Held {
    pub bytes: Bytes,
    _share: Share,
}

/// Grows with what is held, in KiB.
struct Share {
    budget: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    kib: usize,
}

impl Share {
    /// Takes what `bytes` in all need beyond what is taken already.
    fn cover(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.div_ceil(1024).saturating_sub(self.kib);
        let Ok(wanted @ 1..) = u32::try_from(more) else { return Ok(()) };
        let permit = self.budget.clone().try_acquire_many_owned(wanted).map_err(|_| {
            Problem::unavailable("More events are under way than can be kept in memory. Nothing was acknowledged; send the same again.", 1)
        })?;
        self.kib += more;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        Ok(())
    }
}

pub async fn read(intake: &Intake, headers: &HeaderMap, body: Body) -> Result<Held, Problem> {
    let limit = intake.app.config.ingest.max_body_bytes;
    let gzip = is_gzip(headers)?;
    let mut share = Share { budget: intake.budget.clone(), permit: None, kib: 0 };
    let received = tokio::time::timeout(READ_WITHIN, receive(body, limit, &mut share)).await.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The body came too slowly", "Send the whole body within 30 seconds.")
    })??;
    let bytes = if gzip {
        // Reserved before unpacking: what is unpacked never exceeds the limit.
        share.cover(received.len() + limit.min(received.len().saturating_mul(20)))?;
        tokio::task::spawn_blocking(move || unpack(&received, limit)).await.map_err(|e| Problem::internal(&e))??
    } else {
        received
    };
    Ok(Held { bytes, _share: share })
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get(header::CONTENT_ENCODING).map_or("identity", |v| v.to_str().unwrap_or("?")) {
        "identity" | "" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-encoding",
            "The content encoding is not read",
            "Send the body as it is, or with `Content-Encoding: gzip`.",
        )),
    }
}

async fn receive(body: Body, limit: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let mut chunks = body.into_data_stream();
    let mut collected = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|_| Problem::bad_request("unreadable-body", "The body broke off. Nothing was acknowledged; send it again."))?;
        if collected.len() + chunk.len() > limit {
            drop(collected);
            drain(chunks).await;
            return Err(Problem::too_large(limit));
        }
        share.cover(collected.len() + chunk.len())?;
        collected.extend_from_slice(&chunk);
    }
    Ok(collected.freeze())
}

async fn drain(mut chunks: BodyDataStream) {
    let all = async {
        let mut drained = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            drained += chunk.len();
            if drained > DRAIN_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_WITHIN, all).await;
}

fn unpack(packed: &[u8], limit: usize) -> Result<Bytes, Problem> {
    let mut unpacked = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(packed)
        .take(most)
        .read_to_end(&mut unpacked)
        .map_err(|_| Problem::bad_request("invalid-gzip", "The body is not valid gzip, although `Content-Encoding` says so."))?;
    if unpacked.len() > limit {
        return Err(Problem::too_large(limit));
    }
    Ok(Bytes::from(unpacked))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn a_bomb_is_refused_without_being_unpacked() {
        let bomb = packed(&vec![0; 50 << 20]);
        assert!(bomb.len() < 100 << 10, "it is a bomb");
        assert_eq!(unpack(&bomb, 1 << 20).expect_err("too large").status, 413);
        assert_eq!(unpack(&packed(b"[]"), 2).expect("it fits"), "[]");
        assert_eq!(unpack(b"no gzip", 100).expect_err("no gzip").status, 400);
    }
}
