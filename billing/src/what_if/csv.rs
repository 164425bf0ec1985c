//! A comparison as a file: a line for each subscription, two columns for each plan.

use super::{WhatIf, WhatIfRow};
use crate::BillingError;
use crate::exports::csv::harmless;

/// RFC 4180, UTF-8. Whom a plan cannot price has its cells empty, and the reason at the end of the line.
pub fn csv(found: &WhatIf) -> Result<Vec<u8>, BillingError> {
    let failed = |error: ::csv::Error| BillingError::unreadable("a comparison as CSV", error);
    let mut writer = ::csv::WriterBuilder::new().terminator(::csv::Terminator::CRLF).from_writer(Vec::new());
    let mut head: Vec<String> = ["consumer_id", "consumer", "subscription", "plans", "currency", "actual"].map(str::to_owned).into();
    for plan in &found.plans {
        head.extend([harmless(&plan.label), format!("{} difference", harmless(&plan.label))]);
    }
    head.push("not_priced".to_owned());
    writer.write_record(&head).map_err(failed)?;
    for row in &found.rows {
        writer.write_record(cells(found, row)).map_err(failed)?;
    }
    for (reason, cells) in found.unpriced.iter().map(|own| (own, vec![String::new(); 2 * found.plans.len() + 2])) {
        let named = [String::new(), harmless(&reason.name), reason.subscription.to_string(), String::new()];
        writer.write_record(named.into_iter().chain(cells).chain([harmless(&reason.detail)])).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| BillingError::unreadable("a comparison as CSV", e.error()))
}

fn cells(found: &WhatIf, row: &WhatIfRow) -> Vec<String> {
    let mut cells = vec![
        row.consumer.to_string(),
        harmless(&row.name),
        row.subscription.to_string(),
        harmless(&row.plans.join(", ")),
        row.currency.to_string(),
        row.actual.to_string(),
    ];
    for on in &row.on {
        cells.extend(on.map_or([String::new(), String::new()], |on| [on.simulated.to_string(), on.difference.to_string()]));
    }
    let reasons = found.plans.iter().filter_map(|plan| {
        let reason = plan.unpriced.iter().find(|own| own.subscription == row.subscription)?;
        Some(format!("{}: {}", plan.label, reason.detail))
    });
    cells.push(harmless(&reasons.collect::<Vec<_>>().join("; ")));
    cells
}
