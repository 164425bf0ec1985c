//! Reading JSON without guessing: members in order with their exact text, numbers as the digits that were sent.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::mask::hashed_query;
use crate::verdict::{Reason, Rejection};

/// Objects and arrays within one another, at most.
pub const MAX_DEPTH: usize = 32;

/// An object's members as sent, none twice, and the JSON pointer that leads to it.
#[derive(Debug)]
pub struct Object<'a> {
    pointer: String,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A gateway's log line as text. Gateways write the bytes that a client sent, so a line may be no UTF-8; what is none
/// becomes a replacement character, because otherwise a client could make its calls uncountable.
pub fn log_text(record: &[u8]) -> Cow<'_, str> {
    // Almost all is UTF-8, and to see just that takes a fraction of the time.
    std::str::from_utf8(record).map_or_else(|_| String::from_utf8_lossy(record), Cow::Borrowed)
}

impl<'a> Object<'a> {
    /// Reads a whole record that must be UTF-8.
    pub fn from_record(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Rejection::new(Reason::InvalidJson, "", format!("The event is not UTF-8 from byte {} on.", e.valid_up_to())))?;
        Self::from_text(text)
    }

    /// Reads a whole record: checks depth first, so that nothing below recurses without bound.
    pub fn from_text(text: &'a str) -> Result<Self, Rejection> {
        if !is_shallow(text) {
            return Err(Rejection::new(Reason::TooDeep, "", format!("The event is nested more than {MAX_DEPTH} deep. Flatten it.")));
        }
        Self::parse(text, String::new())
    }

    /// Reads the value at `pointer` as an object.
    pub fn from_value(raw: &'a RawValue, pointer: String) -> Result<Self, Rejection> {
        Self::parse(raw.get(), pointer)
    }

    fn parse(text: &'a str, pointer: String) -> Result<Self, Rejection> {
        let members = members(text).map_err(|error| {
            // `[` is no array either: what is no JSON at all is told as such.
            if !error.is_data() || serde_json::from_str::<&RawValue>(text).is_err() {
                return Rejection::new(Reason::InvalidJson, &pointer, format!("The event is not valid JSON: {error}."));
            }
            if pointer.is_empty() {
                return Rejection::new(Reason::NotAnObject, "", "An event is a JSON object.");
            }
            Rejection::wrong_type(&pointer, "an object")
        })?;
        let object = Self { pointer, members };
        match object.duplicate() {
            None => Ok(object),
            Some(key) => {
                let detail = format!("`{}` stands twice in one object. Send it once.", shorten(key));
                Err(Rejection::new(Reason::DuplicateKey, &object.pointer, detail))
            }
        }
    }

    fn duplicate(&self) -> Option<&str> {
        // A hostile record must not cost its square.
        if self.members.len() > 64 {
            let mut keys: Vec<&str> = self.members.iter().map(|(key, _)| key.as_ref()).collect();
            keys.sort_unstable();
            return keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        }
        // Of few, a name is compared with those before it only if one of these has its bit.
        let mut seen = 0_u64;
        self.members.iter().enumerate().find_map(|(at, (key, _))| {
            let byte = |byte: Option<&u8>| byte.map_or(0, |b| usize::from(*b));
            let bit = 1 << ((7 * key.len() + byte(key.as_bytes().first()) + 3 * byte(key.as_bytes().last())) % 64);
            let may_be_twice = seen & bit != 0;
            seen |= bit;
            (may_be_twice && self.members[..at].iter().any(|(other, _)| other == key)).then_some(key.as_ref())
        })
    }

    /// The pointer of a member.
    pub fn at(&self, key: &str) -> String {
        format!("{}/{}", self.pointer, escape(key))
    }

    /// The member's value; None when absent or null.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        // Many names are as long, few of them end alike: most are told apart without a call.
        let (length, last) = (key.len(), key.as_bytes().last());
        let is = |name: &str| name.len() == length && name.as_bytes().last() == last && name == key;
        self.members.iter().find(|(name, _)| is(name)).map(|(_, raw)| *raw).filter(|raw| raw.get() != "null")
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().map(|(key, raw)| (key.as_ref(), *raw))
    }

    /// A text, empty when absent.
    pub fn text(&self, key: &str) -> Result<String, Rejection> {
        self.get(key).map_or(Ok(String::new()), |raw| text(raw, || self.at(key)))
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &str) -> Result<String, Rejection> {
        let value = self.text(key)?;
        if value.is_empty() { Err(Rejection::missing(self.at(key))) } else { Ok(value) }
    }

    /// An object, None when absent.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, Rejection> {
        self.get(key).map(|raw| Object::from_value(raw, self.at(key))).transpose()
    }
}

/// What a gateway's log has by name: members of a JSON object, or attributes of an OTLP record. Operators write such
/// logs by templates, so numbers in quotes are numbers, and `-`, an empty text and null all say "not set".
pub trait Log {
    /// A text, or a scalar as its text; empty when not set. A query is kept as its hash, as a dead letter keeps it: a replay
    /// reads the same id.
    fn said(&self, key: &str) -> Result<String, Rejection>;
    /// A number times ten to the `power`; None when not set, or -1, which gateways write for "does not apply".
    fn amount(&self, key: &str, power: i64) -> Result<Option<u64>, Rejection>;
    /// A pointer to the field, for a message.
    fn place(&self, key: &str) -> String;

    /// The first of `keys` that says something.
    fn first_said(&self, keys: &[&str]) -> Result<String, Rejection> {
        for key in keys {
            let value = self.said(key)?;
            if !value.is_empty() {
                return Ok(value);
            }
        }
        Ok(String::new())
    }

    /// The first of `keys` that is set, each with its own unit as a power of ten.
    fn first_amount(&self, keys: &[(&str, i64)]) -> Result<Option<u64>, Rejection> {
        for (key, power) in keys {
            let value = self.amount(key, *power)?;
            if value.is_some() {
                return Ok(value);
            }
        }
        Ok(None)
    }
}

impl Log for Object<'_> {
    fn said(&self, key: &str) -> Result<String, Rejection> {
        self.get(key).map_or(Ok(String::new()), |raw| said(raw, || self.at(key)))
    }

    fn amount(&self, key: &str, power: i64) -> Result<Option<u64>, Rejection> {
        self.get(key).map_or(Ok(None), |raw| amount(raw, power, || self.at(key)))
    }

    fn place(&self, key: &str) -> String {
        self.at(key)
    }
}

/// See [`Log::said`].
pub fn said(raw: &RawValue, pointer: impl FnOnce() -> String) -> Result<String, Rejection> {
    said_whole(raw, pointer).map(with_hashed_query)
}

/// As [`said`], with its query: for a secret, which is hashed whole.
pub fn said_whole(raw: &RawValue, pointer: impl FnOnce() -> String) -> Result<String, Rejection> {
    let said = match raw.get().as_bytes().first() {
        Some(b'"') => text(raw, pointer)?,
        Some(b'{' | b'[') => return Err(Rejection::wrong_type(pointer(), "a text")),
        _ => raw.get().to_owned(),
    };
    Ok(if said == "-" { String::new() } else { said })
}

/// See [`hashed_query`]; most texts have none.
pub fn with_hashed_query(text: String) -> String {
    match hashed_query(&text) {
        Cow::Owned(hashed) => hashed,
        Cow::Borrowed(_) => text,
    }
}

/// See [`Log::amount`].
pub fn amount(raw: &RawValue, power: i64, pointer: impl FnOnce() -> String) -> Result<Option<u64>, Rejection> {
    match raw.get() {
        "\"\"" | "\"-\"" | "-1" | "\"-1\"" => Ok(None),
        _ => scaled(raw, power, pointer).map(Some),
    }
}

/// As a JSON pointer writes it (RFC 6901).
pub fn escape(key: &str) -> Cow<'_, str> {
    if key.contains(['~', '/']) { Cow::Owned(key.replace('~', "~0").replace('/', "~1")) } else { Cow::Borrowed(key) }
}

/// What an object of this text has, in order.
fn members(text: &str) -> serde_json::Result<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members {
        /// About how many there are.
        capacity: usize,
    }
    impl<'de> DeserializeSeed<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::with_capacity(self.capacity);
            while let Some((Key(key), raw)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                members.push((key, raw));
            }
            Ok(members)
        }
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let members = Members { capacity: (text.len() / MEMBER).min(64) }.deserialize(&mut json)?;
    json.end()?;
    Ok(members)
}

/// Bytes of a member in most logs: what is set aside at once need not grow.
const MEMBER: usize = 24;

/// Whether nothing is nested beyond [`MAX_DEPTH`]. Counts brackets outside of strings; syntax is not its matter.
pub fn is_shallow(text: &str) -> bool {
    // Counted over all, which is quick, those of most records are few.
    if memchr::memchr2_iter(b'{', b'[', text.as_bytes()).nth(MAX_DEPTH).is_none() {
        return true;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

pub fn text(raw: &RawValue, pointer: impl FnOnce() -> String) -> Result<String, Rejection> {
    read(raw, pointer).map(Cow::into_owned)
}

/// A text to look at.
pub fn read(raw: &RawValue, pointer: impl FnOnce() -> String) -> Result<Cow<'_, str>, Rejection> {
    // It was read as JSON already: without an escape it stands there as it is.
    if let Some(plain) = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
        && memchr::memchr(b'\\', plain.as_bytes()).is_none()
    {
        return Ok(Cow::Borrowed(plain));
    }
    serde_json::from_str(raw.get()).map(Cow::Owned).map_err(|_| Rejection::wrong_type(pointer(), "a string"))
}

/// The number times ten to the `power`, exactly, further digits cut off. Numbers in quotes are read too, because
/// operators' log formats write them.
pub fn scaled(raw: &RawValue, power: i64, pointer: impl FnOnce() -> String) -> Result<u64, Rejection> {
    let text = raw.get();
    scaled_text(text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text), power, pointer)
}

pub fn scaled_text(digits: &str, power: i64, pointer: impl FnOnce() -> String) -> Result<u64, Rejection> {
    match decimal(digits, power) {
        Some(Ok(value)) => Ok(value),
        Some(Err(TooBig)) => Err(Rejection::out_of_range(pointer(), "a number from 0 to 18446744073709551615")),
        None if digits.starts_with('-') && decimal(&digits[1..], power).is_some() => Err(Rejection::out_of_range(pointer(), "0 or more")),
        None => Err(Rejection::wrong_type(pointer(), "a number")),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct TooBig;

/// `text` (a decimal as JSON writes it, without a sign) times ten to the `power`, cut off to a whole number. None when
/// it is no such decimal. Never through floating point, and an exponent of a billion costs nothing.
pub fn decimal(text: &str, power: i64) -> Option<Result<u64, TooBig>> {
    if let Some(value) = small_whole(text, power) {
        return Some(Ok(value));
    }
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let all_digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let unsigned_exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if !all_digits(whole) || !all_digits(fraction) || !all_digits(unsigned_exponent) {
        return None;
    }
    let significant: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|b| *b == b'0').collect();
    if significant.is_empty() {
        return Some(Ok(0));
    }
    let leading_zeros = whole.len() + fraction.len() - significant.len();
    let size = unsigned_exponent.parse::<i64>().unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
    let exponent = if exponent.starts_with('-') { -size } else { size };
    // Where the decimal point stands, counted from the first significant digit.
    let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading_zeros).ok()? + exponent + power;
    let Ok(length) = usize::try_from(point) else { return Some(Ok(0)) };
    if length > 20 {
        return Some(Err(TooBig));
    }
    let mut value: u64 = 0;
    for place in 0..length {
        let digit = u64::from(significant.get(place).map_or(0, |b| b - b'0'));
        let Some(next) = value.checked_mul(10).and_then(|v| v.checked_add(digit)) else { return Some(Err(TooBig)) };
        value = next;
    }
    Some(Ok(value))
}

/// The usual case: a whole number that stays one.
fn small_whole(text: &str, power: i64) -> Option<u64> {
    if text.len() > 19 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    10_u64.checked_pow(u32::try_from(power).ok()?)?.checked_mul(text.parse().ok()?)
}

/// The first characters, for a message.
pub fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        let cases: [(&str, i64, Option<Result<u64, TooBig>>); 14] = [
            ("411.00001335144", 3, Some(Ok(411_000))),
            ("0.29", 3, Some(Ok(290))),
            ("1.1", 3, Some(Ok(1100))),
            ("4.35", 2, Some(Ok(435))),
            ("1e3", 0, Some(Ok(1000))),
            ("12.5E-1", 1, Some(Ok(12))),
            ("1699596164550", 3, Some(Ok(1_699_596_164_550_000))),
            ("18446744073709551615", 0, Some(Ok(u64::MAX))),
            ("18446744073709551616", 0, Some(Err(TooBig))),
            ("1e999999999999999999999", 0, Some(Err(TooBig))),
            ("1e-999999999999999999999", 0, Some(Ok(0))),
            ("0e999999999", 0, Some(Ok(0))),
            ("NaN", 0, None),
            ("", 0, None),
        ];
        for (text, power, expected) in cases {
            assert_eq!(decimal(text, power), expected, "{text} e{power}");
        }
    }

    #[test]
    fn depth_is_counted_outside_strings() {
        assert!(is_shallow(&format!("{{\"a\":\"{}\"}}", "[".repeat(1000))));
        assert!(is_shallow(&format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))));
        assert!(!is_shallow(&"[".repeat(MAX_DEPTH + 1)));
    }

    #[test]
    fn a_name_twice_is_refused() {
        let error = Object::from_record(br#"{"a":1,"b":2,"a":1}"#).expect_err("a stands twice");
        assert_eq!(error.reason, Reason::DuplicateKey);
    }

    proptest! {
        #[test]
        fn a_name_twice_is_found_among_few_and_many(names in proptest::collection::vec("[a-e]{0,4}", 0..90)) {
            let record = format!("{{{}}}", names.iter().map(|name| format!("\"{name}\":1")).collect::<Vec<_>>().join(","));
            let differ = names.iter().collect::<std::collections::HashSet<_>>().len() == names.len();
            let read = Object::from_text(&record);
            prop_assert_eq!(read.as_ref().err().map(|error| error.reason), (!differ).then_some(Reason::DuplicateKey));
        }

        #[test]
        fn any_whole_number_keeps_its_value(value: u64, zeros in 0_usize..5) {
            let zeros = "0".repeat(zeros);
            prop_assert_eq!(decimal(&format!("{zeros}{value}.{zeros}0"), 0), Some(Ok(value)));
        }

        #[test]
        fn milliseconds_become_microseconds_without_rounding(ms in 0_u64..u64::from(u32::MAX), us in 0_u64..1000, rest in 0_u64..1000) {
            prop_assert_eq!(decimal(&format!("{ms}.{us:03}{rest:03}"), 3), Some(Ok(ms * 1000 + us)));
        }
    }
}
