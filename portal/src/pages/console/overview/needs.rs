use farebox_billing::invoices::State as InvoiceState;
use farebox_billing::stripe::settings;
use farebox_billing::summary;

use super::MONEY;
use crate::context::Ctx;
use crate::format;
use crate::people::Role;
use crate::view::{Action, Icon};

/// Something that waits for a person.
#[derive(Debug, Clone)]
pub struct Need {
    pub icon: Icon,
    pub class: &'static str,
    pub title: String,
    pub text: String,
    pub action: Action,
}

pub fn needs(ctx: &Ctx, states: &[summary::StateSummary], stripe: &settings::Status, letters: u64, agrees: bool) -> Vec<Need> {
    let money = ctx.is(MONEY);
    let mut needs = Vec::new();
    let mut need = |icon, class, title: String, text: String, label: &str, href: &str| {
        needs.push(Need { icon, class, title, text, action: Action::new(label, href) });
    };
    if !agrees {
        need(
            Icon::CircleAlert,
            "bad",
            "Stored and counted events differ.".into(),
            "If it stays for more than a moment, look at the pipeline.".into(),
            "Open",
            "/console/pipeline",
        );
    }
    if stripe.invoices.blocked > 0 && money {
        need(
            Icon::CircleAlert,
            "bad",
            format!("{} held back from Stripe.", format::counted(stripe.invoices.blocked, "invoice is", "invoices are")),
            "Each says why.".into(),
            "Open",
            "/console/invoices?state=issued",
        );
    }
    let failed = states.iter().find(|s| s.state == InvoiceState::Uncollectible);
    if let Some(failed) = failed.filter(|s| s.invoices > 0 && money) {
        need(
            Icon::CircleAlert,
            "bad",
            format!("{} could not be collected,", format::counted(failed.invoices, "invoice", "invoices")),
            format!("{} together.", format::money(failed.total)),
            "Open",
            "/console/invoices?state=uncollectible",
        );
    }
    let open = states.iter().find(|s| s.state == InvoiceState::Issued);
    if let Some(open) = open.filter(|s| s.late > 0 && money) {
        need(
            Icon::Clock,
            "warn",
            format!("{} past the due date,", format::counted(open.late, "invoice is", "invoices are")),
            format!("{} together.", format::money(open.late_total)),
            "Open",
            "/console/invoices?state=issued",
        );
    }
    if letters > 0 {
        let count = i64::try_from(letters).unwrap_or(i64::MAX);
        need(
            Icon::TriangleAlert,
            "warn",
            format!("{} in the dead letters.", format::counted(count, "event is", "events are")),
            "Each was rejected for a reason that can be repaired; then they are replayed.".into(),
            "Open",
            "/console/dead-letters",
        );
    }
    if !stripe.configured && ctx.is(&[Role::Owner, Role::Admin]) {
        need(
            Icon::CreditCard,
            "warn",
            "Stripe is not set up.".into(),
            "Invoices are issued, and nobody can pay them by card.".into(),
            "Set up",
            "/console/settings#stripe",
        );
    }
    needs
}
