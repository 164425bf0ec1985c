//! What a subscription's period costs: phases and add-ons, usage with its proof, fees billed before; rated by pure
//! functions, and [`assemble`]d with discounts, credits and tax. Serves the close (sealed, from raw events) and the preview (quick, from rollups) alike.

mod assemble;
mod billed;
mod count;
mod late;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::ids::{AddOnId, InvoiceLineId, PlanVersionId, WorkspaceId};
use farebox_core::money::Currency;
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::proof;
use sqlx::PgConnection;

pub(crate) use assemble::{Beside, assemble};
pub(crate) use count::{count_usage, recount};
pub(crate) use late::{corrections, with_corrections};

use crate::rating::cycle::{self, BilledFee, Cycle, CycleLine, FOREVER, Part, Source, UsedKey};
use crate::rating::difference::{Continued, less_billed};
use crate::rating::plan::Terms;
use crate::rating::{Line, LineKind, PlanDefinition, Usage};
use crate::subscriptions::{self, Subscription};
use crate::{BillingError, plans, sla};

/// Where quantities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// From raw events, each with the proof that is sealed with its line.
    Proven,
    /// From rollups and the raw tail: equal, faster, without proof.
    Quick,
}

/// The period of an invoice and the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub period: Period,
    pub next: Period,
}

/// A rated line with what is stored beside it.
#[derive(Debug, Clone)]
pub struct GatheredLine {
    /// None for what is not of a price: carried over from other invoices.
    pub source: Option<Source>,
    pub line: Line,
    pub proof: Option<serde_json::Value>,
    /// The first line that billed what this one corrects or continues.
    pub adjusts: Option<InvoiceLineId>,
    /// Of an adjustment: what kind of line it would have been in its period.
    pub of: Option<LineKind>,
}

impl From<CycleLine> for GatheredLine {
    fn from(CycleLine { source, line }: CycleLine) -> Self {
        Self { source: Some(source), line, proof: None, adjusts: None, of: None }
    }
}

#[derive(Debug, Clone)]
pub struct Gathered {
    pub currency: Currency,
    pub lines: Vec<GatheredLine>,
    /// Of the plan in force last.
    pub terms: Terms,
    /// Names of the plans in force in the period.
    pub plans: Vec<String>,
}

/// No fee is billed longer ahead than a year.
const LONGEST_AHEAD_DAYS: i64 = 400;

/// The whole invoice of a period.
pub async fn gather(
    app: &App,
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    span: Span,
    counting: Counting,
) -> Result<Gathered, BillingError> {
    let billed = billed_before(conn, subscription, span.period).await?;
    let definitions = definitions(conn, &workspace.id, subscription, &billed).await?;
    let cycle = cycle_of(workspace, subscription, span, billed, &definitions)?;
    let mut lines: Vec<_> = cycle::fee_lines(&cycle)?.into_iter().map(GatheredLine::from).collect();
    let counted = count_all(app, conn, &workspace.id, subscription, &cycle, counting).await?;
    lines.extend(usage(conn, workspace, subscription, &cycle, &counted).await?);
    lines.extend(sla::lines(app, &workspace.id, subscription, &cycle, &counted.used, counting).await?);
    lines.extend(late::corrections(app, conn, workspace, subscription, counting).await?);
    Ok(gathered(subscription, &cycle, lines))
}

/// The usage of a period so far, until `at`, that is not billed yet: for an invoice within the period.
pub async fn gather_until(
    app: &App,
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    span: Span,
    at: DateTime<Utc>,
    counting: Counting,
) -> Result<Gathered, BillingError> {
    let definitions = definitions(conn, &workspace.id, subscription, &[]).await?;
    let so_far = Span { period: Period { start: span.period.start, end: at }, next: span.next };
    let mut cycle = cycle_of(workspace, subscription, so_far, Vec::new(), &definitions)?;
    cycle.interim = true;
    for part in &mut cycle.parts {
        part.stretch.end = part.stretch.end.min(at);
    }
    cycle.parts.retain(|part| part.stretch.start < part.stretch.end);
    let counted = count_all(app, conn, &workspace.id, subscription, &cycle, counting).await?;
    let mut lines = usage(conn, workspace, subscription, &cycle, &counted).await?;
    lines.retain(|line| !line.line.amount.is_zero());
    Ok(gathered(subscription, &cycle, lines))
}

fn gathered(subscription: &Subscription, cycle: &Cycle, lines: Vec<GatheredLine>) -> Gathered {
    let last = cycle.parts.iter().rfind(|part| part.stretch.start < cycle.period.end && matches!(part.source, Source::Plan(_)));
    let terms = last.and_then(|part| cycle.plans.get(&part.source)).map(|plan| plan.terms.clone()).unwrap_or_default();
    let in_force =
        subscription.phases.iter().filter(|phase| phase.from < cycle.period.end && phase.to.is_none_or(|to| to > cycle.period.start));
    let plans = in_force.map(|phase| phase.plan.clone()).collect();
    Gathered { currency: cycle.currency, lines, terms, plans }
}

/// The usage lines of a period, less what earlier invoices have of it.
async fn usage(
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    cycle: &Cycle<'_>,
    counted: &CountedAll,
) -> Result<Vec<GatheredLine>, BillingError> {
    let whole = cycle::usage_lines(cycle, &counted.used)?;
    for CycleLine { line, .. } in &whole {
        if let Some(alert) = &line.alert {
            tracing::warn!(workspace = workspace.name, subscription = %subscription.id, "{alert}");
        }
    }
    let billed = billed::usage_lines(conn, &subscription.id, cycle.period, cycle.currency).await?;
    Ok(less_billed(whole, &billed)?.into_iter().map(|continued| counted.with_proof(continued)).collect())
}

struct CountedAll {
    used: BTreeMap<UsedKey, Usage>,
    proofs: BTreeMap<(UsedKey, Option<String>), serde_json::Value>,
}

impl CountedAll {
    fn with_proof(&self, continued: Continued) -> GatheredLine {
        let Continued { source, line, adjusts, of } = continued;
        let key = (source.clone(), line.price.clone().unwrap_or_default(), line.period.start);
        let proof = self.proofs.get(&(key, line.value.clone())).cloned().filter(|_| line.basis.is_some());
        GatheredLine { source: Some(source), line, proof, adjusts, of }
    }
}

/// Counts everything the period wants. With proof, the state of the events is noted first: what comes later is late.
async fn count_all(
    app: &App,
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &Subscription,
    cycle: &Cycle<'_>,
    counting: Counting,
) -> Result<CountedAll, BillingError> {
    let wanted = cycle::wanted(cycle)?;
    if counting == Counting::Proven && !cycle.interim {
        let counted = late::counted(&wanted, cycle.period);
        let state = proof::state(app, ws, counted).await?;
        late::note(conn, ws, &subscription.id, cycle.period, counted, &state).await?;
    }
    let mut all = CountedAll { used: BTreeMap::new(), proofs: BTreeMap::new() };
    for wanted in wanted {
        let counted = count::count(app, ws, subscription, &wanted, cycle.currency, counting).await?;
        for (value, proof) in counted.proofs {
            all.proofs.insert((wanted.key(), value), proof);
        }
        all.used.insert(wanted.key(), counted.usage);
    }
    Ok(all)
}

/// The subscription's cycle, as the pure functions rate it.
pub(crate) fn cycle_of<'a>(
    workspace: &Workspace,
    subscription: &Subscription,
    span: Span,
    billed: Vec<BilledFee>,
    plans: &'a BTreeMap<Source, PlanDefinition>,
) -> Result<Cycle<'a>, BillingError> {
    Ok(Cycle {
        currency: subscription.currency.parse().map_err(|e| BillingError::unreadable("a subscription", e))?,
        zone: workspace.time_zone,
        anchor: subscription.started_at,
        period: span.period,
        next: span.next,
        parts: parts(subscription),
        interim: false,
        keep_after: subscription.ended_at.filter(|_| !subscription.credit_at_end),
        billed,
        plans,
    })
}

/// Phases, and add-ons as far as the subscription is in force.
pub(crate) fn parts(subscription: &Subscription) -> Vec<Part> {
    let mut parts = Vec::new();
    for phase in &subscription.phases {
        let stretch = Period { start: phase.from, end: phase.to.unwrap_or(FOREVER) };
        let source = Source::Plan(phase.plan_version.clone());
        parts.push(Part { source, stretch, trial: phase.trial, quantity: phase.quantity.clone() });
        for add_on in &subscription.add_ons {
            if let Some(stretch) = stretch.intersect(&Period { start: add_on.from, end: add_on.to.unwrap_or(FOREVER) }) {
                let source = Source::AddOn(add_on.id.clone());
                parts.push(Part { source, stretch, trial: phase.trial, quantity: add_on.quantity.clone() });
            }
        }
    }
    parts
}

/// Fees that earlier invoices billed in advance, and gave back, as far as they may concern the period.
async fn billed_before(conn: &mut PgConnection, subscription: &Subscription, period: Period) -> Result<Vec<BilledFee>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT l.plan_version_id AS "version: PlanVersionId", l.add_on_id AS "add_on: AddOnId", l.price AS "price!", l.period_start,
                  l.period_end, l.quantity
           FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
           WHERE i.subscription_id = $1 AND l.kind = 'fee' AND l.period_end > $2 ORDER BY i.id, l.position"#,
        subscription.id.as_str(),
        period.start - TimeDelta::days(LONGEST_AHEAD_DAYS)
    )
    .fetch_all(conn)
    .await?;
    let fees = rows.into_iter().filter_map(|row| {
        let source = row.version.map(Source::Plan).or(row.add_on.map(Source::AddOn))?;
        let stretch = Period { start: row.period_start, end: row.period_end };
        Some(BilledFee { source, price: row.price, stretch, quantity: row.quantity })
    });
    Ok(fees.collect())
}

/// The plans of every phase, add-on, and fee billed before.
async fn definitions(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    subscription: &Subscription,
    billed: &[BilledFee],
) -> Result<BTreeMap<Source, PlanDefinition>, BillingError> {
    let before = billed.iter().filter_map(|fee| match &fee.source {
        Source::Plan(version) => Some(version),
        Source::AddOn(_) => None,
    });
    let beside = subscription.add_ons.iter().map(|add_on| &add_on.beside);
    let phases = subscription.phases.iter().map(|phase| &phase.plan_version);
    Ok(sources(subscription, &plans::of(conn, ws, phases.chain(before).chain(beside)).await?))
}

/// Plan versions and add-ons as where prices come from. An add-on is a plan of one price, on the periods and terms of
/// the plan it stands beside.
pub(crate) fn sources(subscription: &Subscription, versions: &subscriptions::Plans) -> BTreeMap<Source, PlanDefinition> {
    let mut found: BTreeMap<_, _> = versions.iter().map(|(version, plan)| (Source::Plan(version.clone()), plan.clone())).collect();
    for add_on in &subscription.add_ons {
        if let Some(plan) = versions.get(&add_on.beside) {
            found.insert(Source::AddOn(add_on.id.clone()), plan.of_one_price(add_on.price.clone()));
        }
    }
    found
}
