//! E-mails about alerts, each marked as sent after the server took it; what dies in between is sent again under the same
//! Message-ID.

use chrono::TimeDelta;
use farebox_core::ids::FiringId;
use farebox_core::mail::{Mail, MailError, Mailer};
use farebox_core::{App, clock};

use crate::BillingError;

const LEASE: TimeDelta = TimeDelta::minutes(2);
const AT_ONCE: i64 = 16;
/// Over some two days.
const MOST_ATTEMPTS: i32 = 12;

/// Sends what is due; how many were sent.
pub async fn run_once(app: &App, mailer: &Mailer) -> Result<usize, BillingError> {
    let now = clock::now();
    let due = sqlx::query!(
        r#"UPDATE alert_mails SET leased_until = $2 WHERE id IN (
               SELECT id FROM alert_mails WHERE state = 'queued' AND next_at <= $1 AND (leased_until IS NULL OR leased_until <= $1)
               ORDER BY next_at, id LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING id, firing_id AS "firing: FiringId", address, subject, body, attempts"#,
        now,
        now + LEASE,
        AT_ONCE
    )
    .fetch_all(&app.pg)
    .await?;
    let mut sent = 0;
    for row in due {
        let id = format!("{}.{}", row.firing, row.id);
        let mail = Mail { id, to: row.address, subject: row.subject, text: row.body, attachments: Vec::new() };
        let (state, error) = match mailer.send(&mail).await {
            Ok(()) => ("sent", None),
            Err(MailError::Later(why)) if row.attempts + 1 < MOST_ATTEMPTS => ("queued", Some(why)),
            Err(why) => {
                tracing::error!(firing = %row.firing, "an e-mail about an alert cannot be sent: {why}");
                ("failed", Some(why.to_string()))
            }
        };
        sent += usize::from(state == "sent");
        metrics::counter!("farebox_alert_mails_total", "outcome" => state).increment(1);
        sqlx::query!(
            "UPDATE alert_mails SET state = $2, error = $3, attempts = attempts + 1, leased_until = NULL, next_at = $4 WHERE id = $1",
            row.id,
            state,
            error,
            clock::now() + TimeDelta::minutes(1 << row.attempts.clamp(0, 9))
        )
        .execute(&app.pg)
        .await?;
    }
    Ok(sent)
}
