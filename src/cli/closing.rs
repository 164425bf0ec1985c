//! What finance types: rate, close, credit.

use std::path::PathBuf;

use anyhow::{Context, bail};
use farebox_billing::rating::cli;
use reqwest::Method;
use serde_json::{Value, json};

use super::{each, encoded, print_json};
use crate::instance::Instance;

#[derive(Debug, clap::Args)]
pub struct Rate {
    /// One entry of a catalogue's `plans`, as YAML.
    #[arg(long)]
    plan: PathBuf,
    /// Currency, period and meter values, as JSON.
    #[arg(long)]
    usage: PathBuf,
    /// A change to preview, as JSON: `at`, and `to_plan` (the entry of the new plan; null to leave). The usage is then
    /// what was counted before it.
    #[arg(long)]
    change: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Close {
    /// A month, such as 2026-10.
    #[arg(long)]
    period: String,
    /// Only say what would be issued; nothing is stored.
    #[arg(long)]
    rehearse: bool,
    /// All of the answer, as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Clock {
    /// Move it ahead: 31d, 12h, 90m or 45s. It never goes back.
    #[arg(long)]
    advance: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Credit {
    /// The invoice (number or id).
    #[arg(required_unless_present = "void")]
    invoice: Option<String>,
    /// Void this credit note (number or id) instead, while its invoice is open.
    #[arg(long, value_name = "CREDIT_NOTE", conflicts_with_all = ["invoice", "lines", "to", "reason", "memo"])]
    void: Option<String>,
    /// A line to take back, by its name, its number from the top or its id; or a part of it as `LINE=AMOUNT`. Repeatable.
    /// Everything that is left of the invoice unless given.
    #[arg(long = "line")]
    lines: Vec<String>,
    /// Where the money of a paid invoice goes: refund, balance or out_of_band.
    #[arg(long)]
    to: Option<String>,
    /// correction, duplicate, fraudulent, order_change or product_unsatisfactory.
    #[arg(long, default_value = "correction")]
    reason: String,
    /// For the buyer to read.
    #[arg(long)]
    memo: Option<String>,
    /// The whole note, as JSON.
    #[arg(long)]
    json: bool,
}

pub fn rate(command: &Rate) -> anyhow::Result<()> {
    let read = |file: &PathBuf| std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()));
    let (plan, usage) = (read(&command.plan)?, read(&command.usage)?);
    let lines = match &command.change {
        None => cli::rate(&plan, &usage)?,
        Some(change) => cli::change(&plan, &usage, &read(change)?)?,
    };
    print_json(&lines)
}

pub async fn close(instance: &Instance, command: &Close) -> anyhow::Result<()> {
    let answer = if command.rehearse {
        instance.get(&format!("/api/v1/close/{}/rehearsal", command.period)).await?
    } else {
        close_period(instance, &command.period).await?
    };
    if command.json {
        print_json(&answer)?;
    } else {
        say!("{}", if command.rehearse { rehearsed(&answer, &command.period) } else { closed(&answer, &command.period) });
    }
    match answer["problems"].as_array().map_or(0, Vec::len) {
        0 => Ok(()),
        n => bail!("{n} of the subscriptions cannot be closed; each is named above. Repair them and close again"),
    }
}

fn closed(report: &Value, period: &str) -> String {
    let mut lines = vec![format!("{period}: {} issued now, {} in all.", invoices(&report["issued"]), report["invoices"])];
    for total in each(report, "totals") {
        lines.push(format!("  {} {:>16}, of which {} paid", text(total, "currency"), text(total, "total"), text(total, "paid")));
    }
    lines.extend(problems(report));
    lines.join("\n")
}

fn rehearsed(report: &Value, period: &str) -> String {
    let mut lines = vec![format!("{period}: {} would be issued; nothing is stored.", invoices(&report["invoices"]))];
    if report["already"] != json!(0) {
        let are = if report["already"] == json!(1) { "is" } else { "are" };
        lines.push(format!(
            "{} of the month {are} there already; a rehearsal says nothing of what is invoiced.",
            invoices(&report["already"])
        ));
    }
    lines.extend(each(report, "totals").map(|total| format!("  {} {:>16}", text(total, "currency"), text(total, "total"))));
    lines.extend(problems(report));
    lines.join("\n")
}

fn problems(report: &Value) -> Vec<String> {
    each(report, "problems").map(|problem| format!("NOT CLOSED  {}: {}", text(problem, "subscription"), text(problem, "detail"))).collect()
}

fn invoices(count: &Value) -> String {
    if *count == json!(1) { "1 invoice".to_owned() } else { format!("{count} invoices") }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

/// The clock of a workspace in test mode.
pub async fn clock(instance: &Instance, command: &Clock) -> anyhow::Result<()> {
    let seconds = command.advance.as_deref().map_or(Ok(0), seconds)?;
    let request = instance.request(Method::POST, "/api/v1/workspace/clock").json(&json!({ "advance_seconds": seconds }));
    print_json(&instance.json(request).await?)
}

fn seconds(text: &str) -> anyhow::Result<u64> {
    let unit = |unit: char| match unit {
        'd' => Some(86_400),
        'h' => Some(3600),
        'm' => Some(60),
        's' => Some(1),
        _ => None,
    };
    let found =
        text.chars().last().and_then(unit).zip(text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u64>().ok()));
    let (unit, number) = found.with_context(|| format!("`{text}` is not a time such as 31d, 12h, 90m or 45s"))?;
    number.checked_mul(unit).context("that is too far ahead")
}

pub async fn credit(instance: &Instance, command: &Credit) -> anyhow::Result<()> {
    let show = |note: &Value| {
        if command.json {
            return print_json(note);
        }
        say!("{}", credited(note));
        Ok(())
    };
    if let Some(note) = &command.void {
        let voided = instance.json(instance.request(Method::POST, &format!("/api/v1/credit-notes/{}/void", encoded(note)))).await?;
        return show(&voided);
    }
    let path = format!("/api/v1/invoices/{}", encoded(command.invoice.as_deref().unwrap_or_default()));
    let mut lines = Vec::new();
    if !command.lines.is_empty() {
        let invoice = instance.get(&path).await?;
        for wanted in &command.lines {
            lines.push(line(&invoice, wanted)?);
        }
    }
    let body = json!({ "lines": lines, "to": command.to, "reason": command.reason, "memo": command.memo });
    let made = instance.json(instance.request(Method::POST, &format!("{path}/credit-notes")).json(&body)).await?;
    show(&made)
}

/// `LINE` or `LINE=AMOUNT` as the API takes it.
fn line(invoice: &Value, wanted: &str) -> anyhow::Result<Value> {
    let of = |name: &str| {
        let nth = name.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        let lines = each(invoice, "lines").enumerate();
        let found: Vec<_> = lines.filter(|(n, line)| text(line, "id") == name || text(line, "name") == name || nth == Some(*n)).collect();
        match &found[..] {
            [(_, one)] => Ok(Some(one["id"].clone())),
            [] => Ok(None),
            several => {
                let numbers: Vec<_> = several.iter().map(|(n, line)| format!("{} ({})", n + 1, text(line, "amount"))).collect();
                bail!("`{name}` names several lines; say which by its number: {}", numbers.join(", "))
            }
        }
    };
    // A name may have `=` in it.
    if let Some(whole) = of(wanted)? {
        return Ok(json!({ "line": whole }));
    }
    if let Some((name, amount)) = wanted.rsplit_once('=')
        && let Some(part) = of(name)?
    {
        return Ok(json!({ "line": part, "amount": amount }));
    }
    let names: Vec<_> = each(invoice, "lines").enumerate().map(|(n, line)| format!("{} {}", n + 1, text(line, "name"))).collect();
    bail!("the invoice has no line `{wanted}`; it has {}", names.join(", "))
}

fn credited(note: &Value) -> String {
    let state = match text(note, "state") {
        "pending" => "waits for Stripe".to_owned(),
        "issued" => match text(note, "settles") {
            "open" => "so much less is to be paid".to_owned(),
            "refund" => "paid back to the payment method".to_owned(),
            "balance" => "kept as a balance for the next invoices".to_owned(),
            _ => "paid back out of band".to_owned(),
        },
        other => other.to_owned(),
    };
    let name = note["number"].as_str().unwrap_or_else(|| text(note, "id"));
    let mut lines = vec![format!(
        "Credit note {name} of invoice {}: {} {}, {state}.",
        text(note, "invoice_number"),
        text(note, "currency"),
        text(note, "total")
    )];
    lines.extend(
        each(note, "lines").map(|line| format!("  {:<40} {:>14}  tax {:>10}", text(line, "name"), text(line, "net"), text(line, "tax"))),
    );
    lines.extend(note["error"].as_str().map(|error| format!("  {error}")));
    lines.join("\n")
}

pub async fn close_period(instance: &Instance, period: &str) -> anyhow::Result<Value> {
    instance.json(instance.request(Method::POST, "/api/v1/close").json(&json!({ "period": period }))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_named_by_name_number_or_id() {
        let invoice = json!({ "lines": [
            { "id": "line_a", "name": "Platform", "amount": "49.00" },
            { "id": "line_b", "name": "Platform", "amount": "-25.29" },
            { "id": "line_c", "name": "Calls, a=b", "amount": "12.50" },
        ] });
        let named = |wanted: &str| line(&invoice, wanted).map_err(|error| error.to_string());
        assert_eq!(named("line_b"), Ok(json!({ "line": "line_b" })));
        assert_eq!(named("2=5.00"), Ok(json!({ "line": "line_b", "amount": "5.00" })));
        assert_eq!(named("Calls, a=b"), Ok(json!({ "line": "line_c" })));
        assert_eq!(named("Calls, a=b=1.5"), Ok(json!({ "line": "line_c", "amount": "1.5" })));
        assert_eq!(named("Platform"), Err("`Platform` names several lines; say which by its number: 1 (49.00), 2 (-25.29)".to_owned()));
        assert_eq!(named("0"), Err("the invoice has no line `0`; it has 1 Platform, 2 Platform, 3 Calls, a=b".to_owned()));
    }

    #[test]
    fn a_close_is_told_in_a_few_lines() {
        let report = json!({ "issued": 1, "invoices": 3, "totals": [{ "currency": "EUR", "total": "1234.50", "paid": "49.00" }],
            "problems": [{ "subscription": "sub_1", "detail": "the plan has no price in JPY" }] });
        insta::assert_snapshot!(closed(&report, "2026-10"), @r"
        2026-10: 1 invoice issued now, 3 in all.
          EUR          1234.50, of which 49.00 paid
        NOT CLOSED  sub_1: the plan has no price in JPY
        ");
        let rehearsal = json!({ "invoices": 0, "already": 3, "totals": [], "problems": [] });
        insta::assert_snapshot!(rehearsed(&rehearsal, "2026-10"), @r"
        2026-10: 0 invoices would be issued; nothing is stored.
        3 invoices of the month are there already; a rehearsal says nothing of what is invoiced.
        ");
    }
}
