//! What an invoice and its fate mean for the books. Pure: facts in, journals out.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use farebox_core::ids::{ConsumerId, InvoiceId, InvoiceLineId};
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
    pub fate: Fate,
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
    match facts.fate {
        Fate::Open => {}
        Fate::Paid(at) => found.extend(payment(facts, booked, local_date(at, zone))?),
        Fate::Uncollectible(at) => found.extend(write_off(facts, local_date(at, zone))?),
        Fate::Void(at) => {
            let known: Vec<_> = if booked.is_empty() { found.clone() } else { booked.to_vec() };
            found.extend(void(facts, &known, local_date(at, zone))?);
        }
    }
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
fn payment(facts: &Facts, booked: &[Journal], on: NaiveDate) -> Result<Option<Journal>, MoneyError> {
    if !is_collected(facts) {
        return Ok(None);
    }
    let written_off = booked.iter().any(|journal| journal.kind == "write_off");
    let against = if written_off { Account::BadDebt } else { Account::Receivable };
    move_total(facts, format!("invoice/{}/payment", facts.invoice), "payment", on, Account::Cash, against, "paid")
}

fn write_off(facts: &Facts, on: NaiveDate) -> Result<Option<Journal>, MoneyError> {
    if !is_collected(facts) {
        return Ok(None);
    }
    let key = format!("invoice/{}/write_off", facts.invoice);
    move_total(facts, key, "write_off", on, Account::BadDebt, Account::Receivable, "given up")
}

fn move_total(
    facts: &Facts,
    key: String,
    kind: &'static str,
    on: NaiveDate,
    to: Account,
    from: Account,
    what: &str,
) -> Result<Option<Journal>, MoneyError> {
    let own = |account, amount| Posting { account, amount, invoice: Some(facts.invoice.clone()), line: None };
    let postings = vec![own(to, facts.total), own(from, negated(facts.total)?)];
    Ok(Some(journal(key, kind, on, format!("Invoice {}: {what}", facts.number), postings)))
}

/// Takes back everything that was booked: what is past on the day of the voiding, what lies ahead on its own day.
fn void(facts: &Facts, booked: &[Journal], on: NaiveDate) -> Result<Vec<Journal>, MoneyError> {
    let mut back: BTreeMap<NaiveDate, Vec<Posting>> = BTreeMap::new();
    for journal in booked.iter().filter(|journal| journal.kind != "void") {
        let day = back.entry(journal.booked_on.max(on)).or_default();
        for posting in &journal.postings {
            day.push(Posting { amount: negated(posting.amount)?, ..posting.clone() });
        }
    }
    let made = back.into_iter().map(|(on, postings)| {
        journal(format!("invoice/{}/void/{on}", facts.invoice), "void", on, format!("Invoice {}: void", facts.number), postings)
    });
    Ok(made.collect())
}
