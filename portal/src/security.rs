//! What browsers are told about every page: nothing from elsewhere, nothing inline, no frames, nothing kept.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// No `unsafe-inline`, no `unsafe-eval`, no nonce: templates hold neither scripts nor styles.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=()"),
];

/// Adds the headers; a page that does not say otherwise is not stored, for it shows someone's own data.
pub async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    fn templates(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("the templates") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { templates(&path, into) } else { into.push(path) }
        }
    }

    /// What the policy would block must not be written in the first place.
    #[test]
    fn templates_hold_neither_styles_nor_scripts() {
        let mut files = Vec::new();
        templates(&Path::new(env!("CARGO_MANIFEST_DIR")).join("templates"), &mut files);
        assert!(files.len() > 30, "found {}", files.len());
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a template");
            for line in text.lines() {
                let bad =
                    [" style=", "<style", "javascript:", " onclick=", " onload=", " onsubmit=", " onchange=", "hx-on", "http://", "|safe"];
                let found: Vec<_> = bad.iter().filter(|bad| line.contains(**bad)).collect();
                assert!(found.is_empty(), "{}: {found:?} in {line}", file.display());
                assert!(!line.contains("<script") || line.contains("src="), "{}: a script without src", file.display());
            }
        }
    }

    #[test]
    fn the_policy_allows_nothing_inline_and_nothing_from_elsewhere() {
        assert!(super::CONTENT_SECURITY_POLICY.starts_with("default-src 'none'"));
        assert!(!super::CONTENT_SECURITY_POLICY.contains("unsafe") && !super::CONTENT_SECURITY_POLICY.contains("://"));
    }
}
