//! What stands beside the lines of many invoices to come: whether their payers are taxed, coupons, prepaid credits.

use std::collections::HashMap;
use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{ConsumerId, SubscriptionId};
use farebox_core::money::Currency;
use farebox_core::workspace::Workspace;
use sqlx::PgConnection;

use super::Portion;
use crate::BillingError;
use crate::coupons::{self, Redeemed};
use crate::credits::{self, Grant};
use crate::rating::invoice::{Credit, Discount};
use crate::settings::{self, ConsumerBilling};
use crate::subscriptions::Subscription;

#[derive(Debug, Default)]
pub struct Accounts {
    billing: HashMap<ConsumerId, ConsumerBilling>,
    coupons: HashMap<SubscriptionId, Vec<Redeemed>>,
    grants: HashMap<ConsumerId, Vec<Grant>>,
}

impl Accounts {
    /// Of each subscription, with where its invoice's period begins. `lock`: the credits are going to be taken in this
    /// transaction.
    pub async fn load(
        conn: &mut PgConnection,
        workspace: &Workspace,
        of: &[(&Subscription, DateTime<Utc>)],
        lock: bool,
    ) -> Result<Self, BillingError> {
        let consumers: Vec<_> = of.iter().map(|(subscription, _)| subscription.consumer.to_string()).collect();
        Ok(Self {
            billing: settings::of_consumers(conn, &workspace.id, &consumers).await?,
            coupons: coupons::redeemed(conn, of).await?,
            grants: credits::usable(conn, workspace, &consumers, lock).await?,
        })
    }

    pub(super) fn billing(&self, consumer: &ConsumerId) -> ConsumerBilling {
        self.billing.get(consumer).cloned().unwrap_or_default()
    }

    /// Each part's own coupons, off its own lines.
    pub(super) fn discounts(&self, parts: &[Portion<'_>]) -> Vec<Discount> {
        let mut found = Vec::new();
        for (part, lines) in ranges(parts) {
            let redeemed = self.coupons.get(&part.subscription.id).into_iter().flatten();
            let own = redeemed.filter_map(|redeemed| redeemed.discount(&part.plans, &part.subscription.currency));
            found.extend(own.map(|discount| Discount { lines: lines.clone(), ..discount }));
        }
        found
    }

    /// In the order of use. Credits serve the periods that end while they are valid; those that came with a subscription's
    /// period, its own lines.
    pub(crate) fn credits(&self, parts: &[Portion<'_>], currency: Currency) -> Vec<Credit> {
        let Some(first) = parts.first() else { return Vec::new() };
        let at = first.period.end - TimeDelta::minutes(1);
        let grants = self.grants.get(&first.subscription.consumer).into_iter().flatten();
        let usable = grants
            .filter(|grant| grant.currency == currency && grant.effective_at <= at && grant.expires_at.is_none_or(|end| end > at))
            .filter_map(|grant| {
                let own = grant.subscription.as_ref();
                let lines = match own {
                    None => None,
                    Some(own) => ranges(parts).into_iter().find(|(part, _)| part.subscription.id == *own)?.1,
                };
                Some((grant, lines))
            });
        let credit = |(grant, lines): (&Grant, _)| Credit {
            id: grant.id.to_string(),
            name: grant.name.clone(),
            left: grant.balance,
            taxed: grant.taxed,
            prices: grant.prices.clone(),
            lines,
        };
        usable.map(credit).collect()
    }
}

/// Each part with its lines; an invoice of one part is it all.
fn ranges<'a, 'b>(parts: &'b [Portion<'a>]) -> Vec<(&'b Portion<'a>, Option<Range<usize>>)> {
    let (mut found, mut from) = (Vec::new(), 0);
    for part in parts {
        found.push((part, (parts.len() > 1).then_some(from..from + part.lines)));
        from += part.lines;
    }
    found
}
