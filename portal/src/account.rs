//! What a consumer has agreed to now: the subscription in force, its plan, and the period that is running.

use chrono::{DateTime, Utc};
use farebox_billing::plans::{self, Plan};
use farebox_billing::subscriptions::{self, Phase, Subscription};
use farebox_core::ids::ConsumerId;
use farebox_core::period::{Period, Window, window_of};
use sqlx::PgConnection;

use crate::context::Ctx;
use crate::failure::Failure;

#[derive(Debug, Clone)]
pub struct Agreement {
    pub subscription: Subscription,
    pub phase: Phase,
    pub plan: Plan,
}

/// All that is in force, one for each product.
pub async fn in_force(conn: &mut PgConnection, ctx: &Ctx, consumer: &ConsumerId) -> Result<Vec<Agreement>, Failure> {
    let (workspace, now) = (&ctx.workspace.id, ctx.now());
    let mut found = Vec::new();
    for subscription in subscriptions::current(conn, workspace, consumer).await? {
        let Some(phase) = subscription.at(now).cloned() else { continue };
        let plan = plans::by_version(conn, workspace, &phase.plan_version).await?.ok_or_else(|| Failure::not_found("plan"))?;
        found.push(Agreement { subscription, phase, plan });
    }
    Ok(found)
}

/// The calendar month that holds an instant, in the workspace's zone: what plans are billed by.
pub fn month_of(ctx: &Ctx, at: DateTime<Utc>) -> Period {
    window_of(at, Window::Month, ctx.tz()).unwrap_or(Period { start: at, end: at })
}

/// The month before.
pub fn month_before(ctx: &Ctx, month: Period) -> Period {
    month_of(ctx, month.start - chrono::Duration::hours(12))
}
