use askama::Template;

use crate::view::{Badge, Chart, Facts, Meter, Note, Shell};

/// What is used, by day, route and status, against what the plan holds.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/usage.html")]
pub struct UsagePage {
    pub shell: Shell,
    pub subtitle: String,
    pub ranges: Vec<RangeChoice>,
    pub keys: Vec<RangeChoice>,
    pub from: String,
    pub to: String,
    pub allowance: Allowance,
    pub running: Chart,
    pub routes: Chart,
    pub statuses: Chart,
    pub tail: TailPart,
}

#[derive(Debug, Clone)]
pub struct RangeChoice {
    pub value: String,
    pub label: String,
    pub selected: bool,
}

#[derive(Debug, Clone)]
pub struct Allowance {
    pub heading: String,
    pub figure: String,
    pub unit: String,
    pub facts: Facts,
    pub meter: Option<Meter>,
    pub note: Option<Note>,
}

#[derive(Debug, Clone)]
pub struct Call {
    pub time: String,
    pub request: String,
    pub status: Badge,
    pub took: String,
    pub key: String,
    pub counts: String,
    /// Why it ended like this and what to do; empty for calls that went well.
    pub why_title: String,
    pub why: String,
}

/// The latest requests; asks for itself again while live.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/usage_tail.html")]
pub struct TailPart {
    pub calls: Vec<Call>,
    pub live: bool,
    pub zone: String,
    /// The query that keeps the page's filters.
    pub query: String,
}

impl askama::filters::HtmlSafe for TailPart {}
