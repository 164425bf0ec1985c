//! What is left to bill of a period that is partly billed: the period is rated whole, and what was billed is taken off.
//! So tiers, caps and minimums have the position they would have had, had everything been known at once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farebox_core::ids::InvoiceLineId;
use farebox_core::money::{BigDecimal, Money};

use super::cycle::{CycleLine, Source};
use super::error::RatingError;
use super::lines::{Line, LineKind};
use super::plan::Decimal;
use super::usage::Prior;
use super::words::human;

/// A usage, cap or minimum line that an earlier invoice has of the period.
#[derive(Debug, Clone, PartialEq)]
pub struct BilledLine {
    pub source: Source,
    /// Of the line it corrects, where it does.
    pub kind: LineKind,
    pub line: Line,
    /// The first line that billed it, and the invoice's number.
    pub first: InvoiceLineId,
    pub number: String,
}

/// A line with the first one that billed the same, if any did.
#[derive(Debug, Clone, PartialEq)]
pub struct Continued {
    pub source: Source,
    pub line: Line,
    pub adjusts: Option<InvoiceLineId>,
    /// Of an adjustment: what kind of line it would have been in its period.
    pub of: Option<LineKind>,
}

type Key = (Source, &'static str, Option<String>, Option<String>, String, DateTime<Utc>);

fn key(source: &Source, kind: LineKind, line: &Line) -> Key {
    // The bounds of a matrix are a line of the price without a value.
    let bound = if line.price.is_some() && line.value.is_none() && line.basis.is_none() { "bound" } else { "" };
    (source.clone(), kind.as_str(), line.price.clone(), line.value.clone(), bound.to_owned(), line.period.start)
}

struct Before<'a> {
    amount: Money,
    quantity: BigDecimal,
    first: &'a BilledLine,
}

/// The lines of a period rated whole, less what is billed of it. What was billed and is no longer due is given back.
pub fn less_billed(whole: Vec<CycleLine>, billed: &[BilledLine]) -> Result<Vec<Continued>, RatingError> {
    let mut before: BTreeMap<Key, Before> = BTreeMap::new();
    for line in billed {
        match before.get_mut(&key(&line.source, line.kind, &line.line)) {
            Some(sum) => {
                sum.amount = sum.amount.checked_add(line.line.amount)?;
                sum.quantity += &line.line.quantity;
            }
            None => {
                let sum = Before { amount: line.line.amount, quantity: line.line.quantity.clone(), first: line };
                before.insert(key(&line.source, line.kind, &line.line), sum);
            }
        }
    }
    let mut found = Vec::new();
    for CycleLine { source, mut line } in whole {
        let Some(billed) = before.remove(&key(&source, line.kind, &line)) else {
            found.push(Continued { source, line, adjusts: None, of: None });
            continue;
        };
        let whole = (line.amount, line.quantity.clone());
        line.amount = line.amount.checked_sub(billed.amount)?;
        if line.kind == LineKind::Usage {
            line.quantity = &line.quantity - &billed.quantity;
            if let Some(basis) = &mut line.basis {
                basis.usage.prior = Some(Prior { value: billed.quantity.clone(), billed: Decimal(billed.amount.to_decimal()) });
            }
        }
        line.explanation = format!(
            "{}; {} in all for {}, of which {} for {} is on invoice {}",
            line.explanation,
            whole.0,
            human(&whole.1),
            billed.amount,
            human(&billed.quantity),
            billed.first.number
        );
        found.push(Continued { source, line, adjusts: Some(billed.first.first.clone()), of: None });
    }
    for billed in before.into_values().filter(|billed| !billed.amount.is_zero()) {
        let mut line = billed.first.line.clone();
        line.kind = billed.first.kind;
        line.amount = Money::zero(billed.amount.currency).checked_sub(billed.amount)?;
        line.quantity = -billed.quantity;
        line.basis = None;
        line.explanation = format!("{} was billed on invoice {} and is no longer due", billed.amount, billed.first.number);
        found.push(Continued { source: billed.first.source.clone(), line, adjusts: Some(billed.first.first.clone()), of: None });
    }
    Ok(found)
}

/// As [`less_billed`], for a period that is closed: only what changes an amount, as adjustments that name their line.
pub fn corrections(whole: Vec<CycleLine>, billed: &[BilledLine]) -> Result<Vec<Continued>, RatingError> {
    let mut found = less_billed(whole, billed)?;
    found.retain(|continued| !continued.line.amount.is_zero());
    for continued in &mut found {
        continued.of = Some(continued.line.kind);
        continued.line.kind = LineKind::Adjustment;
        continued.line.name = format!("{}, corrected", continued.line.name);
    }
    Ok(found)
}
