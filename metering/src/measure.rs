//! What a meter measures, as expressions over columns of a rollup and of events.

use bigdecimal::{BigDecimal, RoundingMode, Zero};
use farebox_core::money::MAX_DECIMALS;

use crate::MeteringError;
use crate::dimension::Dimension;
use crate::facts::{Column, Needs};
use crate::filter::{Filter, Parameters, of_definition};
use crate::meters::{Aggregate, Definition, Meter};

/// Digits before the point that a quantity may have: Decimal(38, 12).
const MOST_DIGITS: u64 = 26;
/// Dimensions by which a meter may be split.
const MOST_GROUPS: usize = 8;

/// Refuses a definition that could not be measured.
pub fn check(definition: &Definition) -> Result<(), MeteringError> {
    let wrong = |what: &str, detail: String| Err(MeteringError::invalid(format!("meters/{}/{what}", definition.name), detail));
    if definition.name.is_empty()
        || definition.name.len() > 64
        || !definition.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    {
        return wrong("name", "has 1 to 64 letters, digits, `_`, `-` and `.`".to_owned());
    }
    if Meter::builtin(&definition.name).is_some() {
        return wrong("name", "is a meter that exists everywhere; choose another name".to_owned());
    }
    match (definition.aggregate, definition.value.as_deref()) {
        (Aggregate::Count, Some(_)) => return wrong("value", "a count has no value; remove it, or choose another aggregate".to_owned()),
        (Aggregate::Count, None) => {}
        (aggregate, None) => {
            return wrong(
                "value",
                format!("`{}` needs its `value`: a field such as response_bytes, or a JSON pointer such as /tokens", aggregate.name()),
            );
        }
        (Aggregate::UniqueCount, Some(value)) => {
            value.parse::<Dimension>().map_err(|e| MeteringError::invalid(format!("meters/{}/value", definition.name), e.to_string()))?;
        }
        (_, Some(value)) => {
            if field(value).is_none() && !value.starts_with('/') {
                return wrong(
                    "value",
                    format!("`{value}` is no number; there are {} and JSON pointers of properties (`/tokens`)", FIELDS.join(", ")),
                );
            }
        }
    }
    match (definition.aggregate, &definition.percentile) {
        (Aggregate::Percentile, Some(p)) if *p > BigDecimal::zero() && *p < BigDecimal::from(100) => {}
        (Aggregate::Percentile, _) => return wrong("percentile", "must be above 0 and below 100, such as 95 or 99.9".to_owned()),
        (_, Some(_)) => return wrong("percentile", "belongs to the aggregate `percentile` only".to_owned()),
        _ => {}
    }
    if let Some(by) = &definition.divide_by
        && (*by <= BigDecimal::zero() || !is_quantity(by))
    {
        return wrong("divide_by", "must be above 0, with at most 12 decimals".to_owned());
    }
    if definition.group_by.len() > MOST_GROUPS {
        return wrong("group_by", format!("has at most {MOST_GROUPS} dimensions: each combination of values is kept on its own"));
    }
    for name in &definition.group_by {
        name.parse::<Dimension>().map_err(|e| MeteringError::invalid(format!("meters/{}/group_by", definition.name), e.to_string()))?;
    }
    for filter in of_definition(&definition.filter)? {
        filter.check()?;
    }
    Ok(())
}

/// Whether it has at most 26 digits before and 12 after the point.
pub(crate) fn is_quantity(number: &BigDecimal) -> bool {
    let normal = number.normalized();
    let (digits, exponent) = normal.as_bigint_and_exponent();
    let length = i64::try_from(digits.magnitude().to_string().len()).unwrap_or(i64::MAX);
    exponent <= MAX_DECIMALS && length - exponent <= i64::try_from(MOST_DIGITS).unwrap_or(0)
}

/// Numbers that every event has.
const FIELDS: [&str; 4] = ["latency_us", "request_bytes", "response_bytes", "status"];

fn field(value: &str) -> Option<&'static str> {
    FIELDS.into_iter().find(|field| *field == value)
}

/// Whether a text is a decimal of at most 12 places; anything else would be cut off or read as 0.
pub(crate) fn is_decimal_sql(text: &str) -> String {
    format!("match({text}, '^-?[0-9]{{1,26}}([.][0-9]{{1,12}})?$')")
}

/// The decimal, where [`is_decimal_sql`].
pub(crate) fn decimal_sql(text: &str) -> String {
    format!("toDecimal256OrZero({text}, 12)")
}

/// How a meter's value is computed.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    aggregate: Aggregate,
    pub needs: Needs,
    /// Columns of the union: what is summed or merged, how many values there are, and how many are none.
    pub columns: Vec<Column>,
    /// Over a group: the value as text, empty for none; how many values; how many were none.
    pub value: String,
    /// Over a group: what groups are ranked by.
    pub rank: String,
    /// In a rollup of its own: the columns besides `events`, and their aggregates over attributed events.
    pub kept: Vec<(&'static str, String)>,
    /// Of an event: whether its value is one.
    pub valid: String,
    /// Of an event: its value as text.
    pub seen: String,
}

impl Measure {
    /// `parameters` are those of the events' side; a rollup of its own needs none.
    pub fn new(definition: &Definition, parameters: &mut Parameters) -> Result<Self, MeteringError> {
        let column = |name: &'static str, rolled: &str, raw: String| Column::new(name, rolled, raw);
        let aggregate = definition.aggregate;
        let value = match (aggregate, definition.value.as_deref()) {
            (Aggregate::Count, _) | (_, None) => {
                return Ok(Self {
                    aggregate,
                    needs: Needs::Billing,
                    columns: vec![column("amount", "toUInt128(events)", "toUInt128(1)".to_owned())],
                    value: "toString(sum(amount)) AS value, toUInt64(sum(amount)) AS n, toUInt64(0) AS failed".to_owned(),
                    rank: "sum(amount)".to_owned(),
                    kept: vec![("errors", "toUInt64(0)".to_owned())],
                    valid: "true".to_owned(),
                    seen: "'1'".to_owned(),
                });
            }
            (_, Some(value)) => value,
        };
        if aggregate == Aggregate::Sum
            && let Some(name @ ("latency_us" | "request_bytes" | "response_bytes")) = field(value)
        {
            return Ok(Self {
                aggregate,
                needs: Needs::Routes,
                columns: vec![
                    column("amount", &format!("toUInt128({name})"), format!("toUInt128({name})")),
                    column("valid", "events", "toUInt64(1)".to_owned()),
                ],
                value: "toString(sum(amount)) AS value, sum(valid) AS n, toUInt64(0) AS failed".to_owned(),
                rank: "sum(amount)".to_owned(),
                kept: vec![("errors", "toUInt64(0)".to_owned()), ("total", format!("sum(toDecimal256({name}, 12))"))],
                valid: "true".to_owned(),
                seen: format!("toString({name})"),
            });
        }
        let (seen, valid, decimal) = match (aggregate, field(value)) {
            (Aggregate::UniqueCount, _) => {
                let seen = parameters.dimension(&value.parse()?, "value");
                (seen.clone(), format!("{seen} != ''"), String::new())
            }
            (_, Some(name)) => (format!("toString({name})"), "true".to_owned(), format!("toDecimal256({name}, 12)")),
            (_, None) => {
                parameters.text("value", value);
                let seen = "properties[{value:String}]";
                (seen.to_owned(), is_decimal_sql(seen), decimal_sql(seen))
            }
        };
        let narrow = format!("CAST({decimal}, 'Decimal(38, 12)')");
        // Of values that are none, states are empty.
        let state = |function: &str, arguments: &[String]| {
            let arrays: Vec<_> = arguments.iter().map(|a| format!("arrayFilter(x -> {valid}, [{a}])")).collect();
            format!("arrayReduce('{function}', {})", arrays.join(", "))
        };
        let hash = format!("reinterpretAsUInt128(sipHash128({seen}))");
        let (name, rolled, raw, merged, kept) = match aggregate {
            Aggregate::Sum | Aggregate::Avg => (
                "amount",
                "total",
                format!("if({valid}, {decimal}, toDecimal256(0, 12))"),
                "sum(amount)".to_owned(),
                format!("sumIf({decimal}, {valid})"),
            ),
            Aggregate::Min | Aggregate::Max => {
                let (function, rolled) = if aggregate == Aggregate::Min { ("min", "least") } else { ("max", "most") };
                (
                    "amount",
                    rolled,
                    format!("if({valid}, toNullable({narrow}), NULL)"),
                    format!("{function}(amount)"),
                    format!("{function}If(toNullable({narrow}), {valid})"),
                )
            }
            Aggregate::UniqueCount => (
                "state",
                "uniques",
                state("uniqExactState", std::slice::from_ref(&hash)),
                "uniqExactMerge(state)".to_owned(),
                format!("uniqExactStateIf({hash}, {valid})"),
            ),
            Aggregate::Latest => {
                let order = "tuple(time, id)".to_owned();
                (
                    "state",
                    "newest",
                    state("argMaxState", &[narrow.clone(), order.clone()]),
                    "argMaxMerge(state)".to_owned(),
                    format!("argMaxStateIf({narrow}, {order}, {valid})"),
                )
            }
            Aggregate::Percentile => {
                let level = definition.percentile.clone().unwrap_or_default() / BigDecimal::from(100);
                let merged = format!(
                    "quantileExactMerge({})(state)",
                    level.with_scale_round(8, RoundingMode::HalfEven).normalized().to_plain_string()
                );
                (
                    "state",
                    "spread",
                    state("quantileExactState", std::slice::from_ref(&narrow)),
                    merged,
                    format!("quantileExactStateIf({narrow}, {valid})"),
                )
            }
            Aggregate::Count => unreachable!("returned above"),
        };
        Ok(Self {
            aggregate,
            needs: Needs::Raw,
            columns: vec![
                column(name, rolled, raw),
                column("valid", "toUInt64(events - errors)", format!("toUInt64({valid})")),
                column("wrong", "errors", format!("toUInt64(NOT ({valid}))")),
            ],
            value: format!("ifNull(toString({merged}), '') AS value, sum(valid) AS n, sum(wrong) AS failed"),
            rank: if aggregate == Aggregate::Avg { "sum(amount) / greatest(sum(valid), 1)".to_owned() } else { merged },
            kept: vec![("errors", format!("countIf(NOT ({valid}))")), (rolled, kept)],
            valid,
            seen,
        })
    }

    /// The group's value as the meter's quantity; none where there is nothing to take it of.
    pub fn quantity(&self, definition: &Definition, value: &str, n: u64) -> Result<Option<BigDecimal>, MeteringError> {
        if n == 0 && !self.is_additive() {
            return Ok(None);
        }
        let value: BigDecimal = value.parse().map_err(|e| MeteringError::unreadable("a meter's value", e))?;
        let value = if self.aggregate == Aggregate::Avg { value / BigDecimal::from(n) } else { value };
        Ok(Some(scaled(definition, value)))
    }

    /// Whether parts add up to the whole.
    pub fn is_additive(&self) -> bool {
        matches!(self.aggregate, Aggregate::Count | Aggregate::Sum)
    }
}

/// The quantity in the meter's unit, with at most 12 decimals, half to even.
pub(crate) fn scaled(definition: &Definition, value: BigDecimal) -> BigDecimal {
    let value = match (&definition.divide_by, definition.aggregate) {
        // How many there are has no unit to convert.
        (Some(by), aggregate) if aggregate != Aggregate::UniqueCount => value / by,
        _ => value,
    };
    value.with_scale_round(MAX_DECIMALS, RoundingMode::HalfEven).normalized()
}

/// The conditions a meter makes on its events.
pub(crate) fn own_filters(definition: &Definition) -> Result<Vec<Filter>, MeteringError> {
    let mut all = Vec::new();
    if !definition.event.is_empty() {
        all.push(Filter::is(Dimension::Type, &definition.event));
    }
    if definition.counted {
        all.push(Filter::is(Dimension::Counted, "true"));
    }
    all.extend(of_definition(&definition.filter)?);
    Ok(all)
}
