//! Our webhook endpoint at Stripe.

use std::time::Duration;

use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use serde::Deserialize;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::{Form, Stripe};
use super::error::StripeError;
use super::events::KINDS;
use super::settings;
use super::view::List;

#[derive(Deserialize)]
struct Endpoint {
    id: String,
    url: String,
    secret: Option<String>,
    #[serde(default)]
    enabled_events: Vec<String>,
}

const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Brings endpoints that were registered by an earlier version up to date, at the start and whenever Stripe did not answer
/// then, until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = run_once(&app).await {
            tracing::warn!("which webhook endpoints are out of date cannot be read: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Every endpoint that was not told of all [`KINDS`], once.
pub async fn run_once(app: &App) -> Result<(), sqlx::Error> {
    let stale = sqlx::query_scalar!(
        r#"SELECT workspace_id AS "workspace: WorkspaceId" FROM stripe_settings WHERE endpoint_id IS NOT NULL AND NOT endpoint_kinds @> $1"#,
        &KINDS.map(str::to_owned)
    )
    .fetch_all(&app.pg)
    .await?;
    for workspace in stale {
        if let Err(error) = register_webhook(app, &workspace).await {
            tracing::warn!(%workspace, "the webhook endpoint at Stripe lacks kinds of events and is told of them later: {error}");
        }
    }
    Ok(())
}

/// Registers `<public_url>/stripe/webhooks/<workspace>` at Stripe and keeps its signing secret. The address, or None
/// when Stripe could not reach it, in which case events are found by polling. Repeating it changes nothing, but that an endpoint
/// which is not told of everything we listen for is told of it from then on.
pub async fn register_webhook(app: &App, workspace: &WorkspaceId) -> Result<Option<String>, StripeError> {
    let address = format!("{}/stripe/webhooks/{workspace}", app.config.http.public_url);
    if !is_reachable(&app.config.http.public_url, &app.config.billing.stripe_url) {
        return Ok(None);
    }
    // One at a time per workspace: whoever comes second finds the first one's endpoint.
    let mut tx = app.pg.begin().await?;
    let known =
        sqlx::query!("SELECT endpoint_id, endpoint_url FROM stripe_settings WHERE workspace_id = $1 FOR UPDATE", workspace.as_str())
            .fetch_optional(&mut *tx)
            .await?
            .ok_or(StripeError::NotConfigured)?;
    let stripe = settings::stripe(app, &mut tx, workspace).await?;
    let at_stripe = list(&stripe).await?;
    let mut found = at_stripe.iter().filter(|endpoint| endpoint.url == address);
    let ours = found.clone().find(|endpoint| Some(&endpoint.id) == known.endpoint_id.as_ref());
    if let (Some(ours), true) = (ours, known.endpoint_url.as_deref() == Some(&address)) {
        listen(&stripe, ours).await?;
        heard(&mut tx, workspace).await?;
        tx.commit().await?;
        return Ok(Some(address));
    }
    // Endpoints with our address whose secret was lost on the way to us, and the one with our former address.
    let former = at_stripe.iter().filter(|endpoint| endpoint.url != address && Some(&endpoint.id) == known.endpoint_id.as_ref());
    for endpoint in found.by_ref().chain(former) {
        stripe.delete(&format!("/webhook_endpoints/{}", endpoint.id)).await?;
    }
    let form = Form::new()
        .with("url", address.as_str())
        .with("api_version", stripe_client_core::VERSION.as_str())
        .with("description", "Farebox")
        .with("metadata[farebox_workspace]", workspace.as_str());
    let created: Endpoint = stripe.post("/webhook_endpoints", &events(form, KINDS)).await?;
    let secret = created.secret.ok_or_else(|| StripeError::Unreadable("a new webhook endpoint without a secret".to_owned()))?;
    settings::add_webhook_secret(&mut tx, &app.config.billing, workspace, &secret).await?;
    sqlx::query!(
        "UPDATE stripe_settings SET endpoint_id = $2, endpoint_url = $3 WHERE workspace_id = $1",
        workspace.as_str(),
        created.id,
        address
    )
    .execute(&mut *tx)
    .await?;
    heard(&mut tx, workspace).await?;
    tx.commit().await?;
    Ok(Some(address))
}

/// What someone added in Stripe's dashboard stays.
async fn listen(stripe: &Stripe, endpoint: &Endpoint) -> Result<(), StripeError> {
    let has = |kind: &str| endpoint.enabled_events.iter().any(|enabled| enabled == kind || enabled == "*");
    let lacking: Vec<_> = KINDS.into_iter().filter(|kind| !has(kind)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let form = events(Form::new(), endpoint.enabled_events.iter().map(String::as_str).chain(lacking));
    stripe.post::<Endpoint>(&format!("/webhook_endpoints/{}", endpoint.id), &form).await?;
    Ok(())
}

fn events<'k>(form: Form, kinds: impl IntoIterator<Item = &'k str>) -> Form {
    kinds.into_iter().enumerate().fold(form, |form, (index, kind)| form.with(format!("enabled_events[{index}]"), kind))
}

async fn heard(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<(), sqlx::Error> {
    let kinds = KINDS.map(str::to_owned);
    sqlx::query!("UPDATE stripe_settings SET endpoint_kinds = $2 WHERE workspace_id = $1", workspace.as_str(), &kinds)
        .execute(conn)
        .await?;
    Ok(())
}

async fn list(stripe: &Stripe) -> Result<Vec<Endpoint>, StripeError> {
    let mut all: Vec<Endpoint> = Vec::new();
    loop {
        let mut query = Form::new().with("limit", "100");
        if let Some(last) = all.last() {
            query = query.with("starting_after", last.id.as_str());
        }
        let page: List<Endpoint> = stripe.get("/webhook_endpoints", &query).await?;
        let more = page.has_more && !page.data.is_empty();
        all.extend(page.data);
        if !more {
            return Ok(all);
        }
    }
}

/// Stripe itself refuses addresses of this machine; a Stripe that runs on this machine reaches them.
fn is_reachable(public_url: &str, stripe_url: &str) -> bool {
    let is_local = |url: &str| {
        Url::parse(url)
            .ok()
            .and_then(|url| url.host_str().map(|host| host == "localhost" || host == "[::1]" || host.starts_with("127.")))
            .unwrap_or(false)
    };
    !is_local(public_url) || is_local(stripe_url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_reach_whom() {
        assert!(is_reachable("https://api.acme.example", "https://api.stripe.com/"));
        assert!(is_reachable("http://localhost:8080", "http://127.0.0.1:12111/"));
        assert!(!is_reachable("http://localhost:8080", "https://api.stripe.com/"));
    }
}
