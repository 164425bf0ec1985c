//! The meters of the file, read with the line of what is wrong.

use farebox_core::event;
use farebox_core::money::decimal;
use farebox_metering::MeteringError;
use farebox_metering::meters::{self, Aggregate, Definition, Meter};

use super::check::unique;
use super::errors::Errors;
use super::raw::{RawCatalog, RawMeter};
use crate::rating::models::zero;

pub fn read(raw: &RawCatalog, errors: &mut Errors) -> Vec<Definition> {
    unique(raw.meters.iter().enumerate().map(|(n, m)| (&m.name, format!("meters[{n}].name"))), "meter", errors);
    raw.meters.iter().enumerate().filter_map(|(n, meter)| one(meter, &format!("meters[{n}]"), errors)).collect()
}

fn one(raw: &RawMeter, path: &str, errors: &mut Errors) -> Option<Definition> {
    if Meter::builtin(&raw.name.value).is_some() {
        errors.at(&raw.name, &format!("{path}.name"), format!("`{}` exists everywhere; choose another name", raw.name.value));
        return None;
    }
    let aggregate = Aggregate::ALL.into_iter().find(|aggregate| aggregate.name() == raw.aggregate.value);
    let Some(aggregate) = aggregate else {
        let names: Vec<_> = Aggregate::ALL.iter().map(|aggregate| aggregate.name()).collect();
        let detail = format!("`{}` is not an aggregate; there are {}", raw.aggregate.value, names.join(", "));
        errors.at(&raw.aggregate, &format!("{path}.aggregate"), detail);
        return None;
    };
    let divide_by = match &raw.divide_by {
        None => None,
        Some(text) => {
            let by = errors.keep(decimal(&text.value), text, &format!("{path}.divide_by"))?;
            if by <= zero() {
                errors.at(text, &format!("{path}.divide_by"), "must be above 0");
                return None;
            }
            Some(by)
        }
    };
    let percentile = match &raw.percentile {
        None => None,
        Some(text) => Some(errors.keep(decimal(&text.value), text, &format!("{path}.percentile"))?),
    };
    let definition = Definition {
        name: raw.name.value.clone(),
        event: raw.event.value.clone(),
        aggregate,
        value: raw.value.as_ref().map(|v| v.value.clone()),
        percentile,
        unit: raw.unit.as_ref().map(|u| u.value.clone()),
        divide_by,
        filter: raw.filter.clone(),
        // What the counting rule leaves out is not billed, unless the meter says so; other events have no such rule.
        counted: raw.counted.unwrap_or(raw.event.value == event::REQUEST),
        group_by: raw.group_by.iter().map(|g| g.value.clone()).collect(),
    };
    // What stands in one field is told there; everything else of the meter at its name.
    match meters::check(&definition) {
        Ok(()) => Some(definition),
        Err(MeteringError::Invalid { field, detail }) => {
            let part = field.rsplit('/').next().unwrap_or_default();
            let at = match part {
                "value" => raw.value.as_ref().unwrap_or(&raw.aggregate),
                "aggregate" => &raw.aggregate,
                "percentile" => raw.percentile.as_ref().unwrap_or(&raw.aggregate),
                _ => &raw.name,
            };
            errors.at(at, &format!("{path}.{part}"), detail);
            None
        }
        Err(other) => {
            errors.at(&raw.name, path, other.to_string());
            None
        }
    }
}
