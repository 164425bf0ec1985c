//! What a page says when it cannot do what was asked. Rooms' errors arrive as problems; here they become a page that
//! says who acts, or, for a signed-out visitor, the way to the sign-in.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use farebox_core::problem::Problem;

use crate::people::{PeopleError, Side};

#[derive(Debug)]
pub enum Failure {
    /// Nobody is signed in; afterwards go to `next`.
    SignIn { side: Side, next: String },
    /// A room's refusal, our fault, or something that is not there.
    Problem(Box<Problem>),
    /// A form from elsewhere or from another session.
    Forged,
    /// Too many tries.
    TooMany { wait_s: i64 },
    /// No workspace answers under this host name.
    NoPortal,
}

impl Failure {
    pub fn not_found(what: &str) -> Self {
        Problem::not_found(what).into()
    }

    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        Problem::internal(cause).into()
    }
}

impl<E: Into<Problem>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Problem(Box::new(error.into()))
    }
}

impl From<PeopleError> for Problem {
    fn from(error: PeopleError) -> Self {
        match error {
            PeopleError::Database(error) => error.into(),
            PeopleError::EmailTaken => Self::conflict("email-taken", "Someone signs in with this e-mail already."),
            PeopleError::EmailInvalid => Self::invalid_field("email", "is not an e-mail address"),
            PeopleError::Password(password @ crate::people::password::PasswordError::Hashing) => Self::internal(&password),
            PeopleError::Password(password) => Self::invalid_field("password", password.to_string()),
            error @ PeopleError::Unreadable(_) => Self::internal(&error),
        }
    }
}

/// What the frame around all routes turns into a page in the provider's name.
#[derive(Debug, Clone)]
pub struct Said {
    pub title: String,
    pub text: String,
    pub back: Option<(String, String)>,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let say = |status: StatusCode, title: &str, text: String, back: Option<(&str, &str)>| {
            let mut response = status.into_response();
            let back = back.map(|(label, href)| (label.to_owned(), href.to_owned()));
            response.extensions_mut().insert(Said { title: title.to_owned(), text, back });
            response
        };
        match self {
            Self::SignIn { side, next } => {
                let page = if side == Side::Console { "/console/sign-in" } else { "/sign-in" };
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.append_pair("next", &next);
                Redirect::to(&format!("{page}?{}", query.finish())).into_response()
            }
            Self::Problem(problem) => {
                let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                say(status, &problem.title, problem.detail.clone(), None)
            }
            Self::Forged => say(
                StatusCode::FORBIDDEN,
                "This form is out of date",
                "It was opened before you signed in again, or it came from another site. Nothing was changed. Go back, reload the page and send it again.".into(),
                None,
            ),
            Self::TooMany { wait_s } => {
                let minutes = (wait_s + 59) / 60;
                let text = format!("There were too many tries. Try again in {}.", crate::format::counted(minutes, "minute", "minutes"));
                let mut response = say(StatusCode::TOO_MANY_REQUESTS, "Wait a little", text, None);
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
                response
            }
            Self::NoPortal => say(
                StatusCode::NOT_FOUND,
                "No portal here",
                "No provider answers under this address yet. Whoever runs Farebox creates a workspace with `farebox catalog apply`.".into(),
                None,
            ),
        }
    }
}
