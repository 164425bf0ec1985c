use askama::Template;

use crate::view::{Badge, Code, Facts, Field, Note, Shell, Table};

#[derive(Debug, Clone, Template)]
#[template(path = "console/settings.html")]
pub struct SettingsPage {
    pub shell: Shell,
    pub note: Option<Note>,
    pub workspace: Facts,
    pub display_name: Field,
    pub portal_host: Field,
    pub stripe: StripeSettings,
    pub sources: Table,
    pub source_formats: Vec<String>,
    pub members: Table,
    pub roles: Vec<(&'static str, &'static str)>,
    pub may_change: bool,
    pub plans: Table,
}

/// What is known of the Stripe account. The secrets themselves never come back to a page.
#[derive(Debug, Clone)]
pub struct StripeSettings {
    pub state: Badge,
    pub facts: Facts,
    pub problem: Option<Note>,
    pub webhook: Code,
}

/// A secret shown once: a source's token, or a colleague's sign-in link.
#[derive(Debug, Clone, Template)]
#[template(path = "console/once.html")]
pub struct OncePage {
    pub shell: Shell,
    pub title: String,
    pub text: String,
    pub secret: Code,
    pub facts: Facts,
    pub more: Option<Code>,
    pub back: String,
}
