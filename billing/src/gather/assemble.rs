//! From gathered lines to an invoice: the subscription's coupons, the consumer's prepaid credits and tax.

use bigdecimal::BigDecimal;
use farebox_core::ids::{InvoiceLineId, SubscriptionId};
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::consumers::Consumer;
use serde::Deserialize;

use super::{Accounts, Gathered, GatheredLine};
use crate::BillingError;
use crate::proofs::Sealed;
use crate::rating::LineKind;
use crate::rating::cycle::Source;
use crate::rating::invoice::{RatedInvoice, RatedLine, Terms, invoice};
use crate::rating::plan::Decimal;
use crate::rating::tax::{TaxPer, TaxRate};
use crate::settings::{ConsumerBilling, TaxStatus};
use crate::subscriptions::Subscription;

/// An invoice to be written or shown.
#[derive(Debug, Clone)]
pub struct Assembled {
    pub rated: RatedInvoice,
    /// What is stored beside each line; credits after tax have nothing.
    pub beside: Vec<Beside>,
    /// Why no tax is charged.
    pub tax_note: Option<String>,
    /// How the payer is billed.
    pub billing: ConsumerBilling,
}

#[derive(Debug, Clone, Default)]
pub struct Beside {
    pub source: Option<Source>,
    pub proof: Option<Sealed>,
    pub adjusts: Option<InvoiceLineId>,
    pub of: Option<LineKind>,
    /// Whose it is, where the invoice has lines of several.
    pub subscription: Option<SubscriptionId>,
}

/// A subscription's period on an invoice, with how many lines it has, after those of the parts before it.
#[derive(Debug, Clone)]
pub struct Portion<'a> {
    pub subscription: &'a Subscription,
    pub period: Period,
    pub lines: usize,
    /// Names of the plans in force in the period.
    pub plans: Vec<String>,
}

impl Assembled {
    /// Each line with what is stored beside it.
    pub fn lines(&self) -> impl Iterator<Item = (&RatedLine, &Beside)> {
        static NOTHING: Beside = Beside { source: None, proof: None, adjusts: None, of: None, subscription: None };
        self.rated.lines.iter().zip(self.beside.iter().chain(std::iter::repeat(&NOTHING)))
    }
}

/// Pure: everything that stands beside the lines is known. The lines are those of the parts, in their order, and others after
/// them.
pub fn assemble(
    accounts: &Accounts,
    workspace: &Workspace,
    parts: &[Portion<'_>],
    consumer: &Consumer,
    gathered: Gathered,
) -> Result<Assembled, BillingError> {
    let billing = accounts.billing(&consumer.id);
    let tax = tax_for(workspace, consumer, &billing)?;
    let tax_note = tax.as_ref().and_then(|tax| tax.note.clone());
    let terms = Terms { discounts: accounts.discounts(parts), credits: accounts.credits(parts, gathered.currency), tax };
    let (mut lines, mut beside) = (Vec::new(), Vec::new());
    let several = parts.len() > 1;
    let mut whose = parts.iter().flat_map(|part| std::iter::repeat_n(&part.subscription.id, part.lines));
    for GatheredLine { source, line, proof, adjusts, of } in gathered.lines {
        lines.push(line);
        let subscription = whose.next().filter(|_| several).cloned();
        beside.push(Beside { source, proof, adjusts, of, subscription });
    }
    Ok(Assembled { rated: invoice(lines, &terms, gathered.currency)?, beside, tax_note, billing })
}

#[derive(Deserialize)]
struct WorkspaceTax {
    name: String,
    rate: Decimal,
    inclusive: bool,
    countries: Vec<String>,
    #[serde(default)]
    per: TaxPer,
}

/// The first tax of the workspace that holds in the consumer's country; one without countries holds everywhere. Who
/// does not pay it has it at nothing, with the reason.
fn tax_for(workspace: &Workspace, consumer: &Consumer, billing: &ConsumerBilling) -> Result<Option<TaxRate>, BillingError> {
    let taxes: Vec<WorkspaceTax> =
        serde_json::from_value(workspace.taxes.clone()).map_err(|e| BillingError::unreadable("the workspace's taxes", e))?;
    let holds =
        |tax: &WorkspaceTax| tax.countries.is_empty() || consumer.country.as_ref().is_some_and(|country| tax.countries.contains(country));
    let Some(tax) = taxes.into_iter().find(holds) else { return Ok(None) };
    let (name, inclusive, per) = (tax.name, tax.inclusive, tax.per);
    let reason = billing.tax_reason.clone().unwrap_or_default();
    Ok(Some(match billing.tax_status {
        TaxStatus::Taxable => TaxRate { name, rate: tax.rate, inclusive, per, note: None },
        TaxStatus::Exempt => TaxRate { name, rate: nothing(), inclusive, per, note: Some(format!("Exempt from tax: {reason}")) },
        TaxStatus::ReverseCharge => {
            let id = billing.tax_id.clone().unwrap_or_default();
            TaxRate { name, rate: nothing(), inclusive, per, note: Some(format!("Reverse charge, {id}: {reason}")) }
        }
    }))
}

fn nothing() -> Decimal {
    Decimal(BigDecimal::from(0))
}
