//! A receiver of webhooks of the tests' own: it keeps what it is sent, and answers as its paths say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::harness::eventually;

/// One POST that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub path: String,
    pub id: String,
    timestamp: String,
    signatures: Vec<String>,
    bytes: Vec<u8>,
    pub body: Value,
}

impl Arrived {
    /// Whether one of its signatures was made with this secret: as the specification of Standard Webhooks says, by hand.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a prefix")).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{}.{}.", self.id, self.timestamp).as_bytes());
        mac.update(&self.bytes);
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.signatures.contains(&expected)
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Arrived>>>);

impl Kept {
    fn all(&self) -> Vec<Arrived> {
        self.0.lock().expect("not poisoned").clone()
    }
}

pub struct Receiver {
    address: SocketAddr,
    kept: Kept,
}

impl Receiver {
    /// Paths: `/good` takes it, `/fails-once` does the second time, `/redirects` points to `/landed`, `/hangs` never answers,
    /// `/gone` wants nothing any more.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let (address, kept) = (listener.local_addr().expect("an address"), Kept::default());
        let router = Router::new().fallback(receive).with_state(kept.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, kept }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn arrived(&self, path: &str) -> Vec<Arrived> {
        let mut all = self.kept.all();
        all.retain(|arrived| arrived.path == path);
        all
    }

    /// Waits for as many at least.
    pub async fn until(&self, path: &str, count: usize) -> Vec<Arrived> {
        eventually(&format!("{count} deliveries at {path}"), Duration::from_secs(90), || async {
            Some(self.arrived(path)).filter(|arrived| arrived.len() >= count)
        })
        .await
    }
}

async fn receive(State(kept): State<Kept>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let of = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let arrived = Arrived {
        path: uri.path().to_owned(),
        id: of("webhook-id"),
        timestamp: of("webhook-timestamp"),
        signatures: of("webhook-signature").split(' ').map(str::to_owned).collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        bytes: body.to_vec(),
    };
    let before = kept.all().iter().filter(|earlier| earlier.path == arrived.path).count();
    let path = arrived.path.clone();
    kept.0.lock().expect("not poisoned").push(arrived);
    match path.as_str() {
        "/fails-once" if before == 0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "/redirects" => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/landed")]).into_response(),
        "/hangs" => std::future::pending().await,
        "/gone" => StatusCode::GONE.into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}
