use askama::Template;

use crate::view::{Action, Badge, Code, Facts, Note, Shell, Table};

#[derive(Debug, Clone, Template)]
#[template(path = "portal/invoices.html")]
pub struct InvoicesPage {
    pub shell: Shell,
    pub next: Option<Next>,
    pub table: Table,
    pub csv: String,
}

/// What the current period comes to so far.
#[derive(Debug, Clone)]
pub struct Next {
    pub title: String,
    pub amount: String,
    pub note: String,
    pub lines: Vec<Line>,
}

/// A line: the amount, its sentence, and what it opens to.
#[derive(Debug, Clone)]
pub struct Line {
    pub name: String,
    pub amount: String,
    pub explanation: String,
    pub proof: Option<Proof>,
}

/// How a line was counted, sealed with the invoice.
#[derive(Debug, Clone)]
pub struct Proof {
    pub title: String,
    pub days: Option<Table>,
    pub facts: Facts,
    pub query: Code,
}

/// The invoice with its stub, the same for the one who pays and the one who sent it.
#[derive(Debug, Clone)]
pub struct InvoiceView {
    pub lines: Vec<Line>,
    pub verify: Option<Code>,
    pub sealed: Facts,
    pub total: String,
    pub state: Badge,
    pub totals: Vec<(String, String)>,
    pub sum: (String, String),
    pub after: Vec<(String, String)>,
    pub payment: Facts,
    pub parties: Facts,
    pub pay: Option<Action>,
}

#[derive(Debug, Clone, Template)]
#[template(path = "portal/invoice.html")]
pub struct InvoicePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub csv: Option<String>,
    pub note: Option<Note>,
    pub invoice: InvoiceView,
}
