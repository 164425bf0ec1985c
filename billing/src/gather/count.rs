//! What was counted for a price: from raw events with proof, or quickly from rollups.

use std::collections::BTreeMap;
use std::sync::Arc;

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{SubscriptionId, WorkspaceId};
use farebox_core::money::Currency;
use farebox_core::period::Period;
use farebox_metering::proof::{self, Proof};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, derived};

use super::{Counter, Counting};
use crate::BillingError;
use crate::proofs::Sealed;
use crate::rating::cycle::Wanted;
use crate::rating::plan::{Model, Price};
use crate::rating::usage::EventTerms;
use crate::rating::{Detail, Usage};
use crate::subscriptions::Subscription;

pub(super) struct Counted {
    pub usage: Usage,
    /// By the value of the dimension that a line is for.
    pub proofs: BTreeMap<Option<String>, Sealed>,
}

pub(super) async fn count(
    counter: &Counter,
    subscription: &Subscription,
    wanted: &Wanted,
    currency: Currency,
    counting: Counting,
) -> Result<Counted, BillingError> {
    let stretch = wanted.counted_over();
    let (id, meter) = (&subscription.id, wanted.meter.as_str());
    let asked = Asked { id, price: &wanted.price, meter, stretch, shared: wanted.alone };
    let (mut usage, found) = counted(counter, asked, currency, counting).await?;
    if let Some(before) = wanted.before {
        usage.before = usage::total(&counter.app, &counter.ws, meter, id, before).await?;
    }
    let proofs = found.into_iter().map(|(value, proof)| (value, Sealed::Counted(Arc::new(proof)))).collect();
    Ok(Counted { usage, proofs })
}

/// What was counted for a price, without proof.
pub(crate) async fn count_usage(
    app: &App,
    ws: &WorkspaceId,
    subscription: &Subscription,
    wanted: &Wanted,
    currency: Currency,
    counting: Counting,
) -> Result<Usage, BillingError> {
    Ok(count(&Counter::new(app, ws), subscription, wanted, currency, counting).await?.usage)
}

/// Counts again what a sealed line was counted from, by the same price.
pub(crate) async fn recount(
    app: &App,
    ws: &WorkspaceId,
    price: &Price,
    value: Option<&str>,
    sealed: &Proof,
    currency: Currency,
) -> Result<(Usage, Proof), BillingError> {
    let asked = Asked { id: &sealed.subscription, price, meter: &sealed.meter, stretch: sealed.period, shared: false };
    let (mut usage, found) = counted(&Counter::new(app, ws), asked, currency, Counting::Proven).await?;
    let mut found: BTreeMap<_, _> = found.into_iter().collect();
    let again = match found.remove(&value.map(str::to_owned)) {
        Some(again) => again,
        // A value of which nothing is left.
        None => Proof { events: 0, hash: "0".repeat(32), value: BigDecimal::from(0), ..sealed.clone() },
    };
    if let (Some(value), Detail::By(by)) = (value, &mut usage.detail) {
        by.retain(|of, _| of == value);
        by.entry(value.to_owned()).or_insert_with(|| BigDecimal::from(0));
        usage.value = again.value.clone();
    }
    Ok((usage, again))
}

type Found = Vec<(Option<String>, Proof)>;

/// One question, asked in several places.
#[derive(Clone, Copy)]
struct Asked<'a> {
    id: &'a SubscriptionId,
    price: &'a Price,
    meter: &'a str,
    stretch: Period,
    /// Many subscriptions ask for the same stretch.
    shared: bool,
}

async fn counted(counter: &Counter, asked: Asked<'_>, currency: Currency, counting: Counting) -> Result<(Usage, Found), BillingError> {
    let (app, ws, Asked { id, price, meter, stretch, .. }) = (&counter.app, &counter.ws, asked);
    match &price.model {
        Model::Matrix { dimension, .. } => {
            let dimension: Dimension = dimension.parse()?;
            if counting == Counting::Quick {
                let query = UsageQuery::new(ws, meter, stretch).of_subscription(id).by(dimension.clone());
                let rows = usage::query(app, &query).await?.rows;
                let of = |mut group: BTreeMap<String, String>| group.remove(dimension.name()).unwrap_or_default();
                return Ok((by_value(rows.into_iter().map(|row| (of(row.group), row.value)).collect()), Vec::new()));
            }
            let found = derived::by_value(app, ws, id, meter, &dimension, stretch).await?;
            let usage = by_value(found.iter().map(|(value, proof)| (value.clone(), proof.value.clone())).collect());
            Ok((usage, found.into_iter().map(|(value, proof)| (Some(value), proof)).collect()))
        }
        Model::Percentage { .. } => {
            let proof = proven(counter, asked).await?;
            let mut usage = Usage { detail: Detail::Events(proof.events), ..Usage::of(proof.value.clone()) };
            if let Some(terms) = EventTerms::of(price, currency)?.filter(EventTerms::bounded) {
                let fee = derived::EventFee { rate: terms.rate, fixed: terms.fixed, min: terms.min, max: terms.max, free: terms.free };
                let fees = derived::fees(app, ws, id, meter, stretch, &fee).await?;
                usage.detail = Detail::Fees { events: proof.events, fees };
            }
            Ok((usage, vec![(None, proof)]))
        }
        _ if counting == Counting::Quick => Ok((Usage::of(usage::total(app, ws, meter, id, stretch).await?), Vec::new())),
        _ => {
            let proof = proven(counter, asked).await?;
            Ok((Usage::of(proof.value.clone()), vec![(None, proof)]))
        }
    }
}

async fn proven(counter: &Counter, asked: Asked<'_>) -> Result<Proof, BillingError> {
    if asked.shared {
        return Ok(counter.shared(asked.id, asked.meter, asked.stretch).await?);
    }
    Ok(proof::of(&counter.app, &counter.ws, asked.id, asked.meter, asked.stretch).await?)
}

fn by_value(by: BTreeMap<String, BigDecimal>) -> Usage {
    Usage { detail: Detail::By(by.clone()), ..Usage::of(by.values().sum()) }
}
