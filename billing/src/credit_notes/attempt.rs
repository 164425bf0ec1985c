//! One attempt to carry a credit note on at Stripe: in the hand of one process, and left for later when it fails.

use chrono::TimeDelta;
use farebox_core::ids::CreditNoteId;
use farebox_core::{App, clock};

use crate::settle::SettleError;
use crate::stripe::StripeError;
use crate::stripe::verdict::backoff;

const LEASE: TimeDelta = TimeDelta::seconds(60);

/// What is to be done of a note.
#[derive(Clone, Copy)]
pub(super) enum Task {
    Issue,
    Void,
}

impl Task {
    /// The state in which it waits to be done.
    fn state(self) -> &'static str {
        match self {
            Self::Issue => "pending",
            Self::Void => "issued",
        }
    }
}

/// Makes it, unless another process has it in hand or it is done.
pub(super) async fn attempt(
    app: &App,
    id: &CreditNoteId,
    task: Task,
    make: impl AsyncFnOnce() -> Result<(), StripeError>,
) -> Result<(), SettleError> {
    let now = clock::now();
    let taken = sqlx::query_scalar!(
        "UPDATE credit_notes SET leased_until = $2, attempts = attempts + 1
         WHERE id = $1 AND state = $4 AND (state = 'pending' OR voiding_since IS NOT NULL)
           AND (leased_until IS NULL OR leased_until <= $3) RETURNING attempts",
        id.as_str(),
        now + LEASE,
        now,
        task.state()
    )
    .fetch_optional(&app.pg)
    .await?;
    let Some(attempts) = taken else { return Ok(()) };
    let Err(error) = make().await else { return Ok(()) };
    let wait = backoff(u32::try_from(attempts).unwrap_or(0), rand::random());
    let what = match task {
        Task::Issue => "a credit note waits",
        Task::Void => "the voiding of a credit note waits",
    };
    tracing::info!(credit_note = %id, "{what} for Stripe: {error}");
    sqlx::query!(
        "UPDATE credit_notes SET leased_until = NULL, next_at = $2, error = $3 WHERE id = $1 AND state = $4",
        id.as_str(),
        clock::now() + TimeDelta::from_std(wait).unwrap_or_default(),
        error.to_string(),
        task.state()
    )
    .execute(&app.pg)
    .await?;
    Ok(())
}
