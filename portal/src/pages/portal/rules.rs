use askama::Template;
use axum::extract::State;
use axum::response::Response;
use farebox_metering::rule::{self, CountingRule};

use crate::Portal;
use crate::context::{Ctx, page};
use crate::failure::Failure;
use crate::view::{Facts, Shell};

/// What counts as a call, in words.
#[derive(Debug, Clone, Template)]
#[template(path = "portal/rules.html")]
pub struct RulesPage {
    pub shell: Shell,
    pub rules: Vec<Rule>,
    pub facts: Facts,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub counts: bool,
    pub title: String,
    pub text: String,
}

pub async fn show(State(portal): State<Portal>, ctx: Ctx) -> Result<Response, Failure> {
    let (version, rule) = rule::current(&mut *portal.app.pg.acquire().await?, &ctx.workspace.id).await?;
    let version = if version == 0 { "the default".to_owned() } else { version.to_string() };
    page(&RulesPage {
        shell: ctx.shell("What counts as a call", ""),
        rules: in_words(&rule),
        facts: Facts::default().with("Version of these rules", version),
    })
}

/// The rule as sentences, in the order in which it is applied; the last one is for all that is left.
fn in_words(rule: &CountingRule) -> Vec<Rule> {
    let not = |title: &str, text: String| Rule { counts: false, title: title.to_owned(), text };
    let list = |codes: &[u16]| codes.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let mut rules = vec![not("Nobody's call", "A request whose key or name belongs to no account is counted for nobody.".into())];
    if !rule.markers.is_empty() {
        let markers = rule.markers.join(", ").replace('_', " ");
        rules.push(not("Marked as no real call", format!("Requests that the gateway marked as {markers}.")));
    }
    if !rule.refused.is_empty() {
        rules.push(not("Refused", format!("Requests answered with {}, whoever answered.", list(&rule.refused))));
    }
    if !rule.refused_by_gateway.is_empty() {
        rules.push(not("Refused by the gateway", format!("Requests the gateway itself answered with {}.", list(&rule.refused_by_gateway))));
    }
    if rule.unrouted_refused {
        rules.push(not("No such route", "Requests answered with 404 because no route of the API fits.".into()));
    }
    if !rule.count_server_errors {
        rules.push(not("Our failure", "Requests answered with a status of 500 or above.".into()));
    }
    let text = if rule.count_server_errors {
        "Every other request, whatever its answer."
    } else {
        "Every other request that got an answer, also 400 and 404 from the API: an answer is an answer."
    };
    rules.push(Rule { counts: true, title: "An answer".into(), text: text.into() });
    rules
}
