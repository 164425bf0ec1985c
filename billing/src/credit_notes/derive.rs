//! What a credit note takes back of which line, with its tax. Pure.
//!
//! The tax of a part is computed from the part, net first, and never exceeds what is left of the line's tax; what takes
//! the rest of a line takes the rest of its tax, so that notes which credit all of a line add up to it exactly.

use std::collections::HashMap;

use farebox_core::ids::InvoiceLineId;
use farebox_core::money::{BigDecimal, Currency, Money};

use crate::BillingError;
use crate::invoices::{Invoice, InvoiceLine};
use crate::rating::plan::Decimal;
use crate::rating::tax::{self, TaxPer, TaxRate};

/// A line of a credit note: of what was left of the invoice's line, with the tax where it is inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub line: InvoiceLineId,
    pub amount: Money,
    pub net: Money,
    pub tax: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    pub subtotal: Money,
    pub tax: Money,
    pub total: Money,
}

/// What earlier notes took of each line: amount and tax.
pub type Credited = HashMap<InvoiceLineId, (Money, Money)>;

pub fn sums(parts: &[Part], currency: Currency) -> Result<Sums, BillingError> {
    let subtotal = Money::sum(parts.iter().map(|part| part.net), currency)?;
    let tax = Money::sum(parts.iter().map(|part| part.tax), currency)?;
    Ok(Sums { subtotal, tax, total: subtotal.checked_add(tax)? })
}

/// What is left of a line to be credited: amount and tax.
fn left(line: &InvoiceLine, credited: &Credited) -> Result<(Money, Money), BillingError> {
    let zero = Money::zero(line.amount.currency);
    let (amount, tax) = credited.get(&line.id).copied().unwrap_or((zero, zero));
    Ok((line.left().checked_sub(amount)?, line.tax.as_ref().map_or(zero, |tax| tax.amount).checked_sub(tax)?))
}

fn part(line: &InvoiceLine, amount: Money, tax: Money) -> Result<Part, BillingError> {
    let inclusive = line.tax.as_ref().is_some_and(|tax| tax.inclusive);
    let net = if inclusive { amount.checked_sub(tax)? } else { amount };
    Ok(Part { line: line.id.clone(), amount, net, tax })
}

/// Everything that is left of the invoice, lines that lowered it included.
pub fn whole(invoice: &Invoice, credited: &Credited) -> Result<Vec<Part>, BillingError> {
    let mut parts = Vec::new();
    for line in &invoice.lines {
        let (amount, tax) = left(line, credited)?;
        if !amount.is_zero() || !tax.is_zero() {
            parts.push(part(line, amount, tax)?);
        }
    }
    Ok(parts)
}

/// Whether a note can be over this line alone: what it settled was not charged by it.
fn is_charge(line: &InvoiceLine) -> bool {
    !line.kind.is_set_off()
}

/// What is left of each line that can be credited, as priced.
pub fn open_lines(invoice: &Invoice, credited: &Credited) -> Result<Vec<(InvoiceLineId, Money)>, BillingError> {
    let mut found = Vec::new();
    for line in invoice.lines.iter().filter(|line| is_charge(line)) {
        let (amount, _) = left(line, credited)?;
        if amount.minor > 0 {
            found.push((line.id.clone(), amount));
        }
    }
    Ok(found)
}

/// The lines asked for, each with an amount or all that is left of it.
pub fn some(invoice: &Invoice, credited: &Credited, wanted: &[(InvoiceLineId, Option<BigDecimal>)]) -> Result<Vec<Part>, BillingError> {
    let mut parts: Vec<Part> = Vec::new();
    for (index, (id, amount)) in wanted.iter().enumerate() {
        let refused = |field: &str, detail: String| Err(BillingError::invalid(format!("/lines/{index}/{field}"), detail));
        let Some(line) = invoice.lines.iter().find(|line| line.id == *id) else {
            return refused("line", "is not a line of this invoice".to_owned());
        };
        if parts.iter().any(|part| part.line == *id) {
            return refused("line", "is there twice".to_owned());
        }
        if !is_charge(line) {
            return refused("line", "was settled by this invoice, not charged by it: credit the whole invoice, or another line".to_owned());
        }
        let (most, most_tax) = left(line, credited)?;
        if most.minor <= 0 {
            return refused("line", format!("has nothing left to credit ({most})"));
        }
        let amount = match amount {
            Some(amount) => Money::exact(amount, invoice.currency)
                .map_err(|e| BillingError::invalid(format!("/lines/{index}/amount"), e.to_string()))?,
            None => most,
        };
        if amount.minor <= 0 || amount.minor > most.minor {
            return refused("amount", format!("must be above 0 and at most {most}, which is left of `{}`", line.name));
        }
        let tax = if amount == most { most_tax } else { tax_of(line, amount, most_tax)? };
        parts.push(part(line, amount, tax)?);
    }
    Ok(parts)
}

fn tax_of(line: &InvoiceLine, amount: Money, most: Money) -> Result<Money, BillingError> {
    let Some(own) = &line.tax else { return Ok(Money::zero(amount.currency)) };
    let rate = TaxRate { name: own.name.clone(), rate: Decimal(own.rate.clone()), inclusive: own.inclusive, per: TaxPer::Line, note: None };
    let tax = tax::on(amount, &rate)?.tax;
    Ok(if tax.minor > most.minor { most } else { tax })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::invoices::{InvoiceTax, State};
    use crate::left_out::LeftOut;
    use crate::rating::LineKind;
    use crate::rating::plan::Collect;
    use farebox_core::ids::{ConsumerId, InvoiceId, SubscriptionId};
    use farebox_core::period::Period;
    use proptest::prelude::*;

    fn eur(minor: i64) -> Money {
        Money::new(minor, "EUR".parse().expect("a currency"))
    }

    /// Lines of (amount, percent, whether the amount holds the tax).
    pub(crate) fn invoice(lines: &[(i64, u32, bool)]) -> Invoice {
        let epoch = chrono::DateTime::UNIX_EPOCH;
        let period = Period { start: epoch, end: epoch };
        let lines: Vec<_> = (0..)
            .zip(lines)
            .map(|(position, (amount, percent, inclusive))| {
                let rate = BigDecimal::from(*percent) / BigDecimal::from(100);
                let taxed =
                    TaxRate { name: "VAT".to_owned(), rate: Decimal(rate.clone()), inclusive: *inclusive, per: TaxPer::Line, note: None };
                let tax = tax::on(eur(*amount), &taxed).expect("taxes").tax;
                InvoiceLine {
                    id: InvoiceLineId::new(),
                    position,
                    kind: LineKind::Usage,
                    name: format!("line {position}"),
                    plan_version: None,
                    price: None,
                    meter: None,
                    add_on: None,
                    value: None,
                    period,
                    quantity: BigDecimal::from(1),
                    amount: eur(*amount),
                    discount: eur(0),
                    credit: eur(0),
                    tax: Some(InvoiceTax { name: "VAT".to_owned(), rate, inclusive: *inclusive, amount: tax }),
                    explanation: String::new(),
                    proof: None,
                    basis: None,
                    adjusts: None,
                    subscription: None,
                    section: None,
                }
            })
            .collect();
        let subtotal = lines.iter().map(|line| line.net().minor).sum::<i64>();
        let tax = lines.iter().filter_map(|line| line.tax.as_ref()).map(|tax| tax.amount.minor).sum::<i64>();
        Invoice {
            id: InvoiceId::new(),
            number: Some("ACME-000001".to_owned()),
            state: State::Issued,
            kind: "regular".to_owned(),
            sequence: 0,
            consumer: ConsumerId::new(),
            subscription: SubscriptionId::new(),
            consolidated: false,
            period,
            currency: eur(0).currency,
            subtotal: eur(subtotal),
            tax: eur(tax),
            total: eur(subtotal + tax),
            credited: eur(0),
            collect: Collect::Automatically,
            due_days: 0,
            seller: serde_json::Value::Null,
            buyer: serde_json::Value::Null,
            created_at: epoch,
            issued_at: Some(epoch),
            due_at: None,
            paid_at: None,
            carried: false,
            carried_into: None,
            stripe_id: None,
            hosted_url: None,
            credits: Vec::new(),
            tax_note: None,
            left_out: LeftOut::default(),
            lines,
        }
    }

    fn add(credited: &mut Credited, parts: &[Part]) {
        for part in parts {
            let entry = credited.entry(part.line.clone()).or_insert((eur(0), eur(0)));
            *entry = (eur(entry.0.minor + part.amount.minor), eur(entry.1.minor + part.tax.minor));
        }
    }

    /// Worked example 8: a fee of 200 with 25 % tax on top, cancelled after one day of 30.
    #[test]
    fn a_part_is_net_first_then_taxed() {
        let invoice = invoice(&[(20_000, 25, false)]);
        let line = invoice.lines[0].id.clone();
        let parts = some(&invoice, &Credited::new(), &[(line, Some("193.33".parse().expect("a decimal")))]).expect("credits");
        let sums = sums(&parts, invoice.currency).expect("sums");
        assert_eq!((sums.subtotal.minor, sums.tax.minor, sums.total.minor), (19_333, 4833, 24_166));
    }

    #[test]
    fn what_is_not_there_to_credit_is_refused_with_its_field() {
        let invoice = invoice(&[(1000, 19, false), (-300, 19, false)]);
        let (fee, given_back) = (invoice.lines[0].id.clone(), invoice.lines[1].id.clone());
        let said =
            |wanted: &[(InvoiceLineId, Option<BigDecimal>)]| some(&invoice, &Credited::new(), wanted).expect_err("refused").to_string();
        let ten: BigDecimal = "10.01".parse().expect("a decimal");
        assert_eq!(said(&[(fee.clone(), Some(ten))]), "/lines/0/amount: must be above 0 and at most 10.00, which is left of `line 0`");
        assert_eq!(said(&[(fee.clone(), None), (fee, None)]), "/lines/1/line: is there twice");
        assert_eq!(said(&[(given_back, None)]), "/lines/0/line: has nothing left to credit (-3.00)");
        assert_eq!(said(&[(InvoiceLineId::new(), None)]), "/lines/0/line: is not a line of this invoice");
    }

    proptest! {
        /// However an invoice is credited, line by line in parts and then the rest: no line and no tax is ever credited twice,
        /// and all notes together are the invoice.
        #[test]
        fn notes_add_up_to_their_invoice(
            lines in prop::collection::vec((1_i64..1_000_000, 0_u32..30, any::<bool>()), 1..6),
            cuts in prop::collection::vec((0_usize..6, 1_i64..1_000_000), 0..12),
        ) {
            let invoice = invoice(&lines);
            let (mut credited, mut total) = (Credited::new(), 0_i64);
            for (index, amount) in cuts {
                let line = &invoice.lines[index % invoice.lines.len()];
                let most = left(line, &credited).expect("left").0.minor;
                if most == 0 { continue; }
                let amount = eur(1 + amount % most).to_decimal();
                let parts = some(&invoice, &credited, &[(line.id.clone(), Some(amount))]).expect("credits");
                total += sums(&parts, invoice.currency).expect("sums").total.minor;
                prop_assert!(parts.iter().all(|part| part.net.minor >= 0 && part.tax.minor >= 0));
                prop_assert!(total <= invoice.total.minor);
                add(&mut credited, &parts);
            }
            let rest = whole(&invoice, &credited).expect("the rest");
            total += sums(&rest, invoice.currency).expect("sums").total.minor;
            prop_assert_eq!(total, invoice.total.minor);
            add(&mut credited, &rest);
            prop_assert_eq!(whole(&invoice, &credited).expect("nothing"), Vec::new());
        }
    }
}
