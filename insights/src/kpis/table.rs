//! Answers as tables, for CSV.

/// Cells as they are written in JSON, empty where there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

pub trait Tabular {
    fn table(&self) -> Table;
}

/// Empty where there is no value.
pub(super) fn cell(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}
