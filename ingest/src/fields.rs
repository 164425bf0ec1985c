//! Reading JSON without guessing: members in order with their exact text, numbers as the digits that were sent.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::verdict::{Reason, Rejection};

/// Objects and arrays within one another, at most.
pub const MAX_DEPTH: usize = 32;

/// An object's members as sent, none twice.
#[derive(Debug)]
pub struct Object<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Object<'a> {
    /// Reads a whole record: checks depth first, so that nothing below recurses without bound.
    pub fn from_record(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Rejection::new(Reason::InvalidJson, "", format!("The event is not UTF-8 from byte {} on.", e.valid_up_to())))?;
        if !is_shallow(text) {
            return Err(Rejection::new(Reason::TooDeep, "", format!("The event is nested more than {MAX_DEPTH} deep. Flatten it.")));
        }
        Self::parse(text, "")
    }

    /// Reads the value at `pointer` as an object.
    pub fn from_value(raw: &'a RawValue, pointer: &str) -> Result<Self, Rejection> {
        Self::parse(raw.get(), pointer)
    }

    fn parse(text: &'a str, pointer: &str) -> Result<Self, Rejection> {
        let object: Self = serde_json::from_str(text).map_err(|error| {
            // `[` is no array either: what is no JSON at all is told as such.
            if !error.is_data() || serde_json::from_str::<&RawValue>(text).is_err() {
                return Rejection::new(Reason::InvalidJson, pointer, format!("The event is not valid JSON: {error}."));
            }
            if pointer.is_empty() {
                return Rejection::new(Reason::NotAnObject, "", "An event is a JSON object.");
            }
            Rejection::wrong_type(pointer, "an object")
        })?;
        match object.duplicate() {
            None => Ok(object),
            Some(key) => {
                Err(Rejection::new(Reason::DuplicateKey, pointer, format!("`{}` stands twice in one object. Send it once.", shorten(key))))
            }
        }
    }

    fn duplicate(&self) -> Option<&str> {
        let mut keys: Vec<&str> = self.members.iter().map(|(key, _)| key.as_ref()).collect();
        keys.sort_unstable();
        keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }

    /// The member's value; None when absent or null.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(k, _)| k == key).map(|(_, raw)| *raw).filter(|raw| raw.get() != "null")
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().map(|(key, raw)| (key.as_ref(), *raw))
    }

    /// A text, empty when absent.
    pub fn text(&self, key: &str, pointer: &str) -> Result<String, Rejection> {
        self.get(key).map_or(Ok(String::new()), |raw| text(raw, pointer))
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &str, pointer: &str) -> Result<String, Rejection> {
        let value = self.text(key, pointer)?;
        if value.is_empty() { Err(Rejection::missing(pointer)) } else { Ok(value) }
    }

    /// A whole number, 0 when absent.
    pub fn whole(&self, key: &str, pointer: &str) -> Result<u64, Rejection> {
        self.get(key).map_or(Ok(0), |raw| scaled(raw, 0, pointer))
    }

    /// An object, None when absent.
    pub fn object(&self, key: &str, pointer: &str) -> Result<Option<Object<'a>>, Rejection> {
        self.get(key).map(|raw| Object::from_value(raw, pointer)).transpose()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), raw)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, raw));
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Whether nothing is nested beyond [`MAX_DEPTH`]. Counts brackets outside of strings; syntax is not its matter.
pub fn is_shallow(text: &str) -> bool {
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

pub fn text(raw: &RawValue, pointer: &str) -> Result<String, Rejection> {
    serde_json::from_str(raw.get()).map_err(|_| Rejection::wrong_type(pointer, "a string"))
}

/// The number times ten to the `power`, exactly, further digits cut off. Numbers in quotes are read too, because
/// operators' log formats write them.
pub fn scaled(raw: &RawValue, power: i64, pointer: &str) -> Result<u64, Rejection> {
    let text = raw.get();
    let digits = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    match decimal(digits, power) {
        Some(Ok(value)) => Ok(value),
        Some(Err(TooBig)) => Err(Rejection::out_of_range(pointer, "a number from 0 to 18446744073709551615")),
        None if digits.starts_with('-') && decimal(&digits[1..], power).is_some() => Err(Rejection::out_of_range(pointer, "0 or more")),
        None => Err(Rejection::wrong_type(pointer, "a number")),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct TooBig;

/// `text` (a decimal as JSON writes it, without a sign) times ten to the `power`, cut off to a whole number. None when
/// it is no such decimal. Never through floating point, and an exponent of a billion costs nothing.
pub fn decimal(text: &str, power: i64) -> Option<Result<u64, TooBig>> {
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
