//! Invoices: written once by [`crate::close`], immutable when issued (the database refuses otherwise), moved along
//! their states: draft -> issued -> paid | void | uncollectible; uncollectible -> paid | void.

use std::collections::HashMap;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::ids::{AddOnId, ConsumerId, GrantId, InvoiceId, InvoiceLineId, PlanVersionId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money, MoneyError, decimal_string};
use farebox_core::period::Period;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::left_out::LeftOut;
use crate::rating::LineKind;
use crate::rating::lines::Basis;
use crate::rating::plan::Collect;
use crate::{BillingError, credits, proofs, units};

pub use crate::preview::preview;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum State {
    Draft,
    Issued,
    Paid,
    Void,
    Uncollectible,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Issued => "issued",
            Self::Paid => "paid",
            Self::Void => "void",
            Self::Uncollectible => "uncollectible",
        }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Invoice {
    pub id: InvoiceId,
    /// Given when it is issued, without gaps in its series.
    pub number: Option<String>,
    pub state: State,
    /// regular, threshold, adjustment or final.
    pub kind: String,
    pub sequence: i32,
    pub consumer: ConsumerId,
    /// Of a consolidated one, the first of those that its lines name.
    pub subscription: SubscriptionId,
    /// It is for several subscriptions of the consumer, whose periods end together.
    pub consolidated: bool,
    pub period: Period,
    #[schema(value_type = String)]
    pub currency: Currency,
    /// Without tax.
    #[schema(value_type = String)]
    pub subtotal: Money,
    #[schema(value_type = String)]
    pub tax: Money,
    #[schema(value_type = String)]
    pub total: Money,
    /// What credit notes took off before it was paid: so much less is to be paid.
    #[schema(value_type = String)]
    pub credited: Money,
    pub collect: Collect,
    pub due_days: i32,
    /// As they were when it was drafted.
    #[schema(value_type = Object)]
    pub seller: serde_json::Value,
    #[schema(value_type = Object)]
    pub buyer: serde_json::Value,
    pub created_at: DateTime<Utc>,
    pub issued_at: Option<DateTime<Utc>>,
    pub due_at: Option<DateTime<Utc>>,
    pub paid_at: Option<DateTime<Utc>>,
    /// Too small to collect, or negative: a line of the consumer's next invoice settles it.
    pub carried: bool,
    pub carried_into: Option<InvoiceId>,
    pub stripe_id: Option<String>,
    pub hosted_url: Option<String>,
    /// Why no tax is charged.
    pub tax_note: Option<String>,
    /// Calls of the period that are in no line, by reason.
    pub left_out: LeftOut,
    pub lines: Vec<InvoiceLine>,
    /// Prepaid credits used before tax, by grant: together what its lines have as `credit`. Those after tax are lines.
    pub credits: Vec<InvoiceCredit>,
}

/// What an invoice used of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct InvoiceCredit {
    pub grant: GrantId,
    pub name: String,
    #[schema(value_type = String)]
    pub amount: Money,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct InvoiceLine {
    pub id: InvoiceLineId,
    pub position: i32,
    pub kind: LineKind,
    pub name: String,
    pub plan_version: Option<PlanVersionId>,
    /// The price of the plan version, by name.
    pub price: Option<String>,
    pub meter: Option<String>,
    /// Of something added to the subscription, instead of its plan.
    pub add_on: Option<AddOnId>,
    /// The value of the dimension that a line of a matrix is for.
    pub value: Option<String>,
    pub period: Period,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub quantity: BigDecimal,
    /// As priced: with the tax where it is inclusive, without where it is exclusive.
    #[schema(value_type = String)]
    pub amount: Money,
    /// Its share of the invoice's discounts, and of prepaid credits. What is left of it is taxed.
    #[schema(value_type = String)]
    pub discount: Money,
    #[schema(value_type = String)]
    pub credit: Money,
    pub tax: Option<InvoiceTax>,
    /// The arithmetic, for a person to follow.
    pub explanation: String,
    /// What the quantity was counted from: query, event count, hash over the event ids, attribution by version.
    #[schema(value_type = Object)]
    pub proof: Option<serde_json::Value>,
    /// What a usage line was rated from.
    #[schema(value_type = Object)]
    pub basis: Option<Basis>,
    /// The first line that billed what this one corrects or continues.
    pub adjusts: Option<InvoiceLineId>,
    /// None of what is of no subscription: carried over, or prepaid credits after tax.
    pub subscription: Option<SubscriptionId>,
    /// What the subscription is called by among others on a consolidated invoice.
    pub section: Option<String>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct InvoiceTax {
    pub name: String,
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub rate: BigDecimal,
    pub inclusive: bool,
    #[schema(value_type = String)]
    pub amount: Money,
}

impl Invoice {
    /// What is to be paid of it, or was.
    pub fn due(&self) -> Money {
        Money::new(self.total.minor - self.credited.minor, self.currency)
    }

    /// What was taxed elsewhere, and is set off after the tax.
    pub fn set_off(&self) -> impl Iterator<Item = &InvoiceLine> {
        self.lines.iter().filter(|line| line.kind.is_set_off())
    }

    /// What the invoice is for, without tax. `subtotal` is less by what is set off: where credits pay the tax, too, it would
    /// read as if something below nothing was taxed.
    pub fn before_tax(&self) -> Result<Money, MoneyError> {
        self.subtotal.checked_sub(Money::sum(self.set_off().map(|line| line.amount), self.currency)?)
    }
}

impl InvoiceLine {
    /// Its name, with its subscription's where the invoice has several.
    pub fn title(&self) -> String {
        self.section.as_ref().map_or_else(|| self.name.clone(), |section| format!("{section}: {}", self.name))
    }

    /// What is left of it after discounts and credits, with the tax where it is inclusive.
    pub fn left(&self) -> Money {
        Money::new(self.amount.minor - self.discount.minor - self.credit.minor, self.amount.currency)
    }

    /// What is left of it, without tax.
    pub fn net(&self) -> Money {
        match &self.tax {
            Some(tax) if tax.inclusive => Money::new(self.left().minor - tax.amount.minor, self.amount.currency),
            _ => self.left(),
        }
    }
}

/// Which invoices; all unless narrowed.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InvoiceFilter {
    /// Of this consumer (id).
    pub consumer: Option<String>,
    /// Of this subscription (id).
    pub subscription: Option<String>,
    pub state: Option<State>,
}

struct Row {
    id: InvoiceId,
    number: Option<String>,
    state: State,
    kind: String,
    sequence: i32,
    consumer: ConsumerId,
    subscription: SubscriptionId,
    consolidated: bool,
    period_start: DateTime<Utc>,
    period_end: DateTime<Utc>,
    currency: String,
    subtotal_minor: i64,
    tax_minor: i64,
    total_minor: i64,
    credited_minor: i64,
    collect: String,
    due_days: i32,
    seller: serde_json::Value,
    buyer: serde_json::Value,
    created_at: DateTime<Utc>,
    issued_at: Option<DateTime<Utc>>,
    due_at: Option<DateTime<Utc>>,
    paid_at: Option<DateTime<Utc>>,
    carried: bool,
    carried_into: Option<InvoiceId>,
    stripe_id: Option<String>,
    hosted_url: Option<String>,
    tax_note: Option<String>,
    left_out: serde_json::Value,
}

impl Row {
    fn into_invoice(self, lines: Vec<InvoiceLine>, credits: Vec<(GrantId, String, i64)>) -> Result<Invoice, BillingError> {
        let currency: Currency = self.currency.parse().map_err(|e| BillingError::unreadable("an invoice", e))?;
        Ok(Invoice {
            id: self.id,
            number: self.number,
            state: self.state,
            kind: self.kind,
            sequence: self.sequence,
            consumer: self.consumer,
            subscription: self.subscription,
            consolidated: self.consolidated,
            period: Period { start: self.period_start, end: self.period_end },
            currency,
            subtotal: Money::new(self.subtotal_minor, currency),
            tax: Money::new(self.tax_minor, currency),
            total: Money::new(self.total_minor, currency),
            credited: Money::new(self.credited_minor, currency),
            collect: if self.collect == "send_invoice" { Collect::SendInvoice } else { Collect::Automatically },
            due_days: self.due_days,
            seller: self.seller,
            buyer: self.buyer,
            created_at: self.created_at,
            issued_at: self.issued_at,
            due_at: self.due_at,
            paid_at: self.paid_at,
            carried: self.carried,
            carried_into: self.carried_into,
            stripe_id: self.stripe_id,
            hosted_url: self.hosted_url,
            tax_note: self.tax_note,
            left_out: serde_json::from_value(self.left_out).map_err(|e| BillingError::unreadable("an invoice", e))?,
            lines,
            credits: credits
                .into_iter()
                .map(|(grant, name, minor)| InvoiceCredit { grant, name, amount: Money::new(minor, currency) })
                .collect(),
        })
    }
}

/// Newest first; those before `after` (an id; empty for the first page), with their lines. Returns up to `limit`.
pub async fn list(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    filter: &InvoiceFilter,
    limit: i64,
    after: &str,
) -> Result<Vec<Invoice>, BillingError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id: InvoiceId", number, state AS "state: State", kind, sequence, consumer_id AS "consumer: ConsumerId",
                  subscription_id AS "subscription: SubscriptionId", consolidated, period_start, period_end, currency, subtotal_minor, tax_minor,
                  total_minor, credited_minor, collect, due_days, seller, buyer, created_at, issued_at, due_at, paid_at, carried,
                  carried_into AS "carried_into: InvoiceId", stripe_id, hosted_url, tax_note, left_out
           FROM invoices
           WHERE workspace_id = $1 AND ($2::text IS NULL OR consumer_id = $2)
             AND ($3::text IS NULL OR EXISTS (SELECT FROM invoice_parts p WHERE p.invoice_id = invoices.id AND p.subscription_id = $3))
             AND ($4::text IS NULL OR state = $4) AND ($5 = '' OR id < $5)
           ORDER BY id DESC LIMIT $6"#,
        workspace.as_str(),
        filter.consumer,
        filter.subscription,
        filter.state.map(State::as_str),
        after,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    with_lines(conn, rows).await
}

pub async fn get(conn: &mut PgConnection, workspace: &WorkspaceId, id: &InvoiceId) -> Result<Option<Invoice>, BillingError> {
    Ok(by_ids(conn, workspace, &[id.as_str().to_owned()]).await?.pop())
}

/// The invoice of this id or number: people have the number before them.
pub async fn named(conn: &mut PgConnection, workspace: &WorkspaceId, id_or_number: &str) -> Result<InvoiceId, BillingError> {
    let number = match id_or(id_or_number) {
        Ok(id) => return Ok(id),
        Err(number) => number,
    };
    let id = sqlx::query_scalar!(
        r#"SELECT id AS "id: InvoiceId" FROM invoices WHERE workspace_id = $1 AND number = $2"#,
        workspace.as_str(),
        number
    );
    id.fetch_optional(conn).await?.ok_or(BillingError::NotFound("invoice"))
}

/// The id that a text is, else the number that it may be: PostgreSQL takes no NUL.
pub(crate) fn id_or<T: FromStr>(text: &str) -> Result<T, Option<&str>> {
    text.parse().map_err(|_| Some(text).filter(|number| !number.contains('\0')))
}

/// In no order.
pub async fn by_ids(conn: &mut PgConnection, workspace: &WorkspaceId, ids: &[String]) -> Result<Vec<Invoice>, BillingError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id: InvoiceId", number, state AS "state: State", kind, sequence, consumer_id AS "consumer: ConsumerId",
                  subscription_id AS "subscription: SubscriptionId", consolidated, period_start, period_end, currency, subtotal_minor, tax_minor,
                  total_minor, credited_minor, collect, due_days, seller, buyer, created_at, issued_at, due_at, paid_at, carried,
                  carried_into AS "carried_into: InvoiceId", stripe_id, hosted_url, tax_note, left_out
           FROM invoices WHERE workspace_id = $1 AND id = ANY($2)"#,
        workspace.as_str(),
        ids
    )
    .fetch_all(&mut *conn)
    .await?;
    with_lines(conn, rows).await
}

async fn with_lines(conn: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<Invoice>, BillingError> {
    let ids: Vec<_> = rows.iter().map(|row| row.id.as_str().to_owned()).collect();
    let found = sqlx::query!(
        r#"SELECT l.invoice_id, l.id AS "id: InvoiceLineId", l.position, l.kind, l.name, l.plan_version_id AS "plan_version: PlanVersionId", l.price,
                  l.meter, l.period_start, l.period_end, l.quantity, l.amount_minor, l.tax_name, l.tax_rate, l.tax_inclusive, l.tax_minor,
                  l.explanation, l.proof, q.query AS "query?", l.add_on_id AS "add_on: AddOnId", l.value, l.basis, l.discount_minor, l.credit_minor,
                  l.adjusts AS "adjusts: InvoiceLineId", l.subscription_id AS "subscription: SubscriptionId", p.label AS "section?"
           FROM invoice_lines l LEFT JOIN invoice_parts p ON p.invoice_id = l.invoice_id AND p.subscription_id = l.subscription_id
           LEFT JOIN proof_queries q ON q.id = l.proof_query
           WHERE l.invoice_id = ANY($1) ORDER BY l.invoice_id, l.position"#,
        &ids
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut credits: HashMap<String, Vec<_>> = HashMap::new();
    for used in sqlx::query!(
        r#"SELECT e.invoice_id AS "invoice!", e.grant_id AS "grant: GrantId", g.name, e.amount_minor FROM credit_entries e
           JOIN credit_grants g ON g.id = e.grant_id WHERE e.invoice_id = ANY($1) AND e.to_account = 'used' AND NOT g.taxed ORDER BY e.id"#,
        &ids
    )
    .fetch_all(conn)
    .await?
    {
        credits.entry(used.invoice).or_default().push((used.grant, used.name, used.amount_minor));
    }
    let mut lines: HashMap<String, Vec<_>> = HashMap::new();
    for line in found {
        lines.entry(line.invoice_id.clone()).or_default().push(line);
    }
    let mut invoices = Vec::with_capacity(rows.len());
    for row in rows {
        let currency: Currency = row.currency.parse().map_err(|e| BillingError::unreadable("an invoice", e))?;
        let mut own = Vec::new();
        for line in lines.remove(row.id.as_str()).unwrap_or_default() {
            let kind: LineKind = serde_json::from_value(line.kind.into()).map_err(|e| BillingError::unreadable("an invoice line", e))?;
            let own_line = !kind.is_set_off();
            let tax = match (line.tax_name, line.tax_rate, line.tax_inclusive) {
                (Some(name), Some(rate), Some(inclusive)) => {
                    Some(InvoiceTax { name, rate, inclusive, amount: Money::new(line.tax_minor, currency) })
                }
                _ => None,
            };
            own.push(InvoiceLine {
                id: line.id,
                position: line.position,
                kind,
                name: line.name,
                plan_version: line.plan_version,
                price: line.price,
                meter: line.meter,
                add_on: line.add_on,
                adjusts: line.adjusts,
                subscription: line.subscription.or_else(|| own_line.then(|| row.subscription.clone())),
                section: line.section,
                value: line.value,
                basis: line.basis.map(serde_json::from_value).transpose().map_err(|e| BillingError::unreadable("an invoice line", e))?,
                period: Period { start: line.period_start, end: line.period_end },
                quantity: line.quantity,
                amount: Money::new(line.amount_minor, currency),
                discount: Money::new(line.discount_minor, currency),
                credit: Money::new(line.credit_minor, currency),
                tax,
                explanation: line.explanation,
                proof: line.proof.map(|own| proofs::unsealed(own, line.query)),
            });
        }
        let used = credits.remove(row.id.as_str()).unwrap_or_default();
        invoices.push(row.into_invoice(own, used)?);
    }
    Ok(invoices)
}

/// Issued invoices with an amount to collect that are not in Stripe yet, oldest first, of all workspaces.
pub async fn issued_not_pushed(conn: &mut PgConnection, limit: i64) -> Result<Vec<(WorkspaceId, InvoiceId)>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT workspace_id AS "workspace: WorkspaceId", id AS "id: InvoiceId" FROM invoices
           WHERE state = 'issued' AND stripe_id IS NULL AND total_minor > 0 AND NOT carried AND credited_minor = 0 ORDER BY id LIMIT $1"#,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.workspace, row.id)).collect())
}

/// Where the invoice is in Stripe. The first one recorded stays; another one for the same invoice is an error.
pub async fn record_stripe(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    id: &InvoiceId,
    stripe_id: &str,
    hosted_url: Option<&str>,
) -> Result<(), BillingError> {
    let done = sqlx::query!(
        "UPDATE invoices SET stripe_id = $3, hosted_url = coalesce($4, hosted_url), pushed_at = coalesce(pushed_at, $5)
         WHERE workspace_id = $1 AND id = $2 AND (stripe_id IS NULL OR stripe_id = $3)",
        workspace.as_str(),
        id.as_str(),
        stripe_id,
        hosted_url,
        farebox_core::clock::now()
    )
    .execute(conn)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    Err(BillingError::conflict(
        "two-stripe-invoices",
        format!("Invoice {id} is in Stripe under another id than {stripe_id}; void one of them."),
    ))
}

pub async fn by_stripe_id(conn: &mut PgConnection, workspace: &WorkspaceId, stripe_id: &str) -> Result<Option<InvoiceId>, BillingError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT id AS "id: InvoiceId" FROM invoices WHERE workspace_id = $1 AND stripe_id = $2"#,
        workspace.as_str(),
        stripe_id
    )
    .fetch_optional(conn)
    .await?)
}

/// Paid at `at`, or when it was issued if that is later: a payment provider knows nothing of a test clock. False when it was paid or void before: the news came twice, or late.
pub async fn mark_paid(conn: &mut PgConnection, workspace: &WorkspaceId, id: &InvoiceId, at: DateTime<Utc>) -> Result<bool, BillingError> {
    let done = sqlx::query!(
        "UPDATE invoices SET state = 'paid', paid_at = greatest($3, issued_at), closed_at = greatest($3, issued_at)
         WHERE workspace_id = $1 AND id = $2 AND state IN ('issued', 'uncollectible')",
        workspace.as_str(),
        id.as_str(),
        at
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Void at `at`, as [`mark_paid`] has it: it stands, nothing is owed, and the prepaid credits and units it took are given back. False when it was paid or void before.
pub async fn mark_void(conn: &mut PgConnection, workspace: &WorkspaceId, id: &InvoiceId, at: DateTime<Utc>) -> Result<bool, BillingError> {
    let mut transaction = conn.begin().await?;
    let done = sqlx::query!(
        "UPDATE invoices SET state = 'void', closed_at = greatest($3, issued_at) WHERE workspace_id = $1 AND id = $2 AND state IN ('issued', 'uncollectible')",
        workspace.as_str(),
        id.as_str(),
        at
    )
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 1 {
        credits::give_back(&mut transaction, workspace, id).await?;
        units::give_back(&mut transaction, workspace, id).await?;
    }
    transaction.commit().await?;
    Ok(done.rows_affected() == 1)
}

/// Given up at `at`, as [`mark_paid`] has it. False when it was not open.
pub async fn mark_uncollectible(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    id: &InvoiceId,
    at: DateTime<Utc>,
) -> Result<bool, BillingError> {
    let done = sqlx::query!(
        "UPDATE invoices SET state = 'uncollectible', closed_at = greatest($3, issued_at) WHERE workspace_id = $1 AND id = $2 AND state = 'issued'",
        workspace.as_str(),
        id.as_str(),
        at
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
