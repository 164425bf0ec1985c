//! The first wall: every parameter, at any depth, must be one that Stripe publishes, of its type,
//! within its length and among its values. stripe-mock lets nested ones pass.
//!
//! The walk parses: it turns text leaves into numbers, booleans and lists. An empty text, Stripe's
//! way to unset something, becomes null.

use serde_json::{Map, Number, Value};

use super::errors::ApiError;
use super::limits;
use super::spec::{Additional, Schema};

type Walked = Result<Value, ApiError>;

/// Parses the parameters of a route.
pub fn walk(schema: &Schema, raw: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    match object(schema, raw, "")? {
        Value::Object(params) => {
            limits::check(&params)?;
            Ok(params)
        }
        _ => unreachable!("an object walks into an object"),
    }
}

fn object(schema: &Schema, raw: &Map<String, Value>, at: &str) -> Walked {
    let mut walked = Map::new();
    for (name, given) in raw {
        let here = if at.is_empty() { name.clone() } else { format!("{at}[{name}]") };
        let member = match (schema.properties.get(name), &schema.additional) {
            (Some(member), _) => member,
            (None, Some(Additional::Of(member))) => member,
            (None, _) => return Err(ApiError::unknown_param(&here)),
        };
        walked.insert(name.clone(), value(member, given, &here)?);
    }
    for name in &schema.required {
        if walked.get(name).is_none_or(Value::is_null) {
            return Err(ApiError::missing_param(&if at.is_empty() { name.clone() } else { format!("{at}[{name}]") }));
        }
    }
    Ok(Value::Object(walked))
}

fn value(schema: &Schema, raw: &Value, at: &str) -> Walked {
    if !schema.any_of.is_empty() {
        return any(schema, raw, at);
    }
    let kind = schema.kind.as_deref().unwrap_or("string");
    match (kind, raw) {
        ("object", Value::Object(members)) => object(schema, members, at),
        ("array", Value::Object(members)) => array(schema, members, at),
        ("object", _) => Err(invalid("object", raw, at)),
        ("array", _) => Err(invalid("array", raw, at)),
        (scalar, Value::String(text)) => leaf(schema, scalar, text, at),
        (scalar, _) => Err(invalid(scalar, raw, at)),
    }
}

/// The first variant that takes the value; otherwise the complaint of the first of the same shape.
fn any(schema: &Schema, raw: &Value, at: &str) -> Walked {
    let mut complaint = None;
    for variant in &schema.any_of {
        let nested = matches!(variant.kind.as_deref(), Some("object" | "array")) || !variant.any_of.is_empty();
        match value(variant, raw, at) {
            Ok(walked) => return Ok(walked),
            Err(error) if nested == raw.is_object() => complaint = complaint.or(Some(error)),
            Err(_) => {}
        }
    }
    Err(complaint.unwrap_or_else(|| invalid(schema.any_of[0].kind.as_deref().unwrap_or("value"), raw, at)))
}

fn array(schema: &Schema, raw: &Map<String, Value>, at: &str) -> Walked {
    let mut indexed = Vec::with_capacity(raw.len());
    for (key, given) in raw {
        let index: usize = key.parse().map_err(|_| invalid("array", &Value::Object(raw.clone()), at))?;
        indexed.push((index, given));
    }
    indexed.sort_by_key(|(index, _)| *index);
    let text = Schema::default();
    let items = schema.items.as_deref().unwrap_or(&text);
    let walked: Result<Vec<Value>, ApiError> =
        indexed.into_iter().map(|(index, given)| value(items, given, &format!("{at}[{index}]"))).collect();
    Ok(Value::Array(walked?))
}

fn leaf(schema: &Schema, kind: &str, text: &str, at: &str) -> Walked {
    if text.is_empty() {
        let unsets = kind == "string" && schema.one_of.as_ref().is_none_or(|options| options.contains(&Value::from("")));
        return if unsets { Ok(Value::Null) } else { Err(empty(at)) };
    }
    if let Some(options) = &schema.one_of
        && !options.contains(&Value::from(text))
    {
        let listed = options.iter().filter_map(Value::as_str).filter(|option| !option.is_empty()).collect::<Vec<_>>().join(", ");
        return Err(ApiError::invalid(format!("Invalid {at}: must be one of {listed}")).param(at));
    }
    let wrong = || invalid(kind, &Value::String(text.to_owned()), at);
    match (kind, schema.format.as_deref()) {
        ("integer", _) => text.parse::<i64>().map(Value::from).map_err(|_| wrong()),
        ("number", _) => text.parse::<Number>().map(Value::Number).map_err(|_| wrong()),
        ("boolean", _) => text.parse::<bool>().map(Value::Bool).map_err(|_| wrong()),
        (_, Some("currency")) => limits::currency(text, at).map(Value::String),
        (_, Some("decimal")) if !limits::is_decimal(text) => Err(invalid("decimal", &Value::String(text.to_owned()), at)),
        _ => {
            let most = schema.max_length.unwrap_or(usize::MAX);
            if text.chars().count() > most {
                let start: String = text.chars().take(20).collect();
                return Err(ApiError::invalid(format!("Invalid string: {start}...; must be at most {most} characters")).param(at));
            }
            Ok(Value::String(text.to_owned()))
        }
    }
}

fn empty(at: &str) -> ApiError {
    ApiError::invalid(format!(
        "You passed an empty string for '{at}'. We assume empty values are an attempt to unset a parameter; however \
         '{at}' cannot be unset. You should remove '{at}' from your request or supply a non-empty value."
    ))
    .code("parameter_invalid_empty")
    .param(at)
}

fn invalid(kind: &str, raw: &Value, at: &str) -> ApiError {
    let shown = raw.as_str().map_or_else(|| "an object".to_owned(), str::to_owned);
    let error = ApiError::invalid(format!("Invalid {kind}: {shown}")).param(at);
    match kind {
        "integer" => error.code("parameter_invalid_integer"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::form;
    use super::*;

    fn schema() -> Schema {
        serde_json::from_value(json!({
            "type": "object", "additionalProperties": false, "required": ["customer"],
            "properties": {
                "customer": {"type": "string"},
                "number": {"type": "string", "maxLength": 26},
                "currency": {"type": "string", "format": "currency"},
                "auto_advance": {"type": "boolean"},
                "collection_method": {"type": "string", "enum": ["charge_automatically", "send_invoice"]},
                "metadata": {"anyOf": [{"type": "object", "additionalProperties": {"type": "string"}},
                                       {"type": "string", "enum": [""]}]},
                "lines": {"type": "array", "items": {"type": "object", "properties": {
                    "amount": {"type": "integer"},
                    "quantity_decimal": {"type": "string", "format": "decimal"},
                    "tax_amounts": {"anyOf": [
                        {"type": "array", "items": {"type": "object", "required": ["amount"],
                            "properties": {"amount": {"type": "integer"}, "percentage": {"type": "number"}}}},
                        {"type": "string", "enum": [""]}]},
                }}}
            }
        }))
        .unwrap()
    }

    fn walked(form: &str) -> Result<Value, (Option<&'static str>, Option<String>, String)> {
        walk(&schema(), &form::parse(form.as_bytes()).unwrap()).map(Value::Object).map_err(|error| (error.code, error.param, error.message))
    }

    #[test]
    fn text_becomes_typed() {
        let form = "customer=cus_1&auto_advance=false&currency=EUR&metadata[a]=1&metadata[b]=&lines[1][amount]=-2\
                    &lines[0][amount]=5&lines[0][tax_amounts][0][amount]=1&lines[0][tax_amounts][0][percentage]=19.5";
        assert_eq!(
            walked(form).unwrap(),
            json!({"customer": "cus_1", "auto_advance": false, "currency": "eur", "metadata": {"a": "1", "b": null},
                   "lines": [{"amount": 5, "tax_amounts": [{"amount": 1, "percentage": 19.5}]}, {"amount": -2}]})
        );
        assert_eq!(walked("customer=c&metadata=").unwrap()["metadata"], Value::Null);
    }

    #[test]
    fn each_wrong_parameter_is_named() {
        let cases = [
            ("customer=c&nope=1", Some("parameter_unknown"), "nope"),
            ("customer=c&lines[0][nope]=1", Some("parameter_unknown"), "lines[0][nope]"),
            ("customer=c&lines[0][tax_amounts][0][x]=1", Some("parameter_unknown"), "lines[0][tax_amounts][0][x]"),
            ("number=1", Some("parameter_missing"), "customer"),
            ("customer=c&lines[0][tax_amounts][0][percentage]=1", Some("parameter_missing"), "lines[0][tax_amounts][0][amount]"),
            ("customer=c&lines[0][amount]=1.5", Some("parameter_invalid_integer"), "lines[0][amount]"),
            ("customer=c&lines[0][amount]=", Some("parameter_invalid_empty"), "lines[0][amount]"),
            ("customer=c&auto_advance=yes", None, "auto_advance"),
            ("customer=c&collection_method=never", None, "collection_method"),
            ("customer=c&number=123456789012345678901234567", None, "number"),
            ("customer=c&currency=euro", None, "currency"),
            ("customer=c&lines[0][quantity_decimal]=1.1234567890123", None, "lines[0][quantity_decimal]"),
            ("customer[x]=c", None, "customer"),
            ("customer=c&lines=1", None, "lines"),
            ("customer=c&lines[a][amount]=1", None, "lines"),
        ];
        for (form, code, param) in cases {
            let (got_code, got_param, message) = walked(form).expect_err(form);
            assert_eq!((got_code, got_param.as_deref()), (code, Some(param)), "{form}: {message}");
        }
    }
}
