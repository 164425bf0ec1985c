//! Payment methods: given on Stripe's own page, so that card numbers never come near Farebox.

use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::{App, clock, workspace};
use serde::Deserialize;
use sqlx::PgConnection;
use url::Url;

use super::bill::{CONSUMER_KEY, WORKSPACE_KEY};
use super::client::{Form, Stripe};
use super::customers::{consumer_of, ensure_customer};
use super::error::StripeError;
use super::settings;
use crate::dunning::failed;

#[derive(Deserialize)]
struct Session {
    url: Option<String>,
    mode: String,
    status: Option<String>,
    customer: Option<String>,
    setup_intent: Option<String>,
}

#[derive(Deserialize)]
struct SetupIntent {
    id: String,
    status: String,
    customer: Option<String>,
    payment_method: Option<String>,
}

#[derive(Deserialize)]
struct PaymentMethod {
    id: String,
    customer: Option<String>,
}

/// A page of Stripe's on which the consumer gives a payment method. Afterwards Stripe sends the browser to
/// `success_url`, in which it replaces `{CHECKOUT_SESSION_ID}`: hand that to [`complete_setup`].
pub async fn checkout_setup_url(
    app: &App,
    workspace: &WorkspaceId,
    consumer: &ConsumerId,
    success_url: &str,
    cancel_url: &str,
) -> Result<Url, StripeError> {
    let customer = ensure_customer(app, workspace, consumer).await?;
    let mut conn = app.pg.acquire().await?;
    let stripe = settings::stripe(app, &mut conn, workspace).await?;
    let settings = workspace::by_id(&mut conn, workspace).await?;
    drop(conn);
    let currency = settings.ok_or(StripeError::NotFound("workspace"))?.currency;
    let form = Form::new()
        .with("mode", "setup")
        .with("customer", customer)
        .with("currency", currency.code().to_ascii_lowercase())
        .with("success_url", success_url)
        .with("cancel_url", cancel_url)
        .with("client_reference_id", consumer.as_str())
        .with(format!("metadata[{CONSUMER_KEY}]"), consumer.as_str())
        .with(format!("metadata[{WORKSPACE_KEY}]"), workspace.as_str());
    // Each click is a page of its own; a page that nobody opens costs nothing and expires in a day.
    let session: Session = stripe.post("/checkout/sessions", &form).await?;
    let url = session.url.ok_or_else(|| StripeError::Unreadable("a new checkout session without a url".to_owned()))?;
    Url::parse(&url).map_err(|e| StripeError::Unreadable(format!("the checkout session's url: {e}")))
}

/// Makes the payment method given on that page the one that invoices are charged to; says whose it is. Repeating it
/// changes nothing. Called on the way back from the page, and by the webhook for those who closed the browser there.
pub async fn complete_setup(app: &App, workspace: &WorkspaceId, session_id: &str) -> Result<ConsumerId, StripeError> {
    let stripe = settings::stripe(app, &mut *app.pg.acquire().await?, workspace).await?;
    let session: Session = fetch(&stripe, "checkout/sessions", session_id, "checkout session").await?;
    if session.mode != "setup" || session.status.as_deref() != Some("complete") {
        return Err(StripeError::NotFound("completed checkout session"));
    }
    let intent = session.setup_intent.ok_or(StripeError::NotFound("setup intent"))?;
    let customer = session.customer.ok_or(StripeError::NotFound("customer"))?;
    let consumer = consumer_of(&mut *app.pg.acquire().await?, workspace, &customer).await?.ok_or(StripeError::NotFound("customer"))?;
    apply_setup_intent(app, &stripe, workspace, &intent).await?;
    Ok(consumer)
}

/// As [`complete_setup`], from the setup intent. Those that are not ours or not done are left alone.
pub async fn apply_setup_intent(app: &App, stripe: &Stripe, workspace: &WorkspaceId, id: &str) -> Result<(), StripeError> {
    let intent: SetupIntent = fetch(stripe, "setup_intents", id, "setup intent").await?;
    let (Some(customer), Some(method), "succeeded") = (&intent.customer, &intent.payment_method, intent.status.as_str()) else {
        return Ok(());
    };
    let mut conn = app.pg.acquire().await?;
    let Some(consumer) = consumer_of(&mut conn, workspace, customer).await? else { return Ok(()) };
    let applied = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM stripe_setups WHERE workspace_id = $1 AND setup_intent = $2) AS "applied!""#,
        workspace.as_str(),
        intent.id
    )
    .fetch_one(&mut *conn)
    .await?;
    drop(conn);
    if applied {
        return Ok(());
    }
    make_default(stripe, customer, method).await?;
    let mut tx = app.pg.begin().await?;
    sqlx::query!(
        "INSERT INTO stripe_setups (workspace_id, setup_intent, consumer_id, payment_method, applied_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
        workspace.as_str(),
        intent.id,
        consumer.as_str(),
        method,
        clock::now()
    )
    .execute(&mut *tx)
    .await?;
    remember(&mut tx, workspace, customer, Some(method)).await?;
    tx.commit().await?;
    // Stripe's own attempts follow in any case.
    if let Err(error) = failed::retry(app, stripe, workspace, &consumer).await {
        tracing::info!(%consumer, "what failed before is not charged to the new card yet: {error}");
    }
    Ok(())
}

/// A payment method that was attached some other way becomes the default when there is none.
pub async fn apply_attached(app: &App, stripe: &Stripe, workspace: &WorkspaceId, id: &str) -> Result<(), StripeError> {
    let method: PaymentMethod = fetch(stripe, "payment_methods", id, "payment method").await?;
    let mut conn = app.pg.acquire().await?;
    let Some(customer) = method.customer else {
        // Detached: it cannot be charged any more.
        sqlx::query!(
            "UPDATE stripe_customers SET payment_method = NULL WHERE workspace_id = $1 AND payment_method = $2",
            workspace.as_str(),
            method.id
        )
        .execute(&mut *conn)
        .await?;
        return Ok(());
    };
    let Some(consumer) = consumer_of(&mut conn, workspace, &customer).await? else { return Ok(()) };
    if has_payment_method(&mut conn, workspace, &consumer).await? {
        return Ok(());
    }
    drop(conn);
    make_default(stripe, &customer, &method.id).await?;
    remember(&mut *app.pg.acquire().await?, workspace, &customer, Some(&method.id)).await?;
    Ok(())
}

/// Whether invoices can be charged.
pub async fn has_payment_method(conn: &mut PgConnection, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM stripe_customers WHERE workspace_id = $1 AND consumer_id = $2 AND payment_method IS NOT NULL) AS "has!""#,
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_one(conn)
    .await
}

/// What may be shown of the card that invoices are charged to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Card {
    /// `visa`, `mastercard`, ...
    pub brand: String,
    pub last4: String,
    pub exp_month: u8,
    pub exp_year: u16,
}

/// The card, asked for at Stripe. None when there is no payment method, or it is no card.
pub async fn card(app: &App, workspace: &WorkspaceId, consumer: &ConsumerId) -> Result<Option<Card>, StripeError> {
    #[derive(Deserialize)]
    struct Method {
        card: Option<Card>,
    }
    let mut conn = app.pg.acquire().await?;
    let method = sqlx::query_scalar!(
        r#"SELECT payment_method AS "method!" FROM stripe_customers WHERE workspace_id = $1 AND consumer_id = $2 AND payment_method IS NOT NULL"#,
        workspace.as_str(),
        consumer.as_str()
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(method) = method else { return Ok(None) };
    let stripe = settings::stripe(app, &mut conn, workspace).await?;
    drop(conn);
    Ok(fetch::<Method>(&stripe, "payment_methods", &method, "payment method").await?.card)
}

async fn make_default(stripe: &Stripe, customer: &str, method: &str) -> Result<(), StripeError> {
    let form = Form::new().with("invoice_settings[default_payment_method]", method);
    stripe.post::<serde::de::IgnoredAny>(&format!("/customers/{customer}"), &form).await.map(drop)
}

pub(super) async fn remember(
    conn: &mut PgConnection,
    workspace: &WorkspaceId,
    customer: &str,
    method: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE stripe_customers SET payment_method = $3 WHERE workspace_id = $1 AND stripe_id = $2",
        workspace.as_str(),
        customer,
        method
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// An object by an id that may come from a browser's address line.
async fn fetch<T: serde::de::DeserializeOwned>(stripe: &Stripe, path: &str, id: &str, what: &'static str) -> Result<T, StripeError> {
    let plausible = !id.is_empty() && id.len() <= 255 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !plausible {
        return Err(StripeError::NotFound(what));
    }
    match stripe.get(&format!("/{path}/{id}"), &Form::new()).await {
        Err(StripeError::Refused { status: 404, .. }) => Err(StripeError::NotFound(what)),
        result => result,
    }
}
