//! What a page says after it did something. Only these can be said, so that a crafted address says nothing else.

use crate::view::{Note, Tone};

pub fn note(done: &str) -> Option<Note> {
    let (title, text) = match done {
        "key-revoked" => ("The key was revoked.", "It is refused within seconds."),
        "plan-chosen" => ("Your plan is in force.", ""),
        "plan-changed" => ("Your plan was changed.", ""),
        "card-added" => ("Stripe has your card.", "It can take a few seconds to show here."),
        "password-changed" => ("Your password was changed.", "You were signed out everywhere else."),
        "billing-saved" => ("Saved.", "It holds from the next invoice on."),
        "settings-saved" | "webhook-saved" => ("Saved.", ""),
        "stripe-saved" => ("Stripe's keys are saved.", "They are encrypted and will not be shown again."),
        "issued" => ("The invoices are being issued.", "Those who pay by card are charged by Stripe."),
        "corrected" => ("What came late is corrected.", "Each difference has an invoice of its own."),
        "closed" => ("The month is closed for good.", ""),
        "counted" => ("Counted again.", "The result is below."),
        "compared" => ("Every invoice was derived again.", "The result is below."),
        "credited" => ("The credit note is made.", ""),
        "voided" => ("Voided, or Stripe is being asked.", "The state above says which."),
        "retried" => ("It is on its way to Stripe again.", ""),
        "alert-set" => ("You will be told.", "Once in a period."),
        "alert-removed" => ("It is removed.", ""),
        "webhook-tested" => ("A test event is on its way.", "Its delivery shows below within seconds."),
        "webhook-removed" => ("It is told nothing more.", ""),
        "audited" => ("The audit is done.", "Its result is below."),
        _ => return None,
    };
    Some(Note::new(Tone::Plain, title, text))
}
