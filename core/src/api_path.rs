//! What a request's path tells: the API and its version, without what may be secret. Events and decisions must read it
//! alike, or a call would be decided as one API and billed as another.

/// The API's name and version, each empty where the path does not tell: `/v1/orders/7` and `/orders/v1/7` are version
/// `v1` of `orders`.
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

/// The path without its version: `/v1/orders/7` and `/orders/v1/7` are `/orders/7`.
pub fn without_version(path: &str) -> String {
    let mut skipped = false;
    let kept: Vec<&str> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .enumerate()
        .filter(|(index, segment)| {
            let skip = !skipped && *index < 2 && is_version(segment);
            skipped |= skip;
            !skip
        })
        .map(|(_, segment)| segment)
        .collect();
    format!("/{}", kept.join("/"))
}

fn is_version(segment: &str) -> bool {
    segment.strip_prefix(['v', 'V']).is_some_and(|n| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Without the query, which may hold secrets.
pub fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// As a server behind it may understand it: percent-encoding undone once, `.` and `..` resolved, empty segments
/// dropped. Decide by this form, so that `/orders/..%2freports` is not taken for orders.
pub fn canonical(path: &str) -> String {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = without_query(path).as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if let (Some(high), Some(low)) = (hex(*high), hex(*low)) => {
                decoded.push(high * 16 + low);
                rest = after;
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    let decoded = String::from_utf8_lossy(&decoded).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_version_is_found_on_either_side() {
        for (path, api, version, rest) in [
            ("/v1/orders/7", "orders", "v1", "/orders/7"),
            ("/orders/V2", "orders", "v2", "/orders"),
            ("/orders/7", "orders", "", "/orders/7"),
            ("/orders/7/v1", "orders", "", "/orders/7/v1"),
            ("/v1", "", "v1", "/"),
            ("/", "", "", "/"),
            ("/video/1", "video", "", "/video/1"),
        ] {
            assert_eq!(api_and_version(path), (api.to_owned(), version.to_owned()), "{path}");
            assert_eq!(without_version(path), rest, "{path}");
        }
    }

    #[test]
    fn disguises_are_seen_through() {
        for (path, canonical_path) in [
            ("/orders/../reports", "/reports"),
            ("/orders/..%2freports?x=1", "/reports"),
            ("/orders/%2e%2e/reports", "/reports"),
            ("//orders///7/", "/orders/7"),
            ("/../../orders", "/orders"),
            ("/orders\\..\\reports", "/reports"),
            ("/%6frders", "/orders"),
            ("", "/"),
            ("/100%", "/100%"),
        ] {
            assert_eq!(canonical(path), canonical_path, "{path}");
        }
    }

    proptest! {
        #[test]
        fn nothing_climbs_and_nothing_panics(path in ".{0,60}") {
            let canonical = canonical(&path);
            prop_assert!(canonical.starts_with('/'));
            prop_assert!(canonical.split('/').all(|s| s != ".." && s != "."));
        }
    }
}
