//! What HTTP handlers share: JSON bodies and queries whose errors name the field, and lists with cursors.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::period::Period;
use crate::problem::{FieldError, Problem};

/// A JSON body. A wrong field is named by its JSON pointer.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = bytes::Bytes::from_request(request, state).await.map_err(|e| Problem::bad_request("unreadable-body", e.body_text()))?;
        parse_json(&body).map(Self)
    }
}

/// Reads JSON; a syntax error says where, a wrong field is named by its JSON pointer.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        if inner.is_data() {
            Problem::invalid(vec![FieldError::new(pointer, what(&inner))])
        } else {
            Problem::bad_request("invalid-json", format!("The body is not valid JSON: {inner}."))
        }
    })?;
    deserializer.end().map_err(|e| Problem::bad_request("invalid-json", format!("There is something after the JSON value: {e}.")))?;
    Ok(value)
}

/// What is wrong with a value. Where it stands its pointer says.
fn what(error: &serde_json::Error) -> String {
    let (said, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    said.strip_suffix(&place).map_or_else(|| said.clone(), str::to_owned)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } => format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => format!("{pointer}/{variant}"),
        Segment::Unknown => pointer,
    })
}

/// Query parameters; what is wrong with them is a problem like every other.
#[derive(Debug, Clone)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|e| Problem::bad_request("invalid-query", e.body_text()))
    }
}

/// Query parameters as pairs, in order, repeats kept.
#[derive(Debug, Clone)]
pub struct QueryPairs(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for QueryPairs {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

/// `?limit=&cursor=` of a list.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// How many to return: 1 to 500, 50 unless given.
    pub limit: Option<i64>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl Paging {
    /// The limit within its bounds, and the key after which the page starts (empty for the first).
    pub fn resolve(&self) -> Result<(i64, String), Problem> {
        let limit = self.limit.unwrap_or(50);
        if !(1..=500).contains(&limit) {
            return Err(Problem::invalid_field("limit", "must be 1 to 500"));
        }
        let after = match &self.cursor {
            None => String::new(),
            Some(cursor) => URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
                Problem::invalid_field("cursor", "is not a `next_cursor` that Farebox gave; leave it out for the first page")
            })?,
        };
        Ok((limit, after))
    }
}

/// `?from=&to=` of counts over time.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Stretch {
    /// 24 hours before `to` unless given.
    pub from: Option<DateTime<Utc>>,
    /// Now unless given.
    pub to: Option<DateTime<Utc>>,
}

impl Stretch {
    pub fn period(self) -> Result<Period, Problem> {
        // What was counted in the running minute is part of now.
        let to = self.to.unwrap_or_else(|| clock::now() + TimeDelta::minutes(1));
        let from = self.from.unwrap_or(to - TimeDelta::days(1));
        Period::new(from, to).ok_or_else(|| Problem::invalid_field("to", "must not be before `from`"))
    }
}

/// A page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Send as `cursor` for what follows; absent on the last page.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// From up to `limit + 1` rows: the extra one tells that there is more. `key` is what the list is sorted by.
    pub fn from_rows(mut rows: Vec<T>, limit: i64, key: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(50);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = more.then(|| rows.last().map(|row| URL_SAFE_NO_PAD.encode(key(row)))).flatten();
        Self { data: rows, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[expect(dead_code, reason = "only its reading matters")]
        units: u32,
    }

    #[test]
    fn a_wrong_field_is_told_without_its_place_in_the_text() {
        let refused = |body: &str| serde_json::to_value(parse_json::<Vec<Body>>(body.as_bytes()).expect_err("it is wrong")).expect("JSON");
        let wrong = refused("[{\"units\": 1},\n {\"units\": \"many\"}]");
        assert_eq!(wrong["errors"][0]["pointer"], "/1/units");
        assert_eq!(wrong["errors"][0]["detail"], "invalid type: string \"many\", expected u32");
        assert_eq!(refused("[{\"units\": 1, \"price\": 2}]")["errors"][0]["detail"], "unknown field `price`, expected `units`");
        assert!(refused("[{").to_string().contains("at line 1 column 2"), "of broken JSON there is nothing else to say");
    }
}
