use askama::Template;

use crate::view::{Facts, Note, PlanCard, Shell, Table};

/// The plan in force, what it allows, and the others.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/plan.html")]
pub struct PlanPage {
    pub shell: Shell,
    pub current: Option<CurrentPlan>,
    pub plans: Vec<PlanCard>,
    pub may_change: bool,
    pub note: Option<Note>,
}

#[derive(Debug, Clone)]
pub struct CurrentPlan {
    pub name: String,
    pub price: String,
    pub facts: Facts,
    pub prices: Table,
}

/// What changing would mean, before it is done.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/plan_change.html")]
pub struct PlanChangePage {
    pub shell: Shell,
    pub plan: PlanCard,
    pub heading: String,
    pub effect: Vec<String>,
    pub facts: Facts,
    pub warning: Option<Note>,
}
