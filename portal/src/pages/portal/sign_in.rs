use askama::Template;

use crate::view::{Field, Note, Shell};

#[derive(Debug, Clone)]
pub struct Agreement {
    pub title: String,
    pub lines: Vec<(String, String)>,
    pub difference: String,
}

/// Signing in, on either side.
#[derive(Debug, Clone, Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage {
    pub shell: Shell,
    /// Where the form goes: `/sign-in` or `/console/sign-in`.
    pub action: &'static str,
    pub to: String,
    pub email: Field,
    pub problem: Option<Note>,
    /// Where to go afterwards; a path of this side.
    pub next: String,
    /// Whether people may register themselves here.
    pub open: bool,
    pub agreement: Option<Agreement>,
}

/// Behind a one-time link: choose a password, or go on with the one there is.
#[derive(Debug, Clone, Template)]
#[template(path = "welcome.html")]
pub struct WelcomePage {
    pub shell: Shell,
    pub action: String,
    pub name: String,
    pub email: String,
    pub has_password: bool,
    pub until: String,
    pub password: Field,
    pub agreement: Option<Agreement>,
}
