//! Syslog, as nginx writes its access log to a server: listeners of the configuration, each for one source, by UDP or TCP
//! (RFC 3164 and 5424; by TCP lines or counted frames, RFC 6587). Syslog knows no token: a listener takes only what
//! comes from its source's networks.
//!
//! Nothing is acknowledged to a syslog sender, and what it sends by UDP while a queue is full is lost; it is counted as
//! far as it arrived here. By TCP the sender is held up instead.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::{Buf, Bytes, BytesMut};
use farebox_core::config::{self, SyslogProtocol};
use farebox_core::source::Source;
use farebox_core::workspace::{self, Workspace};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::formats::Format;
use crate::intake::{Batch, Intake, Ordinals, Raw, Read, received_now};
use crate::records;

/// Counter: messages that were not taken, with labels `source` and `why`: `queue_full`, `network` (it came from outside the
/// source's networks), `source` (no such workspace, source or format), `too_long`.
pub const DROPPED_TOTAL: &str = "farebox_ingest_syslog_dropped_total";

/// Messages that wait, at most, of one listener, and their KiB in all.
const WAITING: usize = 10_000;
const WAITING_KIB: usize = 16 << 10;
/// Messages judged together, at most.
const MESSAGES: usize = 500;
const CONNECTIONS: usize = 64;
/// The longest datagram there is.
const DATAGRAM: usize = 64 << 10;

/// A message, and its share of what may wait.
struct Waiting {
    from: IpAddr,
    message: Bytes,
    _share: OwnedSemaphorePermit,
}

/// The way from sockets to verdicts.
#[derive(Clone)]
struct Queue {
    to: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    source: Arc<str>,
}

/// Binds every configured listener, and runs them until `stop`; what was received until then is judged first.
pub async fn run(intake: Arc<Intake>, stop: &CancellationToken) -> anyhow::Result<JoinHandle<()>> {
    let mut tasks = JoinSet::new();
    for listener in intake.app.config.ingest.syslog.clone() {
        let (to, from) = mpsc::channel(WAITING);
        let queue = Queue { to, room: Arc::new(Semaphore::new(WAITING_KIB)), source: listener.source.as_str().into() };
        let at = || format!("syslog cannot listen on {:?} {}; check ingest.syslog", listener.protocol, listener.listen);
        match listener.protocol {
            SyslogProtocol::Udp => {
                let socket = UdpSocket::bind(listener.listen).await.with_context(at)?;
                tasks.spawn(receive(socket, queue, stop.clone()));
            }
            SyslogProtocol::Tcp => {
                let socket = TcpListener::bind(listener.listen).await.with_context(at)?;
                let longest = intake.app.config.ingest.max_event_bytes + 1024;
                tasks.spawn(accept(socket, queue, longest, stop.clone()));
            }
        }
        tracing::info!(source = %listener.source, protocol = ?listener.protocol, address = %listener.listen, "listening for syslog");
        tasks.spawn(judge(intake.clone(), listener, from, stop.clone()));
    }
    Ok(tokio::spawn(async move { while tasks.join_next().await.is_some() {} }))
}

impl Queue {
    /// A message that a queue has no room for is lost: its sender does not wait.
    fn offer(&self, from: SocketAddr, message: &[u8]) {
        let share = self.room.clone().try_acquire_many_owned(kib(message.len()));
        let sent = share.ok().map(|share| Waiting { from: from.ip(), message: Bytes::copy_from_slice(message), _share: share });
        if sent.is_none_or(|waiting| self.to.try_send(waiting).is_err()) {
            self.dropped("queue_full", 1);
        }
    }

    /// Waits for room. False when nobody takes messages any more.
    async fn send(&self, from: SocketAddr, message: Bytes) -> bool {
        let Ok(share) = self.room.clone().acquire_many_owned(kib(message.len())).await else { return false };
        self.to.send(Waiting { from: from.ip(), message, _share: share }).await.is_ok()
    }

    fn dropped(&self, why: &'static str, n: u64) {
        metrics::counter!(DROPPED_TOTAL, "source" => self.source.to_string(), "why" => why).increment(n);
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024).clamp(1, WAITING_KIB)).unwrap_or(1)
}

async fn receive(socket: UdpSocket, queue: Queue, stop: CancellationToken) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error is of one datagram, such as an answer from a closed port.
        if let Ok((length, from)) = received {
            queue.offer(from, &buffer[..length]);
        }
    }
}

async fn accept(listener: TcpListener, queue: Queue, longest: usize, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            // Such as too many open files: it passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = free.clone().try_acquire_owned() else {
            tracing::warn!(source = %queue.source, %from, "a syslog connection is refused, because there are {CONNECTIONS} already");
            continue;
        };
        let (queue, stop) = (queue.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = read(stream, from, &queue, longest) => {}
            }
            drop(place);
        });
    }
}

async fn read(mut stream: TcpStream, from: SocketAddr, queue: &Queue, longest: usize) {
    let mut buffer = BytesMut::new();
    loop {
        loop {
            match frame(&mut buffer, longest) {
                Frame::Whole(message) if message.trim_ascii().is_empty() => {}
                Frame::Whole(message) => {
                    if !queue.send(from, message).await {
                        return;
                    }
                }
                Frame::Partial => break,
                Frame::TooLong => {
                    tracing::warn!(source = %queue.source, %from, "a syslog connection is closed: a message is longer than {longest} bytes");
                    queue.dropped("too_long", 1);
                    return;
                }
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => {
                // The last line may lack its end.
                if !buffer.trim_ascii().is_empty() {
                    queue.send(from, buffer.freeze()).await;
                }
                return;
            }
        }
    }
}

enum Frame {
    Whole(Bytes),
    Partial,
    TooLong,
}

/// The next message: `LENGTH SPACE message` where it begins with a digit, else a line.
fn frame(buffer: &mut BytesMut, longest: usize) -> Frame {
    if buffer.first().is_some_and(u8::is_ascii_digit) {
        let digits = buffer.iter().take_while(|b| b.is_ascii_digit()).count();
        let length = std::str::from_utf8(&buffer[..digits]).ok().and_then(|text| text.parse::<usize>().ok());
        return match (length, buffer.get(digits)) {
            (Some(length), _) if length > longest => Frame::TooLong,
            (None, _) => Frame::TooLong,
            (Some(length), Some(b' ')) if buffer.len() > digits + length => {
                buffer.advance(digits + 1);
                Frame::Whole(buffer.split_to(length).freeze())
            }
            (Some(_), Some(b' ') | None) => Frame::Partial,
            (Some(_), Some(_)) => line(buffer, longest),
        };
    }
    line(buffer, longest)
}

fn line(buffer: &mut BytesMut, longest: usize) -> Frame {
    match buffer.iter().position(|b| *b == b'\n') {
        Some(end) => {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end);
            Frame::Whole(line.freeze())
        }
        None if buffer.len() > longest => Frame::TooLong,
        None => Frame::Partial,
    }
}

/// Takes what waits, together, and keeps it until it is safe. Ends when no socket is left.
async fn judge(intake: Arc<Intake>, listener: config::Syslog, mut from: mpsc::Receiver<Waiting>, stop: CancellationToken) {
    let mut home: Option<Workspace> = None;
    let mut told = false;
    let mut messages = Vec::new();
    while from.recv_many(&mut messages, MESSAGES).await > 0 {
        let received_at = received_now();
        loop {
            match judge_once(&intake, &listener, &mut home, &messages, received_at).await {
                Ok(None) => break,
                Ok(Some((why, n))) => {
                    metrics::counter!(DROPPED_TOTAL, "source" => listener.source.clone(), "why" => why).increment(n);
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(source = %listener.source, workspace = %listener.workspace, "syslog messages are not taken ({why}): the source must be in the catalogue, with a known format and the sender's network");
                    }
                    break;
                }
                Err(error) => tracing::warn!(source = %listener.source, "verdicts are not safe yet and are tried again: {error:#}"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
        messages.clear();
    }
}

/// None when all were taken; else why some were not, and how many.
async fn judge_once(
    intake: &Intake,
    listener: &config::Syslog,
    home: &mut Option<Workspace>,
    messages: &[Waiting],
    received_at: chrono::DateTime<chrono::Utc>,
) -> anyhow::Result<Option<(&'static str, u64)>> {
    if home.is_none() {
        let mut conn = intake.app.pg.acquire().await?;
        *home = workspace::by_name(&mut conn, &listener.workspace).await?;
    }
    let all = messages.len() as u64;
    let Some(home) = home else { return Ok(Some(("source", all))) };
    let registered = intake.known(&home.id).await?;
    let source = registered.source(&listener.source);
    let Some((source, format)) = source.and_then(|source| Some((source, registered.format(&source.format)?))) else {
        return Ok(Some(("source", all)));
    };
    let networks = Networks::of(source);
    let mut ordinals = Ordinals::default();
    let limits = &intake.app.config.ingest;
    let allowed = messages.iter().filter(|waiting| networks.contain(waiting.from));
    let records: Vec<Read> = allowed.map(|waiting| read_message(&waiting.message, &format, &mut ordinals, limits)).collect();
    let outside = all - records.len() as u64;
    let batch = Batch { workspace: &home.id, source: &source.name, format, received_at, body: None, records };
    intake.take(batch).await?;
    Ok((outside > 0).then_some(("network", outside)))
}

/// The message that syslog carries, as a record.
fn read_message(message: &Bytes, format: &Format, ordinals: &mut Ordinals, limits: &config::Ingest) -> Read {
    let text = String::from_utf8_lossy(message);
    let parsed = syslog_loose::parse_message(text.trim(), syslog_loose::Variant::Either);
    let raw = Bytes::copy_from_slice(parsed.msg.trim().as_bytes());
    let fallback_id = ordinals.id_of(&raw);
    Read {
        decoded: records::decode(&raw, format, limits),
        origin: Some(format!("syslog/{fallback_id}")),
        fallback_id,
        raw: Raw::Bytes(raw),
    }
}

/// The same bytes as one datagram, and as a stream that is cut into messages: for the fuzzers.
#[doc(hidden)]
pub fn read_all(bytes: &[u8], format: &Format, limits: &config::Ingest) -> Vec<Read> {
    let mut ordinals = Ordinals::default();
    let mut all = vec![read_message(&Bytes::copy_from_slice(bytes), format, &mut ordinals, limits)];
    let mut stream = BytesMut::from(bytes);
    while let Frame::Whole(message) = frame(&mut stream, limits.max_event_bytes) {
        all.push(read_message(&message, format, &mut ordinals, limits));
    }
    all
}

/// Networks and single addresses.
struct Networks(Vec<ipnet::IpNet>);

impl Networks {
    fn of(source: &Source) -> Self {
        let network = |text: &String| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(ipnet::IpNet::from));
        Self(source.networks.iter().filter_map(network).collect())
    }

    fn contain(&self, address: IpAddr) -> bool {
        // On a listener for both families an IPv4 address comes as IPv6.
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verdict::Reason;

    fn nginx() -> Format {
        Format::parse("nginx").expect("it is in the list")
    }

    fn read_text(message: &[u8]) -> Read {
        read_message(&Bytes::copy_from_slice(message), &nginx(), &mut Ordinals::default(), &config::Ingest::default())
    }

    const JSON: &str =
        r#"{"id":"400f0ddd9968a1bf26b0fbe3583d25bc","msec":1795268453.318,"status":200,"method":"GET","path":"/v1/orders/7"}"#;

    #[test]
    fn both_kinds_of_header_are_taken_off() {
        for header in [
            "<190>Nov 21 13:40:53 gw-1 farebox: ",
            "<190>Nov  1 13:40:53 gw-1 nginx: ",
            "<190>1 2026-11-21T13:40:53.318Z gw-1 nginx - - - ",
        ] {
            let read = read_text(format!("{header}{JSON}\n").as_bytes());
            assert_eq!(read.decoded.expect(header).id.as_deref(), Some("400f0ddd9968a1bf26b0fbe3583d25bc"));
            assert!(matches!(read.raw, Raw::Bytes(raw) if raw == JSON), "the dead letter would be what the decoder reads");
        }
        assert_eq!(read_text(b"<190>Nov 21 13:40:53 gw-1 nginx: hello").decoded.expect_err("no JSON").reason, Reason::InvalidJson);
    }

    #[test]
    fn lines_and_counted_frames_are_taken_apart_wherever_they_are_cut() {
        let stream = b"<190>one\n9 <190>two!\n7 <190>\n3\n<190>four\r\n";
        for cut in 0..stream.len() {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                buffer.extend_from_slice(part);
                while let Frame::Whole(message) = frame(&mut buffer, 100) {
                    found.push(String::from_utf8_lossy(&message).trim().to_owned());
                }
            }
            found.retain(|message| !message.is_empty());
            assert_eq!(found, ["<190>one", "<190>two!", "<190>\n3", "<190>four"], "cut at {cut}");
        }
        let long = |text: &str| matches!(frame(&mut BytesMut::from(text), 100), Frame::TooLong);
        assert!(long(&"x".repeat(101)) && long("101 x") && long("99999999999999999999999 x"));
    }

    #[test]
    fn networks_and_addresses_are_what_they_say() {
        let source = Source {
            id: farebox_core::ids::SourceId::new(),
            workspace: farebox_core::ids::WorkspaceId::new(),
            name: "edge".to_owned(),
            format: "nginx".to_owned(),
            kafka_topic: None,
            backfill: false,
            networks: vec!["10.0.0.0/8".to_owned(), "192.0.2.7".to_owned()],
        };
        let networks = Networks::of(&source);
        for (address, inside) in [("10.9.8.7", true), ("192.0.2.7", true), ("192.0.2.8", false), ("::ffff:10.0.0.1", true), ("::1", false)]
        {
            assert_eq!(networks.contain(address.parse().expect("an address")), inside, "{address}");
        }
        assert!(!Networks::of(&Source { networks: Vec::new(), ..source }).contain("127.0.0.1".parse().expect("an address")));
    }

    proptest! {
        #[test]
        fn no_datagram_panics(start in prop::sample::select(vec!["", "<190>", "<190>1 ", "<190>Nov 21 13:40:53 "]), rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut datagram = start.as_bytes().to_vec();
            datagram.extend(rest);
            let _ = read_text(&datagram);
            let mut buffer = BytesMut::from(&datagram[..]);
            while let Frame::Whole(_) = frame(&mut buffer, 100) {}
        }
    }
}
