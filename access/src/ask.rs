//! Reading a gateway's question: whose call, which method and path, which key. Where they stand differs by gateway:
//! Envoy asks with the caller's method and path after the prefix, Traefik and APISIX with `X-Forwarded-*`, nginx with
//! `X-Original-*`. A gateway's registered format says which is believed, because a caller may send the others himself.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, header};
use farebox_core::api_path::canonical;
use farebox_core::auth::certificate::Fingerprint;
use farebox_core::auth::{self, Scope};
use farebox_core::ids::WorkspaceId;
use farebox_core::problem::Problem;
use farebox_core::secret;

use crate::snapshot::{Hash, Snapshot};

/// A caller's request as a gateway tells it, before anything is known about it.
pub struct Asked<'a> {
    /// In capitals.
    pub method: String,
    /// Canonical.
    pub path: String,
    pub host: &'a str,
    pub headers: &'a HeaderMap,
    /// Where the gateway says so itself (gRPC, Traefik); else `X-Forwarded-For` tells.
    pub peer: Option<IpAddr>,
}

/// The workspace that the gateway asks for: that of its token, of the key that it signed with, of its certificate, or of
/// the source that its network is allowed for. `extensions`: what the connection and the layers know of who calls.
pub fn workspace<'a>(
    snapshot: &'a Snapshot,
    source: &str,
    token: Option<&str>,
    extensions: &'a Extensions,
) -> Result<&'a WorkspaceId, Problem> {
    if let Some(token) = token {
        let known = snapshot.tokens.get(&secret::hash(token)).filter(|token| token.is_in_force());
        return known.map(|token| &token.workspace).ok_or_else(|| {
            Problem::unauthorized("The gateway's X-Farebox-Token is unknown, revoked, expired, or lacks the scope `decide`.")
        });
    }
    if let Some(signer) = auth::verified(extensions) {
        signer.require(Scope::Decide)?;
        return Ok(&signer.workspace);
    }
    let certificate = extensions.get::<Fingerprint>();
    let registered = certificate.and_then(|Fingerprint(hash)| snapshot.certificates.get(hash)).filter(|token| token.is_in_force());
    if let Some(registered) = registered {
        return Ok(&registered.workspace);
    }
    let gateway = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address);
    gateway.and_then(|address| snapshot.workspace_by_network(source, address.ip())).ok_or_else(|| match certificate {
        Some(certificate) => certificate.unknown(),
        None => Problem::unauthorized(
            "The gateway must send X-Farebox-Token, sign its question, show a registered certificate, or ask from a network that its source allows.",
        ),
    })
}

impl<'a> Asked<'a> {
    /// `after_prefix` is the path after `/v1/decide/{source}`.
    pub fn over_http(format: &str, parts: &'a Parts, after_prefix: &str) -> Self {
        let header = |name: &str| text(&parts.headers, name);
        let (method, path) = call(format, parts, after_prefix);
        let forwarded = || header("x-forwarded-host");
        let host = header("host");
        let host = if format == "envoy" { host } else { forwarded().or(host) };
        // Traefik asks through an entry point of its own, which adds itself to X-Forwarded-For; what it says here, the
        // first one saw.
        let peer = (format == "traefik").then(|| header("x-real-ip")?.parse().ok()).flatten();
        Self { method, path, host: host.unwrap_or_default(), headers: &parts.headers, peer }
    }

    /// The caller's key, hashed: from this header, else the Bearer token.
    pub fn key(&self, header: &str) -> Option<Hash> {
        let key = match self.headers.get(header) {
            Some(key) => key.to_str().ok()?,
            None => {
                let (scheme, token) = text(self.headers, header::AUTHORIZATION.as_str())?.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())?
            }
        };
        (!key.is_empty()).then(|| secret::hash(key))
    }

    /// The caller's address. The last in `X-Forwarded-For` was added by the gateway; before it stand those added by
    /// `proxies` in front of the gateway; what is before those, a caller may have made up.
    pub fn address(&self, proxies: u8) -> Option<IpAddr> {
        if proxies == 0 && self.peer.is_some() {
            return self.peer;
        }
        let all = self.headers.get_all("x-forwarded-for");
        let entries: Vec<&str> = all.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).collect();
        let entry = entries.iter().rev().nth(usize::from(proxies)).or(entries.first())?;
        // Some write the port, too.
        entry.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|a| a.ip()))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// The caller's method and canonical path.
fn call(format: &str, parts: &Parts, after_prefix: &str) -> (String, String) {
    let direct = || (!after_prefix.is_empty()).then_some((parts.method.as_str(), after_prefix));
    let named = |method: &str, uri: &str| Some((text(&parts.headers, method).unwrap_or("GET"), path_of(text(&parts.headers, uri)?)));
    let forwarded = || named("x-forwarded-method", "x-forwarded-uri");
    let original = || named("x-original-method", "x-original-uri");
    let asked = match format {
        "envoy" | "envoy_otlp" => direct(),
        "traefik" | "apisix" | "kong" => forwarded().or_else(direct),
        "nginx" => original().or_else(direct),
        _ => direct().or_else(original).or_else(forwarded),
    };
    let (method, path) = asked.unwrap_or((Method::GET.as_str(), "/"));
    (method.to_ascii_uppercase(), canonical(path))
}

/// An absolute address, as some gateways write it, without scheme and host.
fn path_of(uri: &str) -> &str {
    if uri.starts_with('/') {
        return uri;
    }
    match uri.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => uri,
    }
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
        let asked = Asked::over_http(format, parts, after);
        (asked.method, asked.path)
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
        let absolute = parts("GET", &[("x-forwarded-uri", "https://api.example/v1/orders?next=https://other/")]);
        assert_eq!(asked("traefik", &absolute, "").1, "/v1/orders");
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
        let key = |headers: &[(&str, &str)]| Asked::over_http("", &parts("GET", headers), "").key("x-api-key");
        assert_eq!(key(&[("x-api-key", "k"), ("authorization", "Bearer other")]), hash);
        assert_eq!(key(&[("authorization", "bearer k")]), hash);
        assert_eq!(key(&[("authorization", "Basic k")]), None);
        assert_eq!(key(&[("x-api-key", "")]), None);
        let other = parts("GET", &[("apikey", "k"), ("x-api-key", "not-looked-at")]);
        assert_eq!(Asked::over_http("", &other, "").key("ApiKey"), hash, "where the provider says");
    }

    #[test]
    fn an_address_is_the_one_that_the_gateway_saw() {
        let forged = parts("GET", &[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "198.51.100.1, 203.0.113.7")]);
        let asked = Asked::over_http("envoy", &forged, "");
        assert_eq!(asked.address(0), "203.0.113.7".parse().ok());
        assert_eq!(asked.address(1), "198.51.100.1".parse().ok());
        assert_eq!(asked.address(9), "10.0.0.1".parse().ok());
        assert_eq!(Asked { peer: "192.0.2.1".parse().ok(), ..asked }.address(0), "192.0.2.1".parse().ok());
        let real = parts("GET", &[("x-real-ip", "203.0.113.7"), ("x-forwarded-for", "203.0.113.7, 127.0.0.1")]);
        assert_eq!(Asked::over_http("traefik", &real, "").address(0), "203.0.113.7".parse().ok());
        assert_eq!(Asked::over_http("envoy", &real, "").address(0), "127.0.0.1".parse().ok());
        let port = parts("GET", &[("x-forwarded-for", "203.0.113.7:5512")]);
        assert_eq!(Asked::over_http("", &port, "").address(0), "203.0.113.7".parse().ok());
        assert_eq!(Asked::over_http("", &parts("GET", &[]), "").address(0), None);
    }
}
