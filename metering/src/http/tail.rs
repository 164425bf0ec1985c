//! `GET /api/v1/events/tail`: server-sent events.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{self, KeepAlive};
use farebox_core::App;
use farebox_core::auth::{Caller, Scope, token_of};
use farebox_core::http::QueryPairs;
use farebox_core::problem::Problem;
use futures::Stream;
use tokio::sync::{Semaphore, mpsc};

use super::{Parameters, UNKNOWN};
use crate::dimension::Dimension;
use crate::filter::Filter;
use crate::tail::Tail;

/// Tails of one process, and how long each goes on; a client asks again by itself.
const MOST: usize = 64;
const LONGEST: Duration = Duration::from_secs(30 * 60);
const EVERY: Duration = Duration::from_secs(1);

static OPEN: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MOST)));

/// Live events
///
/// Server-sent events: `event: event` with an event as in `/api/v1/events` for each that arrives from now on and passes
/// the filters, within about a second; `event: skipped` with a number when more came at once than are shown.
#[utoipa::path(get, path = "/api/v1/events/tail", tag = "usage", params(
    ("consumer" = Option<String>, Query, description = "Only this consumer's, by id; `unknown` for nobody's."),
    ("filter[dimension]" = Option<String>, Query, description = "As in /api/v1/usage."),
), responses((status = 200, content_type = "text/event-stream"), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn tail(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    QueryPairs(pairs): QueryPairs,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    caller.0.require(Scope::Read)?;
    let mut parameters = Parameters(pairs);
    let mut filters = parameters.filters()?;
    if let Some(consumer) = parameters.one("consumer") {
        filters.push(Filter::is(Dimension::Consumer, if consumer == UNKNOWN { String::new() } else { consumer }));
    }
    parameters.done()?;
    let mut tail = Tail::new(&caller.0.workspace, filters)?;
    let permit = OPEN.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::unavailable(format!("{MOST} tails are open already. Close one, or try again."), 10))?;
    let token = token_of(&headers).unwrap_or_default().to_owned();
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let _permit = permit;
        let end = tokio::time::Instant::now() + LONGEST;
        let mut turns = tokio::time::interval(EVERY);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while tokio::time::Instant::now() < end && !sender.is_closed() {
            turns.tick().await;
            // A revoked token sees nothing more.
            if app.tokens.verify(&token).await.is_err_and(|problem| problem.status == 401) {
                return;
            }
            let look = match tail.look(&app).await {
                Ok(look) => look,
                Err(error) => {
                    tracing::warn!("a live tail waits: {error}");
                    continue;
                }
            };
            for event in look.events {
                let Ok(event) = sse::Event::default().event("event").json_data(&event) else { continue };
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            if look.skipped > 0 && sender.send(sse::Event::default().event("skipped").data(look.skipped.to_string())).await.is_err() {
                return;
            }
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|event| (Ok(event), receiver)) });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}
