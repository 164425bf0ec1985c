//! Style sheet, script, font and chart library: part of the binary, served under names that hold a hash of their
//! content, so that a browser keeps them forever and never sees a stale one.

use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

struct Asset {
    name: &'static str,
    content_type: &'static str,
    bytes: Bytes,
    hash: String,
    url: String,
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let hash = hex::encode(&Sha256::digest(&bytes)[..10]);
        let url = format!("/assets/{hash}/{name}");
        Self { name, content_type, bytes, hash, url }
    }
}

const SVG: &str = "image/svg+xml";
const JS: &str = "text/javascript; charset=utf-8";

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let font = Asset::new("hanken-grotesk.woff2", "font/woff2", &include_bytes!("../assets/vendor/hanken-grotesk.woff2")[..]);
    let css = style_sheet(&font.url);
    vec![
        Asset::new("farebox.css", "text/css; charset=utf-8", css),
        Asset::new("farebox.js", JS, &include_bytes!("../assets/js/farebox.js")[..]),
        Asset::new("echarts.min.js", JS, &include_bytes!("../assets/vendor/echarts.min.js")[..]),
        Asset::new("htmx.min.js", JS, &include_bytes!("../assets/vendor/htmx.min.js")[..]),
        Asset::new("farebox.svg", SVG, &include_bytes!("../assets/farebox.svg")[..]),
        font,
    ]
});

/// Tokens, parts, and a class for each half per cent, which pages use where a style attribute would break the
/// content security policy.
fn style_sheet(font_url: &str) -> String {
    let mut css = include_str!("../assets/css/tokens.css").replace("hanken-grotesk.woff2", font_url);
    css.push_str(include_str!("../assets/css/components.css"));
    for percent in 0..=100 {
        css.push_str(&format!(".v{percent}{{--v:{percent}}}"));
        if percent < 100 {
            css.push_str(&format!(".v{percent}_5{{--v:{percent}.5}}"));
        }
    }
    css
}

/// The address of an asset. Names are literals in templates, and a test renders every page.
pub fn url(name: &str) -> &'static str {
    let asset = ASSETS.iter().find(|asset| asset.name == name).expect("templates name existing assets");
    &asset.url
}

/// `GET /assets/{hash}/{name}`. An old hash gets the present content, but is not told to keep it.
pub async fn serve(Path((hash, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let etag = format!("\"{}\"", asset.hash);
    let caching = if hash == asset.hash { "public, max-age=31536000, immutable" } else { "no-cache" };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let fresh = known.is_some_and(|known| known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let (status, body) = if fresh { (StatusCode::NOT_MODIFIED, Body::empty()) } else { (StatusCode::OK, Body::from(asset.bytes.clone())) };
    let head = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, caching), (header::ETAG, etag.as_str())];
    (status, head, body).into_response()
}

/// Name and content of every asset, for a gallery written to files.
pub fn all() -> impl Iterator<Item = (&'static str, Bytes)> {
    ASSETS.iter().map(|asset| (asset.url.as_str(), asset.bytes.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendored_files_are_the_ones_their_licences_name() {
        let readme = include_str!("../assets/vendor/README.md");
        for name in ["echarts.min.js", "htmx.min.js", "hanken-grotesk.woff2"] {
            let asset = ASSETS.iter().find(|asset| asset.name == name).expect("vendored");
            let hash = hex::encode(Sha256::digest(&asset.bytes));
            assert!(readme.lines().any(|line| line.contains(name) && line.contains(&hash)), "{name} is {hash}");
        }
    }

    #[test]
    fn the_style_sheet_asks_no_other_host() {
        let css = style_sheet(url("hanken-grotesk.woff2"));
        assert!(css.contains(".v54_5{--v:54.5}"));
        assert!(css.contains("url(/assets/"));
        assert!(!css.contains("://") && !css.contains("@import"));
    }

    #[tokio::test]
    async fn a_named_version_is_kept_forever_and_confirmed_by_its_tag() {
        let asset = &ASSETS[0];
        let path = || Path((asset.hash.clone(), asset.name.to_owned()));
        let first = serve(path(), HeaderMap::new()).await;
        assert_eq!(first.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(serve(path(), headers).await.status(), StatusCode::NOT_MODIFIED);
        let gone = serve(Path(("x".into(), "no.js".into())), HeaderMap::new()).await;
        assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    }
}
