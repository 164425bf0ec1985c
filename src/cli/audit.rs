//! What shows that numbers add up: an invoice, the pipeline, a month.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{each, encoded, print_json};
use crate::instance::Instance;

#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Derive every line of an invoice again and compare.
    Invoice {
        /// Its number or id.
        invoice: String,
        /// All of the answer, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// By source and hour: produced = stored = rolled up = queried.
    Pipeline {
        /// RFC 3339 time or date; 24 hours before `to` unless given.
        #[arg(long)]
        from: Option<String>,
        /// Not included; the last full hour's end unless given.
        #[arg(long)]
        to: Option<String>,
    },
    /// A month: its pipeline, and every invoice of it.
    Period {
        /// Such as 2026-10.
        #[arg(long)]
        period: String,
    },
}

pub async fn audit(instance: &Instance, command: Audit) -> anyhow::Result<()> {
    match command {
        Audit::Invoice { invoice, json } => {
            let report = instance.get(&format!("/api/v1/invoices/{}/audit", encoded(&invoice))).await?;
            if json {
                print_json(&report)?;
            } else {
                say!("{}", invoice_table(&report));
            }
            if report["equal"] != json!(true) {
                bail!("invoice {invoice} differs from what its events give today; the differences are named above");
            }
            Ok(())
        }
        Audit::Pipeline { from, to } => {
            let given: Vec<_> = [("from", from), ("to", to)].into_iter().filter_map(|(name, at)| Some(format!("{name}={}", at?))).collect();
            let report = instance.get(&format!("/api/v1/audit/pipeline?{}", given.join("&"))).await?;
            say!("{}", pipeline_table(&report));
            if report["equal"] == json!(true) { Ok(()) } else { bail!("the pipeline does not add up; the differences are named above") }
        }
        Audit::Period { period } => audit_period(instance, &period).await,
    }
}

/// The pipeline's month, in parts that an audit takes, and every invoice of it.
async fn audit_period(instance: &Instance, period: &str) -> anyhow::Result<()> {
    let first: chrono::NaiveDate = format!("{period}-01").parse().with_context(|| format!("`{period}` is not a month such as 2026-10"))?;
    let next = first.checked_add_months(chrono::Months::new(1)).context("a date out of range")?;
    let (mut differing, mut day) = (0, first);
    while day < next {
        let end = next.min(day + chrono::Days::new(10));
        let report = instance.get(&format!("/api/v1/audit/pipeline?from={day}&to={end}")).await?;
        say!("{}", pipeline_line(day, end, &report));
        differing += usize::from(report["equal"] != json!(true));
        day = end;
    }
    let mut cursor = String::new();
    loop {
        let page = instance.get(&format!("/api/v1/invoices?limit=500{cursor}")).await?;
        for invoice in page["data"].as_array().context("the invoices have no `data`")? {
            // Of the month are the invoices whose period starts in it, by the workspace's calendar: give or take a day in UTC.
            let start: chrono::DateTime<chrono::Utc> = match invoice["period"]["from"].as_str().map(str::parse) {
                Some(Ok(start)) => start,
                _ => continue,
            };
            let start = (start + chrono::TimeDelta::hours(14)).date_naive();
            if start < first || start >= next {
                continue;
            }
            let id = invoice["id"].as_str().context("an invoice has no id")?;
            let report = instance.get(&format!("/api/v1/invoices/{id}/audit")).await?;
            let equal = report["equal"] == json!(true);
            say!("invoice {}: {}", invoice["number"].as_str().unwrap_or(id), if equal { "equal" } else { "differs" });
            if !equal {
                say!("{}", invoice_table(&report));
            }
            differing += usize::from(!equal);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    if differing == 0 { Ok(()) } else { bail!("{differing} parts of {period} do not add up; each is named above") }
}

/// Some days as a line, then what differs.
fn pipeline_line(from: chrono::NaiveDate, to: chrono::NaiveDate, report: &Value) -> String {
    let sum = |of: &str, name: &str| each(report, of).filter_map(|row| row[name].as_u64()).sum::<u64>();
    let unseen = each(report, "places").filter(|place| place["produced"].is_null()).count();
    let produced = if unseen == 0 { format!("{} produced, ", sum("places", "produced")) } else { "no longer in Kafka, ".to_owned() };
    let last = to.pred_opt().unwrap_or(to);
    let mut line = format!(
        "{from} to {last}: {produced}{} stored, {} stand, {} queried",
        sum("places", "stored"),
        sum("hours", "stored"),
        sum("hours", "queried")
    );
    line += if report["equal"] == json!(true) { ": adds up" } else { ": DIFFERS" };
    for difference in each(report, "differences") {
        line += &format!("\n  DIFFERS  {}", difference.as_str().unwrap_or_default());
    }
    line
}

/// Places and hours as lines, then what differs.
fn pipeline_table(report: &Value) -> String {
    let text =
        |value: &Value| value.as_str().map_or_else(|| if value.is_null() { "-".to_owned() } else { value.to_string() }, str::to_owned);
    let mut lines = vec![format!("{:<24} {:<22} {:>10} {:>10} {:>10}", "source", "hour", "messages", "produced", "stored")];
    for place in each(report, "places") {
        let [source, hour, messages, produced, stored] =
            ["source", "hour", "messages", "produced", "stored"].map(|name| text(&place[name]));
        lines.push(format!("{source:<24} {hour:<22} {messages:>10} {produced:>10} {stored:>10}"));
    }
    let hours = report["hours"].as_array().map(Vec::as_slice).unwrap_or_default();
    // What a rollup has, and what is read from events until it has them.
    let rollups: Vec<&String> =
        hours.first().and_then(|hour| hour["rolled_up"].as_object()).into_iter().flatten().map(|(name, _)| name).collect();
    let names: String = rollups.iter().map(|name| format!(" {name:>18}")).collect();
    lines.push(format!("\n{:<22} {:>10} {:>10}{names} {:>10}", "hour", "stands", "corrected", "queried"));
    for hour in hours {
        let [at, stored, corrected, queried] = ["hour", "stored", "corrected", "queried"].map(|name| text(&hour[name]));
        let rolled = rollups.iter().map(|name| match (text(&hour["rolled_up"][*name]), hour["not_yet"][*name].as_u64()) {
            (n, None | Some(0)) => format!(" {n:>18}"),
            (n, Some(more)) => format!(" {:>18}", format!("{n} + {more} raw")),
        });
        lines.push(format!("{at:<22} {stored:>10} {corrected:>10}{} {queried:>10}", rolled.collect::<String>()));
    }
    lines.push(String::new());
    for difference in each(report, "differences") {
        lines.push(format!("DIFFERS  {}", text(difference)));
    }
    if report["equal"] == json!(true) {
        lines.push("Everything adds up.".to_owned());
    }
    lines.join("\n")
}

/// Each line as it was billed and what its events give today, then what differs.
fn invoice_table(report: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
    let name = report["number"].as_str().or(report["invoice"].as_str()).unwrap_or("invoice");
    let mut lines = vec![format!("{name:<32} {:>16} {:>12} {:>14} {:>14}", "quantity", "events", "billed", "today")];
    for line in each(report, "lines") {
        let (billed, today) = (&line["billed"], &line["rederived"]);
        let events = billed["events"].as_u64().map_or_else(|| "-".to_owned(), |events| events.to_string());
        let name: String = text(&line["name"]).chars().take(32).collect();
        lines.push(format!(
            "{name:<32} {:>16} {events:>12} {:>14} {:>14}",
            text(&billed["quantity"]),
            text(&billed["amount"]),
            text(&today["amount"])
        ));
        let differences = each(line, "differences");
        lines.extend(differences.map(|difference| format!("  DIFFERS  {}", text(difference))));
    }
    lines.extend(each(report, "differences").map(|difference| format!("DIFFERS  {}", text(difference))));
    if report["equal"] == json!(true) {
        lines.push("\nEvery line comes out as it was billed, from the same events. Lines without events follow from the plan.".to_owned());
    }
    lines.join("\n")
}
