//! The seller of the file and its taxes.

use serde_json::{Value, json};

use super::errors::Errors;
use super::plan::Reader;
use super::raw::{At, RawAddress, RawCatalog, RawSeller};
use crate::close::numbers::PREFIX_MOST;

pub fn read(raw: &RawSeller, errors: &mut Errors) -> Value {
    let mut seller = json!({ "name": raw.name.value });
    let prefixes = [("invoice_number_prefix", &raw.invoice_number_prefix), ("credit_note_number_prefix", &raw.credit_note_number_prefix)];
    for (name, prefix) in prefixes.into_iter().filter_map(|(name, prefix)| Some((name, prefix.as_ref()?))) {
        let fits = prefix.value.len() <= PREFIX_MOST && prefix.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/_.".contains(&b));
        if !fits {
            let message = format!("has at most {PREFIX_MOST} letters, digits and `-`, `/`, `_`, `.`");
            errors.at(prefix, &format!("seller.{name}"), message);
        }
        seller[name] = json!(prefix.value);
    }
    if let Some(tax_id) = &raw.tax_id {
        seller["tax_id"] = json!(tax_id.value);
    }
    if let Some(address) = &raw.address {
        seller["address"] = self::address(address, "seller.address", errors);
    }
    seller
}

pub fn address(raw: &RawAddress, path: &str, errors: &mut Errors) -> Value {
    country(&raw.country, &format!("{path}.country"), errors);
    let mut address = json!({ "country": raw.country.value });
    for (key, value) in
        [("line1", &raw.line1), ("line2", &raw.line2), ("city", &raw.city), ("postal_code", &raw.postal_code), ("state", &raw.state)]
    {
        if let Some(value) = value {
            address[key] = json!(value);
        }
    }
    address
}

fn country(code: &At<String>, path: &str, errors: &mut Errors) {
    if code.value.len() != 2 || !code.value.bytes().all(|b| b.is_ascii_uppercase()) {
        errors.at(code, path, format!("`{}` is not a country code; write two capital letters (ISO 3166-1), such as DE", code.value));
    }
}

pub fn taxes(raw: &RawCatalog, errors: &mut Errors) -> Value {
    let mut taxes = Vec::new();
    for (n, tax) in raw.taxes.iter().enumerate() {
        let path = format!("taxes[{n}]");
        for (k, code) in tax.countries.iter().enumerate() {
            country(code, &format!("{path}.countries[{k}]"), errors);
        }
        let mut reader = Reader { currency: "USD".parse().expect("USD is a currency"), errors };
        let per = tax.per.as_ref().and_then(|per| reader.word(per, &format!("{path}.per"), &[("line", "line"), ("document", "document")]));
        if let Some(rate) = reader.rate(&tax.rate, &format!("{path}.rate")) {
            let countries: Vec<_> = tax.countries.iter().map(|c| &c.value).collect();
            let mut shown = json!({ "name": tax.name.value, "rate": rate, "inclusive": tax.inclusive, "countries": countries });
            if let Some(per) = per {
                shown["per"] = json!(per);
            }
            taxes.push(shown);
        }
    }
    Value::Array(taxes)
}
