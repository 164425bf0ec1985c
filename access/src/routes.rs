//! Route patterns of entitlements: `GET /orders*`, `POST /orders`, `/orders/{id}`, `* /reports*`.
//!
//! `*` stands for anything, also for nothing and across slashes; `{name}` for one segment. Without a method, any
//! method. A pattern without a version (`/orders*`) holds for every version of the API (`/v1/orders/7`); one with a
//! version (`/v2/orders*`) only for that one. `GET` includes `HEAD`.

use crate::version::Called;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Empty for any.
    method: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(String),
    /// `*`
    Anything,
    /// `{name}`
    Segment,
}

impl Pattern {
    pub fn parse(text: &str) -> Self {
        let (method, path) = text.trim().split_once(char::is_whitespace).unwrap_or(("", text.trim()));
        let method = if method == "*" { String::new() } else { method.to_ascii_uppercase() };
        let mut tokens = Vec::new();
        let mut rest = path.trim();
        // As requests' paths: no slash at the end.
        if rest.len() > 1 {
            rest = rest.trim_end_matches('/');
        }
        while !rest.is_empty() {
            let next = rest.find(['*', '{']).unwrap_or(rest.len());
            if next > 0 {
                tokens.push(Token::Literal(rest[..next].to_owned()));
            }
            rest = &rest[next..];
            if let Some(after) = rest.strip_prefix('*') {
                if tokens.last() != Some(&Token::Anything) {
                    tokens.push(Token::Anything);
                }
                rest = after;
            } else if let Some((_, after)) = rest.split_once('}') {
                tokens.push(Token::Segment);
                rest = after;
            } else if !rest.is_empty() {
                tokens.push(Token::Literal(std::mem::take(&mut rest).to_owned()));
            }
        }
        Self { method, tokens }
    }

    pub fn matches(&self, method: &str, called: &Called) -> bool {
        let method_fits = self.method.is_empty() || self.method == method || (self.method == "GET" && method == "HEAD");
        method_fits && (fits(&self.tokens, &called.path) || fits(&self.tokens, &called.unversioned))
    }
}

/// Backs up to the last `*` only, so that the time is bounded by pattern times path.
fn fits(tokens: &[Token], path: &str) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match tokens.get(token) {
            None if at == path.len() => return true,
            None => None,
            Some(Token::Anything) => {
                star = Some((token, at));
                Some(at)
            }
            Some(Token::Literal(text)) => path[at..].starts_with(text.as_str()).then_some(at + text.len()),
            Some(Token::Segment) => {
                let length = path[at..].find('/').unwrap_or(path.len() - at);
                (length > 0).then_some(at + length)
            }
        };
        if let Some(next) = step {
            token += 1;
            at = next;
            continue;
        }
        let Some((star_token, taken)) = star else { return false };
        let Some(longer) = path[taken..].chars().next().map(|c| taken + c.len_utf8()) else { return false };
        star = Some((star_token, longer));
        token = star_token + 1;
        at = longer;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(pattern: &str, method: &str, path: &str) -> bool {
        Pattern::parse(pattern).matches(method, &Called::by_path(path))
    }

    #[test]
    fn patterns_say_what_they_say() {
        let cases = [
            ("GET /orders*", "GET", "/orders", true),
            ("GET /orders*", "HEAD", "/orders/7", true),
            ("GET /orders*", "POST", "/orders", false),
            ("GET /orders*", "GET", "/v1/orders/7", true),
            ("GET /orders*", "GET", "/reports/orders", false),
            ("GET /v2/orders*", "GET", "/v2/orders/7", true),
            ("GET /v2/orders*", "GET", "/v1/orders/7", false),
            ("POST /orders", "POST", "/orders", true),
            ("POST /orders", "POST", "/orders/7", false),
            ("/orders/{id}", "DELETE", "/v1/orders/7", true),
            ("/orders/{id}", "DELETE", "/v1/orders/7/lines", false),
            ("/orders/{id}/lines", "GET", "/orders/7/lines", true),
            ("* /reports/*", "GET", "/reports/daily", true),
            ("GET /*", "GET", "/", true),
            ("GET /*/daily*", "GET", "/v1/reports/daily/7", true),
            ("GET /orders/", "GET", "/orders", true),
            ("", "GET", "/orders", false),
        ];
        for (pattern, method, path, expected) in cases {
            assert_eq!(allows(pattern, method, path), expected, "{pattern} for {method} {path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_matches_itself_and_its_prefix(path in "(/[a-z0-9é]{1,5}){1,4}", cut in 0_usize..20) {
            let cut = path.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(path.len());
            prop_assert!(allows(&path, "GET", &path));
            let prefix = format!("GET {}*", &path[..cut]);
            prop_assert!(allows(&prefix, "GET", &path));
        }

        #[test]
        fn nothing_panics(pattern in ".{0,30}", path in ".{0,30}") {
            let _ = allows(&pattern, "GET", &path);
        }
    }
}
