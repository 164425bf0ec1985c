//! Which API and which version of it a call is for. Providers put the version in the path (`/v2/orders`), in a header
//! (`x-api-version: 2`, `Accept: application/vnd.acme.v2+json`) or in the host (`v2.api.example.com`); here all become
//! the same `v2`, so that plans, deprecation and usage know one name.

use axum::http::{HeaderMap, header};
use farebox_core::api_path::{api_and_version, without_version};

use crate::policy::{ApiPolicy, Policy};

/// A call, its place in the API made plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    pub api: String,
    /// Empty when nothing tells.
    pub version: String,
    /// With the version in front, wherever it stood: `/v2/orders/7`.
    pub path: String,
    /// `/orders/7`
    pub unversioned: String,
}

impl Called {
    /// Where the path alone tells.
    #[cfg(test)]
    pub fn by_path(path: &str) -> Self {
        Self::new(path, "", &HeaderMap::new(), &Policy::default())
    }

    /// `path` is canonical. The path wins, then the header, then the host, then the API's default.
    pub fn new(path: &str, host: &str, headers: &HeaderMap, policy: &Policy) -> Self {
        let (api, mut version) = api_and_version(path);
        let unversioned = without_version(path);
        if !version.is_empty() {
            return Self { api, version, path: path.to_owned(), unversioned };
        }
        let of_api = policy.of_api(&api);
        let found = in_header(headers, of_api).or_else(|| in_host(host));
        if let Some(found) = found.or_else(|| of_api?.default_version.as_deref().and_then(normal)) {
            version = found;
        }
        let path = if version.is_empty() { path.to_owned() } else { format!("/{version}{}", unversioned.trim_end_matches('/')) };
        Self { api, version, path, unversioned }
    }
}

fn in_header(headers: &HeaderMap, policy: Option<&ApiPolicy>) -> Option<String> {
    if let Some(name) = policy.and_then(|p| p.version_header.as_deref())
        && let Some(value) = headers.get(name)
    {
        return normal(value.to_str().ok()?);
    }
    // `application/vnd.acme.v2+json`, `application/json;version=2`
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    let vendor = accept.split(['.', '+', ';', ',', ' ']).find(|part| is_version(part));
    let parameter = || accept.split([';', ',']).find_map(|part| part.trim().strip_prefix("version="));
    vendor.or_else(parameter).and_then(normal)
}

/// `v2.api.example.com`, `orders-v2.example.com`
fn in_host(host: &str) -> Option<String> {
    let first = host.split(['.', ':']).next()?;
    normal(first.rsplit('-').next().filter(|part| is_version(part))?)
}

fn is_version(text: &str) -> bool {
    text.strip_prefix(['v', 'V']).is_some_and(|n| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
}

/// `2`, `V2`, `2.0` and `"v2"` are `v2`. A date stays as it is. None for what no version looks like.
fn normal(text: &str) -> Option<String> {
    let text = text.trim().trim_matches('"').to_ascii_lowercase();
    let digits = text.strip_prefix('v').unwrap_or(&text);
    let major = digits.split('.').next().unwrap_or_default();
    if (1..=3).contains(&major.len())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && major.bytes().all(|b| b.is_ascii_digit())
    {
        return Some(format!("v{major}"));
    }
    let plain = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain.then_some(text)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn called(path: &str, host: &str, headers: &[(&str, &str)]) -> (String, String, String) {
        let policy: Policy =
            serde_json::from_str(r#"{"apis": {"orders": {"version_header": "x-api-version"}, "reports": {"default_version": "1"}}}"#)
                .expect("a policy");
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value")))
            .collect();
        let called = Called::new(path, host, &headers, &policy);
        (called.api, called.version, called.path)
    }

    #[test]
    fn a_version_is_the_same_wherever_it_stands() {
        for (path, host, headers) in [
            ("/v2/orders/7", "api.example.com", &[][..]),
            ("/orders/7", "api.example.com", &[("x-api-version", "2")][..]),
            ("/orders/7", "api.example.com", &[("x-api-version", "V2.1")]),
            ("/orders/7", "api.example.com", &[("accept", "application/vnd.acme.v2+json")]),
            ("/orders/7", "api.example.com", &[("accept", "application/json; version=2")]),
            ("/orders/7", "v2.api.example.com:8443", &[]),
            ("/orders/7", "orders-v2.example.com", &[]),
        ] {
            assert_eq!(called(path, host, headers), ("orders".into(), "v2".into(), "/v2/orders/7".into()), "{path} {host} {headers:?}");
        }
        assert_eq!(called("/v1/orders", "v3.example.com", &[("x-api-version", "2")]).1, "v1", "the path wins");
        assert_eq!(called("/reports", "example.com", &[]).1, "v1");
        assert_eq!(called("/orders", "example.com", &[("accept", "text/html, */*")]), ("orders".into(), String::new(), "/orders".into()));
        assert_eq!(called("/orders", "example.com", &[("x-api-version", "2026-09-01")]).1, "2026-09-01");
        assert_eq!(called("/orders", "example.com", &[("x-api-version", "'; DROP TABLE")]).1, "");
    }
}
