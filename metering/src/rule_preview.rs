//! What another counting rule would make of history, before it is in force.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use clickhouse::Row;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::Period;
use farebox_core::{App, workspace as workspaces};
use serde::{Deserialize, Serialize};

use crate::MeteringError;
use crate::attribution::attributed;
use crate::corrections::{MeterEffect, MoneyEffect, effect};
use crate::facts::{bound, exact, range};
use crate::meters::{self, Aggregate};
use crate::rule::{self, CountingRule};

/// Longer stretches are looked at in parts.
const MOST_DAYS: i64 = 93;
/// Consumers named; the others are in the totals.
const MOST_CONSUMERS: usize = 100;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RulePreview {
    /// The rule in force.
    pub version: i32,
    pub period: Period,
    /// Events of the period, and how many of them count, before and after.
    pub events: u64,
    pub counted_before: u64,
    pub counted_after: u64,
    /// Where the verdict on an event changes.
    pub changes: Vec<RuleChange>,
    /// Those whose counts change most.
    pub consumers: Vec<ConsumerChange>,
    /// By month, meter and subscription; of meters that follow the rule and are made of parts.
    pub meters: Vec<MeterEffect>,
    /// What a subscription's month comes to, before discounts, credits and tax.
    pub money: Vec<MoneyEffect>,
    /// Subscriptions whose price does not follow from meters alone.
    pub unpriced: Vec<String>,
}

/// Reasons are empty for what counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RuleChange {
    pub before: String,
    pub after: String,
    pub events: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ConsumerChange {
    pub consumer: String,
    pub before: u64,
    pub after: u64,
}

/// Of each pair of reasons and each consumer, how many; from the events themselves.
pub async fn preview(app: &App, workspace: &WorkspaceId, new: &CountingRule, period: Period) -> Result<RulePreview, MeteringError> {
    #[derive(Row, Deserialize)]
    struct Found {
        who: String,
        old_reason: String,
        new_reason: String,
        n: u64,
    }
    new.check()?;
    if period.is_empty() || (period.end - period.start).num_days() > MOST_DAYS {
        return Err(MeteringError::invalid("to", format!("must be after `from`, by {MOST_DAYS} days at most")));
    }
    let (version, old, meters, zone) = {
        let mut conn = app.pg.acquire().await?;
        let (version, old) = rule::current(&mut conn, workspace).await?;
        let zone = workspaces::by_id(&mut conn, workspace).await.map_err(|e| MeteringError::unreadable("the workspace", e))?;
        (version, old, meters::list(&mut conn, workspace).await?, zone.map_or(chrono_tz::UTC, |w| w.time_zone))
    };
    let sql = format!(
        "SELECT consumer AS who, reason AS old_reason, {} AS new_reason, count() AS n FROM ({}) WHERE {} GROUP BY who, old_reason, new_reason",
        new.reason_sql(),
        attributed(&old, &range("toStartOfMinute(time)", period)),
        exact(period)
    );
    let found: Vec<Found> = bound(app, workspace, &sql).fetch_all().await?;
    let mut sums: BTreeMap<effect::Key, (BigDecimal, BigDecimal)> = BTreeMap::new();
    for meter in &meters {
        if !meter.definition.follows_rule()? || !matches!(meter.definition.aggregate, Aggregate::Count | Aggregate::Sum) {
            continue;
        }
        for (rule, is_new) in [(&old, false), (new, true)] {
            let attributed = attributed(rule, &range("toStartOfMinute(time)", period));
            let attributed = format!("SELECT * FROM ({attributed}) WHERE {}", exact(period));
            for (key, value) in effect::sums(app, workspace, meter, zone.name(), &attributed, &|query| query).await? {
                let sum = sums.entry(key).or_default();
                if is_new { sum.1 += value } else { sum.0 += value }
            }
        }
    }
    let meters = effect::effects(sums);
    let priced = effect::price(app, workspace, &meters).await?;
    let mut preview = RulePreview {
        version,
        period,
        events: 0,
        counted_before: 0,
        counted_after: 0,
        changes: Vec::new(),
        consumers: Vec::new(),
        meters,
        money: priced.money,
        unpriced: priced.unpriced,
    };
    for row in found {
        let (before, after) = (if row.old_reason.is_empty() { row.n } else { 0 }, if row.new_reason.is_empty() { row.n } else { 0 });
        preview.events += row.n;
        preview.counted_before += before;
        preview.counted_after += after;
        match preview.consumers.iter_mut().find(|c| c.consumer == row.who) {
            Some(known) => (known.before, known.after) = (known.before + before, known.after + after),
            None => preview.consumers.push(ConsumerChange { consumer: row.who, before, after }),
        }
        if row.old_reason == row.new_reason {
            continue;
        }
        match preview.changes.iter_mut().find(|c| c.before == row.old_reason && c.after == row.new_reason) {
            Some(known) => known.events += row.n,
            None => preview.changes.push(RuleChange { before: row.old_reason, after: row.new_reason, events: row.n }),
        }
    }
    preview.changes.sort_by_key(|c| std::cmp::Reverse(c.events));
    preview.consumers.retain(|c| c.before != c.after);
    preview.consumers.sort_by_key(|c| std::cmp::Reverse(c.before.abs_diff(c.after)));
    preview.consumers.truncate(MOST_CONSUMERS);
    Ok(preview)
}
