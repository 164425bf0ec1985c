//! What a subscription's period costs: phases, usage with its proof, fees billed before, tax; rated by pure functions.
//! Serves the close (sealed, from raw events) and the preview (quick, from rollups) alike.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{PlanVersionId, WorkspaceId};
use farebox_core::money::Currency;
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::consumers::Consumer;
use farebox_metering::{proof, usage};
use serde::Deserialize;
use sqlx::PgConnection;

use crate::rating::cycle::{self, BilledFee, Cycle, Part};
use crate::rating::plan::{Decimal, Terms};
use crate::rating::{Line, PlanDefinition, RatedLine, TaxRate, Usage, total};
use crate::subscriptions::Subscription;
use crate::{BillingError, calendar, plans};

/// Where quantities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// From raw events, each with the proof that is sealed with its line.
    Proven,
    /// From rollups and the raw tail: equal, faster, without proof.
    Quick,
}

/// A rated line with what is stored beside it.
#[derive(Debug, Clone)]
pub struct GatheredLine {
    pub version: PlanVersionId,
    pub rated: RatedLine,
    pub proof: Option<serde_json::Value>,
}

#[derive(Debug, Clone)]
pub struct Gathered {
    pub currency: Currency,
    pub lines: Vec<GatheredLine>,
    pub tax_rate: Option<TaxRate>,
    /// Of the plan in force last.
    pub terms: Terms,
}

pub async fn gather(
    app: &App,
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    consumer: &Consumer,
    period: Period,
    counting: Counting,
) -> Result<Gathered, BillingError> {
    let ws = &workspace.id;
    let currency: Currency = subscription.currency.parse().map_err(|e| BillingError::unreadable("a subscription", e))?;
    let next = calendar::period_of(period.end, workspace.time_zone)?;
    let billed = billed_before(conn, subscription, period).await?;
    let definitions = definitions(conn, ws, subscription, &billed).await?;
    let mut parts = parts(subscription, period);
    let mut proofs = BTreeMap::new();
    let only = parts.len() == 1;
    for part in parts.iter_mut().filter(|part| !part.trial) {
        // Attribution itself keeps to the time the subscription was in force. So one that had a single phase may be
        // counted over the whole period, which is the same question for all of them, and is answered for all at once.
        let counted = if only { period } else { part.stretch };
        for meter in definitions.get(&part.version).map(PlanDefinition::meters).unwrap_or_default() {
            let (value, proof) = count(app, ws, subscription, meter, counted, counting).await?;
            part.meters.insert(meter.to_owned(), Usage { value, prior: None });
            proofs.insert((meter.to_owned(), part.stretch.start), proof);
        }
    }
    let terms = parts.last().and_then(|part| definitions.get(&part.version)).map(|plan| plan.terms.clone()).unwrap_or_default();
    let cycle = Cycle {
        currency,
        zone: workspace.time_zone,
        period,
        next,
        parts,
        next_parts: self::parts(subscription, next),
        billed,
        plans: &definitions,
    };
    let tax_rate = tax_for(workspace, consumer)?;
    let mut lines = Vec::new();
    for (version, line) in cycle::lines(&cycle)? {
        if let Some(alert) = &line.alert {
            tracing::warn!(workspace = workspace.name, subscription = %subscription.id, "{alert}");
        }
        let proof = line.meter.as_ref().and_then(|meter| proofs.get(&(meter.clone(), line.period.start)).cloned().flatten());
        lines.push(GatheredLine { version, rated: taxed(line, tax_rate.as_ref())?, proof });
    }
    Ok(Gathered { currency, lines, tax_rate, terms })
}

fn taxed(line: Line, rate: Option<&TaxRate>) -> Result<RatedLine, BillingError> {
    let currency = line.amount.currency;
    let mut rated = total(vec![line], rate, currency)?;
    Ok(rated.lines.remove(0))
}

fn parts(subscription: &Subscription, of: Period) -> Vec<Part> {
    let mut parts = Vec::new();
    for phase in &subscription.phases {
        let end = phase.to.unwrap_or(of.end);
        if let Some(stretch) = Period::new(phase.from, end.max(phase.from)).and_then(|p| p.intersect(&of)) {
            parts.push(Part { version: phase.plan_version.clone(), stretch, trial: phase.trial, meters: BTreeMap::new() });
        }
    }
    parts
}

/// Fees that earlier invoices billed in advance for this period.
async fn billed_before(conn: &mut PgConnection, subscription: &Subscription, period: Period) -> Result<Vec<BilledFee>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT l.plan_version_id AS "version!: PlanVersionId", l.price AS "price!", l.period_start, l.period_end
           FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
           WHERE i.subscription_id = $1 AND i.period_start < $2 AND l.kind = 'fee' AND l.quantity > 0
             AND l.period_start >= $2 AND l.period_start < $3"#,
        subscription.id.as_str(),
        period.start,
        period.end
    )
    .fetch_all(conn)
    .await?;
    let fees = rows.into_iter().map(|row| BilledFee {
        version: row.version,
        price: row.price,
        stretch: Period { start: row.period_start, end: row.period_end },
    });
    Ok(fees.collect())
}

/// The plans of every phase and of every fee billed before.
async fn definitions(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &Subscription,
    billed: &[BilledFee],
) -> Result<BTreeMap<PlanVersionId, PlanDefinition>, BillingError> {
    let mut definitions = BTreeMap::new();
    for version in subscription.phases.iter().map(|phase| &phase.plan_version).chain(billed.iter().map(|fee| &fee.version)) {
        if !definitions.contains_key(version) {
            let plan = plans::by_version(conn, ws, version).await?.ok_or(BillingError::NotFound("plan version"))?;
            definitions.insert(version.clone(), plan.definition);
        }
    }
    Ok(definitions)
}

async fn count(
    app: &App,
    ws: &WorkspaceId,
    subscription: &Subscription,
    meter: &str,
    stretch: Period,
    counting: Counting,
) -> Result<(BigDecimal, Option<serde_json::Value>), BillingError> {
    if counting == Counting::Quick {
        return Ok((usage::total(app, ws, meter, &subscription.id, stretch).await?, None));
    }
    let proof = proof::of(app, ws, &subscription.id, meter, stretch).await?;
    let sealed = serde_json::to_value(&proof).map_err(|e| BillingError::unreadable("a proof", e))?;
    Ok((proof.value, Some(sealed)))
}

#[derive(Deserialize)]
struct WorkspaceTax {
    name: String,
    rate: Decimal,
    inclusive: bool,
    countries: Vec<String>,
}

/// The first tax of the workspace that holds in the consumer's country; one without countries holds everywhere.
fn tax_for(workspace: &Workspace, consumer: &Consumer) -> Result<Option<TaxRate>, BillingError> {
    let taxes: Vec<WorkspaceTax> =
        serde_json::from_value(workspace.taxes.clone()).map_err(|e| BillingError::unreadable("the workspace's taxes", e))?;
    let holds =
        |tax: &WorkspaceTax| tax.countries.is_empty() || consumer.country.as_ref().is_some_and(|country| tax.countries.contains(country));
    Ok(taxes.into_iter().find(holds).map(|tax| TaxRate { name: tax.name, rate: tax.rate, inclusive: tax.inclusive }))
}
