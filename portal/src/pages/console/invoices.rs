use askama::Template;

use crate::pages::portal::invoices::InvoiceView;
use crate::view::{Badge, Facts, Note, Shell, Stats, Table};

#[derive(Debug, Clone, Template)]
#[template(path = "console/invoices.html")]
pub struct InvoicesPage {
    pub shell: Shell,
    pub subtitle: String,
    pub tabs: Vec<(String, String, String, bool)>,
    pub stats: Stats,
    pub table: Table,
    pub next: Option<String>,
    pub csv: String,
}

#[derive(Debug, Clone, Template)]
#[template(path = "console/invoice.html")]
pub struct InvoicePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub note: Option<Note>,
    pub csv: Option<String>,
    pub invoice: InvoiceView,
    pub stripe: Facts,
    pub stripe_events: Table,
    pub audit: Option<Audit>,
    pub audit_action: String,
}

/// What re-deriving every line from the raw events came to.
#[derive(Debug, Clone)]
pub struct Audit {
    pub verdict: Badge,
    pub when: String,
    pub table: Table,
}
