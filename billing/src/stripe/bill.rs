//! An issued invoice as Stripe gets it: the draft, its lines, and what Stripe's totals must then be.

use std::collections::HashMap;

use bigdecimal::{BigDecimal, ToPrimitive};
use farebox_core::ids::{ConsumerId, InvoiceId, WorkspaceId};
use farebox_core::money::{self, Currency, Money, MoneyError};
use farebox_core::period::Period;
use sqlx::PgConnection;
use stripe_billing::InvoiceCollectionMethod;
use stripe_billing::invoice::{
    AddLinesInvoice, AddLinesInvoiceLines, AddLinesInvoiceLinesTaxAmounts, AddLinesInvoiceLinesTaxAmountsTaxRateData, CreateInvoice,
    CreateInvoiceAutomaticTax, CreateInvoicePendingInvoiceItemsBehavior, Period as StripePeriod,
};

use super::compare::Totals;
use super::currency::to_stripe;
use super::error::StripeError;
use crate::invoices;
use crate::rating::LineKind;
use crate::rating::plan::Collect;

/// Stripe's limits that its API document does not tell.
const MOST_LINES: usize = 250;
const LINE_DESCRIPTION: usize = 500;
const METADATA_VALUE: usize = 500;

/// The name under which our ids travel in Stripe's metadata.
pub const INVOICE_KEY: &str = "farebox_invoice";
pub const CONSUMER_KEY: &str = "farebox_consumer";
pub const WORKSPACE_KEY: &str = "farebox_workspace";

#[derive(Debug, Clone)]
pub struct Bill {
    pub workspace: WorkspaceId,
    pub invoice: InvoiceId,
    pub consumer: ConsumerId,
    pub number: String,
    pub period: Period,
    pub total: Money,
    pub subtotal: Money,
    pub tax: Money,
    pub collect_automatically: bool,
    pub due_days: u32,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone)]
pub struct Line {
    pub id: String,
    pub name: String,
    pub quantity: Option<BigDecimal>,
    pub amount: Money,
    pub period: Period,
    pub tax: Option<Tax>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tax {
    pub name: String,
    /// 0.19 for 19 %.
    pub rate: BigDecimal,
    pub inclusive: bool,
    pub amount: Money,
}

impl Bill {
    /// None when there is no such invoice, or it is not issued.
    pub async fn load(conn: &mut PgConnection, workspace: &WorkspaceId, id: &InvoiceId) -> Result<Option<Self>, StripeError> {
        let Some(invoice) = invoices::get(conn, workspace, id).await? else { return Ok(None) };
        let Some(number) = invoice.number else { return Ok(None) };
        let lines = invoice.lines.into_iter().map(|line| Line {
            id: line.id.to_string(),
            amount: line.left(),
            name: line.title(),
            quantity: (line.kind == LineKind::Usage).then_some(line.quantity),
            period: line.period,
            tax: line.tax.map(|tax| Tax { name: tax.name, rate: tax.rate, inclusive: tax.inclusive, amount: tax.amount }),
        });
        Ok(Some(Self {
            workspace: workspace.clone(),
            invoice: invoice.id,
            consumer: invoice.consumer,
            number,
            period: invoice.period,
            total: invoice.total,
            subtotal: invoice.subtotal,
            tax: invoice.tax,
            collect_automatically: invoice.collect == Collect::Automatically,
            due_days: u32::try_from(invoice.due_days).unwrap_or(0),
            lines: lines.collect(),
        }))
    }

    /// The draft, without lines. Without a payment method there is nothing to charge, so Stripe sends the invoice with
    /// a page to pay it on.
    pub fn draft(&self, customer: &str, has_payment_method: bool) -> CreateInvoice {
        let charge = self.collect_automatically && has_payment_method;
        let draft = CreateInvoice::new()
            .customer(customer)
            .currency(stripe_currency(self.total.currency))
            .auto_advance(false)
            .collection_method(if charge { InvoiceCollectionMethod::ChargeAutomatically } else { InvoiceCollectionMethod::SendInvoice })
            .pending_invoice_items_behavior(CreateInvoicePendingInvoiceItemsBehavior::Exclude)
            .automatic_tax(CreateInvoiceAutomaticTax::new(false))
            .number(self.number.as_str())
            .metadata(HashMap::from([
                (INVOICE_KEY.to_owned(), self.invoice.to_string()),
                (CONSUMER_KEY.to_owned(), self.consumer.to_string()),
                (WORKSPACE_KEY.to_owned(), self.workspace.to_string()),
            ]));
        if charge { draft } else { draft.days_until_due(self.due_days) }
    }

    /// All lines at once, each with its final amount and our own tax, so that Stripe never rounds.
    pub fn add_lines(&self, stripe_id: &str) -> Result<AddLinesInvoice, StripeError> {
        let lines = self.sent_lines()?.iter().map(stripe_line).collect::<Result<Vec<_>, _>>()?;
        Ok(AddLinesInvoice::new(stripe_id, lines))
    }

    /// What Stripe's totals must be before the invoice is finalised there.
    pub fn expected(&self) -> Result<Totals, StripeError> {
        let lines = self.sent_lines()?;
        let subtotal = Money::sum(lines.iter().map(|line| line.amount), self.total.currency)?;
        Ok(Totals {
            currency: self.total.currency.code().to_ascii_lowercase(),
            lines: lines.len(),
            // Stripe's subtotal is the sum of the lines, with inclusive tax; ours is without any tax.
            subtotal: to_stripe(subtotal)?,
            total: to_stripe(self.total)?,
            total_excluding_tax: Some(to_stripe(self.subtotal)?),
            tax: to_stripe(self.tax)?,
        })
    }

    /// The lines as they are sent: at most 250. Beyond that the smallest are summed into one line per tax, which points
    /// to our invoice.
    fn sent_lines(&self) -> Result<Vec<Line>, StripeError> {
        if self.lines.len() <= MOST_LINES {
            return Ok(self.lines.clone());
        }
        let same_tax = |a: &Option<Tax>, b: &Option<Tax>| match (a, b) {
            (Some(a), Some(b)) => (&a.name, &a.rate, a.inclusive) == (&b.name, &b.rate, b.inclusive),
            (None, None) => true,
            _ => false,
        };
        let mut taxes: Vec<Option<Tax>> = Vec::new();
        for line in &self.lines {
            if !taxes.iter().any(|tax| same_tax(tax, &line.tax)) {
                taxes.push(line.tax.clone());
            }
        }
        let kept = MOST_LINES.checked_sub(taxes.len()).ok_or(StripeError::Record("more than 250 different taxes".to_owned()))?;
        let mut by_size: Vec<&Line> = self.lines.iter().collect();
        by_size.sort_by_key(|line| std::cmp::Reverse(line.amount.minor.unsigned_abs()));
        let (large, small) = by_size.split_at(kept);
        let mut sent: Vec<Line> = large.iter().map(|line| (*line).clone()).collect();
        let zero = Money::zero(self.total.currency);
        for tax in taxes {
            let of_this_tax: Vec<&&Line> = small.iter().filter(|line| same_tax(&line.tax, &tax)).collect();
            let sum = |amounts: &mut dyn Iterator<Item = Money>| -> Result<Money, MoneyError> { Money::sum(amounts, self.total.currency) };
            if of_this_tax.is_empty() {
                continue;
            }
            let taxed = sum(&mut of_this_tax.iter().map(|line| line.tax.as_ref().map_or(zero, |tax| tax.amount)))?;
            sent.push(Line {
                id: self.invoice.to_string(),
                name: format!("{} smaller items, itemised on invoice {}", of_this_tax.len(), self.number),
                quantity: None,
                amount: sum(&mut of_this_tax.iter().map(|line| line.amount))?,
                period: self.period,
                tax: tax.map(|tax| Tax { amount: taxed, ..tax }),
            });
        }
        Ok(sent)
    }
}

fn stripe_line(line: &Line) -> Result<AddLinesInvoiceLines, StripeError> {
    let mut sent = AddLinesInvoiceLines::new();
    let mut metadata = HashMap::from([("farebox_line".to_owned(), line.id.clone())]);
    let mut description = line.name.clone();
    if let Some(quantity) = &line.quantity {
        let quantity = money::plain(quantity);
        description = format!("{description} ({quantity})");
        metadata.insert("quantity".to_owned(), cut(&quantity, METADATA_VALUE));
    }
    sent.amount = Some(to_stripe(line.amount)?);
    sent.description = Some(cut(&description, LINE_DESCRIPTION));
    sent.discountable = Some(false);
    sent.metadata = Some(metadata);
    // Stripe's end is inclusive; ours is not.
    sent.period =
        Some(StripePeriod::new((line.period.end.timestamp() - 1).max(line.period.start.timestamp()), line.period.start.timestamp()));
    if let Some(tax) = &line.tax {
        let taxable = if tax.inclusive { line.amount.checked_sub(tax.amount)? } else { line.amount };
        // Only printed on the invoice; the amount beside it is what counts, and Stripe takes four decimals here.
        let percentage = (&tax.rate * BigDecimal::from(100)).with_scale(4).to_f64().unwrap_or_default();
        let rate = AddLinesInvoiceLinesTaxAmountsTaxRateData::new(tax.name.as_str(), tax.inclusive, percentage);
        sent.tax_amounts = Some(vec![AddLinesInvoiceLinesTaxAmounts::new(to_stripe(tax.amount)?, rate, to_stripe(taxable)?)]);
    }
    Ok(sent)
}

fn stripe_currency(currency: Currency) -> stripe_types::Currency {
    match currency.code().to_ascii_lowercase().parse() {
        Ok(currency) => currency,
        Err(never) => match never {},
    }
}

pub fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::client::wire;
    use proptest::prelude::*;
    use stripe_client_core::{RequestBuilder, StripeRequest};

    fn usd(minor: i64) -> Money {
        Money::new(minor, "USD".parse().expect("a currency"))
    }

    fn october() -> Period {
        Period { start: "2026-10-01T00:00:00Z".parse().expect("a time"), end: "2026-11-01T00:00:00Z".parse().expect("a time") }
    }

    #[allow(clippy::unnecessary_wraps)] // as a line carries it
    fn vat(minor: i64, inclusive: bool) -> Option<Tax> {
        Some(Tax { name: "VAT".to_owned(), rate: "0.19".parse().expect("a decimal"), inclusive, amount: usd(minor) })
    }

    fn line(name: &str, quantity: Option<&str>, minor: i64, tax: Option<Tax>) -> Line {
        let quantity = quantity.map(|quantity| quantity.parse().expect("a decimal"));
        Line { id: "line_1".to_owned(), name: name.to_owned(), quantity, amount: usd(minor), period: october(), tax }
    }

    fn bill(lines: Vec<Line>) -> Bill {
        let id = |prefix: &str| format!("{prefix}{}", "0".repeat(32));
        let tax: i64 = lines.iter().filter_map(|line| line.tax.as_ref()).map(|tax| tax.amount.minor).sum();
        let inclusive: i64 =
            lines.iter().filter_map(|line| line.tax.as_ref()).filter(|tax| tax.inclusive).map(|tax| tax.amount.minor).sum();
        let amounts: i64 = lines.iter().map(|line| line.amount.minor).sum();
        Bill {
            workspace: id("ws_").parse().expect("an id"),
            invoice: id("inv_").parse().expect("an id"),
            consumer: id("con_").parse().expect("an id"),
            number: "ACME-0001".to_owned(),
            period: october(),
            subtotal: usd(amounts - inclusive),
            tax: usd(tax),
            total: usd(amounts - inclusive + tax),
            collect_automatically: true,
            due_days: 14,
            lines,
        }
    }

    /// Metadata comes in any order.
    fn shown(request: RequestBuilder) -> String {
        let (method, path, body) = wire(request);
        let mut pairs: Vec<_> = url::form_urlencoded::parse(&body).map(|(name, value)| format!("{name} = {value}")).collect();
        pairs.sort();
        format!("{method} {path}\n{}", pairs.join("\n"))
    }

    #[test]
    fn a_draft_is_charged_where_there_is_a_card_and_sent_where_not() {
        let bill = bill(vec![line("Platform", None, 4900, None)]);
        insta::assert_snapshot!(shown(bill.draft("cus_1", true).build()));
        let sent = shown(bill.draft("cus_1", false).build());
        assert!(sent.contains("collection_method = send_invoice\n") && sent.contains("days_until_due = 14\n"), "{sent}");
    }

    #[test]
    fn lines_carry_final_amounts_and_our_own_tax() {
        let bill = bill(vec![
            line("Platform", None, 4900, vat(931, false)),
            line("Requests", Some("130850.500"), 1190, vat(190, true)),
            line("Credit", None, -548, None),
        ]);
        insta::assert_snapshot!(shown(bill.add_lines("in_1").expect("lines").build()));
        let expected = bill.expected().expect("totals");
        assert_eq!(
            (expected.lines, expected.subtotal, expected.total, expected.total_excluding_tax, expected.tax),
            (3, 5542, 6473, Some(5352), 1121)
        );
    }

    proptest! {
        #[test]
        fn however_many_lines_the_sums_stay_and_250_is_the_most(amounts in prop::collection::vec((-5000_i64..5000, 0_u8..3), 0..600)) {
            let lines = amounts.iter().map(|(minor, tax)| {
                let tax = match tax { 0 => None, 1 => vat(minor / 5, false), _ => vat(minor / 6, true) };
                line("x", None, *minor, tax)
            });
            let bill = bill(lines.collect());
            let sent = bill.sent_lines().expect("lines");
            prop_assert!(sent.len() <= MOST_LINES && sent.len() >= amounts.len().min(MOST_LINES - 3));
            let sum = |lines: &[Line]| (
                lines.iter().map(|line| line.amount.minor).sum::<i64>(),
                lines.iter().filter_map(|line| line.tax.as_ref()).map(|tax| tax.amount.minor).sum::<i64>(),
            );
            prop_assert_eq!(sum(&sent), sum(&bill.lines));
        }
    }
}
