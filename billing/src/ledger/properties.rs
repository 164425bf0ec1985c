//! Every journal balances, and in the end every account holds what it must, whatever the invoice.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use farebox_core::ids::{ConsumerId, InvoiceId, InvoiceLineId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::Period;
use proptest::prelude::*;

use super::Account;
use super::derive::{FactLine, Facts, Fate, Journal, journals};

const ZONE: chrono_tz::Tz = chrono_tz::Europe::Berlin;

fn eur() -> Currency {
    "EUR".parse().expect("a currency")
}

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 / 60 * 60, 0).expect("an instant") + TimeDelta::minutes(minutes)
}

prop_compose! {
    /// Lines over periods before, after and across the issue, of either sign; some settle an earlier invoice.
    fn invoices()(
        lines in prop::collection::vec((-100_000_i64..100_000, -100_000_i64..100_000, 1_i64..200_000, 0_u8..5), 0..6),
        tax in -20_000_i64..20_000,
        carried in any::<bool>(),
    ) -> Facts {
        let lines: Vec<_> = lines.into_iter().map(|(net, start, length, settles)| FactLine {
            line: InvoiceLineId::new(),
            period: Period { start: at(start), end: at(start + length) },
            net: Money::new(net, eur()),
            settles: (settles == 0).then(|| Some(InvoiceId::new())),
        }).collect();
        let net: i64 = lines.iter().map(|line| line.net.minor).sum();
        Facts {
            invoice: InvoiceId::new(),
            consumer: ConsumerId::new(),
            number: "ACME-000001".to_owned(),
            currency: eur(),
            total: Money::new(net + tax, eur()),
            tax: Money::new(tax, eur()),
            issued_at: at(0),
            carried,
            lines,
            fate: Fate::Open,
        }
    }
}

fn balances(journals: &[Journal], until: Option<NaiveDate>) -> BTreeMap<Account, i64> {
    let mut sums = BTreeMap::new();
    for journal in journals.iter().filter(|journal| until.is_none_or(|day| journal.booked_on < day)) {
        for posting in &journal.postings {
            *sums.entry(posting.account).or_insert(0) += posting.amount.minor;
        }
    }
    sums.retain(|_, sum| *sum != 0);
    sums
}

fn add(books: &mut Vec<Journal>, facts: &Facts) -> Result<(), TestCaseError> {
    for journal in journals(facts, books, ZONE).expect("derives") {
        prop_assert_eq!(journal.postings.iter().map(|posting| posting.amount.minor).sum::<i64>(), 0, "{} does not balance", journal.key);
        if !books.iter().any(|known| known.key == journal.key) {
            books.push(journal);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn an_issued_invoice_is_all_earned_in_the_end(facts in invoices()) {
        let mut books = Vec::new();
        add(&mut books, &facts)?;
        let once = books.clone();
        add(&mut books, &facts)?;
        prop_assert_eq!(&once, &books, "deriving again changes nothing");
        let sums = balances(&books, None);
        let of = |account| sums.get(&account).copied().unwrap_or(0);
        let earned: i64 = facts.lines.iter().filter(|line| line.settles.is_none()).map(|line| line.net.minor).sum();
        prop_assert_eq!((of(Account::Unbilled), of(Account::DeferredRevenue), of(Account::Revenue)), (0, 0, -earned));
        prop_assert_eq!(of(Account::TaxPayable), -facts.tax.minor);
        let settled: i64 = facts.lines.iter().filter(|line| line.settles.is_some()).map(|line| line.net.minor).sum();
        prop_assert_eq!(of(Account::Receivable) + of(Account::CustomerCredit), facts.total.minor - settled);
    }

    #[test]
    fn a_void_invoice_leaves_nothing(mut facts in invoices(), voided in 0_i64..300_000) {
        let mut books = Vec::new();
        add(&mut books, &facts)?;
        facts.fate = Fate::Void(at(voided));
        add(&mut books, &facts)?;
        add(&mut books, &facts)?;
        prop_assert_eq!(balances(&books, None), BTreeMap::new());
    }

    #[test]
    fn paid_is_cash_even_after_it_was_given_up(mut facts in invoices(), given_up in any::<bool>()) {
        let mut books = Vec::new();
        add(&mut books, &facts)?;
        let owed = balances(&books, None).get(&Account::Receivable).copied().unwrap_or(0);
        if given_up {
            facts.fate = Fate::Uncollectible(at(50_000));
            add(&mut books, &facts)?;
        }
        facts.fate = Fate::Paid(at(60_000));
        add(&mut books, &facts)?;
        let sums = balances(&books, None);
        let collected = if facts.total.minor > 0 && !facts.carried { facts.total.minor } else { 0 };
        prop_assert_eq!(sums.get(&Account::Cash).copied().unwrap_or(0), collected);
        prop_assert_eq!(sums.get(&Account::Receivable).copied().unwrap_or(0), owed - collected);
        prop_assert_eq!(sums.get(&Account::BadDebt).copied().unwrap_or(0), 0);
    }
}

/// A fee paid in advance and usage of the month before, as the books show it.
#[test]
fn a_month_in_the_books() {
    let utc = |text: &str| text.parse::<DateTime<Utc>>().expect("an instant");
    let (october, november, december) = (utc("2026-09-30T22:00:00Z"), utc("2026-10-31T23:00:00Z"), utc("2026-11-30T23:00:00Z"));
    let line = |net, start, end| FactLine {
        line: InvoiceLineId::new(),
        period: Period { start, end },
        net: Money::new(net, eur()),
        settles: None,
    };
    let facts = Facts {
        invoice: "inv_00000000000000000000000000000001".parse().expect("an id"),
        consumer: ConsumerId::new(),
        number: "ACME-000007".to_owned(),
        currency: eur(),
        total: Money::new(7299, eur()),
        tax: Money::new(1165, eur()),
        issued_at: utc("2026-11-01T00:05:00Z"),
        carried: false,
        lines: vec![line(4900, november, december), line(1234, october, november)],
        fate: Fate::Paid(utc("2026-11-03T09:00:00Z")),
    };
    let shown: Vec<_> = journals(&facts, &[], ZONE)
        .expect("derives")
        .into_iter()
        .flat_map(|journal| {
            let head = format!("{} {} ({})", journal.booked_on, journal.description, journal.kind);
            let postings = journal.postings.into_iter().map(|p| format!("    {:<17} {:>9}", p.account.as_str(), p.amount.to_string()));
            std::iter::once(head).chain(postings).collect::<Vec<_>>()
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}
