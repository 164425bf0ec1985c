use askama::Template;

use crate::view::{Equation, Note, Shell, StepState, Table};

/// The close of a month as a checklist: what is done, what waits, and why.
#[derive(Debug, Clone, Template)]
#[template(path = "console/close.html")]
pub struct ClosePage {
    pub shell: Shell,
    pub title: String,
    pub subtitle: String,
    pub months: Vec<(String, String, bool)>,
    pub note: Option<Note>,
    pub steps: Vec<CloseStep>,
    pub aside_title: String,
    pub amount: String,
    pub amount_note: String,
    pub totals: Vec<(String, String)>,
    pub sum: (String, String),
    pub aside_note: String,
    /// `2026-10` when it may be closed now by this person.
    pub closable: Option<String>,
    pub button: String,
}

#[derive(Debug, Clone)]
pub struct CloseStep {
    pub state: StepState,
    pub title: String,
    pub when: String,
    pub text: String,
    pub equation: Option<Equation>,
    pub table: Option<Table>,
}

/// Before closing: what it does, to whom, and for how much.
#[derive(Debug, Clone, Template)]
#[template(path = "console/close_confirm.html")]
pub struct CloseConfirmPage {
    pub shell: Shell,
    pub month: String,
    pub title: String,
    pub totals: Vec<(String, String)>,
    pub confirm: String,
    pub note: Option<Note>,
}
