use askama::Template;

use crate::view::{Action, Badge, Chart, Equation, Icon, Shell, Stats, Table};

#[derive(Debug, Clone, Template)]
#[template(path = "console/overview.html")]
pub struct OverviewPage {
    pub shell: Shell,
    pub now: String,
    pub months: Vec<(String, String, bool)>,
    pub stats: Stats,
    pub needs: Vec<Need>,
    pub agreement: Agreement,
    pub traffic: Chart,
    pub revenue: Chart,
    pub stages: Table,
    pub stages_note: String,
    pub funnel: Table,
    pub funnel_note: String,
    pub top: Table,
}

/// Something that waits for a person.
#[derive(Debug, Clone)]
pub struct Need {
    pub icon: Icon,
    pub class: &'static str,
    pub title: String,
    pub text: String,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub struct Agreement {
    pub title: String,
    pub verdict: Badge,
    pub equation: Equation,
    pub note: String,
}
