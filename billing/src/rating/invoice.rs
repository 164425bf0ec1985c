//! The order on an invoice: lines, then discounts, then prepaid credits, then tax on what is left of each line, then
//! credits that stand for money already taxed, then the total.
//!
//! A discount or credit is one amount, spread over its lines in proportion, by largest remainder: so each tax rate has
//! its exact base, and the parts add up to the whole.

use std::ops::Range;

use farebox_core::money::{BigDecimal, Currency, Money};

use super::error::RatingError;
use super::lines::{Line, LineKind};
use super::plan::{Amounts, Decimal};
use super::tax::{self, LineTax, TaxRate};

/// Something off: a share, or an amount.
#[derive(Debug, Clone, PartialEq)]
pub struct Discount {
    /// Whose it is: what is taken off is answered by it.
    pub id: String,
    pub name: String,
    pub off: Off,
    /// Only from prices of these names; from all lines when empty.
    pub prices: Vec<String>,
    /// Only from these lines, where an invoice has those of several subscriptions.
    pub lines: Option<Range<usize>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Off {
    /// 0.25 is 25 %.
    Share(Decimal),
    Fixed(Amounts),
}

/// What may be used of a grant of credits, in the order of use.
#[derive(Debug, Clone, PartialEq)]
pub struct Credit {
    pub id: String,
    pub name: String,
    pub left: Money,
    /// It stands for money already taxed, and is used after tax.
    pub taxed: bool,
    /// Only for lines of prices of these names; for all lines when empty. Not of what is used after tax.
    pub prices: Vec<String>,
    /// As of a discount.
    pub lines: Option<Range<usize>>,
}

/// Whether something for prices of these names, or for all, is meant for a line. What is carried over is left as it is.
fn is_for(prices: &[String], lines: Option<&Range<usize>>, at: usize, line: &RatedLine) -> bool {
    let named = || line.line.price.as_ref().is_some_and(|price| prices.contains(price));
    let inside = lines.is_none_or(|lines| lines.contains(&at));
    line.line.kind != LineKind::Carried && inside && (prices.is_empty() || named())
}

/// A line with what was taken off it, and its tax.
#[derive(Debug, Clone, PartialEq)]
pub struct RatedLine {
    pub line: Line,
    pub discount: Money,
    pub credit: Money,
    pub tax: Option<LineTax>,
}

impl RatedLine {
    /// What is left of the line, with the tax where it is inclusive.
    pub fn left(&self) -> Result<Money, RatingError> {
        Ok(self.line.amount.checked_sub(self.discount)?.checked_sub(self.credit)?)
    }
}

/// Lines in their order, and their sums: `subtotal` without tax, `total` with it.
#[derive(Debug, Clone, PartialEq)]
pub struct RatedInvoice {
    pub currency: Currency,
    pub lines: Vec<RatedLine>,
    /// By discount, what it took off.
    pub discounts: Vec<(String, Money)>,
    /// By grant, what was used of it.
    pub credits: Vec<(String, Money)>,
    pub subtotal: Money,
    pub tax: Money,
    pub total: Money,
}

/// Everything that happens to lines on an invoice.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// In the order listed; shares come before fixed ones.
    pub discounts: Vec<Discount>,
    /// In the order of use.
    pub credits: Vec<Credit>,
    pub tax: Option<TaxRate>,
}

/// Puts lines in the order of an invoice. Carried lines come with their tax and are left as they are.
pub fn invoice(lines: Vec<Line>, terms: &Terms, currency: Currency) -> Result<RatedInvoice, RatingError> {
    let zero = Money::zero(currency);
    let mut rated: Vec<_> = lines.into_iter().map(|line| RatedLine { line, discount: zero, credit: zero, tax: None }).collect();
    let mut discounts = Vec::new();
    let (shares, fixed): (Vec<_>, Vec<_>) = terms.discounts.iter().partition(|discount| matches!(discount.off, Off::Share(_)));
    for discount in shares.into_iter().chain(fixed) {
        discounts.push((discount.id.clone(), take_off(&mut rated, discount, currency)?));
    }
    let mut credits = Vec::new();
    for credit in terms.credits.iter().filter(|credit| !credit.taxed) {
        let left = lefts(&rated, |at, line| is_for(&credit.prices, credit.lines.as_ref(), at, line))?;
        let used = credit.left.minor.min(sum(&left, currency)?.minor).max(0);
        for (line, part) in rated.iter_mut().zip(spread(used, &left)) {
            line.credit = line.credit.checked_add(Money::new(part, currency))?;
        }
        credits.push((credit.id.clone(), Money::new(used, currency)));
    }
    if let Some(rate) = &terms.tax {
        tax::lines(&mut rated, rate, currency)?;
    }
    let mut subtotal = zero;
    let mut tax_total = zero;
    for line in &rated {
        subtotal = subtotal.checked_add(line.tax.as_ref().map_or(line.left()?, |tax| tax.net))?;
        tax_total = tax_total.checked_add(line.tax.as_ref().map_or(zero, |tax| tax.tax))?;
    }
    let mut total = subtotal.checked_add(tax_total)?;
    for credit in terms.credits.iter().filter(|credit| credit.taxed) {
        let used = Money::new(credit.left.minor.min(total.minor).max(0), currency);
        if used.minor > 0 {
            let amount = zero.checked_sub(used)?;
            rated.push(RatedLine { line: credit_line(credit, used, amount, &rated), discount: zero, credit: zero, tax: None });
            subtotal = subtotal.checked_add(amount)?;
            total = total.checked_add(amount)?;
        }
        credits.push((credit.id.clone(), used));
    }
    Ok(RatedInvoice { currency, lines: rated, discounts, credits, subtotal, tax: tax_total, total })
}

/// A credit after tax is a line without tax.
fn credit_line(credit: &Credit, used: Money, amount: Money, lines: &[RatedLine]) -> Line {
    let period = lines
        .first()
        .map_or(farebox_core::period::Period { start: chrono::DateTime::UNIX_EPOCH, end: chrono::DateTime::UNIX_EPOCH }, |l| l.line.period);
    Line {
        kind: LineKind::Credit,
        name: credit.name.clone(),
        price: None,
        meter: None,
        value: None,
        period,
        quantity: BigDecimal::from(1),
        amount,
        explanation: format!("{used} of {} in prepaid credits, taxed when they were bought", credit.left),
        counts_to_minimum: false,
        basis: None,
        alert: None,
    }
}

fn take_off(rated: &mut [RatedLine], discount: &Discount, currency: Currency) -> Result<Money, RatingError> {
    let left = lefts(rated, |at, line| is_for(&discount.prices, discount.lines.as_ref(), at, line))?;
    let base = sum(&left, currency)?;
    let off = match &discount.off {
        // Of what is given back its share is given back less.
        Off::Share(share) => Money::round(&(base.to_decimal() * &share.0), currency)?.minor,
        Off::Fixed(amounts) => {
            let amount = amounts.get(currency).ok_or_else(|| RatingError::NoAmount { price: discount.name.clone(), currency })?;
            Money::exact(amount, currency)?.minor.min(base.minor).max(0)
        }
    };
    for (line, part) in rated.iter_mut().zip(spread(off, &left)) {
        line.discount = line.discount.checked_add(Money::new(part, currency))?;
    }
    Ok(Money::new(off, currency))
}

/// What is left of each line; nothing of those that are not meant.
fn lefts(rated: &[RatedLine], meant: impl Fn(usize, &RatedLine) -> bool) -> Result<Vec<i64>, RatingError> {
    rated.iter().enumerate().map(|(at, line)| if meant(at, line) { Ok(line.left()?.minor) } else { Ok(0) }).collect()
}

fn sum(parts: &[i64], currency: Currency) -> Result<Money, RatingError> {
    Ok(Money::sum(parts.iter().map(|minor| Money::new(*minor, currency)), currency)?)
}

/// `total` in whole units, in proportion to `weights`, by largest remainder: the parts add up to it, and none is off
/// its exact share by a unit or more. Nothing where the weights add up to nothing.
pub fn spread(total: i64, weights: &[i64]) -> Vec<i64> {
    let whole: i128 = weights.iter().copied().map(i128::from).sum();
    if whole == 0 || total == 0 {
        return vec![0; weights.len()];
    }
    // By floor: what is missing is then one unit at most for each weight that is not zero.
    let exact = |weight: i64| i128::from(total) * i128::from(weight) * whole.signum();
    let mut parts: Vec<i128> = weights.iter().map(|weight| exact(*weight).div_euclid(whole.abs())).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).filter(|n| exact(weights[*n]).rem_euclid(whole.abs()) > 0).collect();
    by_remainder.sort_by_key(|n| std::cmp::Reverse(exact(weights[*n]).rem_euclid(whole.abs())));
    let missing = i128::from(total) - parts.iter().sum::<i128>();
    for n in by_remainder.into_iter().take(usize::try_from(missing).unwrap_or(0)) {
        parts[n] += 1;
    }
    // Within the weights' own range, because the total is within their sum's.
    parts.into_iter().map(|part| i64::try_from(part).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use farebox_core::period::Period;
    use proptest::prelude::*;

    fn usd() -> Currency {
        "USD".parse().expect("a currency")
    }

    fn line(price: &str, minor: i64) -> Line {
        let period = Period { start: chrono::DateTime::UNIX_EPOCH, end: chrono::DateTime::UNIX_EPOCH };
        Line {
            kind: LineKind::Usage,
            name: price.to_owned(),
            price: Some(price.to_owned()),
            meter: None,
            value: None,
            period,
            quantity: BigDecimal::from(1),
            amount: Money::new(minor, usd()),
            explanation: String::new(),
            counts_to_minimum: true,
            basis: None,
            alert: None,
        }
    }

    fn share(text: &str, prices: &[&str]) -> Discount {
        let off = Off::Share(Decimal(text.parse().expect("a decimal")));
        Discount { id: text.to_owned(), name: text.to_owned(), off, prices: prices.iter().map(ToString::to_string).collect(), lines: None }
    }

    fn fixed(text: &str) -> Discount {
        let off = Off::Fixed(Amounts::of(usd(), text.parse().expect("a decimal")));
        Discount { id: text.to_owned(), name: text.to_owned(), off, prices: Vec::new(), lines: None }
    }

    fn credit(minor: i64, taxed: bool) -> Credit {
        Credit {
            id: format!("c{minor}"),
            name: "Credits".to_owned(),
            left: Money::new(minor, usd()),
            taxed,
            prices: Vec::new(),
            lines: None,
        }
    }

    fn vat(rate: &str, inclusive: bool, per: tax::TaxPer) -> TaxRate {
        TaxRate { name: "VAT".to_owned(), rate: Decimal(rate.parse().expect("a decimal")), inclusive, per, note: None }
    }

    /// 100.00 and 50.00; 10 % off A, 20 % off all, then 5.00; 30.00 of credits; 19 % of the rest.
    #[test]
    fn the_order_on_an_invoice() {
        let terms = Terms {
            discounts: vec![fixed("5"), share("0.1", &["A"]), share("0.2", &[])],
            credits: vec![credit(3000, false), credit(1000, true)],
            tax: Some(vat("0.19", false, tax::TaxPer::Line)),
        };
        let rated = invoice(vec![line("A", 10_000), line("B", 5_000)], &terms, usd()).expect("rates");
        // A: 100 - 10 = 90, - 18 = 72; B: 50 - 10 = 40; 112 - 5 = 107; 107 - 30 = 77.
        let off: Vec<_> = rated.discounts.iter().map(|(_, off)| off.minor).collect();
        assert_eq!(off, [1000, 2800, 500]);
        let left: i64 = rated.lines.iter().filter(|l| l.line.kind == LineKind::Usage).map(|l| l.left().expect("left").minor).sum();
        assert_eq!(left, 7700);
        // 49.50 and 27.50: 9.41 and 5.23.
        assert_eq!((rated.tax.minor, rated.total.minor), (1464, 7700 + 1464 - 1000));
        assert_eq!(rated.credits, [("c3000".to_owned(), Money::new(3000, usd())), ("c1000".to_owned(), Money::new(1000, usd()))]);
    }

    #[test]
    fn per_document_the_tax_is_rounded_once() {
        let lines = || vec![line("A", 10), line("B", 10), line("C", 10)];
        let per = |per| invoice(lines(), &Terms { tax: Some(vat("0.15", false, per)), ..Terms::default() }, usd()).expect("rates");
        // 1.5 cents each: 2 by line, 4.5 = 5 by document.
        assert_eq!((per(tax::TaxPer::Line).tax.minor, per(tax::TaxPer::Document).tax.minor), (6, 5));
    }

    #[test]
    fn a_fixed_discount_never_goes_below_zero_and_what_is_given_back_is_discounted_too() {
        let rated = invoice(vec![line("A", 300)], &Terms { discounts: vec![fixed("5")], ..Terms::default() }, usd()).expect("rates");
        assert_eq!((rated.total.minor, rated.discounts[0].1.minor), (0, 300));
        let rated =
            invoice(vec![line("A", -2000)], &Terms { discounts: vec![share("0.5", &[])], ..Terms::default() }, usd()).expect("rates");
        assert_eq!(rated.total.minor, -1000);
    }

    proptest! {
        #[test]
        fn what_is_spread_adds_up(total in -1_000_000_000_i64..1_000_000_000, weights in prop::collection::vec(-1_000_000_i64..1_000_000_000, 1..30)) {
            let parts = spread(total, &weights);
            let whole: i64 = weights.iter().sum();
            prop_assert_eq!(parts.iter().sum::<i64>(), if whole == 0 { 0 } else { total });
            for (part, weight) in parts.iter().zip(&weights) {
                if whole != 0 {
                    // Less than a unit from the exact share.
                    let off = i128::from(*part) * i128::from(whole) - i128::from(total) * i128::from(*weight);
                    prop_assert!(off.abs() < i128::from(whole).abs(), "{part} for {weight} of {whole}");
                }
            }
        }

        /// Lines, discounts, credits and tax add up, whatever the order and the signs; a line is never taken below zero.
        #[test]
        fn an_invoice_adds_up(
            amounts in prop::collection::vec(0_i64..10_000_000, 1..12), shares in prop::collection::vec(0_u32..=100, 0..3),
            off in 0_u32..100_000, credits in prop::collection::vec((0_i64..5_000_000, any::<bool>()), 0..4),
            rate in 0_u32..40, inclusive: bool, document: bool,
        ) {
            let lines: Vec<_> = amounts.iter().enumerate().map(|(n, minor)| line(&format!("p{n}"), *minor)).collect();
            let mut discounts: Vec<_> = shares.iter().map(|s| share(&format!("{}.{:02}", s / 100, s % 100), &[])).collect();
            discounts.push(fixed(&off.to_string()));
            let per = if document { tax::TaxPer::Document } else { tax::TaxPer::Line };
            let terms = Terms {
                discounts, credits: credits.iter().map(|(minor, taxed)| credit(*minor, *taxed)).collect(),
                tax: Some(vat(&format!("0.{rate:02}"), inclusive, per)),
            };
            let rated = invoice(lines, &terms, usd()).expect("rates");
            let sum = |all: &mut dyn Iterator<Item = i64>| all.sum::<i64>();
            let discounted = sum(&mut rated.discounts.iter().map(|(_, m)| m.minor));
            let before_tax = sum(&mut rated.credits.iter().zip(terms.credits.iter().filter(|c| !c.taxed)).map(|((_, m), _)| m.minor));
            prop_assert_eq!(discounted, sum(&mut rated.lines.iter().map(|l| l.discount.minor)));
            prop_assert_eq!(before_tax, sum(&mut rated.lines.iter().map(|l| l.credit.minor)));
            for l in rated.lines.iter().filter(|l| l.line.kind == LineKind::Usage) {
                prop_assert!(l.left().expect("left").minor >= 0);
                let tax = l.tax.as_ref().expect("taxed");
                let gross = tax.net.minor + tax.tax.minor;
                prop_assert_eq!(if inclusive { gross } else { tax.net.minor }, l.left().expect("left").minor);
            }
            prop_assert_eq!(rated.total.minor, rated.subtotal.minor + rated.tax.minor);
            prop_assert!(rated.total.minor >= 0);
            for ((_, used), grant) in rated.credits.iter().zip(terms.credits.iter().filter(|c| !c.taxed).chain(terms.credits.iter().filter(|c| c.taxed))) {
                prop_assert!(used.minor >= 0 && used.minor <= grant.left.minor);
            }
        }
    }
}
