//! The Stripe double.
