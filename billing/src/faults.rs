//! Places where a test may kill the process, to prove that what follows a restart neither repeats nor loses anything.
//!
//! `FAREBOX_KILL_AT=close.drafted` makes the process abort, as `kill -9` would, when it first passes that point.
//! The points are listed in [`POINTS`]; without the variable they cost one comparison.

use std::sync::LazyLock;

static KILL_AT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FAREBOX_KILL_AT").ok().filter(|name| !name.is_empty()));

/// Every point there is, in the order a month's close passes them.
pub const POINTS: &[&str] = &[
    "close.started",
    "close.rated",
    "close.drafted",
    "close.before_issue_commit",
    "close.issued",
    "stripe.customer_created",
    "stripe.invoice_created",
    "stripe.lines_added",
    "stripe.compared",
    "stripe.finalized",
    "stripe.recorded",
];

/// Aborts here when the environment says so: no destructor runs, no connection is closed in order.
pub fn point(name: &str) {
    if KILL_AT.as_deref() == Some(name) {
        eprintln!("FAREBOX_KILL_AT={name}: aborting here");
        std::process::abort();
    }
}
