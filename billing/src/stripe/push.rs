//! Invoices on their way to Stripe: customer, draft, lines, comparison, finalising. Each step is a stored request
//! ([`super::outbox`]), so whatever is killed, there is one invoice at Stripe, and it is finalised only when its totals
//! equal ours to the minor unit. Otherwise the draft is deleted, the push blocked, and an alert given.

use std::time::Duration;

use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::{App, clock};
use sqlx::PgConnection;
use stripe_billing::invoice::{FinalizeInvoiceInvoice, ListInvoice, RetrieveInvoice};
use stripe_client_core::{RequestBuilder, StripeRequest};

use super::bill::{Bill, INVOICE_KEY};
use super::client::{Answer, Form, Stripe, wire};
use super::compare::Totals;
use super::customers;
use super::error::StripeError;
use super::outbox::{self, Request, Sent, Step, Stored};
use super::view::{Invoice, List, Status, Tagged};
use super::{settings, state};
use crate::BillingError;

/// An invoice that a worker holds.
#[derive(Debug, Clone)]
pub struct Push {
    pub workspace: WorkspaceId,
    pub invoice: InvoiceId,
    pub stripe_id: Option<String>,
    pub mismatch: Option<String>,
    pub attempts: i32,
}

/// Why a push does not go on now.
#[derive(Debug)]
pub enum Halt {
    /// After this time, or after a back-off.
    Later(Option<Duration>, String),
    /// Only a person can help.
    Blocked(String),
}

impl From<StripeError> for Halt {
    fn from(error: StripeError) -> Self {
        match &error {
            // A person has to set another key, which wakes the push; until then it asks seldom.
            error if error.is_about_the_key() => Self::Later(Some(Duration::from_secs(300)), error.to_string()),
            StripeError::NotConfigured => Self::Later(Some(Duration::from_secs(300)), error.to_string()),
            StripeError::Busy { after, .. } => Self::Later(*after, error.to_string()),
            StripeError::Refused { .. }
            | StripeError::Amount(_)
            | StripeError::Money(_)
            | StripeError::NotFound(_)
            | StripeError::Record(_)
            | StripeError::Billing(BillingError::Conflict { .. } | BillingError::Unreadable { .. }) => Self::Blocked(error.to_string()),
            _ => Self::Later(None, error.to_string()),
        }
    }
}

impl From<sqlx::Error> for Halt {
    fn from(error: sqlx::Error) -> Self {
        StripeError::from(error).into()
    }
}

/// One run over the steps that are left. Ends with the invoice finalised at Stripe and recorded here.
pub async fn advance(app: &App, push: &Push) -> Result<(), Halt> {
    let mut conn = app.pg.acquire().await?;
    let stripe = settings::stripe(app, &mut conn, &push.workspace).await?;
    let Some(bill) = Bill::load(&mut conn, &push.workspace, &push.invoice).await? else {
        return Err(Halt::Blocked("the invoice is not issued".to_owned()));
    };
    drop(conn);
    let run = Run { app, stripe, push, bill };
    if let (Some(id), Some(mismatch)) = (&push.stripe_id, &push.mismatch) {
        return run.discard(id, mismatch).await;
    }
    // What Stripe could never take is said before anything is created there.
    let expected = run.bill.expected()?;
    let id = match &push.stripe_id {
        Some(id) => id.clone(),
        None => {
            let customer = customers::ensure(app, &run.stripe, &push.workspace, &run.bill.consumer).await?;
            run.draft(&customer).await?
        }
    };
    if let Some(mismatch) = run.lines(&id, &expected).await? {
        return run.discard(&id, &mismatch).await;
    }
    run.finalize(&id).await
}

struct Run<'a> {
    app: &'a App,
    stripe: Stripe,
    push: &'a Push,
    bill: Bill,
}

impl Run<'_> {
    async fn store(&self, step: Step, build: impl FnOnce() -> Result<Request, StripeError>) -> Result<Stored, StripeError> {
        outbox::store(&self.app.pg, &self.push.workspace, self.push.invoice.as_str(), step, build).await
    }

    /// The same bytes under a new key, after a pause.
    async fn renew(&self, request: &Stored, reason: &StripeError) -> Halt {
        tracing::warn!(invoice = %self.push.invoice, "a request to Stripe had no effect and gets a new key: {reason}");
        match outbox::renew(&self.app.pg, request).await {
            Ok(_) => Halt::Later(None, reason.to_string()),
            Err(error) => error.into(),
        }
    }

    async fn draft(&self, customer: &str) -> Result<String, Halt> {
        let has_method = has_payment_method(&mut *self.app.pg.acquire().await?, &self.push.workspace, customer).await?;
        let request = self.store(Step::Draft, || Ok(request(self.bill.draft(customer, has_method).build()))).await?;
        match request.send(&self.app.pg, &self.stripe).await? {
            Sent::Before { object_id } => object_id.ok_or_else(|| StripeError::Bug("a draft request is done without an invoice").into()),
            Sent::Answered(answer) => {
                let id = answer.parse::<Tagged>()?.id;
                self.drafted(&request, Some(&answer), &id).await?;
                Ok(id)
            }
            Sent::KeySpent(reason) => match self.find_draft(customer).await? {
                Some(id) => {
                    self.drafted(&request, None, &id).await?;
                    Ok(id)
                }
                None => Err(self.renew(&request, &reason).await),
            },
            // A number already taken, for one, may have been taken by our own earlier request.
            Sent::Refused(error) => match self.find_draft(customer).await? {
                Some(id) => {
                    self.drafted(&request, None, &id).await?;
                    Ok(id)
                }
                None => Err(error.into()),
            },
        }
    }

    async fn drafted(&self, request: &Stored, answer: Option<&Answer>, id: &str) -> Result<(), Halt> {
        let mut tx = self.app.pg.begin().await?;
        request.finish(&mut tx, answer, id).await?;
        sqlx::query!(
            "UPDATE stripe_pushes SET stripe_id = $3 WHERE workspace_id = $1 AND invoice_id = $2 AND stripe_id IS NULL",
            self.push.workspace.as_str(),
            self.push.invoice.as_str(),
            id
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Step::Draft.point("recorded");
        Ok(())
    }

    /// The invoice that an earlier request of ours made, found by its metadata. By listing: Stripe's search lags.
    async fn find_draft(&self, customer: &str) -> Result<Option<String>, StripeError> {
        let mut list = ListInvoice::new().customer(customer).limit(100);
        let mut found = Vec::new();
        loop {
            let page: List<Tagged> = self.stripe.ask(list.build()).await?;
            found.extend(
                page.data
                    .iter()
                    .filter(|invoice| invoice.tag(INVOICE_KEY) == Some(self.push.invoice.as_str()))
                    .map(|invoice| invoice.id.clone()),
            );
            match page.data.last() {
                Some(last) if page.has_more => list = list.starting_after(last.id.as_str()),
                _ => break,
            }
        }
        match &found[..] {
            [] => Ok(None),
            [id] => Ok(Some(id.clone())),
            several => {
                Err(StripeError::Record(format!("there are {} invoices at Stripe for this one: {}", several.len(), several.join(", "))))
            }
        }
    }

    /// Adds the lines and compares. Some: how Stripe's totals differ.
    async fn lines(&self, id: &str, expected: &Totals) -> Result<Option<String>, Halt> {
        let request = self.store(Step::Lines, || Ok(request(self.bill.add_lines(id)?.build()))).await?;
        let (answer, invoice) = match request.send(&self.app.pg, &self.stripe).await? {
            Sent::Before { .. } => return Ok(None),
            Sent::Answered(answer) => {
                let invoice = answer.parse::<Invoice>()?;
                (Some(answer), invoice)
            }
            // Lines are added all or none, and only by this step: if there are any, they are these.
            Sent::KeySpent(reason) => {
                let invoice = self.retrieve(id).await?;
                if invoice.lines.data.is_empty() {
                    return Err(self.renew(&request, &reason).await);
                }
                (None, invoice)
            }
            Sent::Refused(error) => return Err(error.into()),
        };
        let stripes = Totals::of(&invoice, self.count_lines(id, &invoice).await?);
        let mismatch = expected.differences(&stripes);
        Step::Lines.point("compared");
        let mut tx = self.app.pg.begin().await?;
        request.finish(&mut tx, answer.as_ref(), id).await?;
        sqlx::query!(
            "UPDATE stripe_pushes SET mismatch = $3 WHERE workspace_id = $1 AND invoice_id = $2",
            self.push.workspace.as_str(),
            self.push.invoice.as_str(),
            mismatch
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Step::Lines.point("recorded");
        Ok(mismatch)
    }

    async fn count_lines(&self, id: &str, invoice: &Invoice) -> Result<usize, StripeError> {
        let mut count = invoice.lines.data.len();
        let mut more = invoice.lines.has_more;
        let mut after = invoice.lines.data.last().map(|line| line.id.clone());
        while let (true, Some(last)) = (more, &after) {
            let query = Form::new().with("limit", "100").with("starting_after", last.as_str());
            let page: List<Tagged> = self.stripe.get(&format!("/invoices/{id}/lines"), &query).await?;
            count += page.data.len();
            more = page.has_more;
            after = page.data.last().map(|line| line.id.clone());
        }
        Ok(count)
    }

    async fn finalize(&self, id: &str) -> Result<(), Halt> {
        let request = self.store(Step::Finalize, || Ok(request(FinalizeInvoiceInvoice::new(id).auto_advance(true).build()))).await?;
        let (answer, invoice) = match request.send(&self.app.pg, &self.stripe).await? {
            Sent::Before { .. } => (None, self.retrieve(id).await?),
            Sent::Answered(answer) => {
                let invoice = answer.parse::<Invoice>()?;
                (Some(answer), invoice)
            }
            // A key that tells nothing, or `invoice_not_editable`: the invoice itself says whether it was finalised.
            Sent::KeySpent(reason) => match self.retrieve(id).await? {
                invoice if invoice.status == Status::Draft => return Err(self.renew(&request, &reason).await),
                invoice => (None, invoice),
            },
            Sent::Refused(reason) => match self.retrieve(id).await? {
                invoice if invoice.status == Status::Draft => return Err(reason.into()),
                invoice => (None, invoice),
            },
        };
        let mut tx = self.app.pg.begin().await?;
        request.finish(&mut tx, answer.as_ref(), id).await?;
        sqlx::query!(
            "UPDATE stripe_pushes SET state = 'done', finished_at = $3, reason = NULL WHERE workspace_id = $1 AND invoice_id = $2",
            self.push.workspace.as_str(),
            self.push.invoice.as_str(),
            clock::now()
        )
        .execute(&mut *tx)
        .await?;
        state::apply(&mut tx, &self.push.workspace, &self.push.invoice, &invoice).await?;
        tx.commit().await?;
        Step::Finalize.point("recorded");
        tracing::info!(invoice = %self.push.invoice, stripe = id, "an invoice is at Stripe");
        Ok(())
    }

    async fn discard(&self, id: &str, mismatch: &str) -> Result<(), Halt> {
        let request =
            self.store(Step::Discard, || Ok(Request { method: "DELETE", path: format!("/v1/invoices/{id}"), body: Vec::new() })).await?;
        match request.send(&self.app.pg, &self.stripe).await? {
            Sent::Before { .. } => {}
            Sent::Answered(answer) => request.finish(&mut *self.app.pg.acquire().await?, Some(&answer), id).await?,
            Sent::KeySpent(reason) => return Err(self.renew(&request, &reason).await),
            // Gone already.
            Sent::Refused(StripeError::Refused { status: 404, .. }) => request.finish(&mut *self.app.pg.acquire().await?, None, id).await?,
            Sent::Refused(error) => return Err(error.into()),
        }
        Err(Halt::Blocked(format!("Stripe's totals differ from ours, so the draft was deleted there: {mismatch}")))
    }

    async fn retrieve(&self, id: &str) -> Result<Invoice, StripeError> {
        self.stripe.ask(RetrieveInvoice::new(id).build()).await
    }
}

/// Puts a blocked push back, with every step built anew, once its cause is removed. False when it is not blocked.
pub async fn retry(conn: &mut PgConnection, workspace: &WorkspaceId, invoice: &InvoiceId) -> Result<bool, sqlx::Error> {
    let discarded = sqlx::query!(
        "UPDATE stripe_pushes SET state = 'queued', attempts = 0, next_at = $3, reason = NULL, mismatch = NULL,
                stripe_id = CASE WHEN mismatch IS NULL THEN stripe_id END
         WHERE workspace_id = $1 AND invoice_id = $2 AND state = 'blocked' RETURNING stripe_id IS NULL AS \"gone!\"",
        workspace.as_str(),
        invoice.as_str(),
        clock::now()
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(discarded) = discarded else { return Ok(false) };
    sqlx::query!(
        "UPDATE stripe_requests SET state = 'abandoned' WHERE workspace_id = $1 AND subject = $2 AND (state = 'open' OR $3)",
        workspace.as_str(),
        invoice.as_str(),
        discarded.gone
    )
    .execute(conn)
    .await?;
    Ok(true)
}

async fn has_payment_method(conn: &mut PgConnection, workspace: &WorkspaceId, customer: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT payment_method IS NOT NULL AS "has!" FROM stripe_customers WHERE workspace_id = $1 AND stripe_id = $2"#,
        workspace.as_str(),
        customer
    )
    .fetch_optional(conn)
    .await?
    .unwrap_or(false))
}

fn request(request: RequestBuilder) -> Request {
    let (method, path, body) = wire(request);
    Request { method, path, body }
}
