//! Places where a test may kill the process, to prove that what follows a restart neither repeats nor loses anything.
//!
//! `FAREBOX_KILL_AT=close.drafted` makes the process abort, as `kill -9` would, when it first passes that point.
//! The points are listed in [`POINTS`]; without the variable they cost one comparison.

use std::sync::LazyLock;

static KILL_AT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FAREBOX_KILL_AT").ok().filter(|name| !name.is_empty()));

/// Every point there is: those of a backfill, of a month's close, and of alerts, in their order.
pub const POINTS: &[&str] = &[
    "backfill.read",
    "backfill.inserted",
    "backfill.touched",
    "backfill.part",
    "backfill.repaired",
    "close.started",
    "close.rated",
    "close.drafted",
    "close.before_issue_commit",
    "close.issued",
    "stripe.customer.before",
    "stripe.customer.stored",
    "stripe.customer.sent",
    "stripe.customer.recorded",
    "stripe.draft.before",
    "stripe.draft.stored",
    "stripe.draft.sent",
    "stripe.draft.recorded",
    "stripe.lines.before",
    "stripe.lines.stored",
    "stripe.lines.sent",
    "stripe.lines.compared",
    "stripe.lines.recorded",
    "stripe.finalize.before",
    "stripe.finalize.stored",
    "stripe.finalize.sent",
    "stripe.finalize.recorded",
    "alert.before_commit",
    "alert.decided",
    "webhook.before",
    "webhook.sent",
    "stripe.credit_note.before",
    "stripe.credit_note.stored",
    "stripe.credit_note.sent",
    "stripe.credit_note.recorded",
    "stripe.void_credit_note.before",
    "stripe.void_credit_note.stored",
    "stripe.void_credit_note.sent",
    "stripe.void_credit_note.recorded",
];

/// Aborts here when the environment says so: no destructor runs, no connection is closed in order.
pub fn point(name: &str) {
    if KILL_AT.as_deref() == Some(name) {
        eprintln!("FAREBOX_KILL_AT={name}: aborting here");
        std::process::abort();
    }
}
