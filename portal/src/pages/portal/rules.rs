use askama::Template;

use crate::view::{Facts, Shell};

/// What counts as a call, in words.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/rules.html")]
pub struct RulesPage {
    pub shell: Shell,
    pub rules: Vec<Rule>,
    pub facts: Facts,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub counts: bool,
    pub title: String,
    pub text: String,
}
