//! Secrets in what is kept of a rejected record. A gateway's log can hold what its callers sent: keys, cookies, query
//! strings. A dead letter keeps the record for people to look at, so these are replaced by their hash first; all else stays
//! byte for byte, because it may be no JSON at all.
//!
//! What is masked decodes as the record did: decoders that hash a key take a hash in its place ([`masked_hash`]), and read
//! every text with its query hashed ([`hashed_query`]), an id too. Masking twice changes nothing, so that an id which is made
//! from a hash of the record is the same before and after.

use std::borrow::Cow;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::fields::log_text;

/// Members and attributes with these names, in small letters and with `-` for `_`, whatever stands before them
/// (`request_Authorization`, `http.request.header.cookie`).
const SECRET: [&str; 16] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "api-key",
    "apikey",
    "auth-token",
    "access-token",
    "refresh-token",
    "security-token",
    "farebox-token",
    "password",
    "client-secret",
    "raw-request",
    "raw-response",
    "querystring",
];
/// The last two letters of these, by which most names are told to be none.
const ENDS: [&[u8; 2]; 9] = [b"on", b"ie", b"ey", b"en", b"rd", b"et", b"st", b"se", b"ng"];
/// A secret of so many bytes is masked wherever else it stands in the record (Tyk's tags repeat the key); shorter ones are
/// words, too.
const FOUND_AGAIN: usize = 8;
/// What stands around the texts of an OTLP attribute.
const WRAPS: [&str; 6] = ["value", "values", "arrayValue", "array_value", "stringValue", "string_value"];
const QUERY: &str = "?sha256=";
/// Before the hash of a secret where a text must stand, or within a text.
const HASHED: &str = "sha256:";

/// The record without its secrets. `own`: further names, as in [`SECRET`].
pub fn masked<'a>(record: &'a [u8], own: &[String]) -> Cow<'a, [u8]> {
    let mut found = Found { record, own, masks: Vec::new(), secrets: Vec::new() };
    found.look();
    if found.masks.is_empty() {
        return Cow::Borrowed(record);
    }
    let (mut out, mut copied) = (Vec::with_capacity(record.len()), 0);
    // Only what is copied is looked through: a hash may have a secret's digits.
    for (place, mask) in &found.masks {
        out.extend_from_slice(&found.without_secrets(&record[copied..place.start]));
        out.extend_from_slice(mask.as_bytes());
        copied = place.end;
    }
    out.extend_from_slice(&found.without_secrets(&record[copied..]));
    Cow::Owned(out)
}

/// The hash that stands in place of a secret, in hexadecimal; None for anything else.
pub fn masked_hash(value: &str) -> Option<&str> {
    let hash = value.strip_prefix("{\"sha256\":\"")?.strip_suffix("\"}")?;
    is_hash(hash.as_bytes()).then_some(hash)
}

fn is_hash(text: &[u8]) -> bool {
    text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit)
}

/// A text with a hash in place of its query, as both a decoder and a dead letter keep it.
pub fn hashed_query(text: &str) -> Cow<'_, str> {
    match query(text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(place) => Cow::Owned([&text[..place.start], &query_hash(&text[place.clone()]), &text[place.end..]].concat()),
    }
}

/// Of a text that has a path: from its `?` to a space or the end. None where there is no query, or a hash of one.
fn query(text: &[u8]) -> Option<Range<usize>> {
    let mark = memchr::memchr(b'?', text).filter(|mark| text[..*mark].contains(&b'/'))?;
    let end = memchr::memchr(b' ', &text[mark..]).map_or(text.len(), |length| mark + length);
    let hash = text[mark..end].strip_prefix(QUERY.as_bytes());
    let is_masked = hash.is_some_and(|hash| hash.len() == 16 && hash.iter().all(u8::is_ascii_hexdigit));
    (end - mark > 1 && !is_masked).then_some(mark..end)
}

fn query_hash(query: &str) -> String {
    format!("{QUERY}{}", &hash(query.as_bytes())[..16])
}

struct Found<'a> {
    record: &'a [u8],
    own: &'a [String],
    /// What is replaced, in order, and by what.
    masks: Vec<(Range<usize>, String)>,
    secrets: Vec<Vec<u8>>,
}

impl Found<'_> {
    fn look(&mut self) {
        let mut at = 0;
        // An OTLP attribute has its name as a value: `{"key": "authorization", "value": {"stringValue": "..."}}`. It is secret as
        // long as only names of `WRAPS` follow. How far its braces reach is not asked: in a broken record masks would move that.
        let (mut names_next, mut is_secret) = (false, false);
        while let Some(start) = self.next_quote(at) {
            let end = self.end_of_text(start);
            at = self.after_space(end);
            let is_closed = end > start + 1 && self.record[end - 1] == b'"';
            let text = &self.record[start + 1..if is_closed { end - 1 } else { end }];
            if self.record.get(at) == Some(&b':') {
                at = self.after_space(at + 1);
                names_next = text == b"key";
                is_secret = is_secret && WRAPS.iter().any(|name| name.as_bytes() == text);
                if self.names_a_secret(text) {
                    at = self.mask_value(at, |hash| format!("{{\"sha256\":\"{hash}\"}}"));
                } else if is_secret && [&b"stringValue"[..], b"string_value"].contains(&text) {
                    // Anything but a text would make it another record, or none.
                    at = self.mask_value(at, |hash| format!("\"{HASHED}{hash}\""));
                }
                continue;
            }
            if std::mem::take(&mut names_next) {
                is_secret = self.names_a_secret(text);
            }
            self.mask_query(start + 1, start + 1 + text.len());
        }
    }

    fn names_a_secret(&self, name: &[u8]) -> bool {
        let may_be = name.last_chunk().is_some_and(|end: &[u8; 2]| ENDS.contains(&&end.map(|b| b.to_ascii_lowercase())));
        let same = |(one, other): (&u8, &u8)| one.to_ascii_lowercase() == *other || (*one == b'_' && *other == b'-');
        let is = |secret: &[u8]| {
            let Some(before) = name.len().checked_sub(secret.len()) else { return false };
            name.iter().rev().zip(secret.iter().rev()).all(same) && (before == 0 || !name[before - 1].is_ascii_alphanumeric())
        };
        (may_be && SECRET.iter().any(|secret| is(secret.as_bytes()))) || self.own.iter().any(|secret| is(secret.as_bytes()))
    }

    /// Replaces the value that begins here by its hash, in the form of a mask; returns where it ends.
    fn mask_value(&mut self, start: usize, mask: impl Fn(&str) -> String) -> usize {
        let end = match self.record.get(start) {
            Some(b'"') => self.end_of_text(start),
            Some(b'{' | b'[') => self.end_of_structure(start),
            _ => start + self.record[start..].iter().take_while(|b| !b",}] \r\n\t".contains(b)).count(),
        };
        let value = &self.record[start..end];
        let text = log_text(value);
        let said = serde_json::from_str(&text).map_or_else(|_| value.to_vec(), String::into_bytes);
        // What says "nobody", and what is masked already.
        let is_nothing = [&b"-"[..], b"null", b"{}", b"[]"].contains(&&said[..]) || said.iter().all(|b| *b == b'0');
        let is_masked = masked_hash(&text).is_some() || said.strip_prefix(HASHED.as_bytes()).is_some_and(is_hash);
        if is_nothing || is_masked {
            return end;
        }
        self.masks.push((start..end, mask(&hash(&said))));
        if said.len() >= FOUND_AGAIN && said.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.=".contains(b)) {
            self.secrets.push(said);
        }
        end
    }

    /// The query of a text: found where the text says it, whatever escapes it is written with.
    fn mask_query(&mut self, start: usize, end: usize) {
        let text = &self.record[start..end];
        if memchr::memchr2(b'?', b'\\', text).is_none() {
            return;
        }
        let said = memchr::memchr(b'\\', text).and_then(|_| serde_json::from_str::<String>(&format!("\"{}\"", log_text(text))).ok());
        let (place, mask) = match said {
            None => {
                let Some(place) = query(text) else { return };
                let mask = query_hash(&log_text(&text[place.clone()]));
                (start + place.start..start + place.end, mask)
            }
            Some(said) => {
                let Cow::Owned(hashed) = hashed_query(&said) else { return };
                let written = serde_json::to_string(&hashed).expect("a text");
                (start..end, written[1..written.len() - 1].to_owned())
            }
        };
        self.masks.push((place, mask));
    }

    fn without_secrets<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.secrets {
            if text.windows(secret.len()).any(|part| part == secret) {
                text = Cow::Owned(replaced(&text, secret, format!("{HASHED}{}", hash(secret)).as_bytes()));
            }
        }
        text
    }

    fn next_quote(&self, from: usize) -> Option<usize> {
        memchr::memchr(b'"', self.record.get(from..)?).map(|at| from + at)
    }

    /// Just behind the quote that closes the text, or the record's end.
    fn end_of_text(&self, start: usize) -> usize {
        let mut at = start + 1;
        while let Some(found) = self.record.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            at += found;
            if self.record[at] == b'"' {
                return at + 1;
            }
            at += 2;
        }
        self.record.len()
    }

    fn end_of_structure(&self, start: usize) -> usize {
        let (mut at, mut depth) = (start, 0_usize);
        while let Some(byte) = self.record.get(at) {
            match byte {
                b'"' => {
                    at = self.end_of_text(at);
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 1 => return at + 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
        self.record.len()
    }

    fn after_space(&self, from: usize) -> usize {
        from + self.record[from..].iter().take_while(|b| b.is_ascii_whitespace()).count()
    }
}

fn hash(secret: &[u8]) -> String {
    hex::encode(Sha256::digest(secret))
}

fn replaced(text: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(what.len()).position(|part| part == what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(by);
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(record: &str) -> String {
        let once = masked(record.as_bytes(), &["token".to_owned()]).into_owned();
        assert_eq!(masked(&once, &["token".to_owned()]), once, "masking twice changes nothing");
        String::from_utf8(once).expect("it was text")
    }

    #[test]
    fn each_secret_ends_as_one() {
        assert!(SECRET.iter().all(|secret| secret.as_bytes().last_chunk().is_some_and(|end| ENDS.contains(&end))));
    }

    #[test]
    fn secrets_are_hashed_wherever_they_stand_and_all_else_stays() {
        let key = "6129dc1e8b64c6b4s3cret";
        let hash = hash(key.as_bytes());
        assert_eq!(
            shown(&format!(r#"{{"api_key": "{key}", "tags":["key-{key}"],"status" : 200}}"#)),
            format!(r#"{{"api_key": {{"sha256":"{hash}"}}, "tags":["key-sha256:{hash}"],"status" : 200}}"#)
        );
        for secret in [
            r#"{"request":{"headers":{"Cookie":"s3cret-session","apikey":["s3cret","s3cret2"]}}}"#,
            r#"{"request_Authorization":"Bearer s3cret"}"#,
            r#"{"edge":{"token":{"a":"s3cret}"}}}"#,
            r#"{"attributes":[{"key":"http.request.header.authorization","value":{"stringValue":"s3cret"}}]}"#,
            r#"{"attributes":[{"key":"cookie","value":{"arrayValue":{"values":[{"stringValue":"s3cret"},{"stringValue":"more s3cret"}]}}}]}"#,
            r#"{"uri":"/v1/orders?token=s3cret","request":"GET /a?b=\"s3cret\" HTTP/1.1"}"#,
            r#"{"uri":"/v1/orders?sha256=0123456789abcdef&token=s3cret"}"#,
            r#"{"uri":"\/v1\/orders\u003ftoken=s3cret"}"#,
            r#"{"uri":"/v1/orders?token=s3cret and \"more\""}"#,
            r#"{"authorization":"s3cret, and then it brea"#,
            r#"nginx: {"authorization" : "\"s3cret\""} "#,
        ] {
            let shown = shown(secret);
            assert!(!shown.contains("s3cret") && shown.contains("sha256"), "{shown}");
        }
        let otlp = shown(r#"{"attributes":[{"key":"cookie","value":{"stringValue":"s3cret"}}],"body":{"stringValue":"it is"}}"#);
        assert!(otlp.contains(r#"{"stringValue":"sha256:"#) && otlp.ends_with(r#""body":{"stringValue":"it is"}}"#), "{otlp}");
        assert!(shown(r#"{"request":"GET /a?b=s3cret HTTP/1.1"}"#).ends_with(r#" HTTP/1.1"}"#));
    }

    #[test]
    fn a_hash_that_has_a_secrets_digits_stays_a_hash() {
        let digits = &hash(b"99999")[8..24];
        let shown = shown(&format!(r#"{{"cookie":99999,"token":"{digits}","again":"{digits}"}}"#));
        assert!(masked_hash(&shown[10..87]).is_some_and(|first| first == hash(b"99999")), "{shown}");
        assert_eq!(shown.matches(digits).count(), 1, "{shown}");
    }

    #[test]
    fn what_is_no_secret_is_not_touched() {
        for record in [
            "",
            "{",
            "\"",
            r#"{"api_key":"00000000","authorization":"-","cookie":null}"#,
            r#"{"monkey-apikeys":"a","tokens":12,"why?":"and/or","path":"/v1/orders?"}"#,
        ] {
            assert!(matches!(masked(record.as_bytes(), &[]), Cow::Borrowed(same) if same == record.as_bytes()), "{record}");
        }
    }

    #[test]
    fn a_hash_in_a_secrets_place_is_told_from_a_secret() {
        let hash = hash(b"s3cret");
        assert_eq!(masked_hash(&format!(r#"{{"sha256":"{hash}"}}"#)), Some(hash.as_str()));
        assert_eq!(masked_hash(&hash), None, "a caller could send this as a key");
        assert_eq!(masked_hash(r#"{"sha256":"s3cret"}"#), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_masked_and_twice_is_once(record in proptest::collection::vec(any::<u8>(), 0..200), end in r#"[ \\\\"ub]{0,4}"#, text in r#"[\{\}\[\]",:\\/? a-c\-_0]{0,80}"#) {
            for record in [record.as_slice(), text.as_bytes(), format!("{{\"api_key\":\"{text}\"}}").as_bytes(), format!("{{\"a\":\"/{text}?b=c {end}\"}}").as_bytes()] {
                let once = masked(record, &[]).into_owned();
                prop_assert_eq!(masked(&once, &[]).into_owned(), once);
            }
        }
    }
}
