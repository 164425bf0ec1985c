//! Parquet: amounts as `DECIMAL(38, 4)`, quantities as `DECIMAL(38, 12)`, both in 16 bytes; instants as UTC microseconds. The
//! manifest is in the file's metadata under `farebox.manifest`.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bigdecimal::{BigDecimal, ToPrimitive};
use chrono::NaiveDate;
use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use super::manifest::Manifest;
use super::table::{Column, Kind, Row, Value};
use crate::BillingError;

const PRECISION: u32 = 38;
/// No ISO 4217 currency has more decimals.
const MONEY_SCALE: i64 = 4;
const QUANTITY_SCALE: i64 = 12;
/// Rows in memory before they become a row group of the file.
const GROUP: usize = 10_000;

pub struct Parquet {
    columns: &'static [Column],
    writer: SerializedFileWriter<Drain>,
    out: Drain,
    rows: Vec<Row>,
}

/// Where the writer puts its bytes, emptied after each row group.
#[derive(Clone, Default)]
struct Drain(Arc<Mutex<Vec<u8>>>);

impl Drain {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Drain {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> BillingError {
    BillingError::unreadable("an export as Parquet", error)
}

impl Parquet {
    pub fn new(columns: &'static [Column], manifest: &Manifest) -> Result<Self, BillingError> {
        let fields: String = columns.iter().map(|column| format!("OPTIONAL {};\n", field(column))).collect();
        let schema = parse_message_type(&format!("message {} {{\n{fields}}}", manifest.report.name)).map_err(failed)?;
        let manifest = serde_json::to_string(manifest).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("Farebox".to_owned())
            .set_key_value_metadata(Some(vec![KeyValue::new("farebox.manifest".to_owned(), manifest)]))
            .build();
        let out = Drain::default();
        let writer = SerializedFileWriter::new(out.clone(), Arc::new(schema), Arc::new(properties)).map_err(failed)?;
        Ok(Self { columns, writer, out, rows: Vec::new() })
    }

    pub fn row(&mut self, row: Row) -> Result<(), BillingError> {
        self.rows.push(row);
        if self.rows.len() == GROUP { self.group() } else { Ok(()) }
    }

    fn group(&mut self) -> Result<(), BillingError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for (index, column) in self.columns.iter().enumerate() {
            let mut writer = group.next_column().map_err(failed)?.ok_or_else(|| failed("the schema has too few columns"))?;
            write(&mut writer, column, rows.iter().map(|row| &row[index]))?;
            writer.close().map_err(failed)?;
        }
        group.close().map_err(failed).map(drop)
    }

    /// What was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.out.take()
    }

    pub fn finish(mut self) -> Result<Vec<u8>, BillingError> {
        self.group()?;
        self.writer.close().map_err(failed)?;
        Ok(self.out.take())
    }
}

/// In the language of Parquet's message types.
fn field(column: &Column) -> String {
    let name = column.name;
    match column.kind {
        Kind::Text => format!("BYTE_ARRAY {name} (STRING)"),
        Kind::Integer => format!("INT64 {name}"),
        Kind::Money => format!("FIXED_LEN_BYTE_ARRAY (16) {name} (DECIMAL({PRECISION}, {MONEY_SCALE}))"),
        Kind::Quantity => format!("FIXED_LEN_BYTE_ARRAY (16) {name} (DECIMAL({PRECISION}, {QUANTITY_SCALE}))"),
        Kind::Instant => format!("INT64 {name} (TIMESTAMP(MICROS, true))"),
        Kind::Date => format!("INT32 {name} (DATE)"),
        Kind::Boolean => format!("BOOLEAN {name}"),
    }
}

/// One column of a row group. A value of another kind than its column's is a mistake of ours and told as such.
fn write<'r>(
    writer: &mut SerializedColumnWriter<'_>,
    column: &Column,
    values: impl Iterator<Item = &'r Value>,
) -> Result<(), BillingError> {
    match column.kind {
        Kind::Text => put::<ByteArrayType>(writer, column, values, |value| match value {
            Value::Text(text) => Ok(Some(ByteArray::from(text.as_str()))),
            _ => Ok(None),
        }),
        Kind::Integer => put::<Int64Type>(writer, column, values, |value| match value {
            Value::Integer(number) => Ok(Some(*number)),
            _ => Ok(None),
        }),
        Kind::Money => put::<FixedLenByteArrayType>(writer, column, values, |value| match value {
            Value::Money(amount) => fixed(&amount.to_decimal(), MONEY_SCALE).map(Some),
            _ => Ok(None),
        }),
        Kind::Quantity => put::<FixedLenByteArrayType>(writer, column, values, |value| match value {
            Value::Quantity(quantity) => fixed(quantity, QUANTITY_SCALE).map(Some),
            _ => Ok(None),
        }),
        Kind::Instant => put::<Int64Type>(writer, column, values, |value| match value {
            Value::Instant(instant) => Ok(Some(instant.timestamp_micros())),
            _ => Ok(None),
        }),
        Kind::Date => put::<Int32Type>(writer, column, values, |value| match value {
            Value::Date(date) => Ok(Some(days(*date))),
            _ => Ok(None),
        }),
        Kind::Boolean => put::<BoolType>(writer, column, values, |value| match value {
            Value::Boolean(is) => Ok(Some(*is)),
            _ => Ok(None),
        }),
    }
}

/// `of` gives None for a value of another kind.
fn put<'r, T: DataType>(
    writer: &mut SerializedColumnWriter<'_>,
    column: &Column,
    values: impl Iterator<Item = &'r Value>,
    of: impl Fn(&Value) -> Result<Option<T::T>, BillingError>,
) -> Result<(), BillingError> {
    let (mut present, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        if *value == Value::Nothing {
            levels.push(0);
            continue;
        }
        present.push(of(value)?.ok_or_else(|| failed(format!("`{}` cannot hold {value:?}", column.name)))?);
        levels.push(1);
    }
    writer.typed::<T>().write_batch(&present, Some(&levels), None).map_err(failed).map(drop)
}

fn fixed(value: &BigDecimal, scale: i64) -> Result<FixedLenByteArray, BillingError> {
    Ok(unscaled(value, scale)?.to_be_bytes().to_vec().into())
}

fn days(date: NaiveDate) -> i32 {
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).expect("a calendar's days since 1970 fit 32 bits")
}

/// The integer that Parquet keeps for a decimal; an error when a digit would be lost.
fn unscaled(value: &BigDecimal, scale: i64) -> Result<i128, BillingError> {
    let exact = value.with_scale(scale);
    let integer = exact.as_bigint_and_exponent().0.to_i128().filter(|n| n.unsigned_abs() < 10_u128.pow(PRECISION));
    match integer {
        Some(integer) if exact == *value => Ok(integer),
        _ => Err(failed(format!("{value} has more digits than DECIMAL({PRECISION}, {scale}) holds"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::table::{column, sum, text};
    use crate::exports::{By, lines};
    use farebox_core::money::Money;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_decimal_is_kept_to_its_last_digit_or_refused(digits in any::<i128>(), scale in 0_i64..20) {
            let value = BigDecimal::new(digits.into(), scale);
            match unscaled(&value, QUANTITY_SCALE) {
                Ok(kept) => prop_assert_eq!(BigDecimal::new(kept.into(), QUANTITY_SCALE), value),
                Err(_) => prop_assert!(scale > 12 || digits.unsigned_abs() >= 10_u128.pow(26 + u32::try_from(scale).expect("small"))),
            }
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        const COLUMNS: &[Column] =
            &[text("name"), sum("total"), column("quantity", Kind::Quantity), column("on", Kind::Date), column("is", Kind::Boolean)];
        let now = chrono::DateTime::UNIX_EPOCH;
        let (report, by) = (&lines::REPORT, By::Issued);
        let manifest =
            Manifest { report, workspace: "a/b".to_owned(), time_zone: "UTC".to_owned(), from: now, to: now, by, rows: 2, totals: vec![] };
        let mut file = Parquet::new(COLUMNS, &manifest).expect("a schema");
        let row = |minor, code: &str, quantity: &str, on: &str| {
            let total = Money::new(minor, code.parse().expect("a currency"));
            let (quantity, on): (BigDecimal, NaiveDate) = (quantity.parse().expect("a decimal"), on.parse().expect("a date"));
            vec!["é".into(), total.into(), quantity.into(), on.into(), true.into()]
        };
        file.row(row(i64::MIN, "USD", "-0.000000000001", "1969-12-31")).expect("a row");
        file.row(row(-1, "KWD", "12345678901234.5", "2026-10-31")).expect("a row");
        file.row(vec![Value::Nothing; 5]).expect("a row");
        let bytes = file.finish().expect("a file");
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("a Parquet file");
        let kept = reader.metadata().file_metadata().key_value_metadata().expect("metadata")[0].value.clone().expect("the manifest");
        assert!(kept.contains("\"report\":\"lines\""), "{kept}");
        let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row").to_string()).collect();
        insta::assert_debug_snapshot!(rows);
    }
}
