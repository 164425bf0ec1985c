//! `farebox what-if`: plans and drafts side by side on what was really used.

use std::path::{Path, PathBuf};

use anyhow::Context;
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::{each, print_json};
use crate::instance::Instance;

#[derive(Debug, clap::Args)]
pub struct WhatIf {
    /// One to six plans: published ones (`growth`, the newest version, or `growth@2`), and drafts as files (.yaml, .json)
    /// with one entry of a catalogue's `plans`.
    #[arg(required = true)]
    plans: Vec<String>,
    /// The first month, such as 2026-08.
    #[arg(long)]
    from: String,
    /// The last month, included.
    #[arg(long)]
    to: String,
    /// Only this consumer (id); repeatable.
    #[arg(long)]
    consumer: Vec<String>,
    /// Only who had this plan (name).
    #[arg(long)]
    on_plan: Option<String>,
    /// Every consumer into this file, as CSV; `-` for standard output.
    #[arg(long, conflicts_with = "json")]
    csv: Option<PathBuf>,
    /// The whole answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Consumers in the table; `--csv` has all.
const SHOWN: usize = 20;

pub async fn run(instance: &Instance, command: &WhatIf) -> anyhow::Result<()> {
    let plans = command.plans.iter().map(|plan| read(plan)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut body = json!({ "plans": plans, "from": command.from, "to": command.to, "on_plan": command.on_plan });
    if !command.consumer.is_empty() {
        body["consumers"] = json!(command.consumer);
    }
    let request = instance.request(Method::POST, "/api/v1/what-if").json(&body);
    let Some(file) = &command.csv else {
        let found = instance.json(request).await?;
        if command.json {
            return print_json(&found);
        }
        say!("{}", table(&found, command));
        return Ok(());
    };
    let response = request.header(header::ACCEPT, "text/csv").send().await;
    let response = response.with_context(|| format!("{} does not answer", instance.base_url))?;
    if !response.status().is_success() {
        return instance.problem(response).await;
    }
    let text = response.text().await?;
    if file == Path::new("-") {
        say!("{}", text.trim_end());
        return Ok(());
    }
    std::fs::write(file, &text).with_context(|| format!("{} cannot be written", file.display()))?;
    say!("{}: {} lines below its head", file.display(), text.lines().count().saturating_sub(1));
    Ok(())
}

/// A plan's name, or a draft's text.
fn read(plan: &str) -> anyhow::Result<String> {
    let is_file = Path::new(plan).extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known));
    if is_file { std::fs::read_to_string(plan).with_context(|| format!("{plan} cannot be read")) } else { Ok(plan.to_owned()) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// In all, by currency; then who differs most; then who cannot be priced.
fn table(found: &Value, asked: &WhatIf) -> String {
    let months = if asked.from == asked.to { asked.from.clone() } else { format!("{} to {}", asked.from, asked.to) };
    let mut lines = vec![
        format!("{months}: {} subscriptions to the product {}.", each(found, "rows").count(), text(&found["product"])),
        "Less what a plan itself includes of credits; before discounts, other credits and tax.".to_owned(),
    ];
    let mut currencies: Vec<&str> = each(found, "rows").map(|row| text(&row["currency"])).collect();
    currencies.sort_unstable();
    currencies.dedup();
    for currency in currencies {
        lines.push(format!(
            "\n{currency:<24} {:>14} {:>14} {:>14} {:>9} {:>9} {:>9}",
            "as it was", "on the plan", "difference", "pay less", "pay more", "the same"
        ));
        for plan in each(found, "plans") {
            let label = text(&plan["label"]);
            match each(plan, "totals").find(|total| total["currency"] == currency) {
                None => lines.push(format!("{label:<24} prices nobody")),
                Some(total) => {
                    let [actual, simulated] = ["actual", "simulated"].map(|name| text(&total[name]));
                    let difference = signed(text(&total["difference"]));
                    let [less, more, same] = ["winners", "losers", "unchanged"].map(|name| total[name].to_string());
                    lines.push(format!("{label:<24} {actual:>14} {simulated:>14} {difference:>14} {less:>9} {more:>9} {same:>9}"));
                }
            }
        }
        lines.extend(rows(found, currency));
    }
    let unpriced: Vec<_> = each(found, "plans")
        .flat_map(|plan| each(plan, "unpriced").map(|own| (text(&plan["label"]), own)))
        .chain(each(found, "unpriced").map(|own| ("as it was", own)))
        .collect();
    if !unpriced.is_empty() {
        lines.push("\nNot priced, and left out of that plan's sums:".to_owned());
        lines
            .extend(unpriced.iter().take(SHOWN).map(|(plan, own)| format!("  {} on {plan}: {}", text(&own["name"]), text(&own["detail"]))));
        if unpriced.len() > SHOWN {
            lines.push(format!("  and {} more: --json has all", unpriced.len() - SHOWN));
        }
    }
    lines.join("\n")
}

/// The greatest differences first.
fn rows(found: &Value, currency: &str) -> Vec<String> {
    let labels: Vec<_> = each(found, "plans").map(|plan| text(&plan["label"])).collect();
    let head: String = labels.iter().map(|label| format!(" {label:>26}")).collect();
    let mut lines = vec![format!("\n{:<24} {:>14}{head}", "consumer", "as it was")];
    let own: Vec<_> = each(found, "rows").filter(|row| row["currency"] == currency).collect();
    for row in own.iter().take(SHOWN) {
        let on = each(row, "on").map(|on| match on["simulated"].as_str() {
            None => format!(" {:>26}", "not priced"),
            Some(simulated) => format!(" {:>26}", format!("{simulated} ({})", signed(text(&on["difference"])))),
        });
        lines.push(format!("{:<24} {:>14}{}", text(&row["name"]), text(&row["actual"]), on.collect::<String>()));
    }
    if own.len() > SHOWN {
        lines.push(format!("and {} more with smaller differences: --csv FILE has all", own.len() - SHOWN));
    }
    lines
}

fn signed(difference: &str) -> String {
    let zero = difference.bytes().all(|byte| byte == b'0' || byte == b'.');
    if zero || difference.starts_with('-') { difference.to_owned() } else { format!("+{difference}") }
}
