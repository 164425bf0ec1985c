//! Attributes of an OTLP log record, read as a gateway's log is (see [`crate::fields::Log`]).

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::Value as Json;

use crate::fields::{Log, MAX_DEPTH, is_shallow, scaled_text, with_hashed_query};
use crate::verdict::{Reason, Rejection};

/// Reads a record as OTLP/JSON, which is how dead letters keep it.
pub fn record(bytes: &[u8]) -> Result<LogRecord, Rejection> {
    let text = std::str::from_utf8(bytes).map_err(|_| Rejection::new(Reason::InvalidJson, "", "The record is not UTF-8."))?;
    if !is_shallow(text) {
        return Err(Rejection::new(Reason::TooDeep, "", format!("The record is nested more than {MAX_DEPTH} deep.")));
    }
    serde_json::from_str(text)
        .map_err(|e| Rejection::new(Reason::InvalidJson, "", format!("The record is not an OTLP log record in JSON: {e}.")))
}

/// A record as one JSON object, for field maps: its attributes by name, its body as `body`, and `timeUnixNano`. An
/// attribute of these names comes before.
pub fn as_json(record: &LogRecord) -> Vec<u8> {
    let mut object = serde_json::Map::new();
    for attribute in &record.attributes {
        object.entry(attribute.key.clone()).or_insert_with(|| json(attribute.value.as_ref(), 0));
    }
    object.entry("body").or_insert_with(|| json(record.body.as_ref(), 0));
    object.entry("timeUnixNano").or_insert_with(|| record.time_unix_nano.into());
    serde_json::to_vec(&object).expect("texts, numbers and maps with text keys always serialise")
}

fn json(value: Option<&AnyValue>, depth: usize) -> Json {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => Json::from(text.as_str()),
        Some(Value::IntValue(number)) => Json::from(*number),
        Some(Value::DoubleValue(number)) => Json::from(*number),
        Some(Value::BoolValue(truth)) => Json::from(*truth),
        Some(Value::KvlistValue(list)) if depth < MAX_DEPTH => {
            list.values.iter().map(|pair| (pair.key.clone(), json(pair.value.as_ref(), depth + 1))).collect()
        }
        Some(Value::ArrayValue(list)) if depth < MAX_DEPTH => list.values.iter().map(|value| json(Some(value), depth + 1)).collect(),
        _ => Json::Null,
    }
}

/// The attributes that are texts, numbers or truths; of a name that stands twice, the first.
pub struct Attributes<'a>(Vec<(&'a str, &'a Value)>);

impl<'a> Attributes<'a> {
    pub fn of(record: &'a LogRecord) -> Self {
        let told = record.attributes.iter().filter_map(|own| Some((own.key.as_str(), own.value.as_ref()?.value.as_ref()?)));
        Self(told.collect())
    }
}

impl Log for Attributes<'_> {
    fn said(&self, key: &str) -> Result<String, Rejection> {
        Ok(match self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| *value) {
            Some(Value::StringValue(text)) if text != "-" => with_hashed_query(text.clone()),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(truth)) => truth.to_string(),
            Some(Value::DoubleValue(number)) => number.to_string(),
            _ => String::new(),
        })
    }

    fn amount(&self, key: &str, power: i64) -> Result<Option<u64>, Rejection> {
        let text = self.said(key)?;
        if text.is_empty() || text == "-1" {
            return Ok(None);
        }
        scaled_text(&text, power, || self.place(key)).map(Some)
    }

    fn place(&self, key: &str) -> String {
        key.to_owned()
    }
}
