//! Usage that was taken back after its period was invoiced, as credit notes of the invoices that charged it.
//!
//! A correction is in what was priced; the note is over what was left of its line after discounts, so it takes the same share of
//! that. What cannot be credited (the invoice is void, carried, or on its way; the line was partly paid with credits, or has
//! been credited before) stays a line to be invoiced.

use std::collections::{BTreeMap, HashMap};

use farebox_core::ids::{CreditNoteId, InvoiceId, InvoiceLineId};
use farebox_core::money::{BigDecimal, Money};
use farebox_core::workspace::Workspace;
use sqlx::{Acquire, PgConnection};

use super::{Corrected, NewCreditNote, To, ask, issue};
use crate::gather::GatheredLine;
use crate::rating::LineKind;
use crate::{BillingError, invoices};

/// The notes that were asked for, and the lines that are left to be invoiced.
pub async fn credit_corrections(
    conn: &mut PgConnection,
    workspace: &Workspace,
    lines: Vec<GatheredLine>,
) -> Result<(Vec<CreditNoteId>, Vec<GatheredLine>), BillingError> {
    let given_back = |line: &GatheredLine| line.line.amount.minor < 0 && line.of == Some(LineKind::Usage) && line.adjusts.is_some();
    let (back, mut left): (Vec<_>, Vec<_>) = lines.into_iter().partition(given_back);
    let mut notes = Vec::new();
    for (invoice, lines) in by_invoice(conn, back).await? {
        let Some((new, others)) = note_of(conn, workspace, &invoice, lines).await? else { continue };
        left.extend(others);
        let Some((new, corrections)) = new else { continue };
        let mut attempt = conn.begin().await?;
        match ask::ask(&mut attempt, workspace, &invoice, &new, "farebox").await {
            Ok(id) => {
                let at_stripe =
                    invoices::get(&mut attempt, &workspace.id, &invoice).await?.is_some_and(|invoice| invoice.stripe_id.is_some());
                if !at_stripe {
                    issue::issue(&mut attempt, workspace, &id, None).await?;
                }
                attempt.commit().await?;
                notes.push(id);
            }
            Err(BillingError::Conflict { .. } | BillingError::Invalid { .. }) => {
                attempt.rollback().await?;
                left.extend(corrections);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((notes, left))
}

async fn by_invoice(conn: &mut PgConnection, lines: Vec<GatheredLine>) -> Result<BTreeMap<InvoiceId, Vec<GatheredLine>>, BillingError> {
    let ids: Vec<_> = lines.iter().filter_map(|line| line.adjusts.as_ref()).map(ToString::to_string).collect();
    let rows =
        sqlx::query!(r#"SELECT id AS "id: InvoiceLineId", invoice_id AS "invoice: InvoiceId" FROM invoice_lines WHERE id = ANY($1)"#, &ids)
            .fetch_all(conn)
            .await?;
    let of: HashMap<_, _> = rows.into_iter().map(|row| (row.id, row.invoice)).collect();
    let mut found: BTreeMap<InvoiceId, Vec<GatheredLine>> = BTreeMap::new();
    for line in lines {
        if let Some(invoice) = line.adjusts.as_ref().and_then(|line| of.get(line)) {
            found.entry(invoice.clone()).or_default().push(line);
        }
    }
    Ok(found)
}

type Asked = (NewCreditNote, Vec<GatheredLine>);

/// A note over what of the lines can be credited, with those lines; and the others.
async fn note_of(
    conn: &mut PgConnection,
    workspace: &Workspace,
    invoice: &InvoiceId,
    lines: Vec<GatheredLine>,
) -> Result<Option<(Option<Asked>, Vec<GatheredLine>)>, BillingError> {
    let Some(invoice) = invoices::get(conn, &workspace.id, invoice).await? else { return Ok(None) };
    let mut new =
        NewCreditNote { to: Some(To::Balance), memo: Some("Usage that was counted again.".to_owned()), ..NewCreditNote::default() };
    let (mut taken, mut others) = (Vec::new(), Vec::new());
    for line in lines {
        let original = invoice.lines.iter().find(|own| Some(&own.id) == line.adjusts.as_ref());
        match original.and_then(|own| share(own, line.line.amount)) {
            Some(amount) => {
                let id = line.adjusts.clone().unwrap_or_else(InvoiceLineId::new);
                new.lines.push((id.clone(), Some(amount.to_decimal())));
                let quantity = BigDecimal::from(0) - &line.line.quantity;
                new.corrects.insert(id, Corrected { amount: Money::new(-line.line.amount.minor, line.line.amount.currency), quantity });
                taken.push(line);
            }
            None => others.push(line),
        }
    }
    let asked = (!taken.is_empty()).then_some((new, taken));
    Ok(Some((asked, others)))
}

/// Of what was left of the line, as much as the correction is of what it charged.
fn share(line: &invoices::InvoiceLine, correction: Money) -> Option<Money> {
    let (charged, left, back) = (i128::from(line.amount.minor), i128::from(line.left().minor), -i128::from(correction.minor));
    if !line.credit.is_zero() || charged <= 0 || back > charged {
        return None;
    }
    let share = (left * back * 2 + charged) / (charged * 2);
    i64::try_from(share).ok().filter(|share| *share > 0).map(|share| Money::new(share, line.amount.currency))
}
