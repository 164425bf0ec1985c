//! ClickHouse's exceptions: their code, and the HTTP status that the real server gives them.

use axum::http::StatusCode;

/// An exception in ClickHouse's own words: `Code: N. DB::Exception: ... (NAME)`.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: u32,
    pub text: String,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        // Some errors of formats come with their prefix twice.
        let text = match text.split_once(". DB::Exception: ") {
            Some((code, rest)) if rest.starts_with(&format!("{code}. DB::Exception: ")) => rest.to_owned(),
            _ => text,
        };
        let digits = text.strip_prefix("Code: ").and_then(|rest| rest.split('.').next());
        // 1001 is ClickHouse's STD_EXCEPTION: an error that did not come as its own exception.
        Self { code: digits.and_then(|code| code.parse().ok()).unwrap_or(1001), text }
    }
}

impl From<super::sql::Refusal> for Failure {
    fn from(refusal: super::sql::Refusal) -> Self {
        refusal.to_string().into()
    }
}

impl Failure {
    pub fn new(code: u32, name: &str, text: &str) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {text}. ({name})") }
    }

    pub fn bad_arguments(text: &str) -> Self {
        Self::new(36, "BAD_ARGUMENTS", text)
    }

    /// As `exceptionCodeToHTTPStatus` of the server's `HTTPHandler`.
    pub fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 511 | 516 => StatusCode::FORBIDDEN,
            6 | 25..=27 | 38 | 41 | 53 | 62 | 72 | 117 | 131 | 167 | 168 | 321 | 376 | 441 | 442 | 456 | 467 => StatusCode::BAD_REQUEST,
            16 | 46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 => StatusCode::NOT_FOUND,
            48 => StatusCode::NOT_IMPLEMENTED,
            159 => StatusCode::REQUEST_TIMEOUT,
            202 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            381 => StatusCode::LENGTH_REQUIRED,
            460 => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
