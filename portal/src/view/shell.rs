use askama::Template;

use super::{Icon, Note};

/// The frame a page stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// The developers' side: a bar on top.
    Portal,
    /// The provider's side: a rail at the left, a bar on small screens.
    Console,
    /// Nobody is signed in: no navigation.
    Gate,
}

#[derive(Debug, Clone)]
pub struct NavItem {
    pub href: &'static str,
    pub icon: Icon,
    pub label: &'static str,
    pub current: bool,
}

#[derive(Debug, Clone)]
pub struct NavGroup {
    pub label: &'static str,
    pub items: Vec<NavItem>,
}

/// What every page shares: who shows it, who sees it, where one can go, and what just happened.
#[derive(Debug, Clone)]
pub struct Shell {
    pub area: Area,
    pub title: String,
    /// The provider's name, as the workspace has it.
    pub provider: String,
    pub nav: Vec<NavGroup>,
    /// Whose account it is; links to it.
    pub who: Option<String>,
    /// The session's token against forged requests; empty where nobody is signed in.
    pub csrf: String,
    pub toast: Option<Note>,
    /// The zone times are shown in.
    pub zone: String,
}

const PORTAL: &[(&str, Icon, &str)] = &[
    ("/usage", Icon::Gauge, "Usage"),
    ("/keys", Icon::KeyRound, "Keys"),
    ("/invoices", Icon::ReceiptText, "Invoices"),
    ("/plan", Icon::Layers, "Plan"),
    ("/start", Icon::BookOpen, "Get started"),
];

const CONSOLE: &[(&str, &[(&str, Icon, &str)])] = &[
    ("", &[("/console", Icon::Gauge, "Overview"), ("/console/consumers", Icon::Users, "Consumers")]),
    (
        "Product",
        &[
            ("/console/usage", Icon::Activity, "Usage"),
            ("/console/activation", Icon::CircleCheck, "Activation"),
            ("/console/funnel", Icon::Funnel, "Funnel"),
            ("/console/conversion", Icon::CreditCard, "Conversion"),
            ("/console/retention", Icon::Repeat2, "Retention"),
            ("/console/lifecycle", Icon::RotateCw, "Lifecycle"),
            ("/console/stickiness", Icon::CalendarCheck, "Stickiness"),
            ("/console/versions", Icon::Layers, "Versions"),
        ],
    ),
    (
        "Money",
        &[
            ("/console/revenue", Icon::TrendingUp, "Revenue"),
            ("/console/margin", Icon::Scale, "Margin"),
            ("/console/what-if", Icon::Columns3, "What-if"),
            ("/console/invoices", Icon::ReceiptText, "Invoices"),
            ("/console/credit-notes", Icon::Undo2, "Credit notes"),
            ("/console/close", Icon::Lock, "Month close"),
        ],
    ),
    (
        "Trust",
        &[
            ("/console/pipeline", Icon::GitCommitHorizontal, "Pipeline"),
            ("/console/alerts", Icon::Bell, "Alerts"),
            ("/console/settings", Icon::SlidersHorizontal, "Settings"),
        ],
    ),
];

impl Shell {
    pub fn gate(title: impl Into<String>, provider: impl Into<String>) -> Self {
        Self {
            area: Area::Gate,
            title: title.into(),
            provider: provider.into(),
            nav: Vec::new(),
            who: None,
            csrf: String::new(),
            toast: None,
            zone: "UTC".into(),
        }
    }

    /// The developers' frame; `here` is the path of the current section.
    pub fn portal(title: impl Into<String>, provider: impl Into<String>, here: &str) -> Self {
        let items = items(PORTAL, here);
        Self { area: Area::Portal, nav: vec![NavGroup { label: "", items }], ..Self::gate(title, provider) }
    }

    pub fn console(title: impl Into<String>, provider: impl Into<String>, here: &str) -> Self {
        let nav = CONSOLE.iter().map(|(label, links)| NavGroup { label, items: items(links, here) }).collect();
        Self { area: Area::Console, nav, ..Self::gate(title, provider) }
    }

    pub fn csrf_field(&self) -> CsrfField<'_> {
        CsrfField { token: &self.csrf }
    }

    pub fn body_class(&self) -> &'static str {
        match self.area {
            Area::Portal => "portal",
            Area::Console => "console",
            Area::Gate => "gated",
        }
    }

    pub fn suffix(&self) -> String {
        match self.area {
            Area::Console => format!("{} · Farebox", self.provider),
            Area::Portal | Area::Gate => format!("{} developers", self.provider),
        }
    }

    pub fn home(&self) -> &'static str {
        if self.area == Area::Console { "/console" } else { "/" }
    }

    pub fn account(&self) -> &'static str {
        if self.area == Area::Console { "/console/account" } else { "/account" }
    }
}

fn items(links: &[(&'static str, Icon, &'static str)], here: &str) -> Vec<NavItem> {
    links.iter().map(|&(href, icon, label)| NavItem { href, icon, label, current: href == here }).collect()
}

/// The hidden field that proves a form came from this session's page.
#[derive(Debug, Clone, Copy, Template)]
#[template(ext = "html", source = r#"<input type="hidden" name="csrf" value="{{ token }}">"#)]
pub struct CsrfField<'a> {
    token: &'a str,
}
