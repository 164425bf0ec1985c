//! What becomes of prepaid credits and units, for the books.
//!
//! Credits that were paid for, or that a credit note keeps for the customer, are owed to the customer until they are used,
//! expire, or are paid back. Those given away are owed to nobody: used before tax they only make a sale smaller. Credits used
//! after tax settle what is owed on the invoice, which books it; only where they were given away does that cost revenue.
//! Units that were bought are booked as credits are, each entry with what it moves of their price.

use chrono::{DateTime, Utc};
use farebox_core::ids::{ConsumerId, InvoiceId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use farebox_core::period::local_date;
use farebox_core::workspace;
use sqlx::PgConnection;

use super::Account;
use super::derive::{Journal, Posting};
use super::post::write;
use crate::BillingError;
use crate::credits::GrantKind;

/// A movement of a grant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Movement<'a> {
    /// Of the grant it comes from, where it was rolled over.
    pub kind: GrantKind,
    pub rolled: bool,
    pub taxed: bool,
    pub from: &'a str,
    pub to: &'a str,
}

/// Debit and credit; None where nothing is booked, or an invoice or credit note books it.
pub(super) fn accounts(movement: Movement<'_>) -> Option<(Account, Account)> {
    let owed = matches!(movement.kind, GrantKind::Paid | GrantKind::Balance);
    match (movement.from, movement.to) {
        ("granted", "balance") => {
            (movement.kind == GrantKind::Paid && !movement.rolled).then_some((Account::Cash, Account::CustomerCredit))
        }
        ("balance", "used") => match (owed, movement.taxed) {
            (true, false) => Some((Account::CustomerCredit, Account::Revenue)),
            (false, true) => Some((Account::Revenue, Account::CustomerCredit)),
            _ => None,
        },
        ("used", "balance") => accounts(Movement { from: "balance", to: "used", ..movement }).map(|(debit, credit)| (credit, debit)),
        ("balance", "expired") => owed.then_some((Account::CustomerCredit, Account::Revenue)),
        ("balance", "voided") => owed.then_some((Account::CustomerCredit, Account::Cash)),
        _ => None,
    }
}

/// An entry of a grant's own ledger.
struct Entry {
    key: String,
    /// Of the first grant, where it was rolled over.
    kind: GrantKind,
    rolled: bool,
    taxed: bool,
    from: String,
    to: String,
    amount: i64,
    currency: String,
    at: DateTime<Utc>,
    invoice: Option<InvoiceId>,
    consumer: ConsumerId,
    name: String,
}

/// Books an entry of credits in money, once.
pub(super) async fn book_credits(conn: &mut PgConnection, ws: &WorkspaceId, entry: i64) -> Result<(), BillingError> {
    sqlx::query!("DELETE FROM ledger_pending WHERE workspace_id = $1 AND entry_id = $2", ws.as_str(), entry).execute(&mut *conn).await?;
    let found = sqlx::query_as!(
        Entry,
        r#"WITH RECURSIVE origin AS (
               SELECT g.id, g.kind, g.rolled_from FROM credit_grants g JOIN credit_entries e ON e.grant_id = g.id WHERE e.id = $1
               UNION ALL SELECT g.id, g.kind, g.rolled_from FROM credit_grants g JOIN origin o ON g.id = o.rolled_from
           )
           SELECT 'credit_entry/' || e.id AS "key!", (SELECT kind FROM origin WHERE rolled_from IS NULL) AS "kind!: GrantKind",
                  g.rolled_from IS NOT NULL AS "rolled!", g.taxed, e.from_account AS "from", e.to_account AS "to", e.amount_minor AS amount, g.currency,
                  e.at, e.invoice_id AS "invoice: InvoiceId", g.consumer_id AS "consumer: ConsumerId", g.name
           FROM credit_entries e JOIN credit_grants g ON g.id = e.grant_id WHERE e.workspace_id = $2 AND e.id = $1"#,
        entry,
        ws.as_str()
    )
    .fetch_one(&mut *conn)
    .await?;
    book(conn, ws, found).await
}

/// Books an entry of units that were bought, once.
pub(super) async fn book_units(conn: &mut PgConnection, ws: &WorkspaceId, entry: i64) -> Result<(), BillingError> {
    sqlx::query!("DELETE FROM ledger_pending WHERE workspace_id = $1 AND unit_entry_id = $2", ws.as_str(), entry)
        .execute(&mut *conn)
        .await?;
    let found = sqlx::query_as!(
        Entry,
        r#"WITH RECURSIVE origin AS (
               SELECT g.id, g.kind, g.rolled_from FROM unit_grants g JOIN unit_entries e ON e.grant_id = g.id WHERE e.id = $1
               UNION ALL SELECT g.id, g.kind, g.rolled_from FROM unit_grants g JOIN origin o ON g.id = o.rolled_from
           )
           SELECT 'unit_entry/' || e.id AS "key!", (SELECT kind FROM origin WHERE rolled_from IS NULL) AS "kind!: GrantKind",
                  g.rolled_from IS NOT NULL AS "rolled!", false AS "taxed!", e.from_account AS "from", e.to_account AS "to", e.worth_minor AS amount,
                  g.price_currency AS "currency!", e.at, e.invoice_id AS "invoice: InvoiceId", g.consumer_id AS "consumer: ConsumerId", g.name
           FROM unit_entries e JOIN unit_grants g ON g.id = e.grant_id WHERE e.workspace_id = $2 AND e.id = $1"#,
        entry,
        ws.as_str()
    )
    .fetch_one(&mut *conn)
    .await?;
    book(conn, ws, found).await
}

async fn book(conn: &mut PgConnection, ws: &WorkspaceId, entry: Entry) -> Result<(), BillingError> {
    let movement = Movement { kind: entry.kind, rolled: entry.rolled, taxed: entry.taxed, from: &entry.from, to: &entry.to };
    let Some((debit, credit)) = accounts(movement) else { return Ok(()) };
    let currency: Currency = entry.currency.parse().map_err(|e| BillingError::unreadable("a grant", e))?;
    let zone = workspace::by_id(conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?.time_zone;
    let own = |account, minor| Posting { account, amount: Money::new(minor, currency), invoice: entry.invoice.clone(), line: None };
    let journal = Journal {
        key: entry.key,
        kind: "balance",
        booked_on: local_date(entry.at, zone),
        description: format!("{}: {} to {}", entry.name, entry.from, entry.to.replace('_', " ")),
        postings: vec![own(debit, entry.amount), own(credit, -entry.amount)],
    };
    // Of no invoice: voiding one gives the credits back by an entry of its own.
    write(conn, ws, None, &entry.consumer, currency, &[journal]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What movements come to, by account, each over an amount.
    fn books(kind: GrantKind, taxed: bool, movements: &[(&str, &str, i64)]) -> Vec<(Account, i64)> {
        let mut sums = std::collections::BTreeMap::new();
        for (from, to, amount) in movements {
            if let Some((debit, credit)) = accounts(Movement { kind, rolled: false, taxed, from, to }) {
                *sums.entry(debit).or_insert(0) += amount;
                *sums.entry(credit).or_insert(0) -= amount;
            }
        }
        sums.into_iter().filter(|(_, sum)| *sum != 0).collect()
    }

    #[test]
    fn what_was_paid_is_owed_until_it_is_used_or_expires() {
        let bought = ("granted", "balance", 100);
        assert_eq!(books(GrantKind::Paid, false, &[bought]), [(Account::Cash, 100), (Account::CustomerCredit, -100)]);
        let life = [bought, ("balance", "used", 30), ("used", "balance", 30), ("balance", "used", 20), ("balance", "expired", 80)];
        assert_eq!(books(GrantKind::Paid, false, &life), [(Account::Cash, 100), (Account::Revenue, -100)]);
        let back = [bought, ("balance", "used", 60), ("balance", "voided", 40)];
        assert_eq!(books(GrantKind::Paid, false, &back), [(Account::Cash, 60), (Account::Revenue, -60)]);
        // After tax the invoice takes it from what is owed to the customer.
        assert_eq!(books(GrantKind::Paid, true, &[bought, ("balance", "used", 60)]), books(GrantKind::Paid, true, &[bought]));
        // A credit note owed it already.
        assert_eq!(books(GrantKind::Balance, true, &[bought, ("balance", "used", 100)]), []);
    }

    #[test]
    fn what_is_given_away_is_owed_to_nobody() {
        let life = [("granted", "balance", 100), ("balance", "used", 30), ("balance", "expired", 70)];
        for kind in [GrantKind::Promotional, GrantKind::Included] {
            assert_eq!(books(kind, false, &life), []);
            // The invoice took 30 from what is owed to the customer, which nobody owed.
            assert_eq!(books(kind, true, &life), [(Account::Revenue, 30), (Account::CustomerCredit, -30)]);
        }
    }

    #[test]
    fn what_rolls_over_goes_on_being_owed() {
        let rolled = Movement { kind: GrantKind::Paid, rolled: true, taxed: false, from: "granted", to: "balance" };
        assert_eq!(accounts(rolled), None);
        assert_eq!(accounts(Movement { rolled: false, to: "rolled_over", from: "balance", ..rolled }), None);
        assert_eq!(accounts(Movement { from: "balance", to: "expired", ..rolled }), Some((Account::CustomerCredit, Account::Revenue)));
    }
}
