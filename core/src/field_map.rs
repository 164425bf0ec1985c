//! Field maps: how an operator's own log format is read, field by field, as the catalogue defines it. `metering` keeps
//! the table, `billing`'s catalogue file writes it and `ingest` reads records by it without knowing either.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::event;
use crate::ids::WorkspaceId;

/// An operator's own format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldMap {
    /// As sources and `/v1/ingest/{name}` name it.
    pub name: String,
    /// The type of its events.
    #[serde(default = "request")]
    pub event: String,
    pub fields: BTreeMap<Field, Reading>,
    /// JSON pointers whose values are kept as properties under the same pointer.
    #[serde(default)]
    pub properties: Vec<String>,
}

fn request() -> String {
    event::REQUEST.to_owned()
}

/// Where a field stands in a record and how it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// JSON pointer (RFC 6901).
    pub pointer: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Values that say "not set", beside null, an empty text and `-`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$inner])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            fn parse(word: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word).ok_or_else(|| {
                    format!("`{word}` is not known; write {}", listed(Self::ALL.iter().map(|one| one.as_str())))
                })
            }
        }
    };
}

words! {
    /// What of an event a field gives.
    Field {
        /// When the call began.
        Time = "time",
        /// When it ended; its latency is taken off.
        EndTime = "end_time",
        /// An id that no client can choose.
        Id = "id",
        /// An id that a client may choose: joined with a hash of the record.
        RequestId = "request_id",
        /// What `/v1/decide` answered as `X-Farebox-Decision`.
        Decision = "decision",
        Subject = "subject",
        Credential = "credential",
        Api = "api",
        ApiVersion = "api_version",
        Route = "route",
        /// Tells API and version where they have no fields, and the route where it has none.
        Path = "path",
        Method = "method",
        Status = "status",
        Latency = "latency",
        RequestBytes = "request_bytes",
        ResponseBytes = "response_bytes",
        Cached = "cached",
        AnsweredBy = "answered_by",
        Environment = "environment",
        Gateway = "gateway",
        ClientCountry = "client_country",
        Marker = "marker",
    }
}

words! {
    /// How a value is written.
    Kind {
        Text = "text",
        /// A text that is kept as its hash only.
        Secret = "secret",
        Number = "number",
        Boolean = "boolean",
        Rfc3339 = "rfc3339",
        /// As `21/Nov/2026:13:40:35 +0100`.
        Clf = "clf",
        /// A number since 1970, in its unit.
        Epoch = "epoch",
    }
}

words! {
    /// Of numbers; texts have none.
    Unit {
        Seconds = "s",
        Milliseconds = "ms",
        Microseconds = "us",
        Nanoseconds = "ns",
        Bytes = "B",
        Kilobytes = "kB",
        Megabytes = "MB",
    }
}

impl Unit {
    const TIME: &'static [Self] = &[Self::Seconds, Self::Milliseconds, Self::Microseconds, Self::Nanoseconds];
    const SIZE: &'static [Self] = &[Self::Bytes, Self::Kilobytes, Self::Megabytes];

    /// Of which power of ten it is seconds or bytes.
    pub fn power(self) -> i64 {
        match self {
            Self::Seconds | Self::Bytes => 0,
            Self::Milliseconds => -3,
            Self::Microseconds => -6,
            Self::Nanoseconds => -9,
            Self::Kilobytes => 3,
            Self::Megabytes => 6,
        }
    }
}

impl Field {
    /// How it may be written: first what holds when nothing is said. Empty: it must be said.
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Time | Self::EndTime => &[Kind::Rfc3339, Kind::Clf, Kind::Epoch],
            Self::Subject | Self::Credential => &[Kind::Text, Kind::Secret],
            Self::Status | Self::Latency | Self::RequestBytes | Self::ResponseBytes => &[Kind::Number],
            Self::Cached => &[Kind::Boolean],
            _ => &[Kind::Text],
        }
    }

    fn units(self, kind: Kind) -> &'static [Unit] {
        match (self, kind) {
            (_, Kind::Epoch) | (Self::Latency, _) => Unit::TIME,
            (Self::RequestBytes | Self::ResponseBytes, _) => Unit::SIZE,
            _ => &[],
        }
    }
}

fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// What of a definition is wrong, so that a file's reader can point at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Name,
    Pointer,
    Type,
    Unit,
}

/// Reads one field's definition as it is written.
pub fn reading(
    name: &str,
    pointer: &str,
    kind: Option<&str>,
    unit: Option<&str>,
    unset: &[String],
) -> Result<(Field, Reading), (Part, String)> {
    let field = Field::parse(name).map_err(|message| (Part::Name, format!("the field {message}")))?;
    check_pointer(pointer).map_err(|message| (Part::Pointer, message))?;
    let kinds = field.kinds();
    let kind = match kind {
        None => kinds[0],
        Some(word) => Kind::parse(word)
            .ok()
            .filter(|kind| kinds.contains(kind))
            .ok_or_else(|| (Part::Type, format!("`{name}` is written as {}, not `{word}`", listed(kinds.iter().map(|k| k.as_str())))))?,
    };
    let units = field.units(kind);
    let known = || listed(units.iter().map(|u| u.as_str()));
    let unit = match (unit, units) {
        (None, []) => None,
        (None, Unit::SIZE) => Some(Unit::Bytes),
        // A unit that is guessed would corrupt bills silently.
        (None, _) => return Err((Part::Unit, format!("`{name}` needs a unit: {}", known()))),
        (Some(word), []) => return Err((Part::Unit, format!("`{name}` written as `{}` has no unit; leave `{word}` out", kind.as_str()))),
        (Some(word), units) => Some(
            Unit::parse(word)
                .ok()
                .filter(|unit| units.contains(unit))
                .ok_or_else(|| (Part::Unit, format!("`{word}` is no unit of `{name}`; write {}", known())))?,
        ),
    };
    Ok((field, Reading { pointer: pointer.to_owned(), kind, unit, unset: unset.to_vec() }))
}

/// Whether it is a JSON pointer to something within a record.
pub fn check_pointer(pointer: &str) -> Result<(), String> {
    let escapes_are_right = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if pointer.len() < 2 || !pointer.starts_with('/') || !escapes_are_right {
        return Err(format!("`{pointer}` is not a JSON pointer; write the way to the field, such as /http/status"));
    }
    if pointer.len() > 256 {
        return Err("a pointer has at most 256 characters".to_owned());
    }
    Ok(())
}

/// What a map as a whole lacks.
pub fn missing(fields: &BTreeMap<Field, Reading>) -> Option<&'static str> {
    if !fields.contains_key(&Field::Time) && !fields.contains_key(&Field::EndTime) {
        return Some("a format needs the field `time` (when a call began) or `end_time`");
    }
    if fields.contains_key(&Field::Time) && fields.contains_key(&Field::EndTime) {
        return Some("a format has one of `time` and `end_time`");
    }
    None
}

#[derive(Debug, thiserror::Error)]
pub enum FieldMapError {
    #[error("format `{name}` cannot be read: {cause}")]
    Unreadable { name: String, cause: serde_json::Error },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The operator's own formats of a workspace.
pub async fn of_workspace(conn: &mut PgConnection, workspace: &WorkspaceId) -> Result<Vec<FieldMap>, FieldMapError> {
    let rows = sqlx::query!("SELECT name, definition FROM formats WHERE workspace_id = $1 ORDER BY name", workspace.as_str())
        .fetch_all(conn)
        .await?;
    rows.into_iter()
        .map(|row| serde_json::from_value(row.definition).map_err(|cause| FieldMapError::Unreadable { name: row.name, cause }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_pointed_at() {
        let part =
            |name, pointer, kind, unit| reading(name, pointer, kind, unit, &[]).map(|(field, r)| (field, r.kind, r.unit)).map_err(|e| e.0);
        assert_eq!(part("time", "/t", None, None), Ok((Field::Time, Kind::Rfc3339, None)));
        assert_eq!(part("time", "/t", Some("epoch"), Some("ms")), Ok((Field::Time, Kind::Epoch, Some(Unit::Milliseconds))));
        assert_eq!(part("time", "/t", Some("epoch"), None), Err(Part::Unit));
        assert_eq!(part("time", "/t", Some("number"), None), Err(Part::Type));
        assert_eq!(part("latency", "/t", None, None), Err(Part::Unit), "a unit is never guessed");
        assert_eq!(part("latency", "/t", None, Some("kB")), Err(Part::Unit));
        assert_eq!(part("status", "/s", None, Some("ms")), Err(Part::Unit));
        assert_eq!(part("response_bytes", "/s", None, None), Ok((Field::ResponseBytes, Kind::Number, Some(Unit::Bytes))));
        assert_eq!(part("subject", "s", None, None), Err(Part::Pointer));
        assert_eq!(part("subject", "/s~2", None, None), Err(Part::Pointer));
        assert_eq!(part("colour", "/s", None, None), Err(Part::Name));
    }

    #[test]
    fn a_definition_is_stored_as_it_is_written() {
        let text = r#"{"name":"edge","event":"farebox.request.v1","fields":{"end_time":{"pointer":"/ts","type":"epoch","unit":"ms"},"subject":{"pointer":"/user","type":"text","unset":["anonymous"]}},"properties":["/region"]}"#;
        let map: FieldMap = serde_json::from_str(text).expect("it reads");
        assert_eq!(serde_json::to_string(&map).expect("it writes"), text);
        assert_eq!(missing(&map.fields), None);
    }
}
