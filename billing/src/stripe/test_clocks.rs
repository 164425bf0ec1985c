//! Stripe's test clocks: with a test key, and where the settings ask for it, each new customer lives by a clock of its own
//! there, which is advanced whenever the workspace's clock is. So charges, retries and due dates come at Stripe when they
//! come here, in seconds.

use std::time::Duration;

use farebox_core::ids::{ConsumerId, WorkspaceId};
use farebox_core::{App, clock, workspace};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

use super::client::{Form, Stripe};
use super::error::StripeError;
use super::outbox::{self, Request, Sent, Step};
use super::settings;
use super::view::Tagged;
use crate::BillingError;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const AT_ONCE: i64 = 50;

/// The clock that a consumer's new customer is to live by; None where the workspace wants none.
pub(super) async fn for_consumer(
    app: &App,
    stripe: &Stripe,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
) -> Result<Option<String>, StripeError> {
    let mut conn = app.pg.acquire().await?;
    let wanted = sqlx::query_scalar!("SELECT test_clocks FROM stripe_settings WHERE workspace_id = $1", ws.as_str())
        .fetch_optional(&mut *conn)
        .await?
        .unwrap_or(false);
    if !wanted {
        return Ok(None);
    }
    let now = workspace::by_id(&mut conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?.clock.now();
    drop(conn);
    let request = outbox::store(&app.pg, ws, consumer.as_str(), Step::TestClock, || {
        let form = Form::new().with("frozen_time", now.timestamp().to_string()).with("name", consumer.as_str());
        Ok(Request { method: "POST", path: "/v1/test_helpers/test_clocks".to_owned(), body: form.encoded().into_bytes() })
    })
    .await?;
    match request.send(&app.pg, stripe).await? {
        Sent::Before { object_id } => Ok(object_id),
        Sent::Answered(answer) => {
            let id = answer.parse::<Tagged>()?.id;
            request.finish(&mut *app.pg.acquire().await?, Some(&answer), &id).await?;
            Ok(Some(id))
        }
        // A clock that nobody lives by does no harm, and ends by itself after thirty days.
        Sent::KeySpent(_) => {
            outbox::renew(&app.pg, &request).await?;
            Err(StripeError::Busy { status: 500, after: None })
        }
        Sent::Refused(error) => {
            outbox::abandon(&app.pg, request.id).await?;
            Err(error)
        }
    }
}

/// Keeps Stripe's clocks in step, until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = run_once(&app).await {
            tracing::info!("Stripe's test clocks are advanced a moment later: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Advances those whose workspace moved ahead, or for whom something is due there by the workspace's clock.
pub async fn run_once(app: &App) -> Result<(), StripeError> {
    let behind = sqlx::query!(
        r#"SELECT c.workspace_id AS "workspace: WorkspaceId", c.consumer_id, c.test_clock AS "test_clock!", w.clock_ahead_s
           FROM stripe_customers c JOIN workspaces w ON w.id = c.workspace_id
           WHERE c.test_clock IS NOT NULL AND (c.test_clock_ahead_s IS DISTINCT FROM w.clock_ahead_s OR EXISTS (
               SELECT FROM invoices i JOIN stripe_pushes p ON p.invoice_id = i.id
               WHERE i.workspace_id = c.workspace_id AND i.consumer_id = c.consumer_id AND i.state = 'issued'
                 AND p.next_payment_attempt <= $1::timestamptz + make_interval(secs => w.clock_ahead_s)))
           ORDER BY c.workspace_id LIMIT $2"#,
        clock::now(),
        AT_ONCE
    )
    .fetch_all(&app.pg)
    .await?;
    for customer in behind {
        let mut conn = app.pg.acquire().await?;
        let stripe = settings::stripe(app, &mut conn, &customer.workspace).await?;
        let now = workspace::by_id(&mut conn, &customer.workspace).await?.ok_or(BillingError::NotFound("workspace"))?.clock.now();
        drop(conn);
        if advance(&stripe, &customer.test_clock, now.timestamp()).await? {
            sqlx::query!(
                "UPDATE stripe_customers SET test_clock_ahead_s = $3 WHERE workspace_id = $1 AND consumer_id = $2",
                customer.workspace.as_str(),
                customer.consumer_id,
                customer.clock_ahead_s
            )
            .execute(&app.pg)
            .await?;
        }
    }
    Ok(())
}

/// False while Stripe is still busy with an earlier advance.
async fn advance(stripe: &Stripe, id: &str, to: i64) -> Result<bool, StripeError> {
    #[derive(Deserialize)]
    struct TestClock {
        frozen_time: i64,
        status: String,
    }
    let there: TestClock = stripe.get(&format!("/test_helpers/test_clocks/{id}"), &Form::new()).await?;
    if there.status != "ready" {
        return Ok(false);
    }
    if there.frozen_time < to {
        let form = Form::new().with("frozen_time", to.to_string());
        stripe.post::<IgnoredAny>(&format!("/test_helpers/test_clocks/{id}/advance"), &form).await?;
    }
    Ok(true)
}
