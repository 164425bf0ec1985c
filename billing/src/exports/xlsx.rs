//! A workbook: the rows on one sheet, what they add up to on another. Text is stored as text, never as a formula.
//!
//! Amounts are numbers as long as Excel shows every digit, so that people can add them up; Excel keeps 15 digits, and
//! an amount with more is text, so that none is lost.

use chrono::{Datelike, NaiveDate};
use farebox_core::money::plain;
use rust_xlsxwriter::{ExcelDateTime, Format, Workbook, Worksheet, XlsxError};

use super::manifest::Manifest;
use super::table::{Column, Kind, Row, Value};
use crate::BillingError;

/// A workbook is made in memory; beyond this, CSV and Parquet serve.
pub const MOST_ROWS: u64 = 100_000;
/// What one cell holds.
const CELL: usize = 32_767;
const DIGITS: usize = 15;

pub struct Xlsx {
    columns: &'static [Column],
    book: Workbook,
    sheet: Worksheet,
    next: u32,
}

fn failed(error: impl std::fmt::Display) -> BillingError {
    BillingError::unreadable("an export as XLSX", error)
}

impl Xlsx {
    pub fn new(columns: &'static [Column], manifest: &Manifest) -> Result<Self, BillingError> {
        let mut sheet = Worksheet::new();
        let bold = Format::new().set_bold();
        let mut head = || {
            sheet.set_name(manifest.report.name)?;
            for (index, column) in (0..).zip(columns) {
                sheet.write_string_with_format(0, index, column.name, &bold)?;
                sheet.set_column_width(index, if column.kind == Kind::Text { 22 } else { 14 })?;
            }
            sheet.set_freeze_panes(1, 0)?;
            Ok::<_, XlsxError>(())
        };
        head().map_err(failed)?;
        Ok(Self { columns, book: Workbook::new(), sheet, next: 1 })
    }

    pub fn row(&mut self, row: &Row) -> Result<(), BillingError> {
        for (index, value) in (0..).zip(row) {
            write(&mut self.sheet, self.next, index, value).map_err(failed)?;
        }
        self.next += 1;
        Ok(())
    }

    pub fn finish(mut self, manifest: &Manifest) -> Result<Vec<u8>, BillingError> {
        let last = u16::try_from(self.columns.len().saturating_sub(1)).map_err(failed)?;
        self.sheet.autofilter(0, 0, self.next - 1, last).map_err(failed)?;
        let totals = totals(manifest).map_err(failed)?;
        self.book.push_worksheet(self.sheet);
        self.book.push_worksheet(totals);
        self.book.save_to_buffer().map_err(failed)
    }
}

fn totals(manifest: &Manifest) -> Result<Worksheet, XlsxError> {
    let mut sheet = Worksheet::new();
    sheet.set_name("totals")?;
    sheet.set_column_width(0, 22)?;
    let bold = Format::new().set_bold();
    let facts = [
        ("workspace", manifest.workspace.clone()),
        ("time zone", manifest.time_zone.clone()),
        ("from (inclusive)", manifest.from.to_rfc3339()),
        ("to (exclusive)", manifest.to.to_rfc3339()),
        ("rows", manifest.rows.to_string()),
    ];
    let mut at = 0;
    for (name, value) in facts {
        sheet.write_string_with_format(at, 0, name, &bold)?;
        sheet.write_string(at, 1, value)?;
        at += 1;
    }
    at += 1;
    let names = manifest.totals.first().map(|total| total.sums.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
    for (index, name) in (0..).zip(["currency", "group", "rows"].into_iter().chain(names)) {
        sheet.write_string_with_format(at, index, name, &bold)?;
    }
    for total in &manifest.totals {
        at += 1;
        sheet.write_string(at, 0, total.currency.as_str())?;
        sheet.write_string(at, 1, total.group.as_str())?;
        number(&mut sheet, at, 2, &total.rows.to_string(), 0)?;
        for (index, sum) in (3..).zip(total.sums.values()) {
            let shown = sum.to_plain_string();
            let decimals = shown.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            number(&mut sheet, at, index, &shown, decimals)?;
        }
    }
    Ok(sheet)
}

fn write(sheet: &mut Worksheet, row: u32, column: u16, value: &Value) -> Result<(), XlsxError> {
    match value {
        Value::Nothing => Ok(()),
        Value::Text(text) => sheet.write_string(row, column, fitting(text)).map(drop),
        Value::Integer(n) => number(sheet, row, column, &n.to_string(), 0),
        Value::Money(amount) => number(sheet, row, column, &amount.to_string(), amount.currency.exponent() as usize),
        Value::Quantity(quantity) => {
            let shown = plain(quantity);
            let decimals = shown.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            number(sheet, row, column, &shown, decimals)
        }
        Value::Instant(instant) => sheet.write_string(row, column, instant.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)).map(drop),
        Value::Date(date) => date_cell(sheet, row, column, *date),
        Value::Boolean(is) => sheet.write_boolean(row, column, *is).map(drop),
    }
}

fn fitting(text: &str) -> String {
    if text.encode_utf16().count() <= CELL {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(CELL / 2 - 30).collect();
    kept.push_str("… (a cell holds no more)");
    kept
}

/// A decimal: a number when Excel shows all its digits, text otherwise.
fn number(sheet: &mut Worksheet, row: u32, column: u16, shown: &str, decimals: usize) -> Result<(), XlsxError> {
    let digits = shown.bytes().filter(u8::is_ascii_digit).count();
    match shown.parse::<f64>() {
        // Up to 15 digits the nearest binary number is shown as the very decimal it was read from.
        Ok(nearest) if digits <= DIGITS => {
            let format = if decimals == 0 { "0".to_owned() } else { format!("0.{}", "0".repeat(decimals)) };
            sheet.write_number_with_format(row, column, nearest, &Format::new().set_num_format(format)).map(drop)
        }
        _ => sheet.write_string(row, column, shown).map(drop),
    }
}

fn date_cell(sheet: &mut Worksheet, row: u32, column: u16, date: NaiveDate) -> Result<(), XlsxError> {
    let parts = (u16::try_from(date.year()), u8::try_from(date.month()), u8::try_from(date.day()));
    let (Ok(year), Ok(month), Ok(day)) = parts else { return sheet.write_string(row, column, date.to_string()).map(drop) };
    let format = Format::new().set_num_format("yyyy-mm-dd");
    sheet.write_datetime_with_format(row, column, ExcelDateTime::from_ymd(year, month, day)?, &format).map(drop)
}
