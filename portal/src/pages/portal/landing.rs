use askama::Template;

use crate::view::{PlanCard, Shell};

/// What a stranger sees: what it costs, and where to start.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/landing.html")]
pub struct LandingPage {
    pub shell: Shell,
    pub plans: Vec<PlanCard>,
}
