//! What stands beside the lines of many invoices to come: whether their payers are taxed, coupons, prepaid credits.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::ids::{ConsumerId, SubscriptionId, WorkspaceId};
use farebox_core::money::Currency;
use farebox_core::period::Period;
use sqlx::PgConnection;

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
        ws: &WorkspaceId,
        of: &[(&Subscription, DateTime<Utc>)],
        lock: bool,
    ) -> Result<Self, BillingError> {
        let consumers: Vec<_> = of.iter().map(|(subscription, _)| subscription.consumer.to_string()).collect();
        Ok(Self {
            billing: settings::of_consumers(conn, ws, &consumers).await?,
            coupons: coupons::redeemed(conn, of).await?,
            grants: credits::usable(conn, ws, &consumers, lock).await?,
        })
    }

    pub(super) fn billing(&self, consumer: &ConsumerId) -> ConsumerBilling {
        self.billing.get(consumer).cloned().unwrap_or_default()
    }

    pub(super) fn discounts(&self, subscription: &Subscription, plans: &[String]) -> Vec<Discount> {
        let redeemed = self.coupons.get(&subscription.id).into_iter().flatten();
        redeemed.filter_map(|redeemed| redeemed.discount(plans, &subscription.currency)).collect()
    }

    /// In the order of use. Credits serve the periods that end while they are valid.
    pub(super) fn credits(&self, consumer: &ConsumerId, currency: Currency, period: Period) -> Vec<Credit> {
        let at = period.end - TimeDelta::minutes(1);
        let grants = self.grants.get(consumer).into_iter().flatten();
        let usable =
            grants.filter(|grant| grant.currency == currency && grant.effective_at <= at && grant.expires_at.is_none_or(|end| end > at));
        usable.map(|grant| Credit { id: grant.id.to_string(), name: grant.name.clone(), left: grant.balance, taxed: grant.taxed }).collect()
    }
}
