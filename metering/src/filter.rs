//! Which events: conditions on dimensions. Dimensions are a closed list, values always bound parameters.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};

use crate::MeteringError;
use crate::dimension::Dimension;
use crate::measure::{decimal_sql, is_decimal_sql};

/// Values in one condition, and conditions in one question.
pub const MOST_VALUES: usize = 1000;
pub const MOST_FILTERS: usize = 50;
const LONGEST_VALUE: usize = 4096;

/// What a dimension's value must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Test {
    /// One of these. Written as a plain list.
    In(Vec<String>),
    Other(Condition),
}

impl From<Vec<String>> for Test {
    fn from(values: Vec<String>) -> Self {
        Self::In(values)
    }
}

/// In a catalogue: `{not_in: [a, b]}`, `{gte: "500"}`, `{prefix: GET}`, `{exists: true}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    NotIn(Vec<String>),
    /// Compared as decimals; a value that is none fails every comparison.
    Gt(Number),
    Gte(Number),
    Lt(Number),
    Lte(Number),
    Prefix(String),
    /// Whether there is a value at all.
    Exists(bool),
}

/// A decimal to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(value_type = String)]
pub struct Number(pub BigDecimal);

impl std::str::FromStr for Number {
    type Err = bigdecimal::ParseBigDecimalError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One condition; several of one question must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub dimension: Dimension,
    pub test: Test,
}

impl Filter {
    pub fn is(dimension: Dimension, value: impl Into<String>) -> Self {
        Self { dimension, test: Test::In(vec![value.into()]) }
    }

    pub fn any(dimension: Dimension, values: Vec<String>) -> Self {
        Self { dimension, test: Test::In(values) }
    }

    /// Refuses what could not be asked.
    pub fn check(&self) -> Result<(), MeteringError> {
        let field = || format!("filter[{}]", self.dimension);
        let texts: &[String] = match &self.test {
            Test::In(values) | Test::Other(Condition::NotIn(values)) => values,
            Test::Other(Condition::Prefix(prefix)) => std::slice::from_ref(prefix),
            Test::Other(Condition::Gt(n) | Condition::Gte(n) | Condition::Lt(n) | Condition::Lte(n)) => {
                if crate::measure::is_quantity(&n.0) {
                    return Ok(());
                }
                return Err(MeteringError::invalid(field(), "is compared with a decimal of at most 26 digits and 12 decimals"));
            }
            Test::Other(Condition::Exists(_)) => &[],
        };
        if texts.len() > MOST_VALUES {
            return Err(MeteringError::invalid(field(), format!("has at most {MOST_VALUES} values")));
        }
        if texts.iter().any(|text| text.len() > LONGEST_VALUE) {
            return Err(MeteringError::invalid(field(), format!("has a value longer than {LONGEST_VALUE} bytes")));
        }
        Ok(())
    }
}

/// Those of a definition, in its notation.
pub(crate) fn of_definition(filters: &BTreeMap<String, Test>) -> Result<Vec<Filter>, MeteringError> {
    filters.iter().map(|(name, test)| Ok(Filter { dimension: name.parse()?, test: test.clone() })).collect()
}

/// Values to be bound, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parameters {
    bound: Vec<(String, Parameter)>,
    /// Dimensions that a rollup of a meter's own keeps in `dims`.
    kept: Vec<Dimension>,
}

#[derive(Debug, Clone)]
pub(crate) enum Parameter {
    Text(String),
    Texts(Vec<String>),
}

impl Parameters {
    pub fn text(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.bound.push((name.into(), Parameter::Text(value.into())));
    }

    pub fn texts(&mut self, name: impl Into<String>, values: Vec<String>) {
        self.bound.push((name.into(), Parameter::Texts(values)));
    }

    /// For a rollup of a meter's own, where these dimensions stand in `dims`.
    pub fn of_rollup(kept: &[Dimension]) -> Self {
        Self { kept: kept.to_vec(), ..Self::default() }
    }

    /// The dimension's value as SQL; a property's pointer is bound under `name`.
    pub fn dimension(&mut self, dimension: &Dimension, name: &str) -> String {
        if let Some(at) = self.kept.iter().position(|d| d == dimension) {
            return format!("toString(dims[{}])", at + 1);
        }
        if let Dimension::Property(pointer) = dimension {
            self.text(name, pointer);
        }
        dimension.sql(name)
    }

    /// All conditions as one; `true` for none. `prefix` keeps the names of several lists apart.
    pub fn conditions(&mut self, filters: &[Filter], prefix: &str) -> String {
        if filters.is_empty() {
            return "true".to_owned();
        }
        let all: Vec<_> = filters.iter().enumerate().map(|(n, filter)| self.condition(filter, &format!("{prefix}{n}"))).collect();
        all.join(" AND ")
    }

    fn condition(&mut self, filter: &Filter, name: &str) -> String {
        let value = self.dimension(&filter.dimension, &format!("p{name}"));
        let bound = format!("f{name}");
        let mut compared = |sign: &str, with: &Number| {
            self.text(&bound, with.0.to_plain_string());
            // Both sides of AND are evaluated, so the conversion may not fail where the first is false.
            format!("({} AND {} {sign} toDecimal256({{{bound}:String}}, 12))", is_decimal_sql(&value), decimal_sql(&value))
        };
        match &filter.test {
            Test::In(values) => {
                self.texts(&bound, values.clone());
                format!("has({{{bound}:Array(String)}}, {value})")
            }
            Test::Other(Condition::NotIn(values)) => {
                self.texts(&bound, values.clone());
                format!("NOT has({{{bound}:Array(String)}}, {value})")
            }
            Test::Other(Condition::Gt(n)) => compared(">", n),
            Test::Other(Condition::Gte(n)) => compared(">=", n),
            Test::Other(Condition::Lt(n)) => compared("<", n),
            Test::Other(Condition::Lte(n)) => compared("<=", n),
            Test::Other(Condition::Prefix(prefix)) => {
                self.text(&bound, prefix);
                format!("startsWith({value}, {{{bound}:String}})")
            }
            Test::Other(Condition::Exists(exists)) => {
                // A property that is there and empty is no value either: rollups cannot tell them apart.
                let there = format!("{value} != ''");
                if *exists { there } else { format!("NOT ({there})") }
            }
        }
    }

    /// As a proof names them.
    pub fn shown(&self) -> BTreeMap<String, serde_json::Value> {
        let value = |parameter: &Parameter| match parameter {
            Parameter::Text(text) => text.as_str().into(),
            Parameter::Texts(texts) => texts.clone().into(),
        };
        self.bound.iter().map(|(name, parameter)| (name.clone(), value(parameter))).collect()
    }

    pub fn bind(&self, mut query: clickhouse::query::Query) -> clickhouse::query::Query {
        for (name, value) in &self.bound {
            query = match value {
                Parameter::Text(text) => query.param(name, text),
                Parameter::Texts(texts) => query.param(name, texts),
            };
        }
        query
    }
}
