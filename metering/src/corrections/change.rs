//! Which fields of an event become what.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farebox_core::event::AnsweredBy;
use serde::{Deserialize, Serialize};

use crate::MeteringError;
use crate::facts::instant_sql;
use crate::filter::Parameters;

/// Only what is given changes. Identity, source and time of reception never do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Amendment {
    /// Of a single event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<DateTime<Utc>>,
    /// Later by so many seconds; earlier when negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<AnsweredBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// JSON pointer -> the new value, null to remove it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Option<String>>,
}

impl Amendment {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), MeteringError> {
        if self.time.is_some() && self.shift_seconds.is_some() {
            return Err(MeteringError::invalid("/set/shift_seconds", "cannot be given together with `time`; choose one"));
        }
        if self.time.is_some_and(|at| !(946_684_800..4_102_444_800).contains(&at.timestamp())) {
            return Err(MeteringError::invalid("/set/time", "must be between 2000 and 2100"));
        }
        if self.shift_seconds.is_some_and(|s| s.abs() > 366 * 86_400) {
            return Err(MeteringError::invalid("/set/shift_seconds", "is at most a year"));
        }
        if self.properties.keys().any(|pointer| !pointer.starts_with('/')) {
            return Err(MeteringError::invalid("/set/properties", "are named by JSON pointers, such as /total_tokens"));
        }
        Ok(())
    }

    pub(super) fn check_for(&self, events: usize) -> Result<(), MeteringError> {
        if self.time.is_some() && events > 1 {
            return Err(MeteringError::invalid("/set/time", format!("would give {events} events one time; use `shift_seconds`")));
        }
        Ok(())
    }

    pub(super) fn moves(&self) -> bool {
        self.time.is_some() || self.shift_seconds.is_some()
    }

    /// `events`' column as it becomes; under its own name where nothing changes.
    pub(super) fn column(&self, name: &str, parameters: &mut Parameters) -> String {
        let texts = [
            ("subject", &self.subject),
            ("credential", &self.credential),
            ("api", &self.api),
            ("api_version", &self.api_version),
            ("route", &self.route),
            ("method", &self.method),
            ("environment", &self.environment),
            ("marker", &self.marker),
        ];
        if let Some((_, Some(text))) = texts.into_iter().find(|(field, _)| *field == name) {
            parameters.text(format!("new_{name}"), text);
            return format!("{{new_{name}:String}}");
        }
        let number = match name {
            "status" => self.status.map(|n| format!("toUInt16({n})")),
            "latency_us" => self.latency_us.map(|n| format!("toUInt32({n})")),
            "request_bytes" => self.request_bytes.map(|n| format!("toUInt64({n})")),
            "response_bytes" => self.response_bytes.map(|n| format!("toUInt64({n})")),
            "answered_by" => self.answered_by.map(|by| format!("'{}'", by.as_str())),
            "time" => self.time.map(instant_sql).or_else(|| self.shift_seconds.map(|s| format!("time + toIntervalSecond({s})"))),
            "properties" if !self.properties.is_empty() => Some(self.properties_sql(parameters)),
            _ => None,
        };
        number.unwrap_or_else(|| name.to_owned())
    }

    fn properties_sql(&self, parameters: &mut Parameters) -> String {
        let gone = self.properties.iter().filter(|(_, value)| value.is_none()).map(|(pointer, _)| pointer.clone()).collect();
        let (pointers, values): (Vec<_>, Vec<_>) =
            self.properties.iter().filter_map(|(pointer, value)| Some((pointer.clone(), value.clone()?))).unzip();
        parameters.texts("gone_pointers", gone);
        parameters.texts("new_pointers", pointers);
        parameters.texts("new_values", values);
        "CAST(mapUpdate(mapFilter((k, v) -> NOT has({gone_pointers:Array(String)}, k), CAST(properties, 'Map(String, String)')), \
         mapFromArrays({new_pointers:Array(String)}, {new_values:Array(String)})), 'Map(LowCardinality(String), String)')"
            .to_owned()
    }
}
