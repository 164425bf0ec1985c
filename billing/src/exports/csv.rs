//! CSV by RFC 4180, UTF-8. A text that a spreadsheet would take for a formula begins with an apostrophe.

use farebox_core::money::plain;

use super::table::{Column, Row, Value};
use crate::BillingError;

pub struct Csv(csv::Writer<Vec<u8>>);

impl Csv {
    pub fn new(columns: &[Column]) -> Result<Self, BillingError> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(columns.iter().map(|column| column.name)).map_err(failed)?;
        Ok(Self(writer))
    }

    pub fn row(&mut self, row: &Row) -> Result<(), BillingError> {
        self.0.write_record(row.iter().map(cell)).map_err(failed)
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Result<Vec<u8>, BillingError> {
        let fresh = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        std::mem::replace(&mut self.0, fresh).into_inner().map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> BillingError {
    BillingError::unreadable("an export as CSV", error)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::Text(text) => harmless(text),
        Value::Integer(number) => number.to_string(),
        Value::Money(amount) => amount.to_string(),
        Value::Quantity(quantity) => plain(quantity),
        Value::Instant(instant) => instant.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        Value::Date(date) => date.to_string(),
        Value::Boolean(is) => is.to_string(),
    }
}

/// Excel and its like run what begins with one of these, in its full-width form too.
pub(crate) fn harmless(text: &str) -> String {
    const FIRST: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    if text.starts_with(FIRST) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::table::{sum, text};
    use farebox_core::money::Money;

    #[test]
    fn no_text_is_run_and_no_digit_is_lost() {
        let columns = [text("name"), sum("total")];
        let mut csv = Csv::new(&columns).expect("a header");
        for name in ["=HYPERLINK(\"http://evil\")", "@SUM(1)", "-1+1", "\tx", "plain, \"quoted\"", "＝1"] {
            csv.row(&vec![name.into(), Money::new(i64::MIN + 1, "USD".parse().expect("a currency")).into()]).expect("a row");
        }
        csv.row(&vec![Value::Nothing, Money::new(-5, "KWD".parse().expect("a currency")).into()]).expect("a row");
        insta::assert_snapshot!(String::from_utf8(csv.take().expect("bytes")).expect("UTF-8").replace("\r\n", "\n"));
    }
}
