//! What a document says.

use bigdecimal::BigDecimal;
use chrono::{NaiveDate, TimeDelta};
use chrono_tz::Tz;
use farebox_core::ids::InvoiceId;
use farebox_core::money::{Currency, Money, decimal_string};
use farebox_core::period::{Period, local_date};
use serde::Serialize;
use serde_json::Value;

use crate::BillingError;
use crate::credit_notes::{self, CreditNote, Settles};
use crate::invoices::{Invoice, InvoiceCredit, InvoiceLine, InvoiceTax, State};
use crate::rating::LineKind;
use crate::rating::plan::Collect;

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Document {
    pub title: String,
    pub invoice: InvoiceId,
    /// Of a credit note: the number of the invoice that it corrects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrects: Option<String>,
    /// `Draft` before there is one.
    pub number: String,
    /// DRAFT or VOID, across every page.
    pub watermark: Option<String>,
    pub seller: Party,
    pub buyer: Party,
    /// By the workspace's calendar; absent on drafts.
    pub issued_on: Option<NaiveDate>,
    /// Absent when there is nothing to pay by then.
    pub due_on: Option<NaiveDate>,
    pub period: Days,
    #[schema(value_type = String)]
    pub currency: Currency,
    pub lines: Vec<DocumentLine>,
    /// What discounts and prepaid credits took off the lines.
    #[schema(value_type = String)]
    pub discount: Money,
    #[schema(value_type = String)]
    pub credit: Money,
    /// Which prepaid credits they were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credits: Vec<InvoiceCredit>,
    /// What is left of the lines, without tax.
    #[schema(value_type = String)]
    pub subtotal: Money,
    pub taxes: Vec<TaxSum>,
    #[schema(value_type = String)]
    pub tax: Money,
    #[schema(value_type = String)]
    pub with_tax: Money,
    /// What was taxed elsewhere and is set off after the tax, as amounts that are added: prepaid credits, what an earlier invoice
    /// left to this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_off: Vec<SetOff>,
    #[schema(value_type = String)]
    pub total: Money,
    /// Sentences the law or the reader asks for.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Party {
    pub name: String,
    pub line1: Option<String>,
    pub line2: Option<String>,
    pub postal_code: Option<String>,
    pub city: Option<String>,
    pub state: Option<String>,
    /// ISO 3166-1 alpha-2.
    pub country: Option<String>,
    pub tax_id: Option<String>,
    pub email: Option<String>,
}

/// From the first to the last day, both included, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Days {
    pub first: NaiveDate,
    pub last: NaiveDate,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DocumentLine {
    pub name: String,
    pub days: Days,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub quantity: BigDecimal,
    #[schema(value_type = String)]
    pub amount: Money,
    /// Where it is taxed; 0.19 is 19 %.
    #[schema(value_type = Option<String>)]
    #[serde(serialize_with = "maybe_decimal")]
    pub tax_rate: Option<BigDecimal>,
    pub explanation: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SetOff {
    pub name: String,
    #[schema(value_type = String)]
    pub amount: Money,
    pub explanation: String,
}

#[allow(clippy::ref_option)] // what serde hands over
fn maybe_decimal<S: serde::Serializer>(value: &Option<BigDecimal>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => decimal_string::serialize(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// One rate's base and tax, added up over its lines.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TaxSum {
    pub name: String,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub rate: BigDecimal,
    /// The prices of its lines hold it already.
    pub inclusive: bool,
    #[schema(value_type = String)]
    pub base: Money,
    #[schema(value_type = String)]
    pub amount: Money,
}

pub fn document(invoice: &Invoice, zone: Tz) -> Result<Document, BillingError> {
    let (seller, buyer) = (party(&invoice.seller), party(&invoice.buyer));
    let (taxes, before_tax) = (taxes(invoice)?, invoice.before_tax()?);
    Ok(Document {
        title: if invoice.total.minor < 0 { "Credit" } else { "Invoice" }.to_owned(),
        invoice: invoice.id.clone(),
        corrects: None,
        number: invoice.number.clone().unwrap_or_else(|| "Draft".to_owned()),
        watermark: match invoice.state {
            State::Draft => Some("DRAFT".to_owned()),
            State::Void => Some("VOID".to_owned()),
            _ => None,
        },
        issued_on: invoice.issued_at.map(|at| local_date(at, zone)),
        due_on: invoice.due_at.filter(|_| invoice.total.minor > 0 && !invoice.carried).map(|at| local_date(at, zone)),
        period: days(invoice.period, zone),
        currency: invoice.currency,
        lines: invoice.lines.iter().filter(|line| !line.kind.is_set_off()).map(|line| document_line(line, zone)).collect(),
        discount: Money::sum(invoice.lines.iter().map(|line| line.discount), invoice.currency)?,
        credit: Money::sum(invoice.lines.iter().map(|line| line.credit), invoice.currency)?,
        credits: invoice.credits.clone(),
        subtotal: before_tax,
        tax: invoice.tax,
        with_tax: before_tax.checked_add(invoice.tax)?,
        set_off: invoice.set_off().map(set_off).collect(),
        total: invoice.total,
        notes: notes(invoice, &seller, &buyer),
        taxes,
        seller,
        buyer,
    })
}

/// A credit note says what its invoice says of the lines it takes back, in positive amounts.
pub fn credit_note_document(note: &CreditNote, invoice: &Invoice, zone: Tz) -> Result<Document, BillingError> {
    let mut document = document(&as_invoice(note, invoice), zone)?;
    document.title = "Credit note".to_owned();
    document.corrects = Some(note.invoice_number.clone());
    document.due_on = None;
    document.notes = note.memo.iter().cloned().chain(invoice.tax_note.clone()).chain([what_it_does(note)]).collect();
    Ok(document)
}

fn what_it_does(note: &CreditNote) -> String {
    let number = &note.invoice_number;
    match note.settles {
        Settles::Open => format!("So much less is to be paid of invoice {number}."),
        Settles::Refund => "The amount is paid back to the payment method that was charged.".to_owned(),
        Settles::Balance => "The amount is kept as a balance, which the next invoices use.".to_owned(),
        Settles::OutOfBand => "The amount was, or is being, paid back.".to_owned(),
    }
}

/// In the shape of an invoice, so that both are written by the same hand.
pub fn as_invoice(note: &CreditNote, invoice: &Invoice) -> Invoice {
    let zero = Money::zero(note.currency);
    let lines = (0..).zip(&note.lines).map(|(position, part)| InvoiceLine {
        position,
        quantity: BigDecimal::from(1),
        amount: part.amount,
        discount: zero,
        credit: zero,
        tax: part.of.tax.clone().map(|tax| InvoiceTax { amount: part.tax, ..tax }),
        explanation: if part.amount == part.of.left() {
            format!("All of it, as on invoice {}", note.invoice_number)
        } else {
            format!("{} of {} on invoice {}", part.amount, part.of.left(), note.invoice_number)
        },
        proof: None,
        basis: None,
        ..part.of.clone()
    });
    Invoice {
        number: note.number.clone(),
        state: if note.state == credit_notes::State::Void { State::Void } else { State::Issued },
        subtotal: note.subtotal,
        tax: note.tax,
        total: note.total,
        credited: zero,
        created_at: note.created_at,
        issued_at: note.issued_at,
        due_at: None,
        paid_at: None,
        lines: lines.collect(),
        credits: Vec::new(),
        ..invoice.clone()
    }
}

fn days(period: Period, zone: Tz) -> Days {
    Days { first: local_date(period.start, zone), last: local_date((period.end - TimeDelta::microseconds(1)).max(period.start), zone) }
}

fn document_line(line: &InvoiceLine, zone: Tz) -> DocumentLine {
    DocumentLine {
        name: line.title(),
        days: days(line.period, zone),
        quantity: line.quantity.clone(),
        amount: line.amount,
        tax_rate: line.tax.as_ref().map(|tax| tax.rate.clone()),
        explanation: line.explanation.clone(),
    }
}

fn set_off(line: &InvoiceLine) -> SetOff {
    let name = if line.kind == LineKind::Credit { format!("Prepaid: {}", line.title()) } else { line.title() };
    SetOff { name, amount: line.left(), explanation: line.explanation.clone() }
}

/// In the order of the lines.
fn taxes(invoice: &Invoice) -> Result<Vec<TaxSum>, BillingError> {
    let mut found: Vec<TaxSum> = Vec::new();
    for line in &invoice.lines {
        let Some(tax) = &line.tax else { continue };
        let same = |sum: &&mut TaxSum| sum.name == tax.name && sum.rate == tax.rate && sum.inclusive == tax.inclusive;
        if let Some(sum) = found.iter_mut().find(same) {
            sum.base = sum.base.checked_add(line.net())?;
            sum.amount = sum.amount.checked_add(tax.amount)?;
        } else {
            found.push(TaxSum {
                name: tax.name.clone(),
                rate: tax.rate.clone(),
                inclusive: tax.inclusive,
                base: line.net(),
                amount: tax.amount,
            });
        }
    }
    Ok(found)
}

fn party(json: &Value) -> Party {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let address = json.get("address").unwrap_or(&Value::Null);
    Party {
        name: text(json, "name").unwrap_or_else(|| "–".to_owned()),
        line1: text(address, "line1"),
        line2: text(address, "line2"),
        postal_code: text(address, "postal_code"),
        city: text(address, "city"),
        state: text(address, "state"),
        country: text(json, "country").or_else(|| text(address, "country")),
        tax_id: text(json, "tax_id").or_else(|| text(address, "tax_id")),
        email: text(json, "email"),
    }
}

const REVERSE_CHARGE: &str = "Reverse charge: VAT is to be accounted for by the recipient (Article 196 of Council Directive 2006/112/EC).";

/// Members of the European Union's VAT area, by ISO 3166-1.
pub const EU: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL",
    "PT", "RO", "SE", "SI", "SK",
];

/// Whether the buyer accounts for the tax: no tax was charged between businesses of two member states.
pub(super) fn is_reverse_charge(invoice: &Invoice, seller: &Party, buyer: &Party) -> bool {
    let (Some(from), Some(to)) = (seller.country.as_deref(), buyer.country.as_deref()) else { return false };
    let untaxed = invoice.tax.is_zero() && invoice.lines.iter().all(|line| line.tax.as_ref().is_none_or(|tax| tax.amount.is_zero()));
    untaxed && from != to && EU.contains(&from) && EU.contains(&to) && seller.tax_id.is_some() && buyer.tax_id.is_some()
}

fn notes(invoice: &Invoice, seller: &Party, buyer: &Party) -> Vec<String> {
    let mut notes = Vec::new();
    // Why no tax is charged is sealed with the invoice; else it follows from where both are.
    match &invoice.tax_note {
        Some(note) => notes.push(note.clone()),
        None if is_reverse_charge(invoice, seller, buyer) => notes.push(REVERSE_CHARGE.to_owned()),
        None => {}
    }
    if invoice.carried {
        notes.push(if invoice.total.minor < 0 {
            "This amount is credited on the next invoice.".to_owned()
        } else {
            "This amount is too small to be collected by itself. It is a line of the next invoice.".to_owned()
        });
    } else if invoice.total.minor > 0 {
        notes.push(match (invoice.collect, invoice.number.as_deref()) {
            (Collect::Automatically, _) => "The amount is charged to the payment method on file.".to_owned(),
            (Collect::SendInvoice, Some(number)) => format!("Please pay within {} days, stating {number}.", invoice.due_days),
            (Collect::SendInvoice, None) => format!("Payable within {} days of its issue.", invoice.due_days),
        });
    } else {
        notes.push("There is nothing to pay.".to_owned());
    }
    notes.extend(invoice.left_out.sentence());
    if invoice.lines.iter().any(|line| line.kind == LineKind::Usage && line.proof.is_some()) {
        notes.push("Each quantity of usage can be traced to the requests behind it in the developer portal.".to_owned());
    }
    notes
}
