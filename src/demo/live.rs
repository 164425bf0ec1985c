//! Live traffic: calls with consumers' keys through a real Envoy, which asks Farebox before each and tells it after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use farebox_metering::consumers;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::{Client, Method};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::gateway::{envoy, upstream};
use crate::instance::Find;
use crate::up::Running;

/// Name of the keys that the traffic uses; those of an earlier start are revoked.
const KEY_NAME: &str = "Live traffic";
const CALLERS: usize = 8;
const PAUSE_BETWEEN_CALLS: Duration = Duration::from_millis(25);
const CALLS: [(Method, &str); 8] = [
    (Method::GET, "/v2/orders"),
    (Method::GET, "/v2/orders"),
    (Method::GET, "/v2/orders/o-12"),
    (Method::POST, "/v2/orders"),
    (Method::GET, "/v1/orders"),
    (Method::GET, "/v2/customers/c-9"),
    (Method::GET, "/v1/reports/daily"),
    (Method::GET, "/v2/orders/missing"),
];

/// Running traffic. Stops when dropped.
pub struct Live {
    pub gateway_url: String,
    answered: Arc<AtomicU64>,
    paused: Arc<AtomicBool>,
    under_way: Arc<tokio::sync::Mutex<()>>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

impl Live {
    pub async fn start(find: &Find, running: &Running) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let upstream = upstream::serve(stop.clone()).await?;
        let gateway_url = envoy::start(find, running, upstream).await?;
        let keys = keys(running).await?;
        let (answered, paused, under_way) = (Arc::default(), Arc::default(), Arc::default());
        let task = tokio::spawn(calls(gateway_url.clone(), keys, Arc::clone(&answered), Arc::clone(&paused), Arc::clone(&under_way)));
        Ok(Self { gateway_url, answered, paused, under_way, task, stop })
    }

    /// Calls that the gateway answered, refusals included.
    pub fn sent(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Holds the traffic; returns how many calls were answered by then, none being under way.
    pub async fn pause(&self) -> u64 {
        self.paused.store(true, Ordering::SeqCst);
        let _none_under_way = self.under_way.lock().await;
        self.sent()
    }

    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }
}

async fn keys(running: &Running) -> anyhow::Result<Vec<String>> {
    let workspace = &running.workspace;
    let mut tx = running.app.pg.begin().await?;
    let all = consumers::all(&mut tx, &workspace.id).await?;
    let step = (all.len() / CALLERS).max(1);
    let mut keys = Vec::new();
    for consumer in all.iter().step_by(step).take(CALLERS) {
        for key in farebox_access::keys::list(&mut tx, &workspace.id, &consumer.id).await? {
            if key.name == KEY_NAME && key.revoked_at.is_none() {
                farebox_access::keys::revoke(&mut tx, &workspace.id, &consumer.id, &key.id).await?;
            }
        }
        let (_, secret) = farebox_access::keys::issue(&mut tx, &running.app.config, workspace, &consumer.id, KEY_NAME).await?;
        keys.push(secret.reveal().to_owned());
    }
    tx.commit().await?;
    anyhow::ensure!(!keys.is_empty(), "nobody lives in the demo");
    Ok(keys)
}

async fn calls(
    gateway: String,
    keys: Vec<String>,
    answered: Arc<AtomicU64>,
    paused: Arc<AtomicBool>,
    under_way: Arc<tokio::sync::Mutex<()>>,
) {
    let client = Client::builder().timeout(Duration::from_secs(10)).build().expect("a client without options");
    let mut rng = StdRng::seed_from_u64(1);
    loop {
        tokio::time::sleep(PAUSE_BETWEEN_CALLS).await;
        let guard = under_way.lock().await;
        if paused.load(Ordering::SeqCst) {
            continue;
        }
        let (method, path) = CALLS.choose(&mut rng).expect("not empty");
        // One in fifty comes with a key that nobody issued.
        let key = if rng.random_bool(0.02) { "acme_live_nobody" } else { keys.choose(&mut rng).expect("not empty") };
        match client.request(method.clone(), format!("{gateway}{path}")).header("x-api-key", key).send().await {
            Ok(_) => {
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => tracing::warn!("the gateway did not answer: {:#}", anyhow::Error::from(error)),
        }
        drop(guard);
    }
}
