//! Stripe's form encoding: `lines[0][amount]=5` becomes nested JSON objects with text at the leaves.
//! Lists are still objects with digits as keys here; the walk knows which ones are lists.

use serde_json::{Map, Value};
use url::form_urlencoded;

use super::errors::ApiError;

/// Parses a query or a body.
pub fn parse(encoded: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let mut root = Map::new();
    for (name, value) in form_urlencoded::parse(encoded) {
        insert(&mut root, &segments(&name)?, &name, &value)?;
    }
    Ok(root)
}

/// `lines[0][amount]` is `lines`, `0`, `amount`.
fn segments(name: &str) -> Result<Vec<&str>, ApiError> {
    let malformed = || ApiError::invalid(format!("Invalid parameter name: {name}")).param(name);
    let Some(open) = name.find('[') else { return Ok(vec![name]) };
    let mut segments = vec![&name[..open]];
    let mut rest = &name[open..];
    while let Some(inner) = rest.strip_prefix('[') {
        let close = inner.find(']').ok_or_else(malformed)?;
        segments.push(&inner[..close]);
        rest = &inner[close + 1..];
    }
    if rest.is_empty() && !segments[0].is_empty() { Ok(segments) } else { Err(malformed()) }
}

fn insert(node: &mut Map<String, Value>, segments: &[&str], name: &str, value: &str) -> Result<(), ApiError> {
    let conflict = || ApiError::invalid(format!("Invalid parameter: {name} is given in two shapes")).param(name);
    let (head, rest) = segments.split_first().expect("a name has at least one segment");
    // `a[]=x` appends.
    let key = if head.is_empty() { node.len().to_string() } else { (*head).to_owned() };
    if rest.is_empty() {
        if node.get(&key).is_some_and(Value::is_object) {
            return Err(conflict());
        }
        node.insert(key, Value::String(value.to_owned()));
        return Ok(());
    }
    match node.entry(key).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(child) => insert(child, rest, name, value),
        _ => Err(conflict()),
    }
}

/// The inverse of [`parse`].
pub fn encode(params: &Map<String, Value>) -> String {
    fn leaves(out: &mut form_urlencoded::Serializer<'_, String>, name: &str, value: &Value) {
        match value {
            Value::Object(children) => {
                for (key, child) in children {
                    leaves(out, &format!("{name}[{key}]"), child);
                }
            }
            Value::String(text) => {
                out.append_pair(name, text);
            }
            other => unreachable!("a parsed form has no leaf {other}"),
        }
    }
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (name, value) in params {
        leaves(&mut out, name, value);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_names_become_nested_objects() {
        let parsed = parse(b"customer=cus_1&lines[0][period][end]=5&lines[1][amount]=-7&events[]=a&events[]=b").unwrap();
        assert_eq!(
            Value::Object(parsed.clone()),
            json!({"customer": "cus_1", "lines": {"0": {"period": {"end": "5"}}, "1": {"amount": "-7"}},
                   "events": {"0": "a", "1": "b"}})
        );
        assert_eq!(parse(encode(&parsed).as_bytes()).unwrap(), parsed);
    }

    #[test]
    fn two_shapes_of_one_name_and_broken_brackets_are_refused() {
        for bad in ["a=1&a[b]=2", "a[b]=2&a=1", "a[b=1", "a[b]c=1", "[a]=1"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
