//! Re-derives an invoice from raw events by the queries sealed in it, and names every difference since: in quantity,
//! in the events behind it, in the amount, and in what attributed them.

use bigdecimal::BigDecimal;
use farebox_core::App;
use farebox_core::ids::{InvoiceId, InvoiceLineId, WorkspaceId};
use farebox_core::money::{Money, decimal_string};
use farebox_metering::proof::Proof;
use serde::Serialize;
use sqlx::PgConnection;

use crate::gather::recount;
use crate::invoices::{self, Invoice, InvoiceLine};
use crate::rating::lines::Basis;
use crate::rating::plan::{Price, Proration};
use crate::rating::usage::usage as usage_lines;
use crate::rating::{Line, LineKind, Scope, Usage};
use crate::{BillingError, calendar, plans, sla};

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
    if let (LineKind::ServiceCredit, Some(sealed)) = (line.kind, &line.proof) {
        let billed = Figures { quantity: line.quantity.clone(), amount: line.amount, events: None, hash: None };
        let differences = sla::audit(app, ws, sealed, line.amount).await?;
        let (line, name) = (line.id.clone(), line.name.clone());
        return Ok(AuditedLine { line, name, equal: differences.is_empty(), billed, rederived: None, differences });
    }
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
    if !matches!(line.kind, LineKind::Usage | LineKind::Adjustment) {
        return Ok(audited);
    }
    // The bounds of a matrix, and corrections of minimums and caps, follow from other lines.
    let follows = line.basis.is_none()
        && line.proof.is_none()
        && (line.kind == LineKind::Adjustment || line.explanation.starts_with("the lines of "));
    if follows {
        return Ok(audited);
    }
    let Some(sealed) = sealed else {
        audited.equal = false;
        audited.differences.push("the line has no proof; it cannot be re-derived".to_owned());
        return Ok(audited);
    };
    let (again, rated) = rerate(app, conn, ws, invoice, line, &sealed).await?;
    let moved = moved(&sealed, &again);
    let rederived = Figures { quantity: rated.quantity, amount: rated.amount, events: Some(again.events), hash: Some(again.hash) };
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

/// What the line was counted from, counted again; and what it comes to by the price that it was billed by.
async fn rerate(
    app: &App,
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &Invoice,
    line: &InvoiceLine,
    sealed: &Proof,
) -> Result<(Proof, Line), BillingError> {
    let (price, proration) = price_of(conn, ws, line).await?;
    let workspace = farebox_core::workspace::by_id(conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    let zone = workspace.time_zone;
    let (usage, again) = recount(app, ws, &price, line.value.as_deref(), sealed, invoice.currency).await?;
    let (of, usage) = match &line.basis {
        // What came before in the period, and what was prepaid, is as it was when the line was rated.
        Some(Basis { of, usage: sealed }) => {
            (*of, Usage { before: sealed.before.clone(), prior: sealed.prior.clone(), prepaid: sealed.prepaid.clone(), ..usage })
        }
        None => (calendar::period_of(line.period.start, zone)?, usage),
    };
    let scope = Scope { currency: invoice.currency, zone, period: of, part: line.period, proration };
    // One value of a matrix is a line of its own: the bounds hold all of them together, by another line.
    let unbounded = if line.value.is_some() { Price { minimum: None, maximum: None, ..price } } else { price };
    let rated = usage_lines(&unbounded, &usage, &scope)?;
    let rated = rated.into_iter().next().ok_or(BillingError::NotFound("price"))?;
    Ok((again, rated))
}

async fn price_of(conn: &mut PgConnection, ws: &WorkspaceId, line: &InvoiceLine) -> Result<(Price, Proration), BillingError> {
    if let Some(add_on) = &line.add_on {
        let json =
            sqlx::query_scalar!("SELECT price FROM subscription_add_ons WHERE workspace_id = $1 AND id = $2", ws.as_str(), add_on.as_str())
                .fetch_one(conn)
                .await?;
        return Ok((serde_json::from_value(json).map_err(|e| BillingError::unreadable("an add-on", e))?, Proration::Second));
    }
    let version = line.plan_version.as_ref().ok_or(BillingError::NotFound("plan version"))?;
    let plan = plans::by_version(conn, ws, version).await?.ok_or(BillingError::NotFound("plan version"))?.definition;
    let price = plan.prices.into_iter().find(|price| Some(&price.name) == line.price.as_ref()).ok_or(BillingError::NotFound("price"))?;
    Ok((price, plan.terms.proration))
}
