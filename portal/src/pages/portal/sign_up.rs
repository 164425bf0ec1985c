use askama::Template;

use crate::view::{Field, Note, PlanCard, Shell};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/sign_up.html")]
pub struct SignUpPage {
    pub shell: Shell,
    pub problem: Option<Note>,
    pub plans: Vec<PlanCard>,
    /// `value` of the chosen plan; empty when none was chosen.
    pub chosen: String,
    pub name: Field,
    pub company: Field,
    pub email: Field,
    pub password: Field,
}
