//! Every journal balances, and in the end every account holds what it must, whatever the invoice.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use farebox_core::ids::{ConsumerId, CreditNoteId, InvoiceId, InvoiceLineId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::{Period, local_date};
use proptest::prelude::*;

use super::Account;
use super::derive::{DisputeFacts, FactLine, Facts, Fate, Journal, NoteFacts, RefundFacts, journals};

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
            notes: Vec::new(),
            refunds: Vec::new(),
            disputes: Vec::new(),
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

/// Takes `percent` of every line that is earned, and of the tax, back.
fn note(facts: &Facts, percent: i64, minutes: i64, against: Account) -> NoteFacts {
    let share = |minor: i64| Money::new(minor * percent / 100, eur());
    let lines: Vec<_> = facts
        .lines
        .iter()
        .filter(|line| line.settles.is_none())
        .map(|line| FactLine { net: share(line.net.minor), ..line.clone() })
        .collect();
    let tax = share(facts.tax.minor);
    let total = Money::new(lines.iter().map(|line| line.net.minor).sum::<i64>() + tax.minor, eur());
    NoteFacts {
        id: CreditNoteId::new(),
        number: format!("CN-{percent}"),
        issued_at: at(minutes),
        voided_at: None,
        total,
        tax,
        lines,
        against,
    }
}

/// The rest of what `earlier` left.
fn rest(facts: &Facts, earlier: &NoteFacts, minutes: i64, against: Account) -> NoteFacts {
    let mut whole = note(facts, 100, minutes, against);
    for (line, before) in whole.lines.iter_mut().zip(&earlier.lines) {
        line.net = Money::new(line.net.minor - before.net.minor, eur());
    }
    whole.tax = Money::new(whole.tax.minor - earlier.tax.minor, eur());
    whole.total = Money::new(whole.total.minor - earlier.total.minor, eur());
    whole
}

proptest! {
    /// Credited in two parts, before and after it was paid: nothing was earned and no tax is owed; what is kept for the
    /// customer, or was paid back, is what came in.
    #[test]
    fn what_is_credited_was_never_earned(
        facts in invoices(), percent in 0_i64..=100, first in 0_i64..300_000, second in 0_i64..300_000, back in 0_u8..3,
    ) {
        let mut facts = Facts { carried: false, ..facts };
        facts.lines.retain(|line| line.settles.is_none());
        let net: i64 = facts.lines.iter().map(|line| line.net.minor).sum();
        facts.total = Money::new(net + facts.tax.minor, eur());
        prop_assume!(facts.total.minor > 0);
        let mut books = Vec::new();
        add(&mut books, &facts)?;
        let part = note(&facts, percent, first, Account::Receivable);
        facts.notes.push(part.clone());
        add(&mut books, &facts)?;
        let due = facts.total.minor - part.total.minor;
        let owed = balances(&books, None).get(&Account::Receivable).copied().unwrap_or(0);
        prop_assert_eq!(owed, due, "so much less is owed");
        facts.fate = Fate::Paid(at(first + 10));
        add(&mut books, &facts)?;
        prop_assert_eq!(balances(&books, None).get(&Account::Cash).copied().unwrap_or(0), due);
        let against = if back == 0 { Account::Cash } else { Account::CustomerCredit };
        facts.notes.push(rest(&facts, &part, first + second + 20, against));
        add(&mut books, &facts)?;
        if back == 2 && due > 0 {
            let refund = RefundFacts { id: "re_1".to_owned(), amount: Money::new(due, eur()), succeeded_at: at(first + second + 30), failed_at: None };
            facts.refunds.push(refund);
            add(&mut books, &facts)?;
        }
        let expected = if back == 1 && due != 0 { BTreeMap::from([(Account::Cash, due), (Account::CustomerCredit, -due)]) } else { BTreeMap::new() };
        prop_assert_eq!(balances(&books, None), expected);
        // At no end of a day is less deferred or earned than nothing, where every line is above nothing.
        if facts.lines.iter().all(|line| line.net.minor >= 0) && facts.tax.minor >= 0 {
            let days: std::collections::BTreeSet<_> = books.iter().map(|journal| journal.booked_on).collect();
            for day in days {
                let sums = balances(&books, Some(day));
                let of = |account| sums.get(&account).copied().unwrap_or(0);
                // Two documents round the months of a line apart from it, by a unit each.
                let lines = i64::try_from(facts.lines.len()).expect("few");
                prop_assert!(of(Account::Revenue) <= 2 * lines && of(Account::DeferredRevenue) <= 2 * lines, "{day}: {sums:?}");
            }
        }
    }

    /// A credit note that is voided while its invoice is open: from then on every day's balances are as if it had never been, and
    /// the invoice can be paid whole or voided itself.
    #[test]
    fn a_voided_note_never_was(
        facts in invoices(), percent in 0_i64..=100, first in 0_i64..300_000, second in 0_i64..300_000, pays in any::<bool>(),
    ) {
        let plain = Facts { carried: false, ..facts };
        prop_assume!(plain.total.minor > 0);
        let fate = if pays { Fate::Paid(at(first + second + 10)) } else { Fate::Void(at(first + second + 10)) };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        let mut credited = plain.clone();
        credited.notes.push(note(&plain, percent, first, Account::Receivable));
        add(&mut without, &plain)?;
        add(&mut with, &credited)?;
        credited.notes[0].voided_at = Some(at(first + second));
        add(&mut with, &credited)?;
        for end in [false, true] {
            if end {
                add(&mut without, &Facts { fate, ..plain.clone() })?;
                add(&mut with, &Facts { fate, ..credited.clone() })?;
            }
            let days = with.iter().map(|journal| journal.booked_on).filter(|day| *day > local_date(at(first + second), ZONE));
            for day in days.map(Some).chain([None]) {
                prop_assert_eq!(balances(&with, day), balances(&without, day), "{:?}", day);
            }
        }
    }

    /// Money that a bank takes comes back when the dispute is won, and is lost when it is not; a refund that fails never was.
    #[test]
    fn disputes_and_failed_refunds_move_cash_alone(facts in invoices(), won in any::<bool>()) {
        let mut facts = Facts { carried: false, ..facts };
        prop_assume!(facts.total.minor > 0);
        let mut books = Vec::new();
        facts.fate = Fate::Paid(at(10));
        add(&mut books, &facts)?;
        let before = balances(&books, None);
        let amount = facts.total;
        facts.disputes.push(DisputeFacts { id: "du_1".to_owned(), amount, withdrawn_at: at(20), decided: None });
        facts.refunds.push(RefundFacts { id: "re_1".to_owned(), amount, succeeded_at: at(20), failed_at: None });
        add(&mut books, &facts)?;
        prop_assert_eq!(balances(&books, None).get(&Account::Disputed).copied(), Some(amount.minor));
        facts.refunds[0].failed_at = Some(at(30));
        facts.disputes[0].decided = Some((at(30), won));
        add(&mut books, &facts)?;
        let mut expected = before;
        if !won {
            *expected.entry(Account::Cash).or_insert(0) -= amount.minor;
            *expected.entry(Account::BadDebt).or_insert(0) += amount.minor;
            expected.retain(|_, sum| *sum != 0);
        }
        prop_assert_eq!(balances(&books, None), expected);
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
        notes: Vec::new(),
        refunds: Vec::new(),
        disputes: Vec::new(),
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
