//! The one TLS implementation of the process: rustls on ring.

/// Makes ring the provider of everything that speaks TLS here: Stripe, SMTP, webhooks, senders' certificates. Each
/// binary calls it first; again is harmless. Without it the first client that is built panics.
pub fn install() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
