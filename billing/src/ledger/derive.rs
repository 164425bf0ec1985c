//! What an invoice and its fate mean for the books. Pure: facts in, journals out.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::ids::{ConsumerId, CreditNoteId, InvoiceId, InvoiceLineId};
use farebox_core::money::{Currency, Money, MoneyError};
use farebox_core::period::{Period, local_date};

use super::Account;
use super::slices::by_month;

/// An issued invoice, as far as the books care.
#[derive(Debug, Clone)]
pub struct Facts {
    pub invoice: InvoiceId,
    pub consumer: ConsumerId,
    pub number: String,
    pub currency: Currency,
    pub total: Money,
    pub tax: Money,
    pub issued_at: DateTime<Utc>,
    /// Settled by a line of a later invoice instead of being collected.
    pub carried: bool,
    pub lines: Vec<FactLine>,
    pub notes: Vec<NoteFacts>,
    pub refunds: Vec<RefundFacts>,
    pub disputes: Vec<DisputeFacts>,
    pub fate: Fate,
}

/// A credit note: what it takes back of the invoice's lines.
#[derive(Debug, Clone)]
pub struct NoteFacts {
    pub id: CreditNoteId,
    pub number: String,
    pub issued_at: DateTime<Utc>,
    pub voided_at: Option<DateTime<Utc>>,
    pub total: Money,
    pub tax: Money,
    pub lines: Vec<FactLine>,
    /// Receivable where less is to be paid; what is owed to the customer where it is to be paid back or kept as balance;
    /// cash where a person paid it back.
    pub against: Account,
}

/// Money that went back through the payment provider, and came again where that failed.
#[derive(Debug, Clone)]
pub struct RefundFacts {
    pub id: String,
    pub amount: Money,
    pub succeeded_at: DateTime<Utc>,
    pub failed_at: Option<DateTime<Utc>>,
}

/// Money that the bank took until a dispute is decided.
#[derive(Debug, Clone)]
pub struct DisputeFacts {
    pub id: String,
    pub amount: Money,
    pub withdrawn_at: DateTime<Utc>,
    /// When it was decided, and whether for us.
    pub decided: Option<(DateTime<Utc>, bool)>,
}

#[derive(Debug, Clone)]
pub struct FactLine {
    pub line: InvoiceLineId,
    pub period: Period,
    /// Without tax.
    pub net: Money,
    /// The earlier invoice that this line settles.
    pub settles: Option<Option<InvoiceId>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Open,
    Paid(DateTime<Utc>),
    Void(DateTime<Utc>),
    Uncollectible(DateTime<Utc>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// What it is derived from, unique in the workspace.
    pub key: String,
    pub kind: &'static str,
    pub booked_on: NaiveDate,
    pub description: String,
    pub postings: Vec<Posting>,
}

/// A debit when positive, a credit when negative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    pub account: Account,
    pub amount: Money,
    pub invoice: Option<InvoiceId>,
    pub line: Option<InvoiceLineId>,
}

/// Every journal of the invoice as it stands, given those `booked` before. Those that are booked come again, equal.
pub fn journals(facts: &Facts, booked: &[Journal], zone: Tz) -> Result<Vec<Journal>, MoneyError> {
    let mut found = issue(facts, zone)?;
    for note in &facts.notes {
        let made = credit_note(facts, note, zone)?;
        if let Some(at) = note.voided_at {
            let name = format!("Credit note {} to invoice {}: void", note.number, facts.number);
            found.extend(taken_back(&made, local_date(at, zone), &format!("credit_note/{}", note.id), "credit_note", &name)?);
        }
        found.extend(made);
    }
    match facts.fate {
        Fate::Open => {}
        Fate::Paid(at) => found.extend(payment(facts, booked, at, zone)?),
        Fate::Uncollectible(at) => found.extend(write_off(facts, at, zone)?),
        Fate::Void(at) => {
            let fresh = found.iter().filter(|journal| !booked.iter().any(|known| known.key == journal.key));
            let known: Vec<_> = booked.iter().chain(fresh).cloned().collect();
            found.extend(void(facts, &known, local_date(at, zone))?);
        }
    }
    found.extend(reversals(facts, zone)?);
    found.retain(|journal| !journal.postings.is_empty());
    Ok(found)
}

fn negated(amount: Money) -> Result<Money, MoneyError> {
    Money::zero(amount.currency).checked_sub(amount)
}

/// The issue itself, what was earned before it, and what will be earned after it.
fn issue(facts: &Facts, zone: Tz) -> Result<Vec<Journal>, MoneyError> {
    let own = |account, amount, line: Option<&FactLine>| Posting {
        account,
        amount,
        invoice: Some(facts.invoice.clone()),
        line: line.map(|line| line.line.clone()),
    };
    let mut issue = vec![own(owed(facts), facts.total, None), own(Account::TaxPayable, negated(facts.tax)?, None)];
    // By the day they are booked on.
    let mut earned: BTreeMap<(NaiveDate, bool), Vec<Posting>> = BTreeMap::new();
    for line in &facts.lines {
        if let Some(settled) = &line.settles {
            let account = if line.net.minor < 0 { Account::CustomerCredit } else { Account::Receivable };
            issue.push(Posting { account, amount: negated(line.net)?, invoice: settled.clone(), line: Some(line.line.clone()) });
            continue;
        }
        let mut totals =
            BTreeMap::from([(Account::Unbilled, Money::zero(facts.currency)), (Account::DeferredRevenue, Money::zero(facts.currency))]);
        for slice in by_month(line.net, line.period, zone)? {
            let before = slice.period.end <= facts.issued_at;
            let account = if before { Account::Unbilled } else { Account::DeferredRevenue };
            let last = local_date((slice.period.end - TimeDelta::microseconds(1)).max(slice.period.start), zone);
            let postings = earned.entry((last, before)).or_default();
            postings.push(own(account, slice.amount, Some(line)));
            postings.push(own(Account::Revenue, negated(slice.amount)?, Some(line)));
            let total = totals.entry(account).or_insert(Money::zero(facts.currency));
            *total = total.checked_add(slice.amount)?;
        }
        for (account, total) in totals {
            issue.push(own(account, negated(total)?, Some(line)));
        }
    }
    let number = &facts.number;
    let mut found = vec![journal(
        format!("invoice/{}/issue", facts.invoice),
        "issue",
        local_date(facts.issued_at, zone),
        format!("Invoice {number}"),
        issue,
    )];
    for ((on, before), postings) in earned {
        let (kind, what) = if before { ("accrual", "earned before it was issued") } else { ("recognition", "earned") };
        found.push(journal(format!("invoice/{}/{kind}/{on}", facts.invoice), kind, on, format!("Invoice {number}: {what}"), postings));
    }
    Ok(found)
}

/// Takes back what was earned and what is still to be earned of its lines, each on the day it was booked on, or now where
/// that is past.
fn credit_note(facts: &Facts, note: &NoteFacts, zone: Tz) -> Result<Vec<Journal>, MoneyError> {
    let today = local_date(note.issued_at, zone);
    let own = |account, amount, line: Option<&FactLine>| Posting {
        account,
        amount,
        invoice: Some(facts.invoice.clone()),
        line: line.map(|line| line.line.clone()),
    };
    let mut back = vec![own(note.against, negated(note.total)?, None), own(Account::TaxPayable, note.tax, None)];
    let mut ahead: BTreeMap<NaiveDate, Vec<Posting>> = BTreeMap::new();
    for line in &note.lines {
        if let Some(settled) = &line.settles {
            // What was too small to be collected is given up; what was owed to the customer is owed again.
            let account = if line.net.minor < 0 { Account::CustomerCredit } else { Account::BadDebt };
            back.push(Posting { account, amount: line.net, invoice: settled.clone(), line: Some(line.line.clone()) });
            continue;
        }
        let (mut earned, mut deferred) = (Money::zero(facts.currency), Money::zero(facts.currency));
        for slice in by_month(line.net, line.period, zone)? {
            let last = local_date((slice.period.end - TimeDelta::microseconds(1)).max(slice.period.start), zone);
            if slice.period.end <= facts.issued_at || last <= today {
                earned = earned.checked_add(slice.amount)?;
                continue;
            }
            deferred = deferred.checked_add(slice.amount)?;
            let postings = ahead.entry(last).or_default();
            postings.push(own(Account::Revenue, slice.amount, Some(line)));
            postings.push(own(Account::DeferredRevenue, negated(slice.amount)?, Some(line)));
        }
        back.push(own(Account::Revenue, earned, Some(line)));
        back.push(own(Account::DeferredRevenue, deferred, Some(line)));
    }
    let name = format!("Credit note {} to invoice {}", note.number, facts.number);
    let mut found = vec![journal(format!("credit_note/{}", note.id), "credit_note", today, name.clone(), back)];
    for (on, postings) in ahead {
        found.push(journal(format!("credit_note/{}/{on}", note.id), "credit_note", on, format!("{name}: no longer earned"), postings));
    }
    Ok(found)
}

/// Refunds and disputes.
fn reversals(facts: &Facts, zone: Tz) -> Result<Vec<Journal>, MoneyError> {
    let mut found = Vec::new();
    let mut book = |key: String, kind, at, what: &str, to, from, amount: Money| -> Result<(), MoneyError> {
        let own = |account, amount| Posting { account, amount, invoice: Some(facts.invoice.clone()), line: None };
        let postings = vec![own(to, amount), own(from, negated(amount)?)];
        found.push(journal(key, kind, local_date(at, zone), format!("Invoice {}: {what}", facts.number), postings));
        Ok(())
    };
    for refund in &facts.refunds {
        let (owed, cash) = (Account::CustomerCredit, Account::Cash);
        book(format!("refund/{}", refund.id), "refund", refund.succeeded_at, "paid back", owed, cash, refund.amount)?;
        if let Some(at) = refund.failed_at {
            book(format!("refund/{}/failed", refund.id), "refund", at, "the refund failed", cash, owed, refund.amount)?;
        }
    }
    for dispute in &facts.disputes {
        let (cash, disputed, id) = (Account::Cash, Account::Disputed, &dispute.id);
        book(format!("dispute/{id}"), "dispute", dispute.withdrawn_at, "the payment is disputed", disputed, cash, dispute.amount)?;
        match dispute.decided {
            Some((at, true)) => book(format!("dispute/{id}/won"), "dispute", at, "the dispute is won", cash, disputed, dispute.amount)?,
            Some((at, false)) => {
                book(format!("dispute/{id}/lost"), "dispute", at, "the dispute is lost", Account::BadDebt, disputed, dispute.amount)?;
            }
            None => {}
        }
    }
    Ok(found)
}

/// What was taken off before it was paid.
fn credited(facts: &Facts, until: DateTime<Utc>) -> Result<Money, MoneyError> {
    let open = |note: &&NoteFacts| note.against == Account::Receivable && note.issued_at <= until && note.voided_at.is_none();
    let open = facts.notes.iter().filter(open);
    Money::sum(open.map(|note| note.total), facts.currency)
}

/// Where its total stands: owed by the customer, or to them.
fn owed(facts: &Facts) -> Account {
    if facts.total.minor < 0 { Account::CustomerCredit } else { Account::Receivable }
}

fn journal(key: String, kind: &'static str, booked_on: NaiveDate, description: String, mut postings: Vec<Posting>) -> Journal {
    postings.retain(|posting| !posting.amount.is_zero());
    Journal { key, kind, booked_on, description, postings }
}

fn is_collected(facts: &Facts) -> bool {
    facts.total.minor > 0 && !facts.carried
}

/// Cash for what was owed, or for what was given up before.
fn payment(facts: &Facts, booked: &[Journal], at: DateTime<Utc>, zone: Tz) -> Result<Option<Journal>, MoneyError> {
    let written_off = booked.iter().any(|journal| journal.kind == "write_off");
    let against = if written_off { Account::BadDebt } else { Account::Receivable };
    // Whatever took something off an open invoice came before its payment.
    let due = facts.total.checked_sub(credited(facts, DateTime::<Utc>::MAX_UTC)?)?;
    settlement(facts, "payment", local_date(at, zone), (Account::Cash, against), due, "paid")
}

fn write_off(facts: &Facts, at: DateTime<Utc>, zone: Tz) -> Result<Option<Journal>, MoneyError> {
    let due = facts.total.checked_sub(credited(facts, at)?)?;
    settlement(facts, "write_off", local_date(at, zone), (Account::BadDebt, Account::Receivable), due, "given up")
}

fn settlement(
    facts: &Facts,
    kind: &'static str,
    on: NaiveDate,
    (to, from): (Account, Account),
    amount: Money,
    what: &str,
) -> Result<Option<Journal>, MoneyError> {
    if !is_collected(facts) {
        return Ok(None);
    }
    let own = |account, amount| Posting { account, amount, invoice: Some(facts.invoice.clone()), line: None };
    let postings = vec![own(to, amount), own(from, negated(amount)?)];
    Ok(Some(journal(format!("invoice/{}/{kind}", facts.invoice), kind, on, format!("Invoice {}: {what}", facts.number), postings)))
}

/// Takes back everything that was booked. Money that moved stays moved.
fn void(facts: &Facts, booked: &[Journal], on: NaiveDate) -> Result<Vec<Journal>, MoneyError> {
    let moved = |journal: &&Journal| !matches!(journal.kind, "void" | "refund" | "dispute");
    let name = format!("Invoice {}: void", facts.number);
    taken_back(booked.iter().filter(moved), on, &format!("invoice/{}", facts.invoice), "void", &name)
}

/// Journals against others: what is past on the day of the voiding, what lies ahead on its own day.
fn taken_back<'j>(
    of: impl IntoIterator<Item = &'j Journal>,
    on: NaiveDate,
    key: &str,
    kind: &'static str,
    name: &str,
) -> Result<Vec<Journal>, MoneyError> {
    let mut back: BTreeMap<NaiveDate, Vec<Posting>> = BTreeMap::new();
    for journal in of {
        let day = back.entry(journal.booked_on.max(on)).or_default();
        for posting in &journal.postings {
            day.push(Posting { amount: negated(posting.amount)?, ..posting.clone() });
        }
    }
    Ok(back.into_iter().map(|(on, postings)| journal(format!("{key}/void/{on}"), kind, on, name.to_owned(), postings)).collect())
}
