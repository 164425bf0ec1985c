//! `farebox correct`: events voided or amended, after a look at what that would change.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::each;
use crate::instance::Instance;

/// Fields that are no texts.
const NUMBERS: [&str; 5] = ["status", "latency_us", "request_bytes", "response_bytes", "shift_seconds"];

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Action {
    /// The events count nowhere any more.
    Void,
    /// Some of their fields become others.
    Amend,
}

#[derive(Debug, clap::Args)]
pub struct Correct {
    action: Action,
    /// An event's id, as `/api/v1/events` shows it; repeatable. Or else --from and --to.
    #[arg(long = "id", conflicts_with_all = ["from", "to", "where"], required_unless_present = "from")]
    ids: Vec<String>,
    /// Events from this time on, RFC 3339.
    #[arg(long, requires = "to")]
    from: Option<DateTime<Utc>>,
    /// Not included.
    #[arg(long, requires = "from")]
    to: Option<DateTime<Utc>>,
    /// Only those with this value of a dimension, such as `route=GET /orders`; repeatable.
    #[arg(long = "where", value_name = "DIMENSION=VALUE", value_parser = pair)]
    r#where: Vec<(String, String)>,
    /// Of an amendment, such as `status=204`; repeatable.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Why; stands in the audit log.
    #[arg(long)]
    reason: String,
    /// Make it. Without it only what would change is told.
    #[arg(long)]
    yes: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Correct {
    fn body(&self) -> Value {
        let action = match self.action {
            Action::Void => "void",
            Action::Amend => "amend",
        };
        let mut body = json!({ "action": action, "reason": self.reason });
        if let (Some(from), Some(to)) = (self.from, self.to) {
            let mut filter: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (dimension, value) in &self.r#where {
                filter.entry(dimension).or_default().push(value);
            }
            (body["from"], body["to"], body["filter"]) = (json!(from), json!(to), json!(filter));
        } else {
            body["ids"] = json!(self.ids);
        }
        if !self.set.is_empty() {
            let value = |field: &str, text: &str| match text.parse::<i64>() {
                Ok(number) if NUMBERS.contains(&field) => json!(number),
                _ => json!(text),
            };
            body["set"] = self.set.iter().map(|(field, text)| (field.clone(), value(field, text))).collect::<Map<_, _>>().into();
        }
        body
    }
}

pub async fn run(instance: &Instance, command: &Correct) -> anyhow::Result<()> {
    let post = async |body: &Value| instance.json(instance.request(Method::POST, "/api/v1/corrections").json(body)).await;
    let mut body = command.body();
    body["dry_run"] = json!(true);
    let effect = post(&body).await?;
    let events = effect["events"].as_u64().context("the dry run tells no number of events")?;
    say!("{}", told(&effect));
    if events == 0 {
        bail!("no event is chosen");
    }
    if !command.yes {
        say!("\nNothing is changed yet. Repeat with --yes.");
        return Ok(());
    }
    (body["dry_run"], body["expected_events"]) = (json!(false), json!(events));
    let made = post(&body).await?;
    say!("\nDone: {} events, correction {}.", made["events"], made["id"].as_str().unwrap_or_default());
    Ok(())
}

/// What changes, in units and money.
fn told(effect: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines = vec![format!("{} events are chosen.", effect["events"])];
    for change in each(effect, "meters") {
        let [meter, month, before, after, subscription] =
            ["meter", "month", "before", "after", "subscription"].map(|name| text(&change[name]));
        let whose = if subscription.is_empty() { "no subscription" } else { &subscription };
        lines.push(format!("  {month}  {meter:<16} {before:>14} -> {after:<14} {whose}"));
    }
    for change in each(effect, "money") {
        let [month, before, after, subscription] = ["month", "before", "after", "subscription"].map(|name| text(&change[name]));
        lines.push(format!("  {month}  {:<16} {before:>14} -> {after:<14} {subscription}", "in money"));
    }
    for (name, what) in
        [("not_additive", "is seen afterwards: it is not made of parts"), ("unpriced", "has prices by event: see its preview afterwards")]
    {
        lines.extend(each(effect, name).map(|of| format!("  {} {what}", text(of))));
    }
    lines.join("\n")
}
