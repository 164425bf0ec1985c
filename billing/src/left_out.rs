//! Calls of a period that are not billed, and why: what an invoice says of them beside what it bills.

use std::collections::{BTreeMap, HashMap};

use bigdecimal::ToPrimitive;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::money::BigDecimal;
use farebox_core::period::Period;
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, MeteringError};
use serde::{Deserialize, Serialize};

use crate::rating::words::human;

/// Calls by the reason of the counting rule: `server_error`, `refused`, `marked`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct LeftOut(pub BTreeMap<String, u64>);

impl LeftOut {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, other: Self) {
        for (reason, calls) in other.0 {
            *self.0.entry(reason).or_default() += calls;
        }
    }

    /// `Not billed: 1,204 calls (900 failed on our side, 304 refused).`
    pub fn sentence(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let calls: u64 = self.0.values().sum();
        let mut reasons: Vec<_> = self.0.iter().collect();
        reasons.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
        let reasons: Vec<_> = reasons.into_iter().map(|(reason, calls)| format!("{} {}", number(*calls), words(reason))).collect();
        Some(format!("Not billed: {} {} ({}).", number(calls), if calls == 1 { "call" } else { "calls" }, reasons.join(", ")))
    }
}

fn number(calls: u64) -> String {
    human(&BigDecimal::from(calls))
}

fn words(reason: &str) -> String {
    match reason {
        "server_error" => "failed on our side".to_owned(),
        "refused" => "refused".to_owned(),
        "marked" => "marked as a retry, a health check or mirrored".to_owned(),
        other => format!("because of {}", other.replace('_', " ")),
    }
}

/// Of every subscription that had such calls, in one question (and one more for every [`usage::MAX_ROWS`] rows).
pub(crate) async fn of_all(app: &App, ws: &WorkspaceId, period: Period) -> Result<HashMap<String, LeftOut>, MeteringError> {
    let mut found: HashMap<String, LeftOut> = HashMap::new();
    if period.is_empty() {
        return Ok(found);
    }
    let mut asked =
        UsageQuery::new(ws, "calls", period).by(Dimension::Subscription).by(Dimension::Reason).only(Dimension::Counted, "false");
    loop {
        let answer = usage::query(app, &asked).await?;
        asked.offset += answer.rows.len();
        for mut row in answer.rows {
            let mut of = |dimension: Dimension| row.group.remove(dimension.name()).unwrap_or_default();
            let (subscription, reason) = (of(Dimension::Subscription), of(Dimension::Reason));
            let calls = row.value.to_u64().ok_or_else(|| MeteringError::unreadable("a number of calls", &row.value))?;
            if !subscription.is_empty() && calls > 0 {
                *found.entry(subscription).or_default().0.entry(reason).or_default() += calls;
            }
        }
        if !answer.more {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_billed_is_said_in_words_the_most_first() {
        let left = |some: &[(&str, u64)]| LeftOut(some.iter().map(|(reason, calls)| ((*reason).to_owned(), *calls)).collect());
        assert_eq!(LeftOut::default().sentence(), None);
        assert_eq!(left(&[("refused", 1)]).sentence().as_deref(), Some("Not billed: 1 call (1 refused)."));
        let mut both = left(&[("refused", 304), ("server_error", 500)]);
        both.add(left(&[("server_error", 400), ("marked", 12)]));
        assert_eq!(
            both.sentence().as_deref(),
            Some("Not billed: 1,216 calls (900 failed on our side, 304 refused, 12 marked as a retry, a health check or mirrored).")
        );
    }
}
