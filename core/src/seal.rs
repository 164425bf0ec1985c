//! Secrets at rest: XChaCha20-Poly1305 with `billing.encryption_key`, a random nonce each time, and the workspace
//! and purpose as associated data, so that a row copied to another workspace or column does not open.

use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::ids::WorkspaceId;

/// First byte of what is stored: which construction sealed it.
const VERSION: u8 = 1;
const NONCE: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("billing.encryption_key is not 64 hexadecimal digits")]
    BadKey,
    #[error("a stored secret does not open: it was sealed with another billing.encryption_key, or for another workspace")]
    DoesNotOpen,
}

/// What a secret is for; part of what it is bound to.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    StripeSecretKey,
    StripeWebhookSecret,
    /// With which a sender signs its calls.
    SigningSecret,
    /// Of a source's own Kafka cluster.
    SourcePassword,
    /// Of a gateway's Admin API.
    GatewayKey,
    /// A consumer's key on its way to a gateway.
    ConsumerKey,
    /// With which what is told to a webhook is signed.
    WebhookSecret,
}

/// A secret in the clear. Debug never prints it.
#[derive(Clone)]
pub struct Revealed(String);

impl Revealed {
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for Revealed {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Revealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Revealed(…)")
    }
}

/// Seals and opens.
pub struct Vault(XChaCha20Poly1305);

impl Vault {
    /// `encryption_key`: 32 bytes in hex.
    pub fn new(encryption_key: &str) -> Result<Self, SealError> {
        let key = hex::decode(encryption_key).map_err(|_| SealError::BadKey)?;
        XChaCha20Poly1305::new_from_slice(&key).map(Self).map_err(|_| SealError::BadKey)
    }

    pub fn seal(&self, workspace: &WorkspaceId, purpose: Purpose, secret: &str) -> Vec<u8> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let payload = Payload { msg: secret.as_bytes(), aad: &bound_to(workspace, purpose) };
        let sealed = self.0.encrypt(&nonce, payload).expect("a secret is far below the cipher's limit of 256 GiB");
        [&[VERSION], nonce.as_slice(), &sealed].concat()
    }

    pub fn open(&self, workspace: &WorkspaceId, purpose: Purpose, stored: &[u8]) -> Result<Revealed, SealError> {
        let Some((&VERSION, rest)) = stored.split_first() else { return Err(SealError::DoesNotOpen) };
        let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or(SealError::DoesNotOpen)?;
        let payload = Payload { msg: sealed, aad: &bound_to(workspace, purpose) };
        let secret = self.0.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| SealError::DoesNotOpen)?;
        String::from_utf8(secret).map(Revealed).map_err(|_| SealError::DoesNotOpen)
    }
}

fn bound_to(workspace: &WorkspaceId, purpose: Purpose) -> Vec<u8> {
    let purpose = match purpose {
        Purpose::StripeSecretKey => "stripe-secret-key",
        Purpose::StripeWebhookSecret => "stripe-webhook-secret",
        Purpose::SigningSecret => "signing-secret",
        Purpose::SourcePassword => "source-password",
        Purpose::GatewayKey => "gateway-admin-key",
        Purpose::ConsumerKey => "consumer-key",
        Purpose::WebhookSecret => "webhook-secret",
    };
    format!("{workspace}|{purpose}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(key: &str) -> Vault {
        Vault::new(&key.repeat(32)).expect("a key")
    }

    #[test]
    fn opens_only_for_its_workspace_purpose_and_key() {
        let (ours, theirs) = (WorkspaceId::new(), WorkspaceId::new());
        let sealed = vault("a1").seal(&ours, Purpose::StripeSecretKey, "sk_test_123");
        let opened = vault("a1").open(&ours, Purpose::StripeSecretKey, &sealed).expect("opens");
        assert_eq!(opened.reveal(), "sk_test_123");
        let refused = Some(SealError::DoesNotOpen);
        assert_eq!(vault("a1").open(&theirs, Purpose::StripeSecretKey, &sealed).err(), refused);
        assert_eq!(vault("a1").open(&ours, Purpose::StripeWebhookSecret, &sealed).err(), refused);
        assert_eq!(vault("b2").open(&ours, Purpose::StripeSecretKey, &sealed).err(), refused);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(vault("a1").open(&ours, Purpose::StripeSecretKey, &changed).err(), refused, "byte {at}");
            assert_eq!(vault("a1").open(&ours, Purpose::StripeSecretKey, &sealed[..at]).err(), refused, "cut at {at}");
        }
    }

    #[test]
    fn the_same_secret_is_never_stored_alike_nor_in_the_clear() {
        let workspace = WorkspaceId::new();
        let (one, two) = (
            vault("a1").seal(&workspace, Purpose::StripeSecretKey, "sk_test_123"),
            vault("a1").seal(&workspace, Purpose::StripeSecretKey, "sk_test_123"),
        );
        assert_ne!(one, two);
        assert!(!one.windows(11).any(|part| part == b"sk_test_123"));
        assert_eq!(format!("{:?}", Revealed::new("sk_test_123".to_owned())), "Revealed(…)");
    }

    #[test]
    fn a_bad_key_is_named() {
        assert_eq!(Vault::new("short").err(), Some(SealError::BadKey));
    }
}
