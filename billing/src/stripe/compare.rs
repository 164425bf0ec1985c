//! Stripe's totals against ours. Not `amount_due`, which the customer's balance and minimum charges change. Pure.

use super::view::Invoice;

/// In Stripe's units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// In lower case.
    pub currency: String,
    pub lines: usize,
    pub subtotal: i64,
    pub total: i64,
    pub total_excluding_tax: Option<i64>,
    pub tax: i64,
}

impl Totals {
    /// `lines` is counted by the caller, because an invoice shows only the first ten.
    pub fn of(invoice: &Invoice, lines: usize) -> Self {
        Self {
            currency: invoice.currency.clone(),
            lines,
            subtotal: invoice.subtotal,
            total: invoice.total,
            total_excluding_tax: invoice.total_excluding_tax,
            tax: invoice.total_taxes.iter().flatten().map(|tax| tax.amount).sum(),
        }
    }

    /// Every difference, for a person; None when they are equal.
    pub fn differences(&self, stripes: &Self) -> Option<String> {
        let shown = |amount: Option<i64>| amount.map_or("none".to_owned(), |amount| amount.to_string());
        let pairs = [
            ("currency", self.currency.clone(), stripes.currency.clone()),
            ("number of lines", self.lines.to_string(), stripes.lines.to_string()),
            ("subtotal", self.subtotal.to_string(), stripes.subtotal.to_string()),
            ("total", self.total.to_string(), stripes.total.to_string()),
            ("total excluding tax", shown(self.total_excluding_tax), shown(stripes.total_excluding_tax)),
            ("tax", self.tax.to_string(), stripes.tax.to_string()),
        ];
        let different: Vec<_> = pairs
            .into_iter()
            .filter(|(_, ours, theirs)| ours != theirs)
            .map(|(what, ours, theirs)| format!("{what}: ours {ours}, Stripe's {theirs}"))
            .collect();
        (!different.is_empty()).then(|| different.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        Totals { currency: "usd".to_owned(), lines: 2, subtotal: 4900, total: 5831, total_excluding_tax: Some(4900), tax: 931 }
    }

    #[test]
    fn every_part_is_compared_and_named() {
        assert_eq!(totals().differences(&totals()), None);
        let changed = [
            (Totals { currency: "eur".to_owned(), ..totals() }, "currency: ours usd, Stripe's eur"),
            (Totals { lines: 3, ..totals() }, "number of lines: ours 2, Stripe's 3"),
            (Totals { subtotal: 4901, ..totals() }, "subtotal: ours 4900, Stripe's 4901"),
            (Totals { total: 0, ..totals() }, "total: ours 5831, Stripe's 0"),
            (Totals { total_excluding_tax: None, ..totals() }, "total excluding tax: ours 4900, Stripe's none"),
            (Totals { tax: 930, ..totals() }, "tax: ours 931, Stripe's 930"),
        ];
        for (stripes, expected) in changed {
            assert_eq!(totals().differences(&stripes).as_deref(), Some(expected));
        }
    }
}
