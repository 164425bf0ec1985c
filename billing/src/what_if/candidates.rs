//! The plans of a question, as they are written: `growth@2`, `growth` for its newest version, or a draft as an entry of the
//! catalogue's `plans`.

use std::collections::BTreeSet;

use farebox_core::problem::{FieldError, Problem};
use farebox_core::workspace::Workspace;
use farebox_metering::meters;
use sqlx::PgConnection;

use super::{MOST_PLANS, WhatIfPlan};
use crate::BillingError;
use crate::catalog::{self, CatalogError};
use crate::plans::{self, Plan};
use crate::rating::PlanDefinition;

/// A plan to compare.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub label: String,
    pub draft: bool,
    pub definition: PlanDefinition,
}

impl Candidate {
    pub fn published(definition: PlanDefinition) -> Self {
        Self { label: format!("{}@{}", definition.name, definition.version), draft: false, definition }
    }

    pub fn draft(definition: PlanDefinition) -> Self {
        Self { label: format!("{} (draft)", definition.name), draft: true, definition }
    }

    pub(super) fn column(&self) -> WhatIfPlan {
        WhatIfPlan {
            label: self.label.clone(),
            plan: self.definition.name.clone(),
            version: self.definition.version,
            draft: self.draft,
            totals: Vec::new(),
            unpriced: Vec::new(),
        }
    }
}

/// A plan as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedPlan {
    /// `growth`, the newest version, or `growth@2`.
    Named(String),
    /// An entry of the catalogue's `plans`, in YAML or JSON.
    Draft(String),
}

impl AskedPlan {
    /// A plan's name is one line; a draft has several, or is JSON.
    pub fn of(text: &str) -> Self {
        let draft = text.trim_start().starts_with('{') || text.trim().contains('\n');
        if draft { Self::Draft(text.to_owned()) } else { Self::Named(text.trim().to_owned()) }
    }
}

/// What is wrong with one of the plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its place among those asked for; none for what is wrong with all of them.
    pub plan: Option<usize>,
    /// In a draft: the line, counted from 1, and the field, such as `prices[0].meter`.
    pub line: Option<u64>,
    pub field: String,
    pub message: String,
}

impl Wrong {
    fn about(plan: usize, message: impl Into<String>) -> Self {
        Self { plan: Some(plan), line: None, field: String::new(), message: message.into() }
    }

    fn in_draft(plan: usize, error: CatalogError) -> Self {
        let field = error.path.strip_prefix("plan").unwrap_or(&error.path).trim_start_matches('.').to_owned();
        Self { plan: Some(plan), line: Some(error.line), field, message: error.message }
    }

    fn pointer(&self) -> String {
        let plan = self.plan.map(|plan| format!("/{plan}")).unwrap_or_default();
        let field = self.field.replace('[', "/").replace(']', "").replace('.', "/");
        if field.is_empty() { format!("/plans{plan}") } else { format!("/plans{plan}/{field}") }
    }
}

/// Why plans cannot be compared.
#[derive(Debug)]
pub enum Unread {
    Wrong(Vec<Wrong>),
    Failed(BillingError),
}

impl<E: Into<BillingError>> From<E> for Unread {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Unread> for Problem {
    fn from(error: Unread) -> Self {
        match error {
            Unread::Wrong(all) => Self::invalid(all.into_iter().map(|wrong| FieldError::new(wrong.pointer(), wrong.message)).collect()),
            Unread::Failed(error) => error.into(),
        }
    }
}

/// Reads the plans of a question; everything that is wrong with any of them is said at once.
pub async fn read(conn: &mut PgConnection, workspace: &Workspace, asked: &[AskedPlan]) -> Result<Vec<Candidate>, Unread> {
    if asked.is_empty() || asked.len() > MOST_PLANS {
        let message = format!("names one to {MOST_PLANS} plans: published ones such as growth or growth@2, and drafts");
        return Err(Unread::Wrong(vec![Wrong { plan: None, line: None, field: String::new(), message }]));
    }
    let published = plans::all_versions(conn, &workspace.id).await?;
    let meters: BTreeSet<_> = meters::list(conn, &workspace.id).await?.into_iter().map(|meter| meter.definition.name).collect();
    let (mut found, mut wrong): (Vec<Candidate>, Vec<Wrong>) = (Vec::new(), Vec::new());
    for (place, plan) in asked.iter().enumerate() {
        let read = match plan {
            AskedPlan::Named(name) => {
                named(name, &published).map(Candidate::published).map_err(|message| vec![Wrong::about(place, message)])
            }
            AskedPlan::Draft(text) => catalog::parse_draft(text, workspace.currency, &meters)
                .map(Candidate::draft)
                .map_err(|errors| errors.into_iter().map(|error| Wrong::in_draft(place, error)).collect()),
        };
        match read.and_then(|candidate| fits(place, candidate, &found)) {
            Ok(candidate) => found.push(candidate),
            Err(errors) => wrong.extend(errors),
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(Unread::Wrong(wrong)) }
}

fn named(text: &str, published: &[Plan]) -> Result<PlanDefinition, String> {
    let version = text.rsplit_once('@').and_then(|(name, version)| Some((name, version.parse::<i32>().ok()?)));
    let (name, version) = version.map_or((text, None), |(name, version)| (name, Some(version)));
    let versions: Vec<_> = published.iter().filter(|plan| plan.name == name).collect();
    let Some(newest) = versions.last() else {
        return Err(format!("there is no plan named `{name}`; name one as growth or growth@2, or give a draft with its prices"));
    };
    let Some(version) = version else { return Ok(newest.definition.clone()) };
    versions.iter().find(|plan| plan.version == version).map(|plan| plan.definition.clone()).ok_or_else(|| {
        let known: Vec<_> = versions.iter().map(|plan| plan.version.to_string()).collect();
        format!("`{name}` has no version {version}; it has {}", known.join(", "))
    })
}

/// Of one product with those before, and not one of them; drafts of one name are told apart.
fn fits(place: usize, mut candidate: Candidate, others: &[Candidate]) -> Result<Candidate, Vec<Wrong>> {
    if let Some(first) = others.first().filter(|first| first.definition.product != candidate.definition.product) {
        let (here, there) = (&candidate.definition.product, &first.definition.product);
        let message = format!("is a plan of the product `{here}`, and {} of `{there}`; plans of one product are compared", first.label);
        return Err(vec![Wrong::about(place, message)]);
    }
    let taken = |label: &str| others.iter().any(|other| other.label == label);
    if !candidate.draft && taken(&candidate.label) {
        return Err(vec![Wrong::about(place, format!("{} is asked for twice", candidate.label))]);
    }
    let mut number = 1;
    while taken(&candidate.label) {
        number += 1;
        candidate.label = format!("{} (draft {number})", candidate.definition.name);
    }
    Ok(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_a_draft_is_named_by_its_pointer() {
        let error = CatalogError { line: 4, column: 9, path: "plan.prices[1].tiers[0].up_to".into(), message: String::new() };
        assert_eq!(Wrong::in_draft(2, error).pointer(), "/plans/2/prices/1/tiers/0/up_to");
        let parser = CatalogError { line: 1, column: 1, path: String::new(), message: String::new() };
        assert_eq!(Wrong::in_draft(0, parser).pointer(), "/plans/0");
        assert_eq!(Wrong::about(1, "").pointer(), "/plans/1");
    }

    #[test]
    fn a_name_is_one_line_and_a_draft_is_not() {
        assert_eq!(AskedPlan::of("growth@2\n"), AskedPlan::Named("growth@2".to_owned()));
        for draft in ["name: growth\nprices: []\n", " {\"name\": \"growth\"}"] {
            assert_eq!(AskedPlan::of(draft), AskedPlan::Draft(draft.to_owned()));
        }
    }
}
