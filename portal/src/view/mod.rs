//! The parts pages are made of, as in a style guide: each is a struct with its data already readable and a template
//! of its own. Pages put parts together and hold no markup logic; parts never compute.

mod badge;
mod chart;
mod figures;
mod form;
mod icon;
mod note;
mod shell;
mod step;
mod table;

pub use badge::{Badge, Tone};
pub use chart::{Chart, ChartColumn, ChartKind, ChartRow};
pub use figures::{Code, Direction, Equation, Fact, Facts, Meter, RulerMark, Stat, Stats, Term};
pub use form::{Field, Happening, PlanCard};
pub use icon::Icon;
pub use note::{Action, Note};
pub use shell::{Area, NavGroup, NavItem, Shell};
pub use step::StepState;
pub use table::{Cell, Column, Table};

/// Parts are markup: their own templates have escaped what came from outside.
macro_rules! parts {
    ($($part:ty),*) => {$(impl askama::filters::HtmlSafe for $part {})*};
}
parts!(Badge, Chart, Code, Equation, Facts, Meter, Note, Stats, Table);

impl askama::filters::HtmlSafe for shell::CsrfField<'_> {}
