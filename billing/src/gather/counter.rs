//! Counts for one run over many subscriptions. What is the same question for all of them (the state of a period's events,
//! a meter's sums over a whole period) is asked once, however many they are.
//!
//! A state is always taken before the counts that stand beside it, so that what comes later is found to be late.

use std::collections::HashMap;
use std::sync::Arc;

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::period::Period;
use farebox_metering::MeteringError;
use farebox_metering::proof::{self, Proof, Proofs};
use farebox_metering::usage;
use tokio::sync::Mutex;

pub struct Counter<'a> {
    pub app: &'a App,
    pub ws: &'a WorkspaceId,
    states: Mutex<HashMap<Period, String>>,
    proofs: Mutex<HashMap<(String, Period), Arc<Proofs>>>,
    totals: Mutex<HashMap<(String, Period), Arc<HashMap<String, BigDecimal>>>>,
}

impl<'a> Counter<'a> {
    pub fn new(app: &'a App, ws: &'a WorkspaceId) -> Self {
        Self { app, ws, states: Mutex::default(), proofs: Mutex::default(), totals: Mutex::default() }
    }

    pub async fn state(&self, period: Period) -> Result<String, MeteringError> {
        // Held while it is asked for: of many who want the same, one asks.
        let mut states = self.states.lock().await;
        if let Some(state) = states.get(&period) {
            return Ok(state.clone());
        }
        let state = proof::state(self.app, self.ws, period).await?;
        states.insert(period, state.clone());
        Ok(state)
    }

    /// A meter's value over a stretch that many subscriptions share.
    pub(super) async fn shared(&self, id: &SubscriptionId, meter: &str, period: Period) -> Result<Proof, MeteringError> {
        let proofs = {
            let mut known = self.proofs.lock().await;
            let key = (meter.to_owned(), period);
            match known.get(&key) {
                Some(proofs) => proofs.clone(),
                None => {
                    let proofs = Arc::new(proof::of_all(self.app, self.ws, meter, period).await?);
                    known.insert(key, proofs.clone());
                    proofs
                }
            }
        };
        proofs.of(id)
    }

    /// The same without proof.
    pub async fn shared_total(&self, id: &SubscriptionId, meter: &str, period: Period) -> Result<BigDecimal, MeteringError> {
        let mut known = self.totals.lock().await;
        let key = (meter.to_owned(), period);
        let totals = match known.get(&key) {
            Some(totals) => totals.clone(),
            None => {
                let totals = Arc::new(usage::totals(self.app, self.ws, meter, period).await?);
                known.insert(key, totals.clone());
                totals
            }
        };
        Ok(totals.get(id.as_str()).cloned().unwrap_or_default())
    }
}
