//! The second wall: the official stripe-mock, started here as a child on a socket of its own.
//!
//! It validates what Stripe's document says and answers in Stripe's shapes; it keeps no state, which
//! is what the double adds.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::errors::ApiError;
use super::spec::Spec;

/// Objects that requests make besides their own answer, and where stripe-mock shows one.
const EXAMPLES: [(&str, &str); 15] = [
    ("charge", "/v1/charges/ch_1"),
    ("credit_note_line_item", "/v1/credit_notes/cn_1/lines"),
    ("customer_balance_transaction", "/v1/customers/cus_1/balance_transactions/cbtxn_1"),
    ("dispute", "/v1/disputes/dp_1"),
    ("event", "/v1/events/evt_1"),
    ("invoice_payment", "/v1/invoice_payments/inpay_1"),
    ("line_item", "/v1/invoices/in_1/lines"),
    ("payment_intent", "/v1/payment_intents/pi_1"),
    ("payment_method", "/v1/payment_methods/pm_1"),
    ("refund", "/v1/refunds/re_1"),
    ("setup_intent", "/v1/setup_intents/seti_1"),
    ("tax_id", "/v1/customers/cus_1/tax_ids/txi_1"),
    ("tax_rate", "/v1/tax_rates/txr_1"),
    ("invoice", "/v1/invoices/in_1"),
    ("customer", "/v1/customers/cus_1"),
];

/// The only form of key that stripe-mock takes.
const MOCK_KEY: &str = "sk_test_123";

#[derive(Debug)]
pub struct Mock {
    client: reqwest::Client,
    base: String,
}

/// Where stripe-mock is.
#[derive(Debug, Clone)]
pub enum Place {
    /// Its binary, started here; dies with this process.
    Binary(PathBuf),
    /// Already running, at this address.
    Running(String),
}

impl Mock {
    /// Connects to stripe-mock, starting it if needed; the child is returned to be watched.
    pub async fn start(place: &Place, dir: &Path) -> anyhow::Result<(Self, Option<Child>)> {
        let builder = reqwest::Client::builder().timeout(Duration::from_secs(30));
        let (mock, child) = match place {
            Place::Running(url) => (Self { client: builder.build()?, base: url.trim_end_matches('/').to_owned() }, None),
            Place::Binary(binary) => {
                let socket = socket_in(dir);
                let child = spawn(binary, &socket, dir)?;
                let client = builder.unix_socket(socket).build()?;
                (Self { client, base: "http://stripe-mock".to_owned() }, Some(child))
            }
        };
        mock.wait(child).await
    }

    async fn wait(self, mut child: Option<Child>) -> anyhow::Result<(Self, Option<Child>)> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = child.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("stripe-mock ended at once with {}; its log is stripe-mock.log in the data directory", status?);
            }
            match self.send("GET", "/v1/balance", "").await {
                Ok(_) => return Ok((self, child)),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    bail!("stripe-mock does not answer: {}", error.message)
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// One object of each kind, without the mock's inventions.
    pub async fn shapes(&self, spec: &Spec) -> anyhow::Result<HashMap<String, Value>> {
        let mut shapes = HashMap::new();
        for (kind, path) in EXAMPLES {
            let mut answer =
                self.send("GET", path, "").await.map_err(|error| anyhow::anyhow!("stripe-mock has no {kind}: {}", error.message))?;
            if answer["object"] == "list" {
                answer = answer["data"][0].take();
            }
            // stripe-mock puts the id from the path into more places than `id`.
            answer["object"] = Value::from(kind);
            shapes.insert(kind.to_owned(), spec.bare(answer));
        }
        Ok(shapes)
    }

    /// Passes a request on. A refusal is Stripe's `invalid_request_error` and nothing is remembered.
    pub async fn send(&self, method: &str, path_and_query: &str, body: &str) -> Result<Value, ApiError> {
        let unreachable = |error: reqwest::Error| ApiError::mock_unreachable(&error.to_string());
        let post = method == "POST";
        let method = method.parse().map_err(|_| ApiError::unknown_url(method, path_and_query))?;
        let mut request = self.client.request(method, format!("{}{path_and_query}", self.base)).bearer_auth(MOCK_KEY);
        // stripe-mock wants the type of a POST's body even when there is none, which Stripe does not.
        if post {
            request = request.header("Content-Type", "application/x-www-form-urlencoded").body(body.to_owned());
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let answer: Value = response.json().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(answer);
        }
        let message = answer["error"]["message"].as_str().unwrap_or("stripe-mock refused the request").to_owned();
        Err(ApiError { status: status.as_u16(), ..ApiError::invalid(message) })
    }
}

/// In the data directory; elsewhere when that makes the path longer than a socket's may be.
fn socket_in(dir: &Path) -> PathBuf {
    let wanted = dir.join("mock.sock");
    if wanted.as_os_str().len() < 100 { wanted } else { std::env::temp_dir().join(super::ids::new("stripe-mock-", 12)) }
}

fn spawn(binary: &Path, socket: &Path, dir: &Path) -> anyhow::Result<Child> {
    if !binary.is_file() {
        bail!("the Stripe double needs the official stripe-mock, which is not at {}: run engines/fetch", binary.display());
    }
    if socket.exists() {
        std::fs::remove_file(socket).with_context(|| format!("cannot remove the old socket {}", socket.display()))?;
    }
    let log = std::fs::File::create(dir.join("stripe-mock.log")).context("cannot write stripe-mock.log")?;
    // The kernel ends it when this process ends, however that happens.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(binary)
        .arg("-http-unix")
        .arg(socket)
        .stdin(Stdio::null())
        // It tells every request there.
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start stripe-mock (setpriv, from the Debian package util-linux, is needed)")
}
