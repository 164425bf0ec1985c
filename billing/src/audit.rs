//! Re-derives an invoice from raw events by the queries sealed in it, and names every difference since: in quantity,
//! in the events behind it, in the amount, and in what attributed them.

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::{Money, decimal_string};
use farebox_metering::proof::{self, Proof};
use serde::Serialize;
use sqlx::PgConnection;

use crate::invoices::{self, Invoice, InvoiceLine};
use crate::rating::{LineKind, Scope, Usage, usage_lines};
use crate::{BillingError, calendar, plans};

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct AuditReport {
    pub invoice: InvoiceId,
    pub number: Option<String>,
    /// Whether every line comes out as it was billed, and the lines add up to the totals.
    pub equal: bool,
    pub lines: Vec<AuditedLine>,
    /// Of the invoice as a whole.
    pub differences: Vec<String>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct AuditedLine {
    pub line: InvoiceLineId,
    pub name: String,
    pub equal: bool,
    pub billed: Figures,
    /// None for lines that do not come from events: fees, minimums, what was carried over.
    pub rederived: Option<Figures>,
    pub differences: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Figures {
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub quantity: BigDecimal,
    #[schema(value_type = String)]
    pub amount: Money,
    /// Events behind the quantity.
    pub events: Option<u64>,
    /// Over their ids.
    pub hash: Option<String>,
}

pub async fn invoice(app: &App, ws: &WorkspaceId, id: &InvoiceId) -> Result<AuditReport, BillingError> {
    let mut conn = app.pg.acquire().await?;
    let invoice = invoices::get(&mut conn, ws, id).await?.ok_or(BillingError::NotFound("invoice"))?;
    let mut lines = Vec::with_capacity(invoice.lines.len());
    for line in &invoice.lines {
        lines.push(audit_line(app, &mut conn, ws, &invoice, line).await?);
    }
    let differences = sums(&invoice)?;
    let equal = differences.is_empty() && lines.iter().all(|line| line.equal);
    Ok(AuditReport { invoice: invoice.id, number: invoice.number, equal, lines, differences })
}

/// The lines add up to the totals.
fn sums(invoice: &Invoice) -> Result<Vec<String>, BillingError> {
    let mut differences = Vec::new();
    let net = Money::sum(invoice.lines.iter().map(InvoiceLine::net), invoice.currency)?;
    let tax = Money::sum(invoice.lines.iter().filter_map(|line| line.tax.as_ref()).map(|tax| tax.amount), invoice.currency)?;
    if net != invoice.subtotal {
        differences.push(format!("the lines come to {net} without tax, the invoice says {}", invoice.subtotal));
    }
    if tax != invoice.tax {
        differences.push(format!("the lines' taxes come to {tax}, the invoice says {}", invoice.tax));
    }
    Ok(differences)
}

async fn audit_line(
    app: &App,
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &Invoice,
    line: &InvoiceLine,
) -> Result<AuditedLine, BillingError> {
    let sealed: Option<Proof> =
        line.proof.clone().map(serde_json::from_value).transpose().map_err(|e| BillingError::unreadable("a sealed proof", e))?;
    let billed = Figures {
        quantity: line.quantity.clone(),
        amount: line.amount,
        events: sealed.as_ref().map(|proof| proof.events),
        hash: sealed.as_ref().map(|proof| proof.hash.clone()),
    };
    let mut audited =
        AuditedLine { line: line.id.clone(), name: line.name.clone(), equal: true, billed, rederived: None, differences: Vec::new() };
    if line.kind != LineKind::Usage {
        return Ok(audited);
    }
    let Some(sealed) = sealed else {
        audited.equal = false;
        audited.differences.push("the line has no proof; it cannot be re-derived".to_owned());
        return Ok(audited);
    };
    let again = proof::of(app, ws, &sealed.subscription, &sealed.meter, sealed.period).await?;
    let amount = rerate(conn, ws, invoice, line, &again.value).await?;
    let moved = moved(&sealed, &again);
    let rederived = Figures { quantity: again.value, amount, events: Some(again.events), hash: Some(again.hash) };
    let billed = &audited.billed;
    let mut differences = Vec::new();
    if billed.quantity != rederived.quantity {
        differences.push(format!("the quantity is {} now and was {}", rederived.quantity.normalized(), billed.quantity.normalized()));
    }
    if billed.events != rederived.events {
        differences.push(format!("{} events are behind it now, {} were", rederived.events.unwrap_or(0), billed.events.unwrap_or(0)));
    } else if billed.hash != rederived.hash {
        differences.push("as many events are behind it as were, but not the same ones".to_owned());
    }
    if billed.amount != rederived.amount {
        differences.push(format!("the amount would be {} now and was {}", rederived.amount, billed.amount));
    }
    audited.equal = differences.is_empty();
    if !audited.equal {
        differences.extend(moved);
    }
    audited.differences = differences;
    audited.rederived = Some(rederived);
    Ok(audited)
}

/// What attributes events differently since: reasons for a difference beside late, voided and amended events.
fn moved(sealed: &Proof, again: &Proof) -> Vec<String> {
    let (then, now) = (&sealed.versions, &again.versions);
    let mut moved = Vec::new();
    for (what, then, now) in [
        ("links of subjects and keys", then.links, now.links),
        ("subscriptions", then.subscriptions, now.subscriptions),
        ("the counting rule", u64::from(then.rule.unsigned_abs()), u64::from(now.rule.unsigned_abs())),
        ("the meter", u64::from(sealed.meter_version.unsigned_abs()), u64::from(again.meter_version.unsigned_abs())),
    ] {
        if then != now {
            moved.push(format!("{what}: changed since, from version {then} to {now}"));
        }
    }
    moved
}

/// The line's amount for a quantity, by the plan version that priced it.
async fn rerate(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &Invoice,
    line: &InvoiceLine,
    value: &BigDecimal,
) -> Result<Money, BillingError> {
    let version = line.plan_version.as_ref().ok_or(BillingError::NotFound("plan version"))?;
    let plan = plans::by_version(conn, ws, version).await?.ok_or(BillingError::NotFound("plan version"))?.definition;
    let workspace = farebox_core::workspace::by_id(conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let zone = workspace.time_zone;
    let scope = Scope {
        currency: invoice.currency,
        zone,
        period: calendar::period_of(line.period.start, zone)?,
        part: line.period,
        proration: plan.terms.proration,
    };
    let used = Usage { value: value.clone(), prior: None };
    let meters = plan.meters().into_iter().map(|meter| (meter.to_owned(), used.clone())).collect();
    let rated = usage_lines(&plan, &scope, &meters)?;
    let found = rated.into_iter().find(|rated| rated.price == line.price);
    Ok(found.ok_or(BillingError::NotFound("price"))?.amount)
}
