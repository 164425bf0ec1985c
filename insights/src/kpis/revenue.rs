//! Revenue: what recurs each month, by movement, and what usage brought beside it.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use farebox_billing::{revenue as facts, summary};
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::money::{Currency, Money};
use farebox_core::workspace;
use serde::Serialize;

use super::setting::{About, Common, Setting, Unit};
use super::table::{Table, Tabular, cell};
use crate::action::CallFilter;
use crate::arithmetic::revenue as arithmetic;
use crate::calendar::Interval;
use crate::error::KpiError;
use crate::ratio;

const VERSION: u32 = 1;

#[derive(Debug, Clone, Default)]
pub struct RevenueParams {
    pub common: Common,
    /// Default: the workspace's.
    pub currency: Option<Currency>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RevenueAnswer {
    #[serde(flatten)]
    pub about: About,
    /// Subscriptions in other currencies are left out.
    #[schema(value_type = String, example = "USD")]
    pub currency: Currency,
    pub rows: Vec<RevenueRow>,
}

/// Amounts are what recurs in a month, normalised (MRR), unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RevenueRow {
    /// First day of the interval.
    pub period: NaiveDate,
    #[schema(value_type = String, example = "1200.00")]
    pub start: Money,
    #[schema(value_type = String)]
    pub new: Money,
    #[schema(value_type = String)]
    pub expansion: Money,
    #[schema(value_type = String)]
    pub reactivation: Money,
    #[schema(value_type = String)]
    pub contraction: Money,
    #[schema(value_type = String)]
    pub churn: Money,
    /// start + new + expansion + reactivation - contraction - churn; of the running interval, now.
    #[schema(value_type = String)]
    pub mrr: Money,
    /// 12 MRR.
    #[schema(value_type = String)]
    pub arr: Money,
    /// Consumers with something recurring at the end.
    pub payers: u64,
    /// MRR / payers.
    #[schema(value_type = Option<String>)]
    pub arpa: Option<Money>,
    /// (churn + contraction) / start.
    #[schema(example = "0.2")]
    pub gross_churn: Option<String>,
    /// (churn + contraction - expansion - reactivation) / start; negative when more was won than lost.
    pub net_churn: Option<String>,
    /// (start - contraction - churn) / start.
    pub grr: Option<String>,
    /// GRR + expansion / start.
    pub nrr: Option<String>,
    /// Invoiced for usage in billing periods that began in this interval, before tax; only by month.
    #[schema(value_type = Option<String>)]
    pub usage_revenue: Option<Money>,
    pub complete: bool,
}

pub async fn revenue(app: &App, id: &WorkspaceId, params: &RevenueParams) -> Result<RevenueAnswer, KpiError> {
    if params.common.unit == Unit::Credential {
        return Err(KpiError::field("unit", "is consumer here: credentials do not pay"));
    }
    if params.common.filter != CallFilter::default() {
        return Err(KpiError::field("filter", "has nothing to choose here: what recurs does not depend on calls"));
    }
    let setting = Setting::resolve(app, id, &params.common, Interval::Month).await?;
    let (calendar, observed, now) = (setting.calendar, setting.observed, setting.now);
    let mut conn = app.pg.acquire().await?;
    let workspace = workspace::by_id(&mut conn, id).await?.ok_or_else(|| KpiError::NoWorkspace(id.clone()))?;
    let currency = params.currency.unwrap_or(workspace.currency);
    let mut of: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for stretch in facts::stretches(&mut conn, id).await? {
        // What is agreed for later has not happened.
        if stretch.monthly.currency == currency && stretch.from <= now {
            let to = stretch.to.filter(|to| *to <= now);
            of.entry(stretch.consumer).or_default().push(arithmetic::Stretch { from: stretch.from, to, monthly: stretch.monthly.minor });
        }
    }
    let by_month = calendar.interval == Interval::Month;
    let invoiced = if by_month { summary::by_period(&mut conn, id, currency, setting.period().start).await? } else { Vec::new() };
    drop(conn);
    let intervals: Vec<_> = (observed.from..observed.to).map(|number| calendar.period(number)).collect();
    let mut rows = Vec::with_capacity(intervals.len());
    for (row, (number, interval)) in arithmetic::rows(&of, &intervals).into_iter().zip((observed.from..).zip(&intervals)) {
        let money = |minor: i128| i64::try_from(minor).map(|minor| Money::new(minor, currency)).map_err(|_| KpiError::Overflow(currency));
        let m = row.movement;
        let kept = row.start - m.lost();
        let usage = invoiced.iter().filter(|period| interval.contains(period.start)).map(|period| i128::from(period.usage.minor)).sum();
        rows.push(RevenueRow {
            period: calendar.first_day(number),
            start: money(row.start)?,
            new: money(m.new)?,
            expansion: money(m.expansion)?,
            reactivation: money(m.reactivation)?,
            contraction: money(m.contraction)?,
            churn: money(m.churn)?,
            mrr: money(row.end)?,
            arr: money(12 * row.end)?,
            payers: row.payers,
            arpa: (row.payers > 0).then(|| money(ratio::half_up(row.end, i128::from(row.payers)))).transpose()?,
            gross_churn: ratio::signed(m.lost(), row.start),
            net_churn: ratio::signed(m.lost() - m.expansion - m.reactivation, row.start),
            grr: ratio::signed(kept, row.start),
            nrr: ratio::signed(kept + m.expansion, row.start),
            usage_revenue: by_month.then(|| money(usage)).transpose()?,
            complete: interval.end <= now,
        });
    }
    let formula = "MRR: the recurring fees of all subscriptions in force, normalised to a month, trials and usage left out; each change is new (from \
                   nothing), expansion, reactivation (from nothing, after having paid), contraction or churn (to nothing). ARR = 12 MRR; gross churn = \
                   (churn + contraction) / start; net churn = (churn + contraction - expansion - reactivation) / start; GRR = (start - contraction - \
                   churn) / start; NRR = GRR + expansion / start; ARPA = MRR / payers. Usage revenue is what was invoiced, before tax.";
    Ok(RevenueAnswer { about: setting.about("revenue", VERSION, formula.to_owned()), currency, rows })
}

impl Tabular for RevenueAnswer {
    fn table(&self) -> Table {
        let line = |r: &RevenueRow| {
            let mut line = vec![r.period.to_string(), self.currency.to_string()];
            line.extend(
                [r.start, r.new, r.expansion, r.reactivation, r.contraction, r.churn, r.mrr, r.arr].map(|amount| amount.to_string()),
            );
            line.extend([r.payers.to_string(), cell(r.arpa.as_ref())]);
            line.extend([&r.gross_churn, &r.net_churn, &r.grr, &r.nrr].map(|share| cell(share.as_ref())));
            line.extend([cell(r.usage_revenue.as_ref()), r.complete.to_string()]);
            line
        };
        Table {
            header: vec![
                "period",
                "currency",
                "start",
                "new",
                "expansion",
                "reactivation",
                "contraction",
                "churn",
                "mrr",
                "arr",
                "payers",
                "arpa",
                "gross_churn",
                "net_churn",
                "grr",
                "nrr",
                "usage_revenue",
                "complete",
            ],
            rows: self.rows.iter().map(line).collect(),
        }
    }
}
