//! Callers by mutual TLS: the listener leaves the client certificate's fingerprint, which must be registered as a token
//! of kind `certificate`. A call that shows a token or a signature is that caller's, whatever its certificate.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Kind, Verified, token_of};
use crate::app::App;
use crate::problem::Problem;

/// Questions that are answered from memory, while PostgreSQL is away, too: `access` looks their certificates up itself.
const FROM_MEMORY: [&str; 2] = ["/v1/decide/", "/envoy.service.auth.v3.Authorization/"];

/// SHA-256 of the DER form of the certificate that the client proved to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn unknown(self) -> Problem {
        let fingerprint = hex::encode(self.0);
        Problem::unauthorized(format!(
            "The client certificate with SHA-256 {fingerprint} is not registered here, or lacks the scope for this. Register it as a token of kind `certificate`, or send a token."
        ))
    }
}

pub async fn middleware(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let Some(Fingerprint(hash)) = request.extensions().get::<Fingerprint>().copied() else { return next.run(request).await };
    let otherwise = token_of(request.headers()).is_some() || request.headers().contains_key(super::signature::HEADER);
    if otherwise || FROM_MEMORY.iter().any(|prefix| request.uri().path().starts_with(prefix)) {
        return next.run(request).await;
    }
    match app.tokens.with_hash(Kind::Certificate, hash).await {
        Ok(Some(principal)) => {
            request.extensions_mut().insert(Verified(principal));
            next.run(request).await
        }
        // Pages, health and decisions by network need no caller: who does asks for one, and is told.
        Ok(None) => {
            let response = next.run(request).await;
            if response.status() != axum::http::StatusCode::UNAUTHORIZED {
                return response;
            }
            Fingerprint(hash).unknown().into_response()
        }
        Err(problem) => problem.into_response(),
    }
}
