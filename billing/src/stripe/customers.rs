//! Consumers as Stripe's customers.

use farebox_core::App;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_metering::consumers::{self, Consumer};
use sqlx::PgConnection;

use super::bill::{CONSUMER_KEY, WORKSPACE_KEY};
use super::client::{Form, Stripe};
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

/// One attempt.
pub async fn ensure(app: &App, stripe: &Stripe, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<String, StripeError> {
    let mut conn = app.pg.acquire().await?;
    if let Some(id) = stripe_id(&mut conn, workspace, consumer).await? {
        return Ok(id);
    }
    let found = consumers::get(&mut conn, workspace, consumer).await?;
    drop(conn);
    let consumer = found.ok_or(StripeError::NotFound("consumer"))?;
    let clock = test_clocks::for_consumer(app, stripe, workspace, &consumer.id).await?;
    let build = || Ok(create(workspace, &consumer, clock.as_deref()));
    let request = outbox::store(&app.pg, workspace, consumer.id.as_str(), Step::Customer, build).await?;
    match request.send(&app.pg, stripe).await? {
        Sent::Before { object_id } => object_id.ok_or(StripeError::Bug("a customer request is done without a customer")),
        Sent::Answered(answer) => {
            let id = answer.parse::<Tagged>()?.id;
            record(app, workspace, &consumer, &request, Some(&answer), &id, clock.as_deref()).await?;
            Ok(id)
        }
        Sent::KeySpent(reason) => match find(stripe, &consumer).await? {
            Some(id) => {
                record(app, workspace, &consumer, &request, None, &id, clock.as_deref()).await?;
                Ok(id)
            }
            None => {
                outbox::renew(&app.pg, &request).await?;
                tracing::warn!(consumer = %consumer.id, "a customer is created at Stripe under a new key: {reason}");
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

fn create(workspace: &WorkspaceId, consumer: &Consumer, test_clock: Option<&str>) -> Request {
    let mut form = Form::new().with("name", consumer.name.as_str());
    if let Some(clock) = test_clock {
        form = form.with("test_clock", clock);
    }
    if let Some(email) = &consumer.email {
        form = form.with("email", email.as_str());
    }
    for part in ["line1", "line2", "city", "postal_code", "state"] {
        if let Some(value) = consumer.address.get(part).and_then(|value| value.as_str()) {
            form = form.with(format!("address[{part}]"), value);
        }
    }
    if let Some(country) = &consumer.country {
        form = form.with("address[country]", country.as_str());
    }
    form =
        form.with(format!("metadata[{CONSUMER_KEY}]"), consumer.id.as_str()).with(format!("metadata[{WORKSPACE_KEY}]"), workspace.as_str());
    Request { method: "POST", path: "/v1/customers".to_owned(), body: form.encoded().into_bytes() }
}

/// Looks for the customer an earlier request may have made. By listing: Stripe's search lags behind.
async fn find(stripe: &Stripe, consumer: &Consumer) -> Result<Option<String>, StripeError> {
    let mut after = None;
    loop {
        let mut query = Form::new().with("limit", "100");
        if let Some(email) = &consumer.email {
            query = query.with("email", email.as_str());
        }
        if let Some(after) = after {
            query = query.with("starting_after", after);
        }
        let page: List<Tagged> = stripe.get("/customers", &query).await?;
        if let Some(found) = page.data.iter().find(|customer| customer.tag(CONSUMER_KEY) == Some(consumer.id.as_str())) {
            return Ok(Some(found.id.clone()));
        }
        after = page.data.last().map(|customer| customer.id.clone());
        if !page.has_more || after.is_none() {
            return Ok(None);
        }
    }
}

async fn record(
    app: &App,
    workspace: &WorkspaceId,
    consumer: &Consumer,
    request: &Stored,
    answer: Option<&super::client::Answer>,
    id: &str,
    test_clock: Option<&str>,
) -> Result<(), StripeError> {
    let mut tx = app.pg.begin().await?;
    request.finish(&mut tx, answer, id).await?;
    sqlx::query!(
        "INSERT INTO stripe_customers (workspace_id, consumer_id, stripe_id, created_at, test_clock) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        workspace.as_str(),
        consumer.id.as_str(),
        id,
        farebox_core::clock::now(),
        test_clock
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Step::Customer.point("recorded");
    Ok(())
}
