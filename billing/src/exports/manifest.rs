//! What a file must add up to: told before it starts, and checked again as its rows pass.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Report;
use super::scope::{By, Scope, currency};
use super::table::{Column, Role, Row, Value};
use crate::BillingError;

/// Sent in the header `X-Farebox-Manifest`, kept in a Parquet file's metadata and on the second sheet of a workbook.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub struct Manifest {
    #[schema(value_type = String)]
    pub report: &'static Report,
    pub workspace: String,
    pub time_zone: String,
    /// Inclusive.
    pub from: DateTime<Utc>,
    /// Exclusive.
    pub to: DateTime<Utc>,
    pub by: By,
    pub rows: u64,
    pub totals: Vec<Total>,
}

/// The sums of the rows of one currency and, where the report has a grouping column, one value of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Total {
    pub currency: String,
    pub group: String,
    pub rows: u64,
    /// By column; decimal strings with the currency's decimals.
    #[serde(serialize_with = "strings")]
    #[schema(value_type = Object)]
    pub sums: BTreeMap<&'static str, BigDecimal>,
}

fn strings<S: serde::Serializer>(sums: &BTreeMap<&'static str, BigDecimal>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(sums.iter().map(|(name, sum)| (name, sum.to_plain_string())))
}

impl Total {
    /// From what the database added up, in minor units.
    pub(super) fn from_minor(
        code: &str,
        group: String,
        rows: i64,
        sums: impl IntoIterator<Item = (&'static str, BigDecimal)>,
    ) -> Result<Self, BillingError> {
        let currency = currency(code)?;
        let unit = BigDecimal::new(1.into(), i64::from(currency.exponent()));
        let sums = sums.into_iter().map(|(name, minor)| (name, (minor * &unit).with_scale(i64::from(currency.exponent())))).collect();
        Ok(Self { currency: currency.code().to_owned(), group, rows: rows.unsigned_abs(), sums })
    }
}

impl Manifest {
    pub(super) fn new(report: &'static Report, scope: &Scope, mut totals: Vec<Total>) -> Self {
        totals.sort_by(|a, b| (&a.currency, &a.group).cmp(&(&b.currency, &b.group)));
        Self {
            report,
            workspace: scope.workspace.name.clone(),
            time_zone: scope.workspace.time_zone.name().to_owned(),
            from: scope.period.start,
            to: scope.period.end,
            by: scope.by,
            rows: totals.iter().map(|total| total.rows).sum(),
            totals,
        }
    }
}

/// Adds up rows as they pass.
pub(super) struct Tally {
    columns: &'static [Column],
    totals: BTreeMap<(String, String), Total>,
}

impl Tally {
    pub fn new(columns: &'static [Column]) -> Self {
        Self { columns, totals: BTreeMap::new() }
    }

    pub fn add(&mut self, row: &Row) {
        let of_role = |role| self.columns.iter().zip(row).find(|(column, _)| column.role == role).map(|(_, value)| value);
        let text = |value: Option<&Value>| if let Some(Value::Text(text)) = value { text.clone() } else { String::new() };
        let (currency, group) = (text(of_role(Role::Currency)), text(of_role(Role::Group)));
        let total = self.totals.entry((currency.clone(), group.clone())).or_insert_with(|| {
            let sums = self.columns.iter().filter(|column| column.role == Role::Sum).map(|column| (column.name, BigDecimal::from(0)));
            Total { currency, group, rows: 0, sums: sums.collect() }
        });
        total.rows += 1;
        for (column, value) in self.columns.iter().zip(row).filter(|(column, _)| column.role == Role::Sum) {
            if let (Value::Money(amount), Some(sum)) = (value, total.sums.get_mut(column.name)) {
                *sum += amount.to_decimal();
            }
        }
    }

    /// The rows that passed are the rows that were promised.
    pub fn check(self, manifest: &Manifest) -> Result<(), BillingError> {
        let passed: Vec<_> = self.totals.into_values().collect();
        if passed == manifest.totals {
            return Ok(());
        }
        Err(BillingError::unreadable("an export", format!("the database adds up to {:?} and the rows to {passed:?}", manifest.totals)))
    }
}
