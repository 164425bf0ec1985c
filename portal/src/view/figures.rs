use askama::Template;

use super::{Badge, Cell, Icon};

/// Which way is up, for a change that stands beside a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    None,
    Better,
    Worse,
}

impl Direction {
    fn class(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Better => "up",
            Self::Worse => "down",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Stat {
    pub label: String,
    pub figure: String,
    pub unit: String,
    pub change: String,
    pub direction: Direction,
    pub note: String,
    pub href: Option<String>,
}

impl Stat {
    pub fn new(label: impl Into<String>, figure: impl Into<String>, note: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            figure: figure.into(),
            unit: String::new(),
            change: String::new(),
            direction: Direction::None,
            note: note.into(),
            href: None,
        }
    }

    #[must_use]
    pub fn change(mut self, change: impl Into<String>, direction: Direction) -> Self {
        self.change = change.into();
        self.direction = direction;
        self
    }

    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    #[must_use]
    pub fn href(mut self, href: impl Into<String>) -> Self {
        self.href = Some(href.into());
        self
    }
}

#[derive(Debug, Clone, Template)]
#[template(
    ext = "html",
    source = r#"<dl class="stats">{% for s in stats %}
<div class="stat"><dt>{% if let Some(href) = s.href %}<a href="{{ href }}">{{ s.label }}</a>{% else %}{{ s.label }}{% endif %}</dt><dd class="fig">{{ s.figure }}{% if !s.unit.is_empty() %} <small>{{ s.unit }}</small>{% endif %}</dd><dd>{% if !s.change.is_empty() %}<span class="{{ s.direction.class() }}">{{ s.change }}</span> {% endif %}{{ s.note }}</dd></div>{% endfor %}
</dl>"#
)]
pub struct Stats {
    pub stats: Vec<Stat>,
}

#[derive(Debug, Clone)]
pub struct Fact {
    pub label: String,
    pub value: Cell,
}

/// Name and value pairs.
#[derive(Debug, Clone, Default, Template)]
#[template(
    ext = "html",
    source = r#"<dl class="facts">{% for fact in facts %}<dt>{{ fact.label }}</dt><dd{% if fact.value.mono %} class="mono"{% endif %}>{% let cell = fact.value %}{% include "parts/cell.html" %}</dd>{% endfor %}</dl>"#
)]
pub struct Facts {
    pub facts: Vec<Fact>,
}

impl Facts {
    #[must_use]
    pub fn with(self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.cell(label, Cell::text(value))
    }

    #[must_use]
    pub fn cell(mut self, label: impl Into<String>, value: Cell) -> Self {
        self.facts.push(Fact { label: label.into(), value });
        self
    }

    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }
}

#[derive(Debug, Clone)]
pub struct Term {
    /// Empty for the first term, else `=`, `+` or `−`.
    pub op: &'static str,
    pub label: String,
    pub value: String,
    pub sub: String,
}

impl Term {
    pub fn new(op: &'static str, label: impl Into<String>, value: impl Into<String>, sub: impl Into<String>) -> Self {
        Self { op, label: label.into(), value: value.into(), sub: sub.into() }
    }
}

/// Totals that must agree, printed so that they can be checked, the difference included.
#[derive(Debug, Clone, Template)]
#[template(
    ext = "html",
    source = r#"<dl class="equation">{% for t in terms %}
<div{% if !t.op.is_empty() %} data-op="{{ t.op }}"{% endif %}><dt>{{ t.label }}</dt><dd>{{ t.value }}</dd>{% if !t.sub.is_empty() %}<dd class="sub">{{ t.sub }}</dd>{% endif %}</div>{% endfor %}
{% if let Some(d) = difference %}<div class="push"><dt>Difference</dt><dd>{{ d.value }}</dd>{% if !d.sub.is_empty() %}<dd class="sub">{{ d.sub }}</dd>{% endif %}</div>{% endif %}
</dl>"#
)]
pub struct Equation {
    pub terms: Vec<Term>,
    pub difference: Option<Term>,
}

/// What is used of an allowance. Classes are shares of the scale by `format::share_class`.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/meter.html")]
pub struct Meter {
    pub label: String,
    /// Digits only, for the role's attributes.
    pub now: String,
    pub max: String,
    /// The reading as a sentence.
    pub text: String,
    pub used: String,
    /// Where the allowance ends on the scale; `None` when there is none or the scale ends with it.
    pub cap: Option<String>,
    pub forecast: Option<(String, String)>,
    pub thin: bool,
    pub ruler: Vec<RulerMark>,
}

#[derive(Debug, Clone)]
pub struct RulerMark {
    pub at: String,
    pub text: String,
}

/// A command or a secret, with a button that copies it.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/code.html")]
pub struct Code {
    pub label: String,
    pub text: String,
    pub secret: bool,
}

impl Code {
    pub fn new(label: impl Into<String>, text: impl Into<String>) -> Self {
        Self { label: label.into(), text: text.into(), secret: false }
    }

    pub fn secret(label: impl Into<String>, text: impl Into<String>) -> Self {
        Self { secret: true, ..Self::new(label, text) }
    }
}

impl From<Badge> for Cell {
    fn from(badge: Badge) -> Self {
        Self::badge(badge)
    }
}
