//! A workspace's dunning policy, and the pauses it grants.

use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{ConsumerId, WorkspaceId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::BillingError;

const MOST_REMINDERS: usize = 12;
const LONGEST_DAYS: i32 = 3650;

/// Days are counted from an invoice's due date, or from the first time its payment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DunningPolicy)]
pub struct Policy {
    /// On which days the payer is reminded, ascending; 0 is the due date.
    #[serde(default)]
    pub remind_after_days: Vec<i32>,
    /// Whether invoices are mailed to their payers, those issued after it was switched on.
    #[serde(default)]
    pub mail_invoices: bool,
    /// On which days after a payment failed the payer is asked for another way to pay, ascending; 0 is the day it failed.
    #[serde(default = "failed_mail_days")]
    pub failed_mail_days: Vec<i32>,
    /// So many days after a payment failed calls are refused with 402, until it is paid; never unless given.
    #[serde(default)]
    pub restrict_after_days: Option<i32>,
}

fn failed_mail_days() -> Vec<i32> {
    vec![0, 3, 7]
}

impl Default for Policy {
    fn default() -> Self {
        Self { remind_after_days: Vec::new(), mail_invoices: false, failed_mail_days: failed_mail_days(), restrict_after_days: None }
    }
}

impl Policy {
    fn check(&self) -> Result<(), BillingError> {
        let days = 0..=LONGEST_DAYS;
        for (field, given) in [("/remind_after_days", &self.remind_after_days), ("/failed_mail_days", &self.failed_mail_days)] {
            let ascending = given.is_sorted_by(|a, b| a < b);
            if given.len() > MOST_REMINDERS || !ascending || !given.iter().all(|day| days.contains(day)) {
                return Err(BillingError::invalid(field, "must be at most 12 different days, ascending, 0 to 3650"));
            }
        }
        if self.restrict_after_days.is_some_and(|after| !days.contains(&after)) {
            return Err(BillingError::invalid("/restrict_after_days", "must be 0 to 3650 days"));
        }
        Ok(())
    }
}

/// The workspace's own, or the one whose only step is to ask for another way to pay when a payment failed.
pub async fn policy(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Policy, BillingError> {
    let found = sqlx::query_as!(
        Policy,
        r#"SELECT remind_after_days, invoices_since IS NOT NULL AS "mail_invoices!", failed_mail_days, restrict_after_days
           FROM dunning_policies WHERE workspace_id = $1"#,
        ws.as_str()
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.unwrap_or_default())
}

pub async fn set_policy(conn: &mut PgConnection, ws: &WorkspaceId, policy: &Policy) -> Result<(), BillingError> {
    policy.check()?;
    sqlx::query!(
        "INSERT INTO dunning_policies (workspace_id, remind_after_days, invoices_since, updated_at, failed_mail_days, restrict_after_days)
         SELECT $1, $2, CASE WHEN $3 THEN $4::timestamptz + make_interval(secs => w.clock_ahead_s) END, $4, $5, $6 FROM workspaces w WHERE w.id = $1
         ON CONFLICT (workspace_id) DO UPDATE SET remind_after_days = $2, updated_at = $4, failed_mail_days = $5, restrict_after_days = $6,
             invoices_since = CASE WHEN $3 THEN coalesce(dunning_policies.invoices_since, excluded.invoices_since) END",
        ws.as_str(),
        &policy.remind_after_days,
        policy.mail_invoices,
        clock::now(),
        &policy.failed_mail_days,
        policy.restrict_after_days
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Neither reminds nor refuses the consumer until then.
pub async fn pause(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    consumer: &ConsumerId,
    until: DateTime<Utc>,
    reason: &str,
) -> Result<(), BillingError> {
    if reason.trim().is_empty() || reason.len() > 500 {
        return Err(BillingError::invalid("/reason", "must say why, in at most 500 bytes, such as `pays on the 15th, said by telephone`"));
    }
    farebox_metering::consumers::get(conn, ws, consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
    sqlx::query!(
        "INSERT INTO dunning_pauses (workspace_id, consumer_id, until, reason) VALUES ($1, $2, $3, $4)
         ON CONFLICT (workspace_id, consumer_id) DO UPDATE SET until = $3, reason = $4",
        ws.as_str(),
        consumer.as_str(),
        until,
        reason
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// False when there was no pause.
pub async fn resume(conn: &mut PgConnection, ws: &WorkspaceId, consumer: &ConsumerId) -> Result<bool, BillingError> {
    let done = sqlx::query!("DELETE FROM dunning_pauses WHERE workspace_id = $1 AND consumer_id = $2", ws.as_str(), consumer.as_str())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_ascend_and_stay_within_bounds() {
        let check = |remind: &[i32]| Policy { remind_after_days: remind.to_vec(), ..Policy::default() }.check().is_ok();
        assert!(check(&[]) && check(&[0, 3, 14]) && check(&[3650]));
        for remind in [&[3, 3][..], &[7, 3], &[-1], &[3651]] {
            assert!(!check(remind), "{remind:?}");
        }
        assert!(!check(&(0..13).collect::<Vec<_>>()));
    }
}
