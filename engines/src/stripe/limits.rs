//! Limits that Stripe documents in prose: neither its OpenAPI nor stripe-mock knows them.

use serde_json::{Map, Value};

use super::errors::ApiError;

/// Currencies Stripe takes for presentment.
const CURRENCIES: &str = "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad \
    cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl hrk htg huf idr \
    ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn \
    myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd \
    std szl thb tjs tnd top try ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xof xpf yer zar zmw";

const MOST_LINES: usize = 250;
const LARGEST_AMOUNT: i64 = 99_999_999;

/// A currency code in lower case, if Stripe supports it.
pub fn currency(text: &str, at: &str) -> Result<String, ApiError> {
    let code = text.to_ascii_lowercase();
    if CURRENCIES.split_whitespace().any(|known| known == code) {
        return Ok(code);
    }
    Err(ApiError::invalid(format!("Invalid currency: {text}. Stripe currently supports these currencies: {CURRENCIES}")).param(at))
}

/// At most 12 decimals.
pub fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    !whole.is_empty() && digits(whole) && !fraction.is_empty() && fraction.len() <= 12 && digits(fraction)
}

/// Checks every documented limit that needs no state.
pub fn check(params: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in params {
        visit(name, name, value)?;
    }
    Ok(())
}

fn visit(name: &str, at: &str, value: &Value) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::invalid(message).param(at));
    match (name, value) {
        ("metadata" | "invoice_metadata", Value::Object(pairs)) => return metadata(pairs, at),
        ("lines", Value::Array(lines)) if lines.len() > MOST_LINES => return refuse(too_many_lines()),
        ("tax_amounts", Value::Array(taxes)) if taxes.len() > 10 => {
            return refuse(format!("A line item takes at most 10 tax_amounts; {} were given.", taxes.len()));
        }
        ("custom_fields", Value::Array(fields)) if fields.len() > 4 => {
            return refuse(format!("An invoice takes at most 4 custom_fields; {} were given.", fields.len()));
        }
        ("quantity", Value::Number(quantity)) if quantity.as_i64().is_some_and(i64::is_negative) => {
            return refuse(format!("Invalid integer: {quantity}; must be greater than or equal to 0"));
        }
        ("quantity_decimal", Value::String(quantity)) if quantity.starts_with('-') => {
            return refuse(format!("Invalid decimal: {quantity}; must be greater than or equal to 0"));
        }
        ("amount" | "taxable_amount" | "unit_amount", Value::Number(number))
            if number.as_i64().is_none_or(|amount| amount.abs() > LARGEST_AMOUNT) =>
        {
            let error = format!("Invalid integer: {number}; amounts have at most 8 digits.");
            return Err(ApiError::invalid(error).code("amount_too_large").param(at));
        }
        _ => {}
    }
    match value {
        Value::Object(members) => members.iter().try_for_each(|(key, member)| visit(key, &format!("{at}[{key}]"), member)),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| visit("", &format!("{at}[{index}]"), item)),
        _ => Ok(()),
    }
}

fn metadata(pairs: &Map<String, Value>, at: &str) -> Result<(), ApiError> {
    let refuse = |at: String, message: String| Err(ApiError::invalid(message).param(&at));
    if pairs.len() > 50 {
        return refuse(at.to_owned(), format!("Metadata can have at most 50 keys; {} were given.", pairs.len()));
    }
    for (key, value) in pairs {
        if key.chars().count() > 40 {
            return refuse(format!("{at}[{key}]"), format!("Metadata keys can have up to 40 characters, but you passed in {key}."));
        }
        let length = value.as_str().map_or(0, |text| text.chars().count());
        if length > 500 {
            let message = format!("Metadata values can have up to 500 characters, but you passed in a value that is {length} characters.");
            return refuse(format!("{at}[{key}]"), message);
        }
    }
    Ok(())
}

fn too_many_lines() -> String {
    format!("An invoice can have at most {MOST_LINES} line items.")
}

/// How many lines an invoice has after an addition.
pub fn line_count(lines: usize) -> Result<(), ApiError> {
    if lines > MOST_LINES { Err(ApiError::invalid(too_many_lines()).param("lines")) } else { Ok(()) }
}

/// The step of a currency: three-decimal currencies end in 0, and ISK and UGX, which have no minor
/// unit, are sent with two zeros.
pub fn step(currency: &str, amount: i64, at: &str) -> Result<(), ApiError> {
    let step = match currency {
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 10,
        "isk" | "ugx" => 100,
        _ => 1,
    };
    if amount % step == 0 {
        return Ok(());
    }
    let message = format!("Invalid integer: {amount}; amounts in {currency} must be evenly divisible by {step}.");
    Err(ApiError::invalid(message).param(at))
}

/// An amount as a person reads it: `143.75 USD`.
pub fn shown(amount: i64, currency: &str) -> String {
    let places: usize = match currency {
        "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf" | "vnd" | "vuv" | "xaf" | "xof" | "xpf" => 0,
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 3,
        _ => 2,
    };
    let digits = format!("{:0>width$}", amount.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let (sign, point) = (if amount < 0 { "-" } else { "" }, if places == 0 { "" } else { "." });
    format!("{sign}{whole}{point}{fraction} {}", currency.to_uppercase())
}

/// The least that can be charged; below it the customer's balance takes the amount.
pub fn minimum_charge(currency: &str) -> i64 {
    match currency {
        "gbp" => 30,
        "aed" | "myr" | "pln" | "ron" => 200,
        "bgn" => 100,
        "czk" => 1500,
        "dkk" => 250,
        "hkd" => 400,
        "huf" => 17_500,
        "mxn" | "thb" => 1000,
        "nok" | "sek" => 300,
        _ => 50,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(params: &Value) -> Option<String> {
        check(params.as_object().unwrap()).err().and_then(|error| error.param)
    }

    #[test]
    fn limits_from_the_prose() {
        let many = |count: usize| (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<Map<_, _>>();
        assert_eq!(refused(&json!({"metadata": many(50)})), None);
        assert_eq!(refused(&json!({"metadata": many(51)})), Some("metadata".into()));
        assert_eq!(refused(&json!({"metadata": {"k": "v".repeat(501)}})), Some("metadata[k]".into()));
        let long = "k".repeat(41);
        assert_eq!(refused(&json!({"metadata": {long.clone(): "v"}})), Some(format!("metadata[{long}]")));
        assert_eq!(refused(&json!({"lines": vec![json!({"amount": 1}); 251]})), Some("lines".into()));
        let taxes = vec![json!({"amount": 1}); 11];
        assert_eq!(refused(&json!({"lines": [{"tax_amounts": taxes}]})), Some("lines[0][tax_amounts]".into()));
        assert_eq!(refused(&json!({"lines": [{"amount": 100_000_000}]})), Some("lines[0][amount]".into()));
        assert_eq!(refused(&json!({"lines": [{"amount": -99_999_999}]})), None);
        assert_eq!(refused(&json!({"lines": [{"quantity": -1}]})), Some("lines[0][quantity]".into()));
        assert_eq!(refused(&json!({"custom_fields": [{}, {}, {}, {}, {}]})), Some("custom_fields".into()));
    }

    #[test]
    fn steps_of_currencies() {
        assert!(step("kwd", 1230, "a").is_ok() && step("kwd", 1235, "a").is_err());
        assert!(step("isk", -500, "a").is_ok() && step("isk", 550, "a").is_err());
        assert!(step("jpy", 7, "a").is_ok());
    }

    #[test]
    fn amounts_for_people() {
        assert_eq!(shown(14_375, "usd"), "143.75 USD");
        assert_eq!(shown(-5, "eur"), "-0.05 EUR");
        assert_eq!(shown(500, "jpy"), "500 JPY");
        assert_eq!(shown(1230, "kwd"), "1.230 KWD");
    }

    #[test]
    fn decimals() {
        for good in ["1", "-0.5", "12.123456789012"] {
            assert!(is_decimal(good), "{good}");
        }
        for bad in ["", ".", "1.", ".5", "1e3", "1.1234567890123", "--1"] {
            assert!(!is_decimal(bad), "{bad}");
        }
    }
}
