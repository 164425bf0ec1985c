use askama::Template;

use crate::view::{Action, Shell};

/// One thing to say: an error, or that something is done elsewhere. Says who acts, and offers the next step.
#[derive(Debug, Clone, Template)]
#[template(path = "message.html")]
pub struct MessagePage {
    pub shell: Shell,
    pub title: String,
    pub text: String,
    pub actions: Vec<Action>,
}
