//! A request on its way: key and account, fault, idempotency, both walls, state, answer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use axum::{Router, routing};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::process::Child;

use super::cut::{Cuttable, Knife};
use super::dispatch::{Call, dispatch};
use super::errors::ApiError;
use super::faults::{Fault, Faults};
use super::idempotency::{self, Asked, Kept, Running};
use super::mock::{Mock, Place};
use super::spec::Spec;
use super::state::{Context, Origin, State, Tx, int, text};
use super::webhooks::Mishaps;
use super::{answers, clockwork, control, form, ids, pages, walk};

/// How the double runs.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub mock: Place,
    /// Stripe's OpenAPI document.
    pub spec: PathBuf,
    /// Holds the journal and stripe-mock's log.
    pub data_dir: PathBuf,
    /// Where browsers find the hosted pages; `http://<listen>` when absent.
    pub public_url: Option<String>,
    /// Seconds between finalising and the automatic charge.
    pub charge_delay: i64,
}

#[derive(Debug)]
pub struct Double {
    context: Context,
    state: Mutex<State>,
    mock: Mock,
    running: Running,
    pub(super) faults: Mutex<Faults>,
    pub(super) log: Mutex<VecDeque<Value>>,
}

/// Requests that `/_double/requests` remembers.
const LOGGED: usize = 20_000;
/// Larger than any request Stripe takes.
const LARGEST_BODY: usize = 4 << 20;

/// A double that serves until it is dropped.
#[derive(Debug)]
pub struct Serving {
    pub address: SocketAddr,
    pub url: String,
    child: Option<Child>,
    tasks: tokio::task::JoinSet<std::io::Result<()>>,
}

/// Starts everything; the double answers when this returns.
pub async fn start(config: Config) -> anyhow::Result<Serving> {
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("cannot create {}", config.data_dir.display()))?;
    let (mock, child) = Mock::start(&config.mock, &config.data_dir).await?;
    let spec = Spec::load(&config.spec)?;
    let shapes = mock.shapes(&spec).await?;
    let state = State::open(&config.data_dir)?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let url = config.public_url.unwrap_or_else(|| format!("http://{address}")).trim_end_matches('/').to_owned();
    let mishaps = Mutex::new(Mishaps::default());
    let context = Context { spec, shapes, public_url: url.clone(), charge_delay: config.charge_delay, mishaps };
    let (faults, log) = (Mutex::default(), Mutex::default());
    let double = Arc::new(Double { context, state: Mutex::new(state), mock, running: Running::default(), faults, log });
    let router = Router::new()
        .route("/v1/{*rest}", routing::any(receive))
        .merge(pages::routes())
        .nest("/_double", control::routes())
        .fallback(receive)
        .layer(axum::extract::DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(double.clone());
    let mut tasks = tokio::task::JoinSet::new();
    let service = router.into_make_service_with_connect_info::<Knife>();
    tasks.spawn(async move { axum::serve(Cuttable(listener), service).await });
    tasks.spawn(async move {
        clockwork::run(double).await;
        Ok(())
    });
    Ok(Serving { address, url, child, tasks })
}

impl Serving {
    /// Serves until something ends that must not.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let mock_ended = async {
            match self.child.as_mut() {
                Some(child) => child.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = mock_ended => anyhow::bail!("stripe-mock ended ({}); its log is stripe-mock.log in the data directory", status?),
            ended = self.tasks.join_next() => anyhow::bail!("the Stripe double stopped serving: {ended:?}"),
        }
    }
}

/// Starts the double and serves until it fails.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let serving = start(config).await?;
    tracing::info!(url = %serving.url, "the Stripe double is ready");
    serving.wait().await
}

impl Double {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the state panics")
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn transact<T>(&self, account: &str, origin: Origin, work: impl FnOnce(&mut Tx<'_>) -> T) -> T {
        self.state().transact(&self.context, account, origin, work)
    }

    pub(super) fn accounts(&self) -> Vec<String> {
        self.state().names()
    }

    pub(super) fn flush(&self) {
        if let Err(error) = self.state().flush() {
            tracing::error!(%error, "the journal of the Stripe double could not be flushed");
        }
    }

    pub(super) fn reset(&self, account: Option<&str>) -> std::io::Result<()> {
        self.state().reset(account)
    }

    /// The clock: seconds since 1970, and how far it is ahead of the machine's.
    pub(super) fn clock(&self) -> (i64, i64) {
        let state = self.state();
        (state.now(), state.offset())
    }

    pub(super) fn set_offset(&self, offset: i64) {
        self.state().set_offset(&self.context, offset);
    }

    /// An object of a hosted page, whose address names no account.
    pub(super) fn find(&self, id: &str) -> Option<(String, Value)> {
        let state = self.state();
        state.names().into_iter().find_map(|name| {
            let object = state.account(&name)?.get(id)?.clone();
            Some((name, object))
        })
    }

    /// Deliveries whose time has come, with endpoint and event.
    pub(super) fn due_deliveries(&self, account: &str, now: i64) -> Vec<(Value, Value, Value)> {
        let state = self.state();
        let Some(account) = state.account(account) else { return Vec::new() };
        let due = account.all("_delivery").filter(|delivery| int(delivery, "due") <= now);
        let mut found: Vec<_> = due
            .filter_map(|delivery| {
                let endpoint = account.get(text(delivery, "endpoint"))?.clone();
                let event = account.get(text(delivery, "event"))?.clone();
                Some((delivery.clone(), endpoint, event))
            })
            .collect();
        found.sort_by_key(|(delivery, ..)| int(delivery, "due"));
        found
    }
}

/// A request as it arrived.
#[derive(Debug)]
struct Request {
    id: String,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// How a request ends.
#[derive(Debug)]
enum Ending {
    Answer { status: u16, body: Value, replayed: Option<String>, error: Option<ApiError> },
    Page502,
    Cut,
    Hang,
}

async fn receive(
    Shared(double): Shared<Arc<Double>>,
    ConnectInfo(knife): ConnectInfo<Knife>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request { id: ids::of("_request"), method, uri, headers, body };
    let (id, headers) = (request.id.clone(), request.headers.clone());
    // In a task of its own: like Stripe, the double finishes what a client that left has begun.
    let ending = tokio::spawn(async move { double.answer(request).await }).await;
    match ending.unwrap_or(Ending::Cut) {
        Ending::Answer { status, body, replayed, error } => respond(&id, &headers, status, &body, replayed, error),
        Ending::Page502 => {
            let page = "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>";
            let response = Response::builder().status(502).header("Content-Type", "text/html");
            response.body(Body::from(page)).expect("valid parts")
        }
        Ending::Hang => std::future::pending().await,
        Ending::Cut => {
            knife.cut();
            Response::new(Body::empty())
        }
    }
}

fn respond(id: &str, asked: &HeaderMap, status: u16, body: &Value, replayed: Option<String>, error: Option<ApiError>) -> Response {
    let bytes = serde_json::to_vec_pretty(body).expect("JSON can be written");
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::from_u16(status).expect("a valid status");
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put("request-id", id);
    for name in ["idempotency-key", "stripe-version"] {
        if let Some(value) = asked.get(name).and_then(|value| value.to_str().ok()) {
            put(name, value);
        }
    }
    if let Some(original) = replayed {
        put("idempotent-replayed", "true");
        put("original-request", &original);
    }
    if let Some(error) = error {
        if let Some(retry) = error.should_retry {
            put("stripe-should-retry", if retry { "true" } else { "false" });
        }
        if let Some(seconds) = error.retry_after {
            put("retry-after", &seconds.to_string());
        }
    }
    response
}

impl Double {
    async fn answer(&self, request: Request) -> Ending {
        let account = account_of(&request.headers);
        let path = request.uri.path();
        let name = account.as_deref().unwrap_or_default();
        let fault = self.faults.lock().expect("no holder panics").take(name, request.method.as_str(), path);
        let ending = match (&account, &fault) {
            (Err(error), _) => refusal(&request.id, error.clone()),
            (Ok(_), Some(Fault::DropBefore)) => Ending::Cut,
            (Ok(account), fault) => match self.perform(account, &request, fault.as_ref()).await {
                Ok(ending) => ending,
                Err(error) => refusal(&request.id, error),
            },
        };
        let ending = match fault {
            Some(Fault::Drop) => Ending::Cut,
            Some(Fault::Hang) => Ending::Hang,
            Some(Fault::BadGateway { .. }) => Ending::Page502,
            _ => ending,
        };
        self.note(name, &request, fault.as_ref(), &ending);
        ending
    }

    async fn perform(&self, account: &str, request: &Request, fault: Option<&Fault>) -> Result<Ending, ApiError> {
        match fault {
            Some(Fault::ErrorBefore) => return Err(ApiError::server(false)),
            Some(Fault::Conflict) => return Err(ApiError::lock_timeout()),
            Some(Fault::RateLimit { retry_after }) => return Err(ApiError::rate_limited(*retry_after)),
            Some(Fault::BadGateway { applied: false }) => return Ok(Ending::Page502),
            _ => {}
        }
        let origin = origin_of(request)?;
        let params = params_of(request)?;
        let (method, path) = (request.method.as_str(), request.uri.path());
        let key = origin.key.clone().filter(|_| request.method == Method::POST);
        let asked = key.map(|key| Asked { key, method: method.to_owned(), path: path.to_owned(), params: params.clone() });
        let _hold = match &asked {
            Some(asked) => {
                let hold = self.running.hold(account, &asked.key)?;
                let state = self.state();
                if let Some(Kept { status, body, request }) = idempotency::kept(state.account(account), asked, state.now())? {
                    return Ok(Ending::Answer { status, body, replayed: Some(request), error: None });
                }
                Some(hold)
            }
            None => None,
        };
        if let Some(Fault::Slow { millis }) = fault {
            tokio::time::sleep(Duration::from_millis(*millis)).await;
        }
        let call = self.walls(request, &params).await?;
        let failing = match fault {
            Some(Fault::StoredError { applied }) => Some(*applied),
            _ => None,
        };
        Ok(self.apply(account, request, origin, &call, asked.as_ref(), failing))
    }

    /// Both walls: what comes out is well formed, and carries stripe-mock's answer.
    async fn walls(&self, request: &Request, raw: &Map<String, Value>) -> Result<Call, ApiError> {
        let (method, path) = (request.method.as_str(), request.uri.path());
        let unknown = || ApiError::unknown_url(method, path);
        let (route, ids) = self.context.spec.route(method, path).ok_or_else(unknown)?;
        let mut params = raw.clone();
        // The versions listed end with the document's own, and there are later ones.
        let version = if route.template.starts_with("/v1/webhook_endpoints") { params.remove("api_version") } else { None };
        let mut walked = walk::walk(&route.params, &params)?;
        let encoded = form::encode(&params);
        let shape = match method {
            "POST" => self.mock.send(method, path, &encoded).await?,
            _ if encoded.is_empty() => self.mock.send(method, path, "").await?,
            _ => self.mock.send(method, &format!("{path}?{encoded}"), "").await?,
        };
        if let Some(version) = version {
            walked.insert("api_version".to_owned(), version);
        }
        Ok(Call { method: method.to_owned(), template: route.template.clone(), ids, params: walked, shape })
    }

    /// Applies the request and keeps its answer under its key, in one entry of the journal.
    fn apply(&self, account: &str, request: &Request, origin: Origin, call: &Call, asked: Option<&Asked>, failing: Option<bool>) -> Ending {
        self.transact(account, origin, |tx| {
            let result = match failing {
                Some(false) => Err(ApiError::server(true)),
                Some(true) => {
                    drop(dispatch(tx, call));
                    Err(ApiError::server(true))
                }
                None => dispatch(tx, call).and_then(|answer| answers::expand(tx, answer, &call.params)),
            };
            let (status, body, error) = match result {
                Ok(body) => (200, body, None),
                Err(error) => (error.status, error.body(&request.id), Some(error)),
            };
            if let Some(asked) = asked
                && error.as_ref().is_none_or(|error| error.stored)
            {
                idempotency::keep(tx, asked, status, &body, &request.id);
            }
            Ending::Answer { status, body, replayed: None, error }
        })
    }

    /// Remembers the request for `/_double/requests`.
    fn note(&self, account: &str, request: &Request, fault: Option<&Fault>, ending: &Ending) {
        let (status, replayed, answered) = match ending {
            Ending::Answer { status, replayed, body, .. } => (json!(status), replayed.is_some(), body.get("id").cloned()),
            Ending::Page502 => (json!(502), false, None),
            Ending::Cut | Ending::Hang => (Value::Null, false, None),
        };
        let entry = json!({
            "request": request.id, "at": super::state::machine_millis(), "account": account, "method": request.method.as_str(),
            "path": request.uri.path(), "params": params_of(request).unwrap_or_default(), "status": status, "replayed": replayed,
            "answered": answered, "fault": fault, "idempotency_key": header(&request.headers, "idempotency-key"),
            "stripe_version": header(&request.headers, "stripe-version"),
        });
        let mut log = self.log.lock().expect("no holder panics");
        if log.len() == LOGGED {
            log.pop_front();
        }
        log.push_back(entry);
    }
}

fn refusal(request_id: &str, error: ApiError) -> Ending {
    Ending::Answer { status: error.status, body: error.body(request_id), replayed: None, error: Some(error) }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty())
}

/// The account in the key: `sk_test_<account>_<random>`; each has a state of its own.
fn account_of(headers: &HeaderMap) -> Result<String, ApiError> {
    let Some(given) = header(headers, "authorization") else {
        return Err(ApiError::unauthorized(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. \
             'Authorization: Bearer YOUR_SECRET_KEY').",
        ));
    };
    let key = given.strip_prefix("Bearer ").unwrap_or(given).trim();
    let rest = key.strip_prefix("sk_test_").or_else(|| key.strip_prefix("rk_test_")).unwrap_or_default();
    let account = rest.rsplit_once('_').map_or(rest, |(account, _)| account);
    if account.is_empty() || !account.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        let shown: String = key.chars().take(8).chain("****".chars()).collect();
        return Err(ApiError::unauthorized(format!("Invalid API Key provided: {shown}")));
    }
    Ok(account.to_owned())
}

fn origin_of(request: &Request) -> Result<Origin, ApiError> {
    let version = header(&request.headers, "stripe-version").map(str::to_owned);
    if let Some(version) = &version {
        let day = version.split('.').next().unwrap_or_default();
        let dated = day.len() == 10
            && day.bytes().enumerate().all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
        if !dated {
            return Err(ApiError::invalid(format!("Invalid Stripe API version: {version}")));
        }
    }
    let key = header(&request.headers, "idempotency-key").map(str::to_owned);
    Ok(Origin { request: Some(request.id.clone()), key, version })
}

/// Query and body together.
fn params_of(request: &Request) -> Result<Map<String, Value>, ApiError> {
    let mut params = form::parse(request.uri.query().unwrap_or_default().as_bytes())?;
    let is_form = header(&request.headers, "content-type").is_none_or(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if !request.body.is_empty() && !is_form {
        let message = "Invalid request (check that your POST content type is application/x-www-form-urlencoded). If you have questions, \
                       we can help at https://support.stripe.com/.";
        return Err(ApiError::invalid(message));
    }
    params.extend(form::parse(&request.body)?);
    Ok(params)
}
