//! Consumers as Stripe's customers.

use farebox_core::App;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use serde::Deserialize;
use sqlx::PgConnection;

use super::bill::{CONSUMER_KEY, WORKSPACE_KEY};
use super::checkout;
use super::client::{Form, Stripe};
use super::details::Details;
use super::error::StripeError;
use super::outbox::{self, Request, Sent, Step, Stored};
use super::settings;
use super::test_clocks;
use super::verdict::backoff;
use super::view::{List, Tagged};

pub async fn stripe_id(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT stripe_id FROM stripe_customers WHERE workspace_id = $1 AND consumer_id = $2",
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_optional(conn)
    .await
}

/// Whose customer this is; None for customers that are not ours.
pub async fn consumer_of(conn: &mut PgConnection, workspace: &WorkspaceId, stripe_id: &str) -> Result<Option<ConsumerId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT consumer_id AS "id: ConsumerId" FROM stripe_customers WHERE workspace_id = $1 AND stripe_id = $2"#,
        workspace.as_str(),
        stripe_id
    )
    .fetch_optional(conn)
    .await
}

/// The consumer's customer at Stripe, created when there is none; for a caller who waits.
pub async fn ensure_customer(app: &App, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<String, StripeError> {
    let stripe = settings::stripe(app, &mut *app.pg.acquire().await?, workspace).await?;
    for attempt in 0..4 {
        match ensure(app, &stripe, workspace, consumer).await {
            Err(StripeError::Unreachable(_) | StripeError::Busy { .. }) if attempt < 3 => {
                tokio::time::sleep(backoff(attempt, rand::random())).await;
            }
            result => return result,
        }
    }
    Err(StripeError::Bug("the loop above always returns"))
}

/// One attempt. Stripe knows of the consumer then what we do.
pub async fn ensure(app: &App, stripe: &Stripe, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<String, StripeError> {
    let mut conn = app.pg.acquire().await?;
    let details = Details::load(&mut conn, workspace, consumer).await?;
    let known = stripe_id(&mut conn, workspace, consumer).await?;
    drop(conn);
    let id = match known {
        Some(id) => id,
        None => create(app, stripe, workspace, consumer, &details).await?,
    };
    details.tell(app, stripe, workspace, &id).await?;
    Ok(id)
}

async fn create(
    app: &App,
    stripe: &Stripe,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    details: &Details,
) -> Result<String, StripeError> {
    let clock = test_clocks::for_consumer(app, stripe, workspace, consumer).await?;
    let fresh = request(workspace, consumer, details, clock.as_deref());
    let request = outbox::store(&app.pg, workspace, consumer.as_str(), Step::Customer, || Ok(fresh.clone())).await?;
    let new = New { workspace, consumer, test_clock: clock.as_deref() };
    match request.send(&app.pg, stripe).await? {
        Sent::Before { object_id } => object_id.ok_or(StripeError::Bug("a customer request is done without a customer")),
        Sent::Answered(answer) => {
            let id = answer.parse::<Tagged>()?.id;
            // The stored request may be older than what is known now.
            let said = details.said_by_creating().filter(|_| request.is(&fresh));
            new.record(app, &request, Some(&answer), &id, said).await?;
            Ok(id)
        }
        Sent::KeySpent(reason) => match find(stripe, consumer, details.email()).await? {
            Some(id) => {
                new.record(app, &request, None, &id, None).await?;
                Ok(id)
            }
            None => {
                outbox::renew(&app.pg, &request).await?;
                tracing::warn!(%consumer, "a customer is created at Stripe under a new key: {reason}");
                Err(StripeError::Busy { status: 500, after: None })
            }
        },
        Sent::Refused(error) => {
            // What was wrong with the consumer's record may be corrected: the next attempt is built anew.
            outbox::abandon(&app.pg, request.id).await?;
            Err(error)
        }
    }
}

fn request(workspace: &WorkspaceId, consumer: &ConsumerId, details: &Details, test_clock: Option<&str>) -> Request {
    let mut form = details.known();
    if let Some(clock) = test_clock {
        form = form.with("test_clock", clock);
    }
    form = form.with(format!("metadata[{CONSUMER_KEY}]"), consumer.as_str()).with(format!("metadata[{WORKSPACE_KEY}]"), workspace.as_str());
    Request { method: "POST", path: "/v1/customers".to_owned(), body: form.encoded().into_bytes() }
}

/// Looks for the customer an earlier request may have made. By listing: Stripe's search lags behind.
async fn find(stripe: &Stripe, consumer: &ConsumerId, email: Option<&str>) -> Result<Option<String>, StripeError> {
    let mut after = None;
    loop {
        let mut query = Form::new().with("limit", "100");
        if let Some(email) = email {
            query = query.with("email", email);
        }
        if let Some(after) = after {
            query = query.with("starting_after", after);
        }
        let page: List<Tagged> = stripe.get("/customers", &query).await?;
        if let Some(found) = page.data.iter().find(|customer| customer.tag(CONSUMER_KEY) == Some(consumer.as_str())) {
            return Ok(Some(found.id.clone()));
        }
        after = page.data.last().map(|customer| customer.id.clone());
        if !page.has_more || after.is_none() {
            return Ok(None);
        }
    }
}

struct New<'a> {
    workspace: &'a WorkspaceId,
    consumer: &'a ConsumerId,
    test_clock: Option<&'a str>,
}

impl New<'_> {
    async fn record(
        &self,
        app: &App,
        request: &Stored,
        answer: Option<&super::client::Answer>,
        id: &str,
        said: Option<String>,
    ) -> Result<(), StripeError> {
        let mut tx = app.pg.begin().await?;
        request.finish(&mut tx, answer, id).await?;
        sqlx::query!(
            "INSERT INTO stripe_customers (workspace_id, consumer_id, stripe_id, created_at, test_clock, details) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING",
            self.workspace.as_str(),
            self.consumer.as_str(),
            id,
            farebox_core::clock::now(),
            self.test_clock,
            said
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Step::Customer.point("recorded");
        Ok(())
    }
}

/// What became of a customer at Stripe. One that was deleted there is forgotten: the next invoice, or the next card, makes
/// another.
pub async fn apply(app: &App, stripe: &Stripe, workspace: &WorkspaceId, id: &str) -> Result<(), StripeError> {
    #[derive(Deserialize)]
    struct There {
        #[serde(default)]
        deleted: bool,
        invoice_settings: Option<InvoiceSettings>,
    }
    #[derive(Deserialize)]
    struct InvoiceSettings {
        default_payment_method: Option<String>,
    }
    // Of an account that has other customers, too, nothing is asked.
    if consumer_of(&mut *app.pg.acquire().await?, workspace, id).await?.is_none() {
        return Ok(());
    }
    let there: There = stripe.get(&format!("/customers/{id}"), &Form::new()).await?;
    let mut tx = app.pg.begin().await?;
    if there.deleted {
        let gone = sqlx::query_scalar!(
            "DELETE FROM stripe_customers WHERE workspace_id = $1 AND stripe_id = $2 RETURNING consumer_id",
            workspace.as_str(),
            id
        );
        if let Some(consumer) = gone.fetch_optional(&mut *tx).await? {
            outbox::forget(&mut tx, workspace, &consumer, Step::Customer).await?;
            tracing::warn!(consumer, "its customer {id} was deleted at Stripe, with its card");
        }
    } else if let Some(method) = there.invoice_settings.and_then(|settings| settings.default_payment_method) {
        checkout::remember(&mut tx, workspace, id, Some(&method)).await?;
    }
    tx.commit().await?;
    Ok(())
}
