//! What a path tells where the gateway does not name the API: its version (`/v1/orders/7`, `/orders/v1/7`) and the
//! segment after or before it.

/// The API's name and version, each empty where the path does not tell.
pub fn api_and_version(path: &str) -> (String, String) {
    let mut segments = path.split('/').filter(|s| !s.is_empty()).take(2);
    let (first, second) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let (api, version) = match (is_version(first), is_version(second)) {
        (true, _) => (second, first),
        (false, true) => (first, second),
        (false, false) => (first, ""),
    };
    (api.to_owned(), version.to_ascii_lowercase())
}

fn is_version(segment: &str) -> bool {
    segment.strip_prefix(['v', 'V']).is_some_and(|n| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Without the query, which may hold secrets.
pub fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_on_either_side() {
        for (path, api, version) in [
            ("/v1/orders/7", "orders", "v1"),
            ("/orders/V2", "orders", "v2"),
            ("/orders/7", "orders", ""),
            ("/v1", "", "v1"),
            ("/", "", ""),
            ("/video/1", "video", ""),
        ] {
            assert_eq!(api_and_version(path), (api.to_owned(), version.to_owned()), "{path}");
        }
    }
}
