//! Reading a gateway's question: whose call, which method and path, which key. Where they stand differs by gateway:
//! Envoy asks with the caller's method and path after the prefix, Traefik and APISIX with `X-Forwarded-*`, nginx with
//! `X-Original-*`. A gateway's registered format says which is believed, because a caller may send the others himself.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use farebox_core::api_path::canonical;
use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use farebox_core::problem::Problem;
use farebox_core::secret;

use crate::snapshot::{Hash, Snapshot};

/// The workspace that the gateway asks for: that of its token, or of the source that its network is allowed for.
pub fn workspace<'a>(snapshot: &'a Snapshot, source: &str, parts: &Parts) -> Result<&'a WorkspaceId, Problem> {
    if let Some(token) = parts.headers.get("x-farebox-token") {
        let known = token.to_str().ok().and_then(|token| snapshot.tokens.get(&secret::hash(token)));
        let known = known.filter(|token| token.expires_at.is_none_or(|at| clock::now() < at));
        return known.map(|token| &token.workspace).ok_or_else(|| {
            Problem::unauthorized("The gateway's X-Farebox-Token is unknown, revoked, expired, or lacks the scope `decide`.")
        });
    }
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    peer.and_then(|peer: IpAddr| snapshot.workspace_by_network(source, peer))
        .ok_or_else(|| Problem::unauthorized("The gateway must send X-Farebox-Token, or ask from a network that its source allows."))
}

/// The caller's method and canonical path. `after_prefix` is the path after `/v1/decide/{source}`.
pub fn call(format: &str, parts: &Parts, after_prefix: &str) -> (String, String) {
    let direct = || (!after_prefix.is_empty()).then(|| (parts.method.to_string(), after_prefix.to_owned()));
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let named = |method: &str, uri: &str| Some((header(method).unwrap_or_else(|| "GET".to_owned()), path_of(&header(uri)?)));
    let forwarded = || named("x-forwarded-method", "x-forwarded-uri");
    let original = || named("x-original-method", "x-original-uri");
    let asked = match format {
        "envoy" => direct(),
        "traefik" | "apisix" | "kong" => forwarded().or_else(direct),
        "nginx" => original().or_else(direct),
        _ => direct().or_else(original).or_else(forwarded),
    };
    let (method, path) = asked.unwrap_or_else(|| (Method::GET.to_string(), "/".to_owned()));
    (method.to_ascii_uppercase(), canonical(&path))
}

/// An absolute address, as some gateways write it, without scheme and host.
fn path_of(uri: &str) -> String {
    match uri.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/".to_owned(), |at| rest[at..].to_owned()),
        None => uri.to_owned(),
    }
}

/// The caller's key, hashed: `x-api-key`, else the Bearer token.
pub fn key(headers: &HeaderMap) -> Option<Hash> {
    let key = match headers.get("x-api-key") {
        Some(key) => key.to_str().ok()?,
        None => {
            let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())?
        }
    };
    (!key.is_empty()).then(|| secret::hash(key))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn asked(format: &str, parts: &Parts, after: &str) -> (String, String) {
        call(format, parts, after)
    }

    #[test]
    fn each_gateway_is_read_where_it_writes() {
        let expected = ("POST".to_owned(), "/v1/orders".to_owned());
        assert_eq!(asked("envoy", &parts("POST", &[]), "/v1/orders"), expected);
        let traefik = parts("GET", &[("x-forwarded-method", "POST"), ("x-forwarded-uri", "/v1/orders?token=s3cret")]);
        assert_eq!(asked("traefik", &traefik, ""), expected);
        let nginx = parts("HEAD", &[("x-original-method", "POST"), ("x-original-uri", "/v1/orders?x")]);
        assert_eq!(asked("nginx", &nginx, ""), expected);
        assert_eq!(asked("", &nginx, ""), expected);
    }

    #[test]
    fn a_caller_cannot_claim_another_path_through_envoy() {
        let forged = parts("DELETE", &[("x-original-method", "GET"), ("x-original-uri", "/free"), ("x-forwarded-uri", "/free")]);
        assert_eq!(asked("envoy", &forged, "/orders/7"), ("DELETE".to_owned(), "/orders/7".to_owned()));
        assert_eq!(asked("", &forged, "/orders/7"), ("DELETE".to_owned(), "/orders/7".to_owned()));
    }

    #[test]
    fn the_key_is_taken_from_either_place() {
        let hash = Some(secret::hash("k"));
        assert_eq!(key(&parts("GET", &[("x-api-key", "k"), ("authorization", "Bearer other")]).headers), hash);
        assert_eq!(key(&parts("GET", &[("authorization", "bearer k")]).headers), hash);
        assert_eq!(key(&parts("GET", &[("authorization", "Basic k")]).headers), None);
        assert_eq!(key(&parts("GET", &[("x-api-key", "")]).headers), None);
    }
}
