//! Which events a question chooses, from which table, and what is computed of them.

use crate::MeteringError;
use crate::dimension::Dimension;
use crate::facts::{MeterTable, Needs, Table};
use crate::filter::{Filter, MOST_FILTERS, Parameters};
use crate::measure::{Measure, own_filters};
use crate::meters::Meter;

pub(crate) struct Selection {
    pub table: Table,
    /// On rows of the rollup.
    pub rolled: String,
    /// On attributed events: what the meter itself requires, too.
    pub raw: String,
    pub measure: Measure,
    pub parameters: Parameters,
    kept: Vec<Dimension>,
}

impl Selection {
    /// The slimmest table that can answer a meter with these filters, split by these dimensions.
    pub fn new(meter: &Meter, filters: &[Filter], group_by: &[Dimension]) -> Result<Self, MeteringError> {
        if filters.len() > MOST_FILTERS {
            return Err(MeteringError::invalid("filter", format!("there are at most {MOST_FILTERS} conditions in one question")));
        }
        for filter in filters {
            filter.check()?;
        }
        let definition = &meter.definition;
        let mut parameters = Parameters::default();
        let measure = Measure::new(definition, &mut parameters)?;
        let own = own_filters(definition)?;
        let own_sql = parameters.conditions(&own, "o");
        let asked: Vec<_> = filters.iter().map(|f| &f.dimension).chain(group_by).collect();
        let own_needs = own.iter().map(|f| f.dimension.needs()).chain([measure.needs]).max().unwrap_or(Needs::Billing);
        let asked_needs = asked.iter().map(|d| d.needs()).max().unwrap_or(Needs::Billing);
        let kept: Vec<Dimension> = definition.group_by.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        let by_meter = own_needs == Needs::Raw && asked.iter().all(|d| MeterTable::has(&kept, d));
        let mut selection = Self { table: Table::Raw, rolled: String::new(), raw: String::new(), measure, parameters, kept: Vec::new() };
        if by_meter {
            selection.table = Table::Meter(MeterTable::new(meter)?.into());
            selection.kept = kept;
        } else {
            selection.table = match own_needs.max(asked_needs) {
                Needs::Billing => Table::Billing,
                Needs::Routes => Table::Routes,
                Needs::Raw => Table::Raw,
            };
        }
        let asked_raw = selection.parameters.conditions(filters, "");
        selection.raw = format!("{own_sql} AND {asked_raw}");
        selection.rolled = match &selection.table {
            Table::Meter(table) => {
                // The same parameters; only what the values are called differs.
                let mut unused = Parameters::of_rollup(&selection.kept);
                format!("meter = '{}' AND {}", table.name, unused.conditions(filters, ""))
            }
            _ => selection.raw.clone(),
        };
        Ok(selection)
    }

    /// A dimension's value on a row of the rollup, and on an attributed event. A pointer is bound as `name`.
    pub fn dimension(&mut self, dimension: &Dimension, name: &str) -> (String, String) {
        let raw = self.parameters.dimension(dimension, name);
        let rolled = match &self.table {
            Table::Meter(_) => Parameters::of_rollup(&self.kept).dimension(dimension, name),
            _ => raw.clone(),
        };
        (rolled, raw)
    }
}
