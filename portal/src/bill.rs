//! An invoice as a page shows it, the same for the one who pays and the one who sent it.

use farebox_billing::invoices::{Invoice, InvoiceLine, State};
use farebox_billing::rating::plan::Collect;
use farebox_core::money::{Money, MoneyError, plain};

use crate::context::Ctx;
use crate::format;
use crate::pages::portal::invoices::{InvoiceView, Line, Proof};
use crate::view::{Action, Badge, Cell, Code, Facts, Tone};

/// The number, or what stands for it before there is one.
pub fn name(invoice: &Invoice) -> String {
    invoice.number.clone().unwrap_or_else(|| "Draft".to_owned())
}

/// Where it stands, by the workspace's time. Ordinary states stay grey.
pub fn badge(invoice: &Invoice, ctx: &Ctx) -> Badge {
    let late = invoice.due_at.is_some_and(|due| due < ctx.now());
    match invoice.state {
        State::Draft => Badge::plain("Draft"),
        State::Paid => Badge::plain("Paid"),
        State::Void => Badge::plain("Void"),
        State::Uncollectible => Badge::new(Tone::Bad, "Given up"),
        State::Issued if invoice.carried => Badge::plain("Carried over"),
        State::Issued if invoice.total.minor <= 0 => Badge::plain("Nothing to pay"),
        State::Issued if late => Badge::new(Tone::Warn, "Late"),
        State::Issued => Badge::plain("Open"),
    }
}

pub fn view(invoice: &Invoice, ctx: &Ctx) -> InvoiceView {
    let tz = ctx.tz();
    let shown = |sum: Result<Money, MoneyError>| sum.map_or_else(|_| "–".to_owned(), format::money);
    let mut totals = vec![("Subtotal".to_owned(), shown(invoice.before_tax()))];
    let taxes = taxes(invoice);
    if taxes.len() == 1 || taxes.is_empty() {
        let label = taxes.first().map_or_else(|| "Tax".to_owned(), |(label, _)| label.clone());
        totals.push((label, format::money(invoice.tax)));
    } else {
        totals.extend(taxes.into_iter().map(|(label, amount)| (label, format::money(amount))));
    }
    // What was taxed elsewhere comes after the tax.
    if invoice.set_off().next().is_some() {
        totals.push(("With tax".to_owned(), shown(invoice.before_tax().and_then(|sum| sum.checked_add(invoice.tax)))));
        totals.extend(invoice.set_off().map(|line| (line.title(), format::money(line.left()))));
    }
    let paid = invoice.state == State::Paid;
    let zero = Money::zero(invoice.currency);
    let owed = matches!(invoice.state, State::Issued | State::Uncollectible) && !invoice.carried && invoice.total.minor > 0;
    let mut after = Vec::new();
    if !invoice.credited.is_zero() {
        after.push(("Credited".to_owned(), format::money(invoice.credited)));
    }
    after.push(("Paid".to_owned(), format::money(if paid { invoice.due() } else { zero })));
    after.push(("Still due".to_owned(), format::money(if owed { invoice.due() } else { zero })));
    let mut payment = Facts::default();
    if let Some(at) = invoice.issued_at {
        payment = payment.with("Issued", format::instant(at, tz));
    }
    if let Some(at) = invoice.due_at.filter(|_| invoice.total.minor > 0) {
        payment = payment.with(if paid { "Was due" } else { "Due" }, format::date(at.with_timezone(&tz).date_naive()));
    }
    if let Some(at) = invoice.paid_at {
        payment = payment.with("Paid", format::instant(at, tz));
    }
    payment = payment.with(
        "Collected",
        match invoice.collect {
            Collect::Automatically => "from the card on file",
            Collect::SendInvoice => "by transfer, as the invoice says",
        },
    );
    if invoice.carried {
        payment = payment.with("Carried over", "too small or negative: a line of the next invoice settles it");
    }
    let sealed = match (invoice.issued_at, invoice.lines.iter().any(|line| line.proof.is_some())) {
        (Some(at), true) => Facts::default().with("Sealed", format::instant(at, tz)),
        _ => Facts::default(),
    };
    let verify = (!sealed.is_empty()).then(|| Code::new("the command", format!("farebox audit invoice {}", name(invoice))));
    InvoiceView {
        lines: invoice.lines.iter().map(|l| line(l, invoice, ctx)).collect(),
        left_out: invoice.left_out.sentence(),
        verify,
        sealed,
        total: format::money(invoice.total),
        state: badge(invoice, ctx),
        totals,
        sum: ("Total".to_owned(), format::money(invoice.total)),
        after,
        payment,
        parties: Facts::default().cell("From", party(&invoice.seller)).cell("To", party(&invoice.buyer)),
        pay: invoice.hosted_url.clone().filter(|_| owed).map(|url| Action::new("Pay at Stripe", url)),
    }
}

/// The tax of each kind, in the order of the lines.
fn taxes(invoice: &Invoice) -> Vec<(String, Money)> {
    let mut found: Vec<(String, Money)> = Vec::new();
    for tax in invoice.lines.iter().filter_map(|line| line.tax.as_ref()) {
        let rate = format::percent(&tax.rate, &bigdecimal::BigDecimal::from(1)).unwrap_or_default();
        let label = format!("{} {rate}{}", tax.name, if tax.inclusive { ", included" } else { "" });
        match found.iter_mut().find(|(known, _)| *known == label) {
            Some((_, amount)) => *amount = amount.checked_add(tax.amount).unwrap_or(*amount),
            None => found.push((label, tax.amount)),
        }
    }
    // Rounded by line and in all may differ; what the invoice says is what is shown.
    let sum = Money::sum(found.iter().map(|(_, amount)| *amount), invoice.currency);
    if sum == Ok(invoice.tax) { found } else { Vec::new() }
}

fn line(line: &InvoiceLine, invoice: &Invoice, ctx: &Ctx) -> Line {
    let outside =
        line.period.start < invoice.period.start || line.period.end > invoice.period.end || line.period.start != invoice.period.start;
    let when = format::period(line.period.start, line.period.end, ctx.tz());
    let explanation =
        if outside && !line.explanation.contains(&when) { format!("{when}. {}", line.explanation) } else { line.explanation.clone() };
    // After discounts and credits, so that the lines add up to the totals below them.
    let explanation = with_taken(explanation, line.discount, line.credit);
    Line { name: line.title(), amount: format::money(line.left()), explanation, proof: line.proof.as_ref().map(|p| proof(line, p)) }
}

/// An explanation with what discounts and prepaid credits took off its line.
pub fn with_taken(explanation: String, discount: Money, credit: Money) -> String {
    let taken = |what: &str, amount: Money| (!amount.is_zero()).then(|| format!(" {what} {}.", format::money(amount)));
    let taken = [taken("Discount", discount), taken("Prepaid credits", credit)];
    taken.into_iter().flatten().fold(explanation, |explanation, taken| explanation + &taken)
}

/// The sealed evidence, readable: whatever it names, in its own words.
fn proof(line: &InvoiceLine, sealed: &serde_json::Value) -> Proof {
    let meter = line.meter.as_deref().map_or_else(|| "units".to_owned(), crate::words::meter);
    let mut facts = Facts::default().with("Quantity", format!("{} {meter}", format::quantity(&line.quantity)));
    let mut query = String::new();
    for (key, value) in sealed.as_object().into_iter().flatten() {
        let label = match key.as_str() {
            "sql" | "query" => {
                query = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                continue;
            }
            "events" | "event_count" | "count" => "Events counted",
            "hash" | "events_hash" | "ids_hash" => "Hash over their ids",
            "rule" | "rule_version" => "Counting rule",
            "meter_version" => "Meter version",
            _ => key,
        };
        let mono = key.contains("hash");
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => format::digits(&number.to_string()),
            serde_json::Value::Null => continue,
            other => other.to_string(),
        };
        let cell = if mono || value.is_object() || value.is_array() { Cell::mono(text) } else { Cell::text(text) };
        facts = facts.cell(crate::words::title(label), cell);
    }
    let query = if query.is_empty() { serde_json::to_string_pretty(sealed).unwrap_or_default() } else { query };
    Proof {
        title: format!("How {} {meter} came about", format::quantity(&line.quantity)),
        days: None,
        facts,
        query: Code::new("the query that counts them", query),
    }
}

/// Name, address, tax number and e-mail of a party, as far as they were known.
fn party(party: &serde_json::Value) -> Cell {
    let text = |value: &serde_json::Value, key: &str| value.get(key).and_then(|v| v.as_str()).filter(|t| !t.is_empty()).map(str::to_owned);
    let address = party.get("address").unwrap_or(&serde_json::Value::Null);
    let place = [text(address, "postal_code"), text(address, "city")].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let lines = [
        text(address, "line1"),
        text(address, "line2"),
        Some(place).filter(|p| !p.is_empty()),
        text(address, "state"),
        text(address, "country"),
    ];
    let more = lines.into_iter().chain([text(party, "tax_id"), text(party, "email")]).flatten().collect::<Vec<_>>().join(", ");
    let name = text(party, "name").unwrap_or_else(|| "–".to_owned());
    if more.is_empty() { Cell::text(name) } else { Cell::text(name).sub(more) }
}

/// The lines as rows of a file.
pub fn csv_rows(invoice: &Invoice) -> Vec<Vec<String>> {
    let rows = invoice.lines.iter().map(|line| {
        vec![
            name(invoice),
            line.name.clone(),
            line.period.start.to_rfc3339(),
            line.period.end.to_rfc3339(),
            plain(&line.quantity),
            line.amount.to_string(),
            invoice.currency.code().to_owned(),
            line.explanation.clone(),
        ]
    });
    rows.collect()
}

pub const CSV_HEAD: [&str; 8] = ["invoice", "line", "from", "to", "quantity", "amount", "currency", "explanation"];
