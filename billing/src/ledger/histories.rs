//! A customer's whole life in documents: random histories of a subscription, invoiced, and random doings of finance in between
//! (payments, credit notes of every kind, refunds, disputes, write-offs, voids; coupons; credits bought, given and taken back). After every step the books balance and every
//! account holds what the documents say; in the end all documents together are what was rated.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{ConsumerId, CreditNoteId, InvoiceId, InvoiceLineId};
use farebox_core::money::{BigDecimal, Currency, Money};
use farebox_core::period::Period;
use proptest::prelude::*;

use super::Account;
use super::derive::{DisputeFacts, FactLine, Facts, Fate, Journal, NoteFacts, RefundFacts, journals};
use super::prepaid::{Movement, accounts};
use crate::credit_notes::derive::{Credited, Part, some, sums, whole};
use crate::credits::GrantKind;
use crate::invoices::{Invoice, InvoiceLine, InvoiceTax};
use crate::rating::invoice::{Credit, Discount, Off, Terms, invoice};
use crate::rating::plan::{Amounts, Decimal};
use crate::rating::tax::{TaxPer, TaxRate};
use crate::rating::{Line, LineKind};
use crate::subscriptions::histories::{Act, PLANS, World, act, calls};

const ZONE: chrono_tz::Tz = chrono_tz::Europe::Berlin;
/// Less is carried to the next invoice.
const SMALLEST: i64 = 50;

fn usd() -> Currency {
    "USD".parse().expect("a currency")
}

fn money(minor: i64) -> Money {
    Money::new(minor, usd())
}

#[derive(Debug, Clone)]
enum Deed {
    Pay,
    GiveUp,
    Void,
    /// Of a line, so many percent of what is left.
    Credit {
        line: usize,
        percent: i64,
        to: To,
    },
    CreditAll(To),
    /// Of the last credit note.
    VoidNote,
    Dispute {
        won: bool,
    },
    /// Off so many invoices to come: percent, or so many cents.
    Redeem {
        percent: Option<i64>,
        cents: i64,
        invoices: usize,
    },
    /// Credits used before tax.
    Grant {
        paid: bool,
        cents: i64,
    },
    /// What is left of the last grant.
    TakeBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Refund,
    Balance,
    OutOfBand,
}

fn deed() -> impl Strategy<Value = Deed> {
    let to = || prop_oneof![Just(To::Refund), Just(To::Balance), Just(To::OutOfBand)];
    prop_oneof![
        5 => Just(Deed::Pay),
        1 => Just(Deed::GiveUp),
        1 => Just(Deed::Void),
        4 => (0_usize..8, 1_i64..=100, to()).prop_map(|(line, percent, to)| Deed::Credit { line, percent, to }),
        2 => to().prop_map(Deed::CreditAll),
        2 => Just(Deed::VoidNote),
        1 => any::<bool>().prop_map(|won| Deed::Dispute { won }),
        1 => (prop::option::of(1_i64..=100), 1_i64..5000, 1_usize..4)
            .prop_map(|(percent, cents, invoices)| Deed::Redeem { percent, cents, invoices }),
        2 => (any::<bool>(), 1_i64..8000).prop_map(|(paid, cents)| Deed::Grant { paid, cents }),
        1 => Just(Deed::TakeBack),
    ]
}

/// An invoice with its fate, and what the books have of it.
struct Issued {
    invoice: Invoice,
    facts: Facts,
    credited: Credited,
    parts: HashMap<CreditNoteId, Vec<Part>>,
    taken_over: bool,
    /// By grant, what it used of credits and was not given back.
    used: Vec<(usize, i64)>,
    books: Vec<Journal>,
}

struct Grant {
    kind: GrantKind,
    amount: i64,
    left: i64,
    taken_back: i64,
}

#[derive(Default)]
struct Ledger {
    issued: Vec<Issued>,
    grants: Vec<Grant>,
    /// What is booked of grants' movements.
    prepaid: BTreeMap<Account, i64>,
    /// Each with how many invoices it is still for.
    coupons: Vec<(Off, usize)>,
    /// Credits for money already taxed.
    balance: i64,
    cash: i64,
    given_up: i64,
}

impl Ledger {
    /// As [`crate::close`] drafts and issues.
    fn issue(&mut self, lines: Vec<Line>, at: DateTime<Utc>) {
        let mut lines = lines;
        let mut settled = Vec::new();
        for earlier in self.issued.iter_mut().filter(|earlier| earlier.facts.carried && !earlier.taken_over && open(&earlier.facts)) {
            earlier.taken_over = true;
            earlier.facts.fate = Fate::Paid(at);
            settled.push((lines.len(), earlier.facts.invoice.clone()));
            lines.push(line_of(LineKind::Carried, earlier.facts.total, Period { start: at - TimeDelta::days(1), end: at }));
        }
        if lines.is_empty() {
            return;
        }
        let rate = TaxRate {
            name: "VAT".to_owned(),
            rate: Decimal("0.19".parse().expect("a decimal")),
            inclusive: false,
            per: TaxPer::Line,
            note: None,
        };
        let credit = |id: String, left: i64, taxed: bool| Credit {
            id,
            name: "Credits".to_owned(),
            left: money(left),
            taxed,
            prices: Vec::new(),
            lines: None,
        };
        let granted = self.grants.iter().enumerate().map(|(n, grant)| credit(n.to_string(), grant.left, false));
        let credits = granted.chain([credit("b".to_owned(), self.balance, true)]).collect();
        let discounts = self.coupons.iter_mut().enumerate().filter(|(_, (_, left))| *left > 0).map(|(n, (off, left))| {
            *left -= 1;
            Discount { id: n.to_string(), name: "Coupon".to_owned(), off: off.clone(), prices: Vec::new(), lines: None }
        });
        let discounts = discounts.collect();
        let rated = invoice(lines, &Terms { discounts, credits, tax: Some(rate) }, usd()).expect("rates");
        let mut used = Vec::new();
        for (id, amount) in &rated.credits {
            match id.parse::<usize>() {
                Err(_) => self.balance -= amount.minor,
                Ok(grant) => {
                    self.grants[grant].left -= amount.minor;
                    self.post(grant, ("balance", "used"), amount.minor);
                    used.push((grant, amount.minor));
                }
            }
        }
        let carried = rated.total.minor < 0 || (rated.total.minor > 0 && rated.total.minor < SMALLEST);
        let lines: Vec<_> = (0..).zip(rated.lines).map(|(position, rated)| stored(position, rated)).collect();
        let facts = lines.iter().enumerate().map(|(index, line)| FactLine {
            line: line.id.clone(),
            period: line.period,
            net: line.net(),
            settles: matches!(line.kind, LineKind::Carried | LineKind::Credit)
                .then(|| settled.iter().find(|(at, _)| *at == index).map(|(_, invoice)| invoice.clone())),
        });
        let id = InvoiceId::new();
        let facts = Facts {
            invoice: id.clone(),
            consumer: ConsumerId::new(),
            number: format!("N{}", self.issued.len()),
            currency: usd(),
            total: rated.total,
            tax: rated.tax,
            issued_at: at,
            carried,
            lines: facts.collect(),
            notes: Vec::new(),
            refunds: Vec::new(),
            disputes: Vec::new(),
            fate: if rated.total.is_zero() { Fate::Paid(at) } else { Fate::Open },
        };
        let mut invoice = crate::credit_notes::derive::tests::invoice(&[]);
        (invoice.id, invoice.currency, invoice.total, invoice.subtotal, invoice.tax) = (id, usd(), rated.total, rated.subtotal, rated.tax);
        invoice.lines = lines;
        self.issued.push(Issued {
            invoice,
            facts,
            credited: Credited::new(),
            parts: HashMap::new(),
            taken_over: false,
            used,
            books: Vec::new(),
        });
    }

    /// Books what moves of a grant.
    fn post(&mut self, grant: usize, (from, to): (&str, &str), amount: i64) {
        let movement = Movement { kind: self.grants[grant].kind, rolled: false, taxed: false, from, to };
        if let Some((debit, credit)) = accounts(movement) {
            *self.prepaid.entry(debit).or_default() += amount;
            *self.prepaid.entry(credit).or_default() -= amount;
        }
    }

    /// As [`crate::credits::give_back`].
    fn give_back(&mut self, of: usize) {
        for (grant, amount) in std::mem::take(&mut self.issued[of].used) {
            self.grants[grant].left += amount;
            self.post(grant, ("used", "balance"), amount);
        }
    }

    /// What finance does: about nobody's invoice, or about one, where its state allows it.
    fn act(&mut self, of: usize, deed: &Deed, at: DateTime<Utc>) {
        match deed {
            Deed::Redeem { percent, cents, invoices } => {
                let off = match percent {
                    Some(percent) => Off::Share(Decimal(BigDecimal::from(*percent) / BigDecimal::from(100))),
                    None => Off::Fixed(Amounts::of(usd(), money(*cents).to_decimal())),
                };
                return self.coupons.push((off, *invoices));
            }
            Deed::Grant { paid, cents } => {
                let kind = if *paid { GrantKind::Paid } else { GrantKind::Promotional };
                self.grants.push(Grant { kind, amount: *cents, left: *cents, taken_back: 0 });
                return self.post(self.grants.len() - 1, ("granted", "balance"), *cents);
            }
            Deed::TakeBack => {
                if let Some(last) = self.grants.len().checked_sub(1) {
                    let left = std::mem::take(&mut self.grants[last].left);
                    self.grants[last].taken_back += left;
                    self.post(last, ("balance", "voided"), left);
                }
                return;
            }
            _ => {}
        }
        let count = self.issued.len();
        let Some(own) = self.issued.get_mut(of % count.max(1)).filter(|own| !own.facts.carried && own.facts.total.minor > 0) else {
            return;
        };
        let due =
            own.facts.total.minor - notes(&own.facts).filter(|n| n.against == Account::Receivable).map(|n| n.total.minor).sum::<i64>();
        match (deed, own.facts.fate) {
            (Deed::Pay, Fate::Open) => {
                own.facts.fate = Fate::Paid(at);
                self.cash += due;
            }
            (Deed::Pay, Fate::Uncollectible(_)) => {
                own.facts.fate = Fate::Paid(at);
                self.cash += due;
                self.given_up -= due;
            }
            (Deed::GiveUp, Fate::Open) => {
                own.facts.fate = Fate::Uncollectible(at);
                self.given_up += due;
            }
            (Deed::Void, Fate::Open)
                if notes(&own.facts).next().is_none() && !own.invoice.lines.iter().any(|l| l.kind == LineKind::Carried) =>
            {
                own.facts.fate = Fate::Void(at);
                self.balance -= own.invoice.lines.iter().filter(|l| l.kind == LineKind::Credit).map(|l| l.amount.minor).sum::<i64>();
                self.give_back(of % count);
            }
            (Deed::Dispute { won }, Fate::Paid(_)) if own.facts.disputes.is_empty() && due > 0 => {
                let id = format!("du_{}", own.facts.invoice);
                own.facts.disputes.push(DisputeFacts {
                    id,
                    amount: money(due),
                    withdrawn_at: at,
                    decided: Some((at + TimeDelta::days(9), *won)),
                });
                if !won {
                    self.cash -= due;
                    self.given_up += due;
                }
            }
            (Deed::Credit { line, percent, to }, Fate::Open | Fate::Paid(_)) => {
                let lines = own.invoice.lines.len();
                let line = &own.invoice.lines[line % lines];
                let taken = own.credited.get(&line.id).map_or(0, |(amount, _)| amount.minor);
                let amount = money((line.left().minor - taken) * percent / 100);
                if let Ok(parts) = some(&own.invoice, &own.credited, &[(line.id.clone(), Some(amount.to_decimal()))]) {
                    self.credit(of % count, parts, *to, at);
                }
            }
            (Deed::VoidNote, Fate::Open) => {
                let Some(note) = own.facts.notes.iter_mut().rev().find(|note| note.voided_at.is_none()) else { return };
                note.voided_at = Some(at);
                for part in own.parts.remove(&note.id).expect("its parts") {
                    let entry = own.credited.get_mut(&part.line).expect("was credited");
                    *entry = (money(entry.0.minor - part.amount.minor), money(entry.1.minor - part.tax.minor));
                }
            }
            (Deed::CreditAll(to), Fate::Open | Fate::Paid(_)) => {
                let parts = whole(&own.invoice, &own.credited).expect("the rest");
                self.credit(of % count, parts, *to, at);
            }
            _ => {}
        }
    }

    /// As [`crate::credit_notes`] issues.
    fn credit(&mut self, of: usize, parts: Vec<Part>, to: To, at: DateTime<Utc>) {
        let own = &mut self.issued[of];
        let sums = sums(&parts, usd()).expect("sums");
        let before: i64 = notes(&own.facts).map(|note| note.total.minor).sum();
        if sums.total.minor <= 0 || sums.total.minor > own.facts.total.minor - before {
            return;
        }
        let id = CreditNoteId::new();
        let against = match (own.facts.fate, to) {
            (Fate::Open, _) => Account::Receivable,
            (_, To::OutOfBand) => Account::Cash,
            (_, To::Refund | To::Balance) => Account::CustomerCredit,
        };
        if against == Account::CustomerCredit && to == To::Balance {
            self.balance += sums.total.minor;
        }
        if against == Account::Cash {
            self.cash -= sums.total.minor;
        }
        if against == Account::CustomerCredit && to == To::Refund {
            self.cash -= sums.total.minor;
            own.facts.refunds.push(RefundFacts { id: format!("re_{id}"), amount: sums.total, succeeded_at: at, failed_at: None });
        }
        let line = |id: &InvoiceLineId| own.invoice.lines.iter().find(|line| line.id == *id).expect("a line of it");
        let lines: Vec<_> = parts
            .iter()
            .map(|part| {
                let settles = own.facts.lines.iter().find(|line| line.line == part.line).expect("a line of it").settles.clone();
                FactLine { line: part.line.clone(), period: line(&part.line).period, net: part.net, settles }
            })
            .collect();
        // Only a note over all that is left has lines that were settled by the invoice.
        for part in &parts {
            match (line(&part.line).kind, part.amount.minor) {
                (LineKind::Credit, amount) => self.balance -= amount,
                (LineKind::Carried, amount) if amount < 0 => self.balance -= amount,
                (LineKind::Carried, amount) => self.given_up += amount,
                _ => {}
            }
        }
        for part in &parts {
            let entry = own.credited.entry(part.line.clone()).or_insert((money(0), money(0)));
            *entry = (money(entry.0.minor + part.amount.minor), money(entry.1.minor + part.tax.minor));
        }
        let number = format!("CN{}", own.facts.notes.len());
        own.parts.insert(id.clone(), parts);
        own.facts.notes.push(NoteFacts { id, number, issued_at: at, voided_at: None, total: sums.total, tax: sums.tax, lines, against });
        let open: i64 = notes(&own.facts).filter(|note| note.against == Account::Receivable).map(|note| note.total.minor).sum();
        if own.facts.fate == Fate::Open && open == own.facts.total.minor {
            own.facts.fate = Fate::Paid(at);
        }
        if notes(&own.facts).map(|note| note.total.minor).sum::<i64>() == own.facts.total.minor {
            self.give_back(of);
        }
    }

    fn book(&mut self) -> Result<(), TestCaseError> {
        for own in &mut self.issued {
            for journal in journals(&own.facts, &own.books, ZONE).expect("derives") {
                let off: i64 = journal.postings.iter().map(|posting| posting.amount.minor).sum();
                prop_assert_eq!(off, 0, "{} does not balance", journal.key);
                if !own.books.iter().any(|known| known.key == journal.key) {
                    own.books.push(journal);
                }
            }
        }
        Ok(())
    }

    fn account(&self, account: Account) -> i64 {
        let postings = self.issued.iter().flat_map(|own| &own.books).flat_map(|journal| &journal.postings);
        let booked: i64 = postings.filter(|posting| posting.account == account).map(|posting| posting.amount.minor).sum();
        booked + self.prepaid.get(&account).copied().unwrap_or_default()
    }

    /// Every account against what the documents say.
    fn check(&mut self) -> Result<(), TestCaseError> {
        self.book()?;
        let live = || self.issued.iter().filter(|own| !matches!(own.facts.fate, Fate::Void(_)));
        let receivable: i64 = live()
            .filter(|own| open(&own.facts) && own.facts.total.minor > 0)
            .map(|own| own.facts.total.minor - notes(&own.facts).map(|note| note.total.minor).sum::<i64>())
            .sum();
        let owed: i64 = live().filter(|own| open(&own.facts) && own.facts.total.minor < 0).map(|own| own.facts.total.minor).sum();
        let net = |lines: &[FactLine]| lines.iter().filter(|line| line.settles.is_none()).map(|line| line.net.minor).sum::<i64>();
        let sold: i64 = live().map(|own| net(&own.facts.lines) - notes(&own.facts).map(|note| net(&note.lines)).sum::<i64>()).sum();
        let tax: i64 = live().map(|own| own.facts.tax.minor - notes(&own.facts).map(|note| note.tax.minor).sum::<i64>()).sum();
        // Of what was bought: paid, owed, and earned by its use.
        let paid = || self.grants.iter().filter(|grant| grant.kind == GrantKind::Paid);
        let (bought, left) = (paid().map(|g| g.amount - g.taken_back).sum::<i64>(), paid().map(|g| g.left).sum::<i64>());
        for (n, grant) in self.grants.iter().enumerate() {
            let used: i64 = self.issued.iter().flat_map(|own| &own.used).filter(|(of, _)| *of == n).map(|(_, amount)| amount).sum();
            prop_assert_eq!(grant.amount, grant.left + used + grant.taken_back, "a grant is somewhere");
            prop_assert!(grant.left >= 0);
        }
        let books = [
            self.account(Account::Receivable),
            self.account(Account::CustomerCredit),
            self.account(Account::Revenue) + self.account(Account::DeferredRevenue) + self.account(Account::Unbilled),
            self.account(Account::TaxPayable),
            self.account(Account::Cash),
            self.account(Account::BadDebt),
            self.account(Account::Disputed),
        ];
        prop_assert_eq!(
            books,
            [receivable, owed - self.balance - left, -sold - (bought - left), -tax, self.cash + bought, self.given_up, 0]
        );
        Ok(())
    }
}

/// Those that hold.
fn notes(facts: &Facts) -> impl Iterator<Item = &NoteFacts> {
    facts.notes.iter().filter(|note| note.voided_at.is_none())
}

fn open(facts: &Facts) -> bool {
    facts.fate == Fate::Open
}

fn line_of(kind: LineKind, amount: Money, period: Period) -> Line {
    Line {
        kind,
        name: "From an earlier invoice".to_owned(),
        price: None,
        meter: None,
        value: None,
        period,
        quantity: BigDecimal::from(1),
        amount,
        explanation: String::new(),
        counts_to_minimum: false,
        basis: None,
        alert: None,
    }
}

fn stored(position: i32, rated: crate::rating::RatedLine) -> InvoiceLine {
    let tax =
        rated.tax.map(|tax| InvoiceTax { name: tax.rate.name, rate: tax.rate.rate.0, inclusive: tax.rate.inclusive, amount: tax.tax });
    InvoiceLine {
        id: InvoiceLineId::new(),
        position,
        kind: rated.line.kind,
        name: rated.line.name,
        plan_version: None,
        price: rated.line.price,
        meter: rated.line.meter,
        add_on: None,
        value: rated.line.value,
        period: rated.line.period,
        quantity: rated.line.quantity,
        amount: rated.line.amount,
        discount: rated.discount,
        credit: rated.credit,
        tax,
        explanation: String::new(),
        proof: None,
        basis: None,
        adjusts: None,
        subscription: None,
        section: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_books_hold_what_the_documents_say_after_every_step(
        first in 0..PLANS.len(),
        steps in prop::collection::vec((1_i64..40 * 24 * 60, act(), prop::collection::vec((0_usize..50, deed()), 0..5)), 0..8),
        calls in calls(300, 40),
    ) {
        let zero: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
        let calls = calls.into_iter().map(|call| call.since(zero)).collect();
        let (mut world, mut ledger) = (World::new(zero, first, calls), Ledger::default());
        let mut at = zero;
        let close = |world: &mut World, ledger: &mut Ledger, now: DateTime<Utc>| {
            world.close(now);
            for lines in std::mem::take(&mut world.documents) {
                ledger.issue(lines, now);
                ledger.check()?;
            }
            Ok::<_, TestCaseError>(())
        };
        for (after, act, deeds) in steps {
            at += TimeDelta::minutes(after);
            close(&mut world, &mut ledger, at - TimeDelta::minutes(1))?;
            world.act(&act, at);
            for (of, deed) in deeds {
                ledger.act(of, &deed, at);
                ledger.check()?;
            }
        }
        world.act(&Act::Cancel, at + TimeDelta::days(20));
        close(&mut world, &mut ledger, zero + TimeDelta::days(900))?;
        // All invoices, void ones too, came to what was rated; and what was rated is what it was worth, within the named
        // roundings: that is the other property.
        let rated = |own: &Issued| {
            let lines = own.invoice.lines.iter().filter(|line| !matches!(line.kind, LineKind::Carried | LineKind::Credit));
            lines.map(|line| line.amount.minor).sum::<i64>()
        };
        prop_assert_eq!(ledger.issued.iter().map(rated).sum::<i64>(), world.total);
        for own in &ledger.issued {
            let credits: i64 = own.invoice.lines.iter().map(|line| line.credit.minor).sum();
            let used: i64 = own.used.iter().map(|(_, amount)| amount).sum();
            prop_assert!(used == credits || used == 0, "an invoice took {credits}, of which {used} are left to it");
        }
    }
}
