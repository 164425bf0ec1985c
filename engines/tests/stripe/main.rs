//! The Stripe double through its front door, with the real stripe-mock behind it. Every answer is
//! held against Stripe's published schema.

mod cards;
mod documents;
mod faults;
mod harness;
mod idempotency;
mod invoice;
mod restart;
mod strictness;
mod webhooks;
