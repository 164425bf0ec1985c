//! Envoy's external authorisation over gRPC: `envoy.service.auth.v3.Authorization/Check`. The gateway's token and
//! source come as metadata (`x-farebox-token`, `x-farebox-source`); what HTTP says in headers is said three times: to
//! the upstream, to the caller, and as dynamic metadata for the access log, on a refusal too.
//! <https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/auth/v3/external_auth.proto>

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use envoy_types::pb::envoy::config::core::v3::{self as core, HeaderValueOption, address};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use envoy_types::pb::google::rpc;
use farebox_core::api_path::canonical;
use farebox_core::problem::Problem;
use tonic::{Code, Request, Response, Status};

use crate::answer::{Answer, OURS};
use crate::ask::{self, Asked};
use crate::door::{self, DECISION_SECONDS};
use crate::gate::Gate;

/// The path of the service's methods.
pub const PATH: &str = "/envoy.service.auth.v3.Authorization/{*method}";

pub struct Check(Arc<Gate>);

pub fn server(gate: Arc<Gate>) -> AuthorizationServer<Check> {
    AuthorizationServer::new(Check(gate))
}

#[tonic::async_trait]
impl Authorization for Check {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let started = Instant::now();
        let metadata = |name: &str| request.metadata().get(name).map(|v| v.to_str().unwrap_or_default().to_owned());
        let (token, source) = (metadata("x-farebox-token"), metadata("x-farebox-source").unwrap_or_default());
        let snapshot = self.0.snapshot.load();
        let snapshot = snapshot.as_deref().ok_or_else(|| status(&door::not_ready()))?;
        let workspace = ask::workspace(snapshot, &source, token.as_deref(), request.extensions()).map_err(|problem| status(&problem))?;
        if source.is_empty() || source.len() > 128 {
            return Err(Status::invalid_argument("Name the gateway by the metadata x-farebox-source (initial_metadata)."));
        }
        let workspace = workspace.clone();
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let peer = peer(&attributes);
        let http =
            attributes.request.and_then(|r| r.http).ok_or_else(|| Status::invalid_argument("attributes.request.http is missing."))?;
        let headers = headers(http.headers);
        let asked =
            Asked { method: http.method.to_ascii_uppercase(), path: canonical(&http.path), host: &http.host, headers: &headers, peer };
        let answer = door::judged(&self.0, snapshot, &workspace, &source, &asked);
        metrics::histogram!(DECISION_SECONDS).record(started.elapsed());
        Ok(Response::new(response(answer)))
    }
}

/// Envoy sees a failure, and does what it is configured to do then.
fn status(problem: &Problem) -> Status {
    let code = if problem.status == 503 { Code::Unavailable } else { Code::Unauthenticated };
    Status::new(code, problem.detail.clone())
}

fn peer(attributes: &AttributeContext) -> Option<IpAddr> {
    match attributes.source.as_ref()?.address.as_ref()?.address.as_ref()? {
        address::Address::SocketAddress(socket) => socket.address.parse().ok(),
        _ => None,
    }
}

/// Envoy's names are in small letters, pseudo-headers (`:path`) among them.
fn headers(given: HashMap<String, String>) -> HeaderMap {
    let read = |(name, value): (String, String)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
    given.into_iter().filter_map(read).collect()
}

fn response(answer: Answer) -> CheckResponse {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let (mut ours, mut callers) = (Vec::new(), Vec::new());
    let mut fields = HashMap::new();
    for (name, value) in &answer.headers {
        let value = text(value);
        if name.as_str().starts_with(OURS) {
            fields.insert(name.as_str().to_owned(), Value { kind: Some(Kind::StringValue(value.clone())) });
            ours.push(option(name, value));
        } else {
            callers.push(option(name, value));
        }
    }
    let allowed = answer.body.is_none();
    let http_response = if allowed {
        HttpResponse::OkResponse(OkHttpResponse { headers: ours, response_headers_to_add: callers, ..Default::default() })
    } else {
        let status = Some(HttpStatus { code: i32::from(answer.status.as_u16()) });
        HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers: callers, body: answer.body.unwrap_or_default() })
    };
    let code = if allowed { Code::Ok } else { Code::PermissionDenied };
    CheckResponse {
        status: Some(rpc::Status { code: code.into(), ..Default::default() }),
        dynamic_metadata: Some(Struct { fields }),
        http_response: Some(http_response),
    }
}

#[allow(deprecated)] // prost asks for every field
fn option(name: &HeaderName, value: String) -> HeaderValueOption {
    let header = core::HeaderValue { key: name.as_str().to_owned(), value, raw_value: Vec::new() };
    let append_action = core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into();
    HeaderValueOption { header: Some(header), append: None, append_action, keep_empty_value: false }
}
