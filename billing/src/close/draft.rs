//! Writes gathered periods as drafts: the invoices, their lines with sealed proofs, and what earlier invoices left to them, in
//! the caller's transaction and in as many statements for a hundred as for one.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, InvoiceId, InvoiceLineId, SubscriptionId, WorkspaceId};
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::consumers::Consumer;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::together;
use crate::gather::{Accounts, Assembled, Beside, Gathered, GatheredLine, Portion, assemble};
use crate::left_out::LeftOut;
use crate::proofs::Queries;
use crate::rating::cycle::Source;
use crate::rating::lines::Basis;
use crate::rating::plan::Terms;
use crate::rating::units::Taken;
use crate::rating::{Line, LineKind, RatedLine};
use crate::{BillingError, coupons, credits, units};

/// An invoice to write: what kind of document it is, and for which period.
#[derive(Debug, Clone, Copy)]
pub struct Document {
    /// `regular`, `threshold`, `adjustment`.
    pub kind: &'static str,
    pub sequence: i32,
    pub period: Period,
}

/// An invoice to be written: whose it is, and what was gathered for it.
pub struct Sheet<'a> {
    /// One, or those that are invoiced together; the first is the one whose period begins first.
    pub parts: Vec<Portion<'a>>,
    pub consolidated: bool,
    pub consumer: &'a Consumer,
    pub document: Document,
    pub gathered: Gathered,
}

/// What became of each.
pub type Written = Vec<(SubscriptionId, Result<Option<InvoiceId>, BillingError>)>;

/// None when another worker was faster: the constraint holds.
pub async fn write(
    conn: &mut PgConnection,
    workspace: &Workspace,
    sheet: Sheet<'_>,
    now: DateTime<Utc>,
) -> Result<Option<InvoiceId>, BillingError> {
    let mut written = write_all(conn, workspace, vec![sheet], now).await?;
    written.pop().ok_or(BillingError::NotFound("draft"))?.1
}

/// What became of each, in their order: a draft, nothing because another worker was faster, or why it cannot be priced; then
/// the others are written all the same. At most one for a consumer, since each uses up what the consumer has.
pub async fn write_all(
    conn: &mut PgConnection,
    workspace: &Workspace,
    sheets: Vec<Sheet<'_>>,
    now: DateTime<Utc>,
) -> Result<Written, BillingError> {
    let (mut results, mut drafts) = assemble_all(conn, workspace, sheets, true).await?;
    let written = insert(conn, workspace, &drafts, now).await?;
    drafts.retain(|draft| written.contains(draft.id.as_str()));
    insert_parts(conn, &workspace.id, &drafts).await?;
    insert_lines(conn, &workspace.id, &drafts).await?;
    take_over(conn, &drafts).await?;
    for draft in &drafts {
        coupons::record(conn, &workspace.id, &draft.id, &draft.assembled.rated.discounts).await?;
        credits::burn(conn, &workspace.id, &draft.id, &draft.assembled.rated.credits).await?;
        units::post(conn, &workspace.id, Some(&draft.id), &draft.units).await?;
    }
    for (_, result) in &mut results {
        if let Ok(id) = result {
            id.take_if(|id| !written.contains(id.as_str()));
        }
    }
    Ok(results)
}

/// What the totals would be, with nothing stored.
pub async fn rehearse_all(
    conn: &mut PgConnection,
    workspace: &Workspace,
    sheets: Vec<Sheet<'_>>,
) -> Result<(Written, Vec<Money>), BillingError> {
    let (results, drafts) = assemble_all(conn, workspace, sheets, false).await?;
    Ok((results, drafts.iter().map(|draft| draft.assembled.rated.total).collect()))
}

/// `lock`: what consumers have is going to be used up in this transaction.
async fn assemble_all<'a>(
    conn: &mut PgConnection,
    workspace: &Workspace,
    sheets: Vec<Sheet<'a>>,
    lock: bool,
) -> Result<(Written, Vec<Draft<'a>>), BillingError> {
    let consumers: Vec<_> = sheets.iter().map(|sheet| sheet.consumer.id.to_string()).collect();
    let of: Vec<_> = sheets.iter().flat_map(|sheet| &sheet.parts).map(|part| (part.subscription, part.period.start)).collect();
    let mut carried = carried(conn, &workspace.id, &consumers).await?;
    let accounts = Accounts::load(conn, workspace, &of, lock).await?;
    let mut results = Vec::with_capacity(sheets.len());
    let mut drafts = Vec::new();
    for Sheet { parts, consolidated, consumer, document, mut gathered } in sheets {
        let (terms, units, left_out) =
            (gathered.terms.clone(), std::mem::take(&mut gathered.units), std::mem::take(&mut gathered.left_out));
        let taken: Vec<_> =
            carried.remove(&consumer.id).unwrap_or_default().into_iter().filter(|left| left.total.currency == gathered.currency).collect();
        gathered.lines.extend(taken.iter().map(|left| left.line(document.period)));
        match assemble(&accounts, workspace, &parts, consumer, gathered) {
            Ok(assembled) => {
                let draft =
                    Draft { id: InvoiceId::new(), parts, consolidated, consumer, document, terms, assembled, taken, units, left_out };
                results.extend(draft.parts.iter().map(|part| (part.subscription.id.clone(), Ok(Some(draft.id.clone())))));
                drafts.push(draft);
            }
            Err(error) => {
                let mut ids: Vec<_> = parts.iter().map(|part| part.subscription.id.clone()).collect();
                results.extend(together::refused(ids.remove(0), ids, error));
            }
        }
    }
    Ok((results, drafts))
}

/// A draft that is to be stored.
struct Draft<'a> {
    id: InvoiceId,
    parts: Vec<Portion<'a>>,
    consolidated: bool,
    consumer: &'a Consumer,
    document: Document,
    terms: Terms,
    assembled: Assembled,
    taken: Vec<Left>,
    units: Vec<(SubscriptionId, Taken)>,
    left_out: LeftOut,
}

/// An issued invoice that was too small to collect, or negative.
struct Left {
    invoice: InvoiceId,
    number: String,
    total: Money,
}

impl Left {
    fn line(&self, period: Period) -> GatheredLine {
        let (number, amount) = (&self.number, self.total);
        let what = if amount.minor < 0 { "credit" } else { "amount too small to collect by itself" };
        let line = Line {
            kind: LineKind::Carried,
            name: format!("From invoice {number}"),
            price: None,
            meter: None,
            value: None,
            period,
            quantity: BigDecimal::from(1),
            amount,
            explanation: format!("{what} of {amount}, tax included, brought over from invoice {number}"),
            counts_to_minimum: false,
            basis: None,
            alert: None,
        };
        GatheredLine { source: None, line, proof: None, adjusts: None, of: None }
    }
}

async fn carried(conn: &mut PgConnection, ws: &WorkspaceId, consumers: &[String]) -> Result<HashMap<ConsumerId, Vec<Left>>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: InvoiceId", consumer_id AS "consumer: ConsumerId", number AS "number!", total_minor, currency FROM invoices
           WHERE workspace_id = $1 AND consumer_id = ANY($2) AND carried AND carried_into IS NULL AND state = 'issued'
           ORDER BY id FOR UPDATE"#,
        ws.as_str(),
        consumers
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<ConsumerId, Vec<Left>> = HashMap::new();
    for row in rows {
        let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("an invoice", e))?;
        let left = Left { invoice: row.id, number: row.number, total: Money::new(row.total_minor, currency) };
        found.entry(row.consumer).or_default().push(left);
    }
    Ok(found)
}

/// The ids of those that were stored.
async fn insert(
    conn: &mut PgConnection,
    workspace: &Workspace,
    drafts: &[Draft<'_>],
    now: DateTime<Utc>,
) -> Result<HashSet<String>, BillingError> {
    let heads = Heads::of(drafts);
    let stored = sqlx::query_scalar!(
        "INSERT INTO invoices (workspace_id, seller, created_at, id, consumer_id, subscription_id, kind, sequence, period_start, period_end, currency,
                               subtotal_minor, tax_minor, total_minor, collect, due_days, buyer, tax_note, consolidated,
                               left_out)
         SELECT $1, $2, $3, * FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::integer[], $9::timestamptz[], $10::timestamptz[],
                                          $11::text[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[], $16::integer[], $17::jsonb[], $18::text[],
                                          $19::boolean[], $20::jsonb[])
         ON CONFLICT DO NOTHING RETURNING id",
        workspace.id.as_str(),
        workspace.seller,
        now,
        &heads.id,
        &heads.consumer,
        &heads.subscription,
        &heads.kind,
        &heads.sequence,
        &heads.start,
        &heads.end,
        &heads.currency,
        &heads.subtotal,
        &heads.tax,
        &heads.total,
        &heads.collect,
        &heads.due_days,
        &heads.buyer,
        &heads.tax_note as &[Option<String>],
        &heads.consolidated,
        &heads.left_out
    )
    .fetch_all(conn)
    .await?;
    Ok(stored.into_iter().collect())
}

/// Invoices by column, as PostgreSQL takes many at once.
#[derive(Default)]
struct Heads {
    id: Vec<String>,
    consumer: Vec<String>,
    subscription: Vec<String>,
    kind: Vec<String>,
    sequence: Vec<i32>,
    start: Vec<DateTime<Utc>>,
    end: Vec<DateTime<Utc>>,
    currency: Vec<String>,
    subtotal: Vec<i64>,
    tax: Vec<i64>,
    total: Vec<i64>,
    collect: Vec<String>,
    due_days: Vec<i32>,
    buyer: Vec<Value>,
    tax_note: Vec<Option<String>>,
    consolidated: Vec<bool>,
    left_out: Vec<Value>,
}

impl Heads {
    fn of(drafts: &[Draft<'_>]) -> Self {
        let mut heads = Self::default();
        for draft in drafts {
            let rated = &draft.assembled.rated;
            heads.id.push(draft.id.to_string());
            heads.consumer.push(draft.consumer.id.to_string());
            heads.subscription.push(draft.parts[0].subscription.id.to_string());
            heads.kind.push(draft.document.kind.to_owned());
            heads.sequence.push(draft.document.sequence);
            heads.start.push(draft.document.period.start);
            heads.end.push(draft.document.period.end);
            heads.currency.push(rated.currency.code().to_owned());
            heads.subtotal.push(rated.subtotal.minor);
            heads.tax.push(rated.tax.minor);
            heads.total.push(rated.total.minor);
            heads.collect.push(draft.terms.collect.as_str().to_owned());
            heads.due_days.push(draft.terms.due_days);
            heads.buyer.push(buyer(draft.consumer, &draft.assembled));
            heads.tax_note.push(draft.assembled.tax_note.clone());
            heads.consolidated.push(draft.consolidated);
            heads.left_out.push(json!(draft.left_out));
        }
        heads
    }
}

/// As they are now, sealed with the invoice.
fn buyer(consumer: &Consumer, assembled: &Assembled) -> Value {
    json!({
        "id": consumer.id, "name": consumer.name, "email": consumer.email, "country": consumer.country, "address": consumer.address,
        "tax_id": assembled.billing.tax_id, "tax_status": assembled.billing.tax_status,
    })
}

/// Those beside the first, which is the invoice's own. That any of them was invoiced before is an error: nothing is written then.
async fn insert_parts(conn: &mut PgConnection, ws: &WorkspaceId, drafts: &[Draft<'_>]) -> Result<(), BillingError> {
    for draft in drafts.iter().filter(|draft| draft.consolidated) {
        // Of a regular one every part is the only one of its period.
        let sequence = if draft.document.kind == "regular" { 0 } else { draft.document.sequence };
        for (n, part) in draft.parts.iter().enumerate() {
            let label = label(part);
            if n == 0 {
                sqlx::query!("UPDATE invoice_parts SET label = $2 WHERE invoice_id = $1", draft.id.as_str(), label)
                    .execute(&mut *conn)
                    .await?;
                continue;
            }
            sqlx::query!(
                "INSERT INTO invoice_parts (invoice_id, subscription_id, workspace_id, kind, sequence, period_start, period_end, label)
                 VALUES ($1, $2, $3, $4, $8, $5, $6, $7)",
                draft.id.as_str(),
                part.subscription.id.as_str(),
                ws.as_str(),
                draft.document.kind,
                part.period.start,
                part.period.end,
                label,
                sequence
            )
            .execute(&mut *conn)
            .await?;
        }
    }
    Ok(())
}

/// What a subscription's lines are called by among others: its product, unless there is but one, and its plan.
fn label(part: &Portion<'_>) -> String {
    let plan = part.plans.last().or(part.subscription.phases.last().map(|phase| &phase.plan)).cloned().unwrap_or_default();
    if part.subscription.product == "default" { plan } else { format!("{}, {plan}", part.subscription.product) }
}

async fn insert_lines(conn: &mut PgConnection, ws: &WorkspaceId, drafts: &[Draft<'_>]) -> Result<(), BillingError> {
    let proofs = drafts.iter().flat_map(|draft| &draft.assembled.beside).filter_map(|beside| beside.proof.as_ref());
    let queries = Queries::of(proofs);
    queries.keep(conn).await?;
    let mut rows = Lines::default();
    for draft in drafts {
        for (position, (line, beside)) in (0..).zip(draft.assembled.lines()) {
            rows.push(&draft.id, position, line, beside, &queries)?;
        }
    }
    sqlx::query!(
        "INSERT INTO invoice_lines (workspace_id, id, invoice_id, position, kind, name, plan_version_id, price, meter, period_start, period_end,
                                    quantity, amount_minor, tax_name, tax_rate, tax_inclusive, tax_minor, explanation, proof, proof_query, add_on_id, value, basis,
                                    discount_minor, credit_minor, adjusts, adjusts_kind, subscription_id)
         SELECT $1, * FROM unnest($2::text[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                                  $10::timestamptz[], $11::timestamptz[], $12::numeric[], $13::bigint[], $14::text[], $15::numeric[], $16::boolean[],
                                  $17::bigint[], $18::text[], $19::jsonb[], $20::text[], $21::text[], $22::text[], $23::jsonb[], $24::bigint[],
                                  $25::bigint[], $26::text[], $27::text[], $28::text[])",
        ws.as_str(),
        &rows.id,
        &rows.invoice,
        &rows.position,
        &rows.kind,
        &rows.name,
        &rows.version as &[Option<String>],
        &rows.price as &[Option<String>],
        &rows.meter as &[Option<String>],
        &rows.start,
        &rows.end,
        &rows.quantity,
        &rows.amount,
        &rows.tax_name as &[Option<String>],
        &rows.tax_rate as &[Option<BigDecimal>],
        &rows.tax_inclusive as &[Option<bool>],
        &rows.tax,
        &rows.explanation,
        &rows.proof as &[Option<Json<Box<RawValue>>>],
        &rows.proof_query as &[Option<String>],
        &rows.add_on as &[Option<String>],
        &rows.value as &[Option<String>],
        &rows.basis as &[Option<Json<&Basis>>],
        &rows.discount,
        &rows.credit,
        &rows.adjusts as &[Option<String>],
        &rows.adjusts_kind as &[Option<String>],
        &rows.subscription as &[Option<String>]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lines by column, as PostgreSQL takes many at once.
#[derive(Default)]
struct Lines<'a> {
    id: Vec<String>,
    invoice: Vec<String>,
    position: Vec<i32>,
    kind: Vec<String>,
    name: Vec<String>,
    version: Vec<Option<String>>,
    price: Vec<Option<String>>,
    meter: Vec<Option<String>>,
    start: Vec<DateTime<Utc>>,
    end: Vec<DateTime<Utc>>,
    quantity: Vec<BigDecimal>,
    amount: Vec<i64>,
    tax_name: Vec<Option<String>>,
    tax_rate: Vec<Option<BigDecimal>>,
    tax_inclusive: Vec<Option<bool>>,
    tax: Vec<i64>,
    explanation: Vec<String>,
    proof: Vec<Option<Json<Box<RawValue>>>>,
    proof_query: Vec<Option<String>>,
    add_on: Vec<Option<String>>,
    value: Vec<Option<String>>,
    basis: Vec<Option<Json<&'a Basis>>>,
    discount: Vec<i64>,
    credit: Vec<i64>,
    adjusts: Vec<Option<String>>,
    adjusts_kind: Vec<Option<String>>,
    subscription: Vec<Option<String>>,
}

impl<'a> Lines<'a> {
    fn push(
        &mut self,
        invoice: &InvoiceId,
        position: i32,
        rated: &'a RatedLine,
        beside: &Beside,
        queries: &Queries<'_>,
    ) -> Result<(), BillingError> {
        let (line, tax) = (&rated.line, rated.tax.as_ref());
        let (version, add_on) = match &beside.source {
            Some(Source::Plan(version)) => (Some(version.to_string()), None),
            Some(Source::AddOn(add_on)) => (None, Some(add_on.to_string())),
            None => (None, None),
        };
        self.id.push(InvoiceLineId::new().to_string());
        self.invoice.push(invoice.to_string());
        self.position.push(position);
        self.kind.push(line.kind.as_str().to_owned());
        self.name.push(line.name.clone());
        self.version.push(version);
        self.price.push(line.price.clone());
        self.meter.push(line.meter.clone());
        self.start.push(line.period.start);
        self.end.push(line.period.end);
        self.quantity.push(line.quantity.clone());
        self.amount.push(line.amount.minor);
        self.tax_name.push(tax.map(|tax| tax.rate.name.clone()));
        self.tax_rate.push(tax.map(|tax| tax.rate.rate.0.clone()));
        self.tax_inclusive.push(tax.map(|tax| tax.rate.inclusive));
        self.tax.push(tax.map_or(0, |tax| tax.tax.minor));
        self.explanation.push(line.explanation.clone());
        self.proof.push(beside.proof.as_ref().map(|proof| proof.own().map(Json)).transpose()?);
        self.proof_query.push(beside.proof.as_ref().and_then(|proof| queries.id(proof)));
        self.add_on.push(add_on);
        self.value.push(line.value.clone());
        self.basis.push(line.basis.as_ref().map(Json));
        self.discount.push(rated.discount.minor);
        self.credit.push(rated.credit.minor);
        self.adjusts.push(beside.adjusts.as_ref().map(ToString::to_string));
        self.adjusts_kind.push(beside.of.map(|kind| kind.as_str().to_owned()));
        self.subscription.push(beside.subscription.as_ref().map(ToString::to_string));
        Ok(())
    }
}

/// What earlier invoices left is these invoices' now.
async fn take_over(conn: &mut PgConnection, drafts: &[Draft<'_>]) -> Result<(), BillingError> {
    let taken = drafts.iter().flat_map(|draft| draft.taken.iter().map(|left| (left.invoice.to_string(), draft.id.to_string())));
    let (from, into): (Vec<_>, Vec<_>) = taken.unzip();
    if from.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE invoices i SET carried_into = t.into_id FROM unnest($1::text[], $2::text[]) AS t (id, into_id) WHERE i.id = t.id",
        &from,
        &into
    )
    .execute(conn)
    .await?;
    Ok(())
}
