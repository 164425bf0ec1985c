//! What is wrong with a catalogue file, each with its line.

use std::fmt;

use farebox_core::problem::{FieldError, Problem};
use serde::Serialize;

use super::raw::At;

/// One thing that is wrong. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
pub struct CatalogError {
    pub line: u64,
    pub column: u64,
    /// Where in the file's structure: `plans[0].prices[1].tiers`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, ", {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Collects everything that is wrong, so that one run shows all of it.
#[derive(Debug, Default)]
pub struct Errors(Vec<CatalogError>);

impl Errors {
    pub fn at<T>(&mut self, place: &At<T>, path: &str, message: impl Into<String>) {
        self.0.push(CatalogError {
            line: place.referenced.line(),
            column: place.referenced.column(),
            path: path.to_owned(),
            message: message.into(),
        });
    }

    /// The error of a failed step, kept; None so that the caller goes on.
    pub fn keep<T, P>(&mut self, result: Result<T, impl fmt::Display>, place: &At<P>, path: &str) -> Option<T> {
        result.map_err(|error| self.at(place, path, error.to_string())).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_sorted(mut self) -> Vec<CatalogError> {
        self.0.sort();
        self.0.dedup();
        self.0
    }
}

/// The file is not YAML, or not of this shape: the parser's own words, with its line.
pub fn from_parser(error: &serde_saphyr::Error) -> CatalogError {
    let plain = error.without_snippet();
    let location = plain.location();
    let message = plain.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The parser repeats the place at the end; it has its own fields here.
    let message = message.split(" at line ").next().unwrap_or_default().trim_end_matches(" (at");
    let message = in_words(message).to_owned();
    CatalogError { line: location.map_or(1, |l| l.line()), column: location.map_or(1, |l| l.column()), path: String::new(), message }
}

/// The parser's messages that speak of Rust's types, as a person would say them.
fn in_words(message: &str) -> &str {
    match message {
        "expected string scalar" => "a text is expected here",
        "invalid i32" | "invalid i64" | "invalid u32" | "invalid u64" => "a whole number is expected here",
        other => other,
    }
}

/// As a problem: each error names its line.
pub fn problem(errors: &[CatalogError]) -> Problem {
    let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let mut problem = Problem::new(
        axum::http::StatusCode::UNPROCESSABLE_ENTITY,
        "invalid-catalog",
        "The catalogue was not applied",
        format!("Nothing was changed. Correct these and apply again: {}", shown.join("; ")),
    );
    problem.errors = errors.iter().map(|e| FieldError::new(format!("line {}: {}", e.line, e.path), e.message.clone())).collect();
    problem
}

/// A part of a request that is written as in the catalogue.
pub fn field_problem(pointer: &str, errors: &[CatalogError]) -> Problem {
    let shown: Vec<_> = errors.iter().map(|e| e.message.clone()).collect();
    let mut problem = Problem::invalid_field(pointer, shown.join("; "));
    problem.errors = errors.iter().map(|e| FieldError::new(format!("{pointer}: {}", e.path), e.message.clone())).collect();
    problem
}
