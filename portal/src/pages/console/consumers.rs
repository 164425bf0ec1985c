use askama::Template;

use crate::view::{Badge, Chart, Facts, Happening, Note, Shell, Table};

#[derive(Debug, Clone, Template)]
#[template(path = "console/consumers.html")]
pub struct ConsumersPage {
    pub shell: Shell,
    pub subtitle: String,
    pub search: String,
    pub table: Table,
    pub next: Option<String>,
    pub csv: String,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/consumer.html")]
pub struct ConsumerPage {
    pub shell: Shell,
    pub name: String,
    pub subtitle: String,
    pub badges: Vec<Badge>,
    pub note: Option<Note>,
    pub facts: Facts,
    pub subscription: Facts,
    pub usage: Chart,
    pub routes: Chart,
    pub keys: Table,
    pub invoices: Table,
    pub people: Table,
    pub story: Vec<Happening>,
    /// Where a sign-in link for their portal is made; empty for those who may not.
    pub link_action: String,
}
