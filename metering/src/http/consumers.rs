//! `/api/v1/consumers`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json as Answer;
use chrono::{DateTime, Utc};
use farebox_core::auth::{Caller, Scope};
use farebox_core::http::{Json, Page, Paging, Params};
use farebox_core::ids::ConsumerId;
use farebox_core::problem::Problem;
use farebox_core::{App, audit_log, clock};
use serde::{Deserialize, Serialize};

use crate::consumers::{self, Consumer, NewConsumer};
use crate::links;
use crate::timelines::BEGINNING;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewConsumer)]
pub(super) struct NewBody {
    name: String,
    #[serde(default)]
    email: Option<String>,
    /// Now unless given.
    #[serde(default)]
    signed_up_at: Option<DateTime<Utc>>,
    /// ISO 3166-1 alpha-2.
    #[serde(default)]
    country: Option<String>,
    #[serde(default)]
    #[schema(value_type = Object)]
    address: Option<serde_json::Map<String, serde_json::Value>>,
    /// Keys by which gateways know the consumer.
    #[serde(default)]
    subjects: Vec<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkBody {
    subject: String,
    /// The beginning of time unless given. Rounded down to the minute, as is `to`.
    #[serde(default)]
    from: Option<DateTime<Utc>>,
    #[serde(default)]
    to: Option<DateTime<Utc>>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    /// Id of the key.
    credential: String,
    /// The beginning of time unless given. Rounded down to the minute, as is `to`.
    #[serde(default)]
    from: Option<DateTime<Utc>>,
    #[serde(default)]
    to: Option<DateTime<Utc>>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct MovedKey {
    credential: String,
    consumer: ConsumerId,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Subjects {
    subjects: Vec<String>,
}

/// All consumers
#[utoipa::path(get, path = "/api/v1/consumers", tag = "consumers", params(Paging), responses((status = 200, body = Page<Consumer>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(paging): Params<Paging>,
) -> Result<Answer<Page<Consumer>>, Problem> {
    caller.0.require(Scope::Read)?;
    let (limit, after) = paging.resolve()?;
    let rows = consumers::list(&mut *app.pg.acquire().await?, &caller.0.workspace, limit + 1, &after).await?;
    Ok(Answer(Page::from_rows(rows, limit, |c| c.id.to_string())))
}

/// One consumer
#[utoipa::path(get, path = "/api/v1/consumers/{id}", tag = "consumers", responses((status = 200, body = Consumer), (status = 404, body = Problem)))]
pub(super) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer<Consumer>, Problem> {
    caller.0.require(Scope::Read)?;
    let id: ConsumerId = id.parse().map_err(|_| Problem::not_found("consumer"))?;
    let found = consumers::get(&mut *app.pg.acquire().await?, &caller.0.workspace, &id).await?;
    found.map(Answer).ok_or_else(|| Problem::not_found("consumer"))
}

/// A new consumer
#[utoipa::path(post, path = "/api/v1/consumers", tag = "consumers", request_body = NewBody,
    responses((status = 201, body = Consumer), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<NewBody>,
) -> Result<(StatusCode, Answer<Consumer>), Problem> {
    caller.0.require(Scope::Manage)?;
    let new = NewConsumer {
        name: body.name,
        email: body.email,
        signed_up_at: body.signed_up_at.unwrap_or_else(clock::now),
        country: body.country,
        address: body.address.unwrap_or_default().into(),
        subjects: body.subjects,
    };
    let workspace = &caller.0.workspace;
    let mut transaction = app.pg.begin().await?;
    let consumer = consumers::create(&mut transaction, workspace, new).await?;
    let detail = serde_json::json!({ "name": consumer.name });
    audit_log::record(&mut transaction, workspace, caller.0.token.as_str(), "consumer.create", consumer.id.as_str(), &detail).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, Answer(consumer)))
}

/// Link a subject
///
/// What gateways call the consumer. Past calls of the subject become the consumer's, as far back as `from`.
#[utoipa::path(post, path = "/api/v1/consumers/{id}/subjects", tag = "consumers", request_body = LinkBody,
    responses((status = 200, body = Subjects), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn link(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<LinkBody>,
) -> Result<Answer<Subjects>, Problem> {
    caller.0.require(Scope::Manage)?;
    let id: ConsumerId = id.parse().map_err(|_| Problem::not_found("consumer"))?;
    let workspace = &caller.0.workspace;
    let mut transaction = app.pg.begin().await?;
    let consumer = consumers::get(&mut transaction, workspace, &id).await?.ok_or_else(|| Problem::not_found("consumer"))?;
    links::link_subject(&mut transaction, workspace, &body.subject, &consumer.id, body.from.unwrap_or(BEGINNING), body.to).await?;
    let detail = serde_json::json!({ "subject": body.subject, "from": body.from, "to": body.to });
    audit_log::record(&mut transaction, workspace, caller.0.token.as_str(), "consumer.link", id.as_str(), &detail).await?;
    let subjects = links::subjects_of(&mut transaction, workspace, &id).await?;
    transaction.commit().await?;
    Ok(Answer(Subjects { subjects }))
}

/// Attribute a key's calls
///
/// Calls made with the key are the consumer's in [from, to), whatever subject they name. Who may use the key, and what it
/// is entitled to, stays with the consumer it was issued to.
#[utoipa::path(post, path = "/api/v1/consumers/{id}/credentials", tag = "consumers", request_body = KeyBody,
    responses((status = 200, body = MovedKey), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn move_key(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<KeyBody>,
) -> Result<Answer<MovedKey>, Problem> {
    caller.0.require(Scope::Manage)?;
    let id: ConsumerId = id.parse().map_err(|_| Problem::not_found("consumer"))?;
    let workspace = &caller.0.workspace;
    let mut transaction = app.pg.begin().await?;
    let consumer = consumers::get(&mut transaction, workspace, &id).await?.ok_or_else(|| Problem::not_found("consumer"))?;
    let from = body.from.unwrap_or(BEGINNING);
    links::link_credential(&mut transaction, workspace, &body.credential, &consumer.id, "", from, body.to).await?;
    let detail = serde_json::json!({ "credential": body.credential, "from": body.from, "to": body.to });
    audit_log::record(&mut transaction, workspace, caller.0.token.as_str(), "credential.move", id.as_str(), &detail).await?;
    transaction.commit().await?;
    Ok(Answer(MovedKey { credential: body.credential, consumer: consumer.id }))
}
