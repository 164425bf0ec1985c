//! Stripe's error shape, and which errors an idempotency key remembers.

use serde_json::{Value, json};

/// A refusal as Stripe words it.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: u16,
    pub kind: &'static str,
    pub code: Option<&'static str>,
    pub param: Option<String>,
    pub message: String,
    /// Further members of the error object (`decline_code`, `payment_intent`, ...).
    pub more: Vec<(&'static str, Value)>,
    /// Kept under the idempotency key and replayed. Stripe keeps what an endpoint decided while
    /// it ran; it keeps neither malformed requests nor 401, 409 and 429.
    pub stored: bool,
    /// The `Stripe-Should-Retry` header, where Stripe sends one.
    pub should_retry: Option<bool>,
    /// The `Retry-After` header, in seconds.
    pub retry_after: Option<u32>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
            more: Vec::new(),
            stored: false,
            should_retry: None,
            retry_after: None,
        }
    }

    /// A malformed request: 400, not remembered.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// A request that is well formed but not possible in the object's present state: 400, remembered.
    pub fn state(code: &'static str, message: impl Into<String>) -> Self {
        Self { stored: true, ..Self::invalid(message).code(code) }
    }

    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.more.push((name, value));
        self
    }

    pub fn unknown_param(param: &str) -> Self {
        Self::invalid(format!("Received unknown parameter: {param}")).code("parameter_unknown").param(param)
    }

    pub fn missing_param(param: &str) -> Self {
        Self::invalid(format!("Missing required param: {param}.")).code("parameter_missing").param(param)
    }

    /// `what` is the name Stripe's messages use: `customer`, `invoice`, `PaymentMethod`.
    pub fn no_such(what: &str, id: &str, param: &str) -> Self {
        let error = Self::invalid(format!("No such {what}: '{id}'")).code("resource_missing").param(param);
        // In the path it is the address that does not exist, in the body a parameter that is wrong.
        if param == "id" { Self { status: 404, ..error } } else { error }
    }

    pub fn unknown_url(method: &str, path: &str) -> Self {
        let message = format!("Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs.");
        Self::new(404, "invalid_request_error", message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401, "invalid_request_error", message)
    }

    /// A bank's refusal: 402, remembered, for it has already left traces.
    pub fn card(code: &'static str, decline_code: Option<&str>, message: &str) -> Self {
        let error = Self::new(402, "card_error", message).code(code);
        let error = Self { stored: true, ..error };
        match decline_code {
            Some(decline) => error.with("decline_code", json!(decline)),
            None => error,
        }
    }

    pub fn key_reused(key: &str) -> Self {
        Self::new(
            400,
            "idempotency_error",
            format!(
                "Keys for idempotent requests can only be used with the same parameters they were first used \
                 with. Try using a key other than '{key}' if you meant to execute a different request."
            ),
        )
    }

    pub fn key_in_use(key: &str) -> Self {
        let message = format!(
            "There is currently another in-progress request using this Idempotent Key (that probably means you \
             submitted twice, and the other request is still going through): {key}."
        );
        let error = Self::new(409, "idempotency_error", message).code("idempotency_key_in_use");
        Self { should_retry: Some(true), ..error }
    }

    pub fn lock_timeout() -> Self {
        let message = "This object cannot be accessed right now because another API request or Stripe process is \
                       currently accessing it. If you see this error intermittently, retry the request.";
        let error = Self::new(409, "invalid_request_error", message).code("lock_timeout");
        Self { should_retry: Some(true), ..error }
    }

    pub fn rate_limited(retry_after: u32) -> Self {
        let message = "Request rate limit exceeded. You can learn more about rate limits here \
                       https://stripe.com/docs/rate-limits.";
        let error = Self::new(429, "invalid_request_error", message).code("rate_limit");
        Self { should_retry: Some(true), retry_after: Some(retry_after), ..error }
    }

    /// A fault on Stripe's side; `stored` when the key remembers it, and then a retry is useless.
    pub fn server(stored: bool) -> Self {
        let message = "An unknown error occurred. If this error persists, please contact us.";
        Self { stored, should_retry: Some(!stored), ..Self::new(500, "api_error", message) }
    }

    pub fn mock_unreachable(cause: &str) -> Self {
        let message = format!("The Stripe double could not reach stripe-mock: {cause}");
        Self::new(503, "api_error", message)
    }

    pub fn body(&self, request_id: &str) -> Value {
        let mut error = json!({"type": self.kind, "message": self.message});
        if let Some(code) = self.code {
            error["code"] = json!(code);
            error["doc_url"] = json!(format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")));
        }
        if let Some(param) = &self.param {
            error["param"] = json!(param);
        }
        for (name, value) in &self.more {
            error[*name] = value.clone();
        }
        error["request_log_url"] = json!(format!("https://dashboard.stripe.com/test/logs/{request_id}"));
        json!({"error": error})
    }
}
