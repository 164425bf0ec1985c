//! The outbox: every request that changes something at Stripe is stored with its method, path, bytes and key before it
//! is first sent, and resent unchanged until an answer is recorded. (Building a request twice gives other bytes, since
//! metadata is a hash map, and Stripe refuses other parameters under a used key.)
//!
//! A key is used for 23 hours, since Stripe keeps it for 24. After that, and when Stripe stored a failure under it, the
//! step first looks whether the request had an effect, and only then the same bytes get a new key.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::clock;
use farebox_core::ids::WorkspaceId;
use sqlx::{PgConnection, PgPool};

use super::client::{Answer, Call, Stripe};
use super::error::StripeError;
use super::verdict::Verdict;
use crate::faults;

const KEY_LIFE: TimeDelta = TimeDelta::hours(23);

/// The steps of a push, in order; `Discard` is what happens instead of `Finalize` when totals differ. A credit note, its
/// voiding and a test clock are steps of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Customer,
    Draft,
    Lines,
    Finalize,
    Discard,
    CreditNote,
    VoidCreditNote,
    TestClock,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Draft => "draft",
            Self::Lines => "lines",
            Self::Finalize => "finalize",
            Self::Discard => "discard",
            Self::CreditNote => "credit_note",
            Self::VoidCreditNote => "void_credit_note",
            Self::TestClock => "test_clock",
        }
    }

    /// Passes the fault point `stripe.<step>.<at>`.
    pub fn point(self, at: &str) {
        faults::point(&format!("stripe.{}.{at}", self.as_str()));
    }
}

/// A request as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub body: Vec<u8>,
}

/// A stored request.
#[derive(Debug, Clone)]
pub struct Stored {
    pub id: i64,
    workspace: WorkspaceId,
    subject: String,
    step: Step,
    method: String,
    path: String,
    body: Vec<u8>,
    key: String,
    done: bool,
    first_sent_at: Option<DateTime<Utc>>,
    pub object_id: Option<String>,
}

/// How a request stands after it was sent.
#[derive(Debug)]
pub enum Sent {
    /// Recorded before, in an earlier run.
    Before {
        object_id: Option<String>,
    },
    /// Answered just now, and not yet recorded.
    Answered(Answer),
    /// The key gives nothing more. Look whether there was an effect; if not, [`renew`].
    KeySpent(StripeError),
    Refused(StripeError),
}

impl Stored {
    /// Whether it is this one, to the byte.
    pub fn is(&self, request: &Request) -> bool {
        self.body == request.body
    }

    /// Sends the stored bytes. An error is worth the same bytes again later.
    pub async fn send(&self, pg: &PgPool, stripe: &Stripe) -> Result<Sent, StripeError> {
        if self.done {
            return Ok(Sent::Before { object_id: self.object_id.clone() });
        }
        let now = clock::now();
        if self.first_sent_at.is_some_and(|first| first + KEY_LIFE <= now) {
            return Ok(Sent::KeySpent(StripeError::Unreachable("none for 23 hours".to_owned())));
        }
        sqlx::query!(
            "UPDATE stripe_requests SET first_sent_at = COALESCE(first_sent_at, $2), sends = sends + 1 WHERE id = $1",
            self.id,
            now
        )
        .execute(pg)
        .await?;
        self.step.point("stored");
        let call = Call { method: &self.method, path: &self.path, body: &self.body, idempotency_key: Some(&self.key) };
        let answer = stripe.send(call).await;
        self.step.point("sent");
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.note(pg, None, None, Some(&error.to_string())).await?;
                return Err(error);
            }
        };
        let refusal = || answer.refusal();
        let sent = match answer.verdict() {
            Verdict::Done => Sent::Answered(answer),
            Verdict::Retry(after) => {
                self.note(pg, Some(&answer), None, Some(&refusal().to_string())).await?;
                return Err(StripeError::Busy { status: answer.signs.status, after });
            }
            Verdict::KeySpent => {
                self.note(pg, Some(&answer), None, Some(&refusal().to_string())).await?;
                Sent::KeySpent(refusal())
            }
            Verdict::Refused => {
                self.note(pg, Some(&answer), None, Some(&refusal().to_string())).await?;
                Sent::Refused(refusal())
            }
        };
        Ok(sent)
    }

    async fn note(&self, pg: &PgPool, answer: Option<&Answer>, object_id: Option<&str>, error: Option<&str>) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "UPDATE stripe_requests SET status = $2, request_id = $3, object_id = COALESCE($4, object_id), error = $5, answered_at = $6
             WHERE id = $1 AND state = 'open'",
            self.id,
            answer.map(|answer| i32::from(answer.signs.status)),
            answer.and_then(|answer| answer.request_id.as_deref()),
            object_id,
            error,
            clock::now()
        )
        .execute(pg)
        .await?;
        Ok(())
    }

    /// Records that it had its effect, in the transaction that acts on it. `answer` is absent when the effect was found
    /// by looking.
    pub async fn finish(&self, conn: &mut PgConnection, answer: Option<&Answer>, object_id: &str) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "UPDATE stripe_requests SET state = 'done', object_id = $2, status = COALESCE($3, status), request_id = COALESCE($4, request_id),
                    error = NULL, answered_at = $5 WHERE id = $1 AND state = 'open'",
            self.id,
            object_id,
            answer.map(|answer| i32::from(answer.signs.status)),
            answer.and_then(|answer| answer.request_id.as_deref()),
            clock::now()
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// The request of a step: the stored one, or `build`'s, stored now.
pub async fn store(
    pg: &PgPool,
    workspace: &WorkspaceId,
    subject: &str,
    step: Step,
    build: impl FnOnce() -> Result<Request, StripeError>,
) -> Result<Stored, StripeError> {
    if let Some(stored) = current(pg, workspace, subject, step).await? {
        return Ok(stored);
    }
    step.point("before");
    let request = build()?;
    insert(pg, workspace, subject, step, request.method, &request.path, &request.body).await
}

/// The same bytes under a new key, after it was made sure that the old one had no effect.
pub async fn renew(pg: &PgPool, spent: &Stored) -> Result<Stored, StripeError> {
    abandon(pg, spent.id).await?;
    insert(pg, &spent.workspace, &spent.subject, spent.step, &spent.method, &spent.path, &spent.body).await
}

/// Forgets a request that Stripe refused, so that the step can be built anew.
pub async fn abandon(pg: &PgPool, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE stripe_requests SET state = 'abandoned' WHERE id = $1 AND state = 'open'", id).execute(pg).await?;
    Ok(())
}

/// Forgets a request whose effect is gone at Stripe, so that the step is taken again.
pub async fn forget(conn: &mut PgConnection, workspace: &WorkspaceId, subject: &str, step: Step) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE stripe_requests SET state = 'abandoned' WHERE workspace_id = $1 AND subject = $2 AND step = $3",
        workspace.as_str(),
        subject,
        step.as_str()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Two workers that race here end with the same row, hence the same bytes and key.
async fn insert(
    pg: &PgPool,
    workspace: &WorkspaceId,
    subject: &str,
    step: Step,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<Stored, StripeError> {
    sqlx::query!(
        "INSERT INTO stripe_requests (workspace_id, subject, step, generation, method, path, body, idempotency_key, created_at)
         SELECT $1::text, $2::text, $3::text, 1 + COALESCE(max(generation), 0), $4::text, $5::text, $6::bytea,
                $2 || '.' || $3 || '.' || (1 + COALESCE(max(generation), 0)), $7::timestamptz
         FROM stripe_requests WHERE workspace_id = $1 AND subject = $2 AND step = $3
         ON CONFLICT DO NOTHING",
        workspace.as_str(),
        subject,
        step.as_str(),
        method,
        path,
        body,
        clock::now()
    )
    .execute(pg)
    .await?;
    current(pg, workspace, subject, step).await?.ok_or(StripeError::Bug("a stored request is not there"))
}

async fn current(pg: &PgPool, workspace: &WorkspaceId, subject: &str, step: Step) -> Result<Option<Stored>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT id, method, path, body, idempotency_key, state, first_sent_at, object_id FROM stripe_requests
         WHERE workspace_id = $1 AND subject = $2 AND step = $3 AND state <> 'abandoned'",
        workspace.as_str(),
        subject,
        step.as_str()
    )
    .fetch_optional(pg)
    .await?;
    Ok(row.map(|row| Stored {
        id: row.id,
        workspace: workspace.clone(),
        subject: subject.to_owned(),
        step,
        method: row.method,
        path: row.path,
        body: row.body,
        key: row.idempotency_key,
        done: row.state == "done",
        first_sent_at: row.first_sent_at,
        object_id: row.object_id,
    }))
}
