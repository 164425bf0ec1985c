//! A request of ClickHouse's HTTP interface, taken apart.

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use base64::Engine as _;

use super::failure::Failure;
use super::library::Params;

/// The parameters of a request: those that have a meaning of their own here, bound values, and settings.
#[derive(Debug, Default)]
pub struct Request {
    pub query: String,
    pub query_id: Option<String>,
    pub database: String,
    pub default_format: Option<String>,
    pub params: Params,
    pub settings: Vec<(String, String)>,
    pub decompress: bool,
    pub compress: bool,
    pub http_compression: bool,
    pub readonly: bool,
    pub user: String,
    pub password: String,
}

impl Request {
    pub fn of(parts: &Parts) -> Result<Self, Failure> {
        let mut request = Self { database: "default".into(), user: "default".into(), ..Self::default() };
        request.readonly = parts.method == Method::GET;
        request.database = header(&parts.headers, "x-clickhouse-database").unwrap_or(request.database);
        request.default_format = header(&parts.headers, "x-clickhouse-format");
        request.credentials(&parts.headers);
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            request.set(&name, value.into_owned())?;
        }
        Ok(request)
    }

    fn credentials(&mut self, headers: &HeaderMap) {
        if let Some(basic) = header(headers, AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Basic ").map(str::to_owned)) {
            let decoded = base64::engine::general_purpose::STANDARD.decode(basic.trim()).unwrap_or_default();
            if let Some((user, password)) = String::from_utf8_lossy(&decoded).split_once(':') {
                (self.user, self.password) = (user.into(), password.into());
            }
        }
        if let Some(user) = header(headers, "x-clickhouse-user") {
            self.user = user;
        }
        if let Some(password) = header(headers, "x-clickhouse-key") {
            self.password = password;
        }
    }

    /// Takes one parameter, from the URL or from a form.
    pub fn set(&mut self, name: &str, value: String) -> Result<(), Failure> {
        if let Some(param) = name.strip_prefix("param_") {
            self.params.push((param.into(), value));
            return Ok(());
        }
        match name {
            "query" => self.query = value,
            "query_id" if !value.is_empty() => self.query_id = Some(value),
            "database" if !value.is_empty() => self.database = value,
            "default_format" => self.default_format = Some(value),
            "decompress" => self.decompress = on(&value),
            "compress" => self.compress = on(&value),
            "enable_http_compression" => self.http_compression = on(&value),
            "user" => self.user = value,
            "password" => self.password = value,
            "session_id" => {
                return Err(Failure::new(48, "NOT_IMPLEMENTED", "Sessions are not kept here: send each query without session_id"));
            }
            "readonly" if on(&value) => self.readonly = true,
            "query_id"
            | "readonly"
            | "database"
            | "quota_key"
            | "buffer_size"
            | "wait_end_of_query"
            | "stacktrace"
            | "role"
            | "session_timeout"
            | "session_check"
            | "client_protocol_version"
            | "http_zlib_compression_level"
            | "send_progress_in_http_headers" => {}
            setting if !setting.is_empty() && setting.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                self.settings.push((setting.into(), value));
            }
            other => return Err(Failure::new(115, "UNKNOWN_SETTING", &format!("Unknown setting '{other}'"))),
        }
        Ok(())
    }

    /// Takes the fields of a form, which is how the `clickhouse` crate sends bound values.
    pub fn form(&mut self, boundary: &str, body: &[u8]) -> Result<(), Failure> {
        for (name, value) in form_fields(boundary, body).ok_or_else(|| Failure::bad_arguments("The multipart form is malformed"))? {
            self.set(&name, value)?;
        }
        Ok(())
    }
}

fn on(value: &str) -> bool {
    !matches!(value, "" | "0" | "false")
}

pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The boundary, when the body is a form.
pub fn boundary(headers: &HeaderMap) -> Option<String> {
    let content_type = header(headers, CONTENT_TYPE.as_str())?;
    let (kind, attributes) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    attributes.split(';').find_map(|attribute| attribute.trim().strip_prefix("boundary=")).map(|value| value.trim_matches('"').to_owned())
}

/// Name and value of each field. Files (external tables) are not supported.
fn form_fields(boundary: &str, body: &[u8]) -> Option<Vec<(String, String)>> {
    let text = std::str::from_utf8(body).ok()?;
    let delimiter = format!("--{boundary}");
    let mut fields = Vec::new();
    let mut rest = text.strip_prefix(&delimiter)?;
    let separator = format!("\r\n{delimiter}");
    while let Some(part) = rest.strip_prefix("\r\n") {
        let (field, after) = part.split_once(&separator)?;
        let (head, value) = field.split_once("\r\n\r\n")?;
        let name = head.split(';').find_map(|attribute| attribute.trim().strip_prefix("name=\""))?;
        fields.push((name.split('"').next()?.to_owned(), value.to_owned()));
        rest = after;
    }
    rest.starts_with("--").then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_gives_query_and_bound_values() {
        let body = b"--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n--B\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\nx\r\ny\r\n--B--\r\n";
        let mut request = Request::default();
        request.form("B", body).expect("well formed");
        assert_eq!(request.query, "SELECT {a:String}");
        assert_eq!(request.params, [("a".to_owned(), "x\r\ny".to_owned())]);
        assert!(Request::default().form("B", &body[..body.len() - 4]).is_err());
    }

    #[test]
    fn settings_cannot_smuggle_sql() {
        let failure = Request::default().set("a = 1, b", "2".into()).expect_err("not a setting's name");
        assert_eq!(failure.code, 115);
    }
}
