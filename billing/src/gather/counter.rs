//! Counts for one run over many subscriptions. What is the same question for all of them (the state of a period's events,
//! a meter's sums over a whole period) is asked once, however many they are.
//!
//! A state is always taken before the counts that stand beside it, so that what comes later is found to be late.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_metering::MeteringError;
use farebox_metering::proof::{self, Proof, Proofs};
use farebox_metering::{meters, usage};
use tokio::sync::OnceCell;

use crate::left_out::{self, LeftOut};

pub struct Counter {
    pub app: App,
    pub ws: WorkspaceId,
    states: Once<Period, String>,
    proofs: Once<(String, Period), Arc<Proofs>>,
    totals: Once<(String, Period), Arc<HashMap<String, BigDecimal>>>,
    follow_rule: Once<String, bool>,
    left_out: Once<Period, Arc<HashMap<String, LeftOut>>>,
}

impl Counter {
    pub fn new(app: &App, ws: &WorkspaceId) -> Self {
        Self {
            app: app.clone(),
            ws: ws.clone(),
            states: Once::default(),
            proofs: Once::default(),
            totals: Once::default(),
            follow_rule: Once::default(),
            left_out: Once::default(),
        }
    }

    pub async fn state(&self, period: Period) -> Result<String, MeteringError> {
        self.states.of(period, || proof::state(&self.app, &self.ws, period)).await
    }

    /// A meter's value over a stretch that many subscriptions share.
    pub(super) async fn shared(&self, id: &SubscriptionId, meter: &str, period: Period) -> Result<Proof, MeteringError> {
        let ask = async || Ok(Arc::new(proof::of_all(&self.app, &self.ws, meter, period).await?));
        self.proofs.of((meter.to_owned(), period), ask).await?.of(id)
    }

    /// The same without proof.
    pub async fn shared_total(&self, id: &SubscriptionId, meter: &str, period: Period) -> Result<BigDecimal, MeteringError> {
        let ask = async || Ok(Arc::new(usage::totals(&self.app, &self.ws, meter, period).await?));
        let totals = self.totals.of((meter.to_owned(), period), ask).await?;
        Ok(totals.get(id.as_str()).cloned().unwrap_or_default())
    }

    /// Whether the workspace's rule decides which calls a meter counts.
    pub(super) async fn follows_rule(&self, meter: &str) -> Result<bool, MeteringError> {
        let ask = async || {
            let meter = meters::get(&mut *self.app.pg.acquire().await?, &self.ws, meter).await?;
            meter.map_or(Ok(false), |meter| meter.definition.follows_rule())
        };
        self.follow_rule.of(meter.to_owned(), ask).await
    }

    /// Calls of a subscription that the rule leaves out.
    pub(super) async fn left_out(&self, id: &SubscriptionId, period: Period) -> Result<LeftOut, MeteringError> {
        let ask = async || Ok(Arc::new(left_out::of_all(&self.app, &self.ws, period).await?));
        Ok(self.left_out.of(period, ask).await?.get(id.as_str()).cloned().unwrap_or_default())
    }
}

/// Answers: of many who want the same, one asks, and the others wait for it; other questions do not.
struct Once<K, V>(Mutex<HashMap<K, Arc<OnceCell<V>>>>);

impl<K, V> Default for Once<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Once<K, V> {
    async fn of<F>(&self, key: K, ask: impl FnOnce() -> F) -> Result<V, MeteringError>
    where
        F: Future<Output = Result<V, MeteringError>>,
    {
        let cell = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        cell.get_or_try_init(ask).await.cloned()
    }
}
