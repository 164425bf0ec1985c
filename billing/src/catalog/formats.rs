//! An operator's own log formats, read with the line of what is wrong.

use std::collections::BTreeMap;

use farebox_core::event;
use farebox_core::field_map::{self, FieldMap, Part};
use farebox_core::source::FORMATS;

use super::errors::Errors;
use super::raw::{RawCatalog, RawFormat};

pub fn read(raw: &RawCatalog, errors: &mut Errors) -> Vec<FieldMap> {
    raw.formats.iter().enumerate().map(|(n, format)| one(format, &format!("formats[{n}]"), errors)).collect()
}

fn one(raw: &RawFormat, path: &str, errors: &mut Errors) -> FieldMap {
    let name = &raw.name.value;
    let is_slug =
        !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
    if !is_slug {
        errors.at(&raw.name, &format!("{path}.name"), "a format is named in small letters, digits, `-` and `_`, such as edge-log");
    }
    if FORMATS.contains(&name.as_str()) {
        errors.at(&raw.name, &format!("{path}.name"), format!("`{name}` is a format that comes with Farebox; give yours another name"));
    }
    let mut fields = BTreeMap::new();
    for (field, reading) in &raw.fields {
        let path = format!("{path}.fields.{field}");
        let word = |at: &Option<super::raw::At<String>>| at.as_ref().map(|at| at.value.clone());
        let (kind, unit) = (word(&reading.r#type), word(&reading.unit));
        match field_map::reading(field, &reading.pointer.value, kind.as_deref(), unit.as_deref(), &reading.unset) {
            Ok((field, reading)) => {
                fields.insert(field, reading);
            }
            Err((part, message)) => {
                let place = match part {
                    Part::Type => reading.r#type.as_ref(),
                    Part::Unit => reading.unit.as_ref(),
                    Part::Name | Part::Pointer => None,
                };
                errors.at(place.unwrap_or(&reading.pointer), &path, message);
            }
        }
    }
    // What is wrong in a field would be told as missing, too.
    if fields.len() == raw.fields.len()
        && let Some(message) = field_map::missing(&fields)
    {
        errors.at(&raw.name, &format!("{path}.fields"), message);
    }
    for (k, pointer) in raw.properties.iter().enumerate() {
        errors.keep(field_map::check_pointer(&pointer.value), pointer, &format!("{path}.properties[{k}]"));
    }
    FieldMap {
        name: name.clone(),
        event: raw.event.as_ref().map_or(event::REQUEST, |event| event.value.as_str()).to_owned(),
        fields,
        properties: raw.properties.iter().map(|pointer| pointer.value.clone()).collect(),
    }
}
