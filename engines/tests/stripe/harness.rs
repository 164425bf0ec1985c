//! One double for all tests, an account for each; a client and a webhook receiver.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::{Router, routing};
use farebox_engines::stripe::{Args, Config, Spec, start};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn config(data: PathBuf) -> Config {
    let listen = "127.0.0.1:0".parse().unwrap();
    let args = Args { listen, data, stripe_mock: None, stripe_mock_url: None, spec: None, public_url: None, charge_delay: 0 };
    args.config().unwrap()
}

pub fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("farebox-stripe-{name}-{}", uuid::Uuid::now_v7()))
}

/// The double that the tests share, on a runtime of its own: a test's runtime ends with the test.
pub fn shared() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    farebox_core::tls::install();
    URL.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let serving = start(config(scratch("shared"))).await.unwrap();
                tell.send(serving.url.clone()).unwrap();
                panic!("{:?}", serving.wait().await);
            })
        });
        told.recv().expect("the double starts")
    })
}

pub static SPEC: LazyLock<Spec> = LazyLock::new(|| Spec::load(&config(PathBuf::new()).spec).unwrap());

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of a success, which must be as Stripe publishes it.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        for object in self.body["data"].as_array().unwrap_or(&vec![self.body.clone()]) {
            if object["deleted"] != true {
                assert_eq!(SPEC.misfits(object), Vec::<String>::new(), "{object:#}");
            }
        }
        self.body
    }

    /// Status, code and parameter of a refusal.
    #[track_caller]
    pub fn refusal(&self) -> (u16, &str, &str) {
        let error = &self.body["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{}: {}", self.status, self.body);
        (self.status, error["code"].as_str().unwrap_or_default(), error["param"].as_str().unwrap_or_default())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A client of one account.
#[derive(Debug, Clone)]
pub struct Api {
    pub base: String,
    pub account: String,
    client: reqwest::Client,
}

pub type Form<'a> = &'a [(&'a str, &'a str)];

impl Api {
    pub fn new() -> Self {
        Self::at(shared())
    }

    pub fn at(base: &str) -> Self {
        let account = uuid::Uuid::now_v7().simple().to_string();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE).build().unwrap();
        Self { base: base.to_owned(), account, client }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await.unwrap()
    }

    pub async fn post(&self, path: &str, form: Form<'_>) -> Answer {
        self.send("POST", path, form, None).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], None).await.unwrap()
    }

    pub async fn keyed(&self, path: &str, form: Form<'_>, key: &str) -> Answer {
        self.send("POST", path, form, Some(key)).await.unwrap()
    }

    /// An error when no answer came.
    pub async fn send(&self, method: &str, path: &str, form: Form<'_>, key: Option<&str>) -> Result<Answer, reqwest::Error> {
        let mut request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.base));
        request = request.bearer_auth(format!("sk_test_{}_secret", self.account)).header("Stripe-Version", "2026-09-30.endive");
        if !form.is_empty() {
            request = request.form(form);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, headers, body })
    }

    pub async fn double(&self, method: &str, path: &str, body: Value) -> Value {
        let request = self.client.request(method.parse().unwrap(), format!("{}/_double/{path}", self.base));
        let response = request.json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{}: {}", response.status(), response.text().await.unwrap());
        response.json().await.unwrap_or(Value::Null)
    }

    pub async fn fault(&self, path: &str, fault: Value) {
        let rule = json!({"account": self.account, "path": path, "fault": fault});
        self.double("POST", "faults", rule).await;
    }

    /// Requests of this account that the double saw on a path.
    pub async fn seen(&self, path: &str) -> Vec<Value> {
        let query = format!("requests?account={}&method=POST&path={path}", self.account);
        self.double("GET", &query, Value::Null).await.as_array().unwrap().clone()
    }

    pub async fn browser(&self, method: &str, url: &str, form: Form<'_>) -> Answer {
        let request = self.client.request(method.parse().unwrap(), url);
        let response = request.form(form).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: Value::String(response.text().await.unwrap()) }
    }

    pub async fn customer(&self) -> String {
        let customer = self.post("/v1/customers", &[("email", "dev@initech.example"), ("name", "Initech")]).await.ok();
        customer["id"].as_str().unwrap().to_owned()
    }

    /// A customer who pays by this test card by default.
    pub async fn customer_with(&self, card: &str) -> String {
        let customer = self.customer().await;
        let attach = format!("/v1/payment_methods/{card}/attach");
        let method = self.post(&attach, &[("customer", &customer)]).await.ok();
        let form = [("invoice_settings[default_payment_method]", method["id"].as_str().unwrap())];
        self.post(&format!("/v1/customers/{customer}"), &form).await.ok();
        customer
    }

    /// A draft with one line.
    pub async fn draft(&self, customer: &str, amount: &str) -> String {
        let form = [("customer", customer), ("currency", "usd"), ("auto_advance", "false")];
        let invoice = self.post("/v1/invoices", &form).await.ok();
        let id = invoice["id"].as_str().unwrap().to_owned();
        self.post(&format!("/v1/invoices/{id}/add_lines"), &[("lines[0][amount]", amount)]).await.ok();
        id
    }

    pub async fn finalized(&self, customer: &str, amount: &str, auto_advance: &str) -> Value {
        let id = self.draft(customer, amount).await;
        self.post(&format!("/v1/invoices/{id}/finalize"), &[("auto_advance", auto_advance)]).await.ok()
    }
}

/// A webhook receiver: verifies each delivery and hands it on.
#[derive(Debug)]
pub struct Receiver {
    pub url: String,
    events: mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
    pub secret: String,
}

impl Receiver {
    /// Listens and registers an endpoint; answers the `refusals` first deliveries with 500.
    pub async fn new(api: &Api, wanted: &str, refusals: usize) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let left = std::sync::Arc::new(std::sync::Mutex::new(VecDeque::from(vec![StatusCode::INTERNAL_SERVER_ERROR; refusals])));
        let receive = async move |headers: HeaderMap, body: Bytes| {
            let status = left.lock().unwrap().pop_front().unwrap_or(StatusCode::OK);
            if status.is_success() {
                sender.send((headers, body)).unwrap();
            }
            status
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", routing::post(receive));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let form = [("url", url.as_str()), ("enabled_events[0]", wanted), ("api_version", "2026-09-30.endive")];
        let endpoint = api.post("/v1/webhook_endpoints", &form).await.ok();
        Self { url, events, secret: endpoint["secret"].as_str().unwrap().to_owned() }
    }

    /// The next delivery, verified by a computation of its own.
    pub async fn next(&mut self) -> Value {
        use hmac::{Hmac, Mac};
        let (headers, body) = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("a webhook in time").unwrap();
        let signature = headers["stripe-signature"].to_str().unwrap();
        let (time, given) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(self.secret.as_bytes()).unwrap();
        mac.update(&[time.as_bytes(), b".", &body].concat());
        mac.verify_slice(&hex::decode(given).unwrap()).expect("the signature is right");
        let age = farebox_core::clock::now().timestamp() - time.parse::<i64>().unwrap();
        assert!((-5..=60).contains(&age), "{age}");
        let event: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(SPEC.misfits(&event), Vec::<String>::new());
        assert_eq!(SPEC.misfits(&event["data"]["object"]), Vec::<String>::new(), "{event:#}");
        assert_eq!(event["api_version"], "2026-09-30.endive");
        event
    }

    /// The next delivery of a type; others pass by.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await;
            if event["type"] == kind {
                return event;
            }
        }
    }
}
