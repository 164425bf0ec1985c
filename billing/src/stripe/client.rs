//! Stripe's API over one pooled HTTP client: async-stripe's typed requests with what its stock client leaves out, a
//! fixed idempotency key on every POST, the answer's headers, and connections that are kept.
//!
//! Requests about invoices are built by async-stripe. The handful about customers, checkout and webhook endpoints are
//! plain forms ([`Form`]): their crates would add some 60,000 generated lines to compile. Answers are read through the
//! narrow types of [`super::view`], which is why async-stripe's `StripeClient` trait, whose answers are whole objects, is
//! not implemented.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use reqwest::{Method, header};
use serde::de::DeserializeOwned;
use stripe_client_core::{RequestBuilder, StripeMethod};
use tokio::time::Instant;

use super::error::StripeError;
use super::verdict::{Signs, Verdict, judge};
use farebox_core::seal::Revealed;

/// Answers that take longer count as lost; Stripe's own libraries wait 80 s, its API answers within 30.
const TIMEOUT: Duration = Duration::from_secs(30);
const STRIPES_OWN: &str = "https://api.stripe.com";

static POOL: LazyLock<reqwest::Client> = LazyLock::new(|| {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .connect_timeout(Duration::from_secs(5))
        .pool_idle_timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("farebox/", env!("CARGO_PKG_VERSION")))
        .build()
        .expect("the HTTP client's settings are fixed")
});

/// The next instant at which each workspace may call.
static PACE: LazyLock<Mutex<HashMap<WorkspaceId, Instant>>> = LazyLock::new(Mutex::default);

/// A workspace's account at Stripe.
#[derive(Clone)]
pub struct Stripe {
    base: String,
    key: Revealed,
    workspace: WorkspaceId,
    /// Least time between two calls.
    interval: Duration,
}

/// A request as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    pub method: &'a str,
    /// With `/v1` and, for GET, the query.
    pub path: &'a str,
    pub body: &'a [u8],
    pub idempotency_key: Option<&'a str>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub signs: Signs,
    pub request_id: Option<String>,
    pub body: Bytes,
}

impl Answer {
    pub fn verdict(&self) -> Verdict {
        judge(self.signs)
    }

    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, StripeError> {
        serde_json::from_slice(&self.body).map_err(|e| StripeError::Unreadable(format!("{e} (request {})", self.request())))
    }

    /// Stripe's error as one sentence, and its code.
    pub fn refusal(&self) -> StripeError {
        let error = serde_json::from_slice::<ErrorBody>(&self.body).map(|body| body.error).unwrap_or_default();
        StripeError::Refused {
            status: self.signs.status,
            code: error.code.unwrap_or_default(),
            message: error.message.unwrap_or_else(|| "no error message".to_owned()),
            request_id: self.request().to_owned(),
        }
    }

    fn request(&self) -> &str {
        self.request_id.as_deref().unwrap_or("without id")
    }
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(serde::Deserialize, Default)]
struct ErrorDetail {
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<String>,
    message: Option<String>,
}

impl Stripe {
    pub fn new(app: &App, workspace: WorkspaceId, key: Revealed, live: bool) -> Self {
        let config = &app.config.billing;
        let base = config.stripe_url.trim_end_matches('/').to_owned();
        // Stripe's documented limits: live 25 calls a second per endpoint, sandboxes about 8.
        let per_second = match config.stripe_calls_per_second {
            0 if base == STRIPES_OWN && live => 25,
            0 if base == STRIPES_OWN => 8,
            given => given,
        };
        let interval = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { base, key, workspace, interval }
    }

    /// Sends once. An error means that no answer came: whether there was an effect is unknown.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, StripeError> {
        if call.method == "POST" && call.idempotency_key.is_none() {
            return Err(StripeError::Bug("a POST to Stripe needs an idempotency key"));
        }
        self.wait_turn().await;
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|_| StripeError::Bug("not an HTTP method"))?;
        let mut request = POOL
            .request(method, format!("{}{}", self.base, call.path))
            .bearer_auth(self.key.reveal())
            .header("stripe-version", stripe_client_core::VERSION.as_str());
        if let Some(key) = call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if call.method == "POST" {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(call.body.to_vec());
        }
        let lost = |e: reqwest::Error| StripeError::Unreachable(e.without_url().to_string());
        let response = request.send().await.map_err(lost)?;
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut signs = Signs {
            status: response.status().as_u16(),
            should_retry: text("stripe-should-retry").and_then(|value| value.parse().ok()),
            retry_after: text("retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs),
            replayed: text("idempotent-replayed").as_deref() == Some("true"),
            idempotency_error: false,
        };
        let request_id = text("request-id");
        let body = response.bytes().await.map_err(lost)?;
        if signs.status >= 400 {
            let error = serde_json::from_slice::<ErrorBody>(&body).ok();
            signs.idempotency_error = error.and_then(|body| body.error.kind).as_deref() == Some("idempotency_error");
        }
        metrics::counter!("farebox_stripe_requests_total", "status" => signs.status.to_string()).increment(1);
        Ok(Answer { signs, request_id, body })
    }

    /// A GET that must succeed; `query` is already encoded.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &Form) -> Result<T, StripeError> {
        let path = if query.is_empty() { format!("/v1{path}") } else { format!("/v1{path}?{}", query.encoded()) };
        self.read(&path).await
    }

    /// A typed GET that must succeed.
    pub async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, StripeError> {
        let ("GET", path, _) = wire(request) else { return Err(StripeError::Bug("only a GET is sent without being stored")) };
        self.read(&path).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, StripeError> {
        answered(self.send(Call { method: "GET", path, body: &[], idempotency_key: None }).await?)?.parse()
    }

    /// A POST that must succeed at once, for a caller who waits, and whose repetition does no harm: sent up to four times
    /// with a key of its own. What must happen exactly once goes through the outbox instead.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, form: &Form) -> Result<T, StripeError> {
        let (path, body, key) = (format!("/v1{path}"), form.encoded(), format!("call.{}", uuid::Uuid::now_v7().simple()));
        let call = || Call { method: "POST", path: &path, body: body.as_bytes(), idempotency_key: Some(&key) };
        let mut attempt = 0;
        loop {
            let result = self.send(call()).await.and_then(answered);
            let Err(StripeError::Unreachable(_) | StripeError::Busy { .. }) = result else { return result?.parse() };
            if attempt == 3 {
                return result?.parse();
            }
            tokio::time::sleep(super::verdict::backoff(attempt, rand::random())).await;
            attempt += 1;
        }
    }

    /// Deletes; what is already gone is fine.
    pub async fn delete(&self, path: &str) -> Result<(), StripeError> {
        let path = format!("/v1{path}");
        let answer = self.send(Call { method: "DELETE", path: &path, body: &[], idempotency_key: None }).await?;
        if answer.signs.status == 404 { Ok(()) } else { answered(answer).map(drop) }
    }

    async fn wait_turn(&self) {
        let turn = {
            let mut pace = PACE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = Instant::now();
            let turn = pace.get(&self.workspace).copied().map_or(now, |next| next.max(now));
            pace.insert(self.workspace.clone(), turn + self.interval);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

fn answered(answer: Answer) -> Result<Answer, StripeError> {
    match answer.verdict() {
        Verdict::Done => Ok(answer),
        Verdict::Retry(after) => Err(StripeError::Busy { status: answer.signs.status, after }),
        Verdict::KeySpent => Err(StripeError::Busy { status: answer.signs.status, after: None }),
        Verdict::Refused => Err(answer.refusal()),
    }
}

/// Method, path with query, and body of a typed request.
pub fn wire(request: RequestBuilder) -> (&'static str, String, Vec<u8>) {
    let method = match request.method {
        StripeMethod::Get => "GET",
        StripeMethod::Post => "POST",
        StripeMethod::Delete => "DELETE",
    };
    let query = request.query.filter(|query| !query.is_empty()).map_or_else(String::new, |query| format!("?{query}"));
    (method, format!("/v1{}{query}", request.path), request.body.unwrap_or_default().into_bytes())
}

/// A form of Stripe's: names in brackets (`invoice_settings[default_payment_method]`), in the order given.
#[derive(Debug, Clone, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn encoded(&self) -> String {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }
}
