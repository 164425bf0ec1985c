//! Tokens and keys: random, recognisable by prefix, with a checksum so that a typing error is told from a revoked
//! key without a look-up, and kept only as a hash.

use rand::Rng;
use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_LENGTH: usize = 32; // 190 bits
const CHECK_LENGTH: usize = 6;

/// A secret in the clear, for the one moment in which it is shown. Debug never prints it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// `<prefix><32 random characters><6 characters of checksum>`.
    pub fn generate(prefix: &str) -> Self {
        let mut rng = rand::rng();
        let random: String = (0..RANDOM_LENGTH).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
        let body = format!("{prefix}{random}");
        let check = checksum(&body);
        Self(format!("{body}{check}"))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }

    /// What may be shown later to tell keys apart: the prefix and first characters, and the last four.
    pub fn hint(&self) -> String {
        let head = self.0.rfind('_').map_or(4, |at| at + 5);
        format!("{}…{}", &self.0[..head], &self.0[self.0.len() - 4..])
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256: enough for secrets of 190 random bits, and quick enough to run for each call.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Whether the checksum fits, so that a mistyped secret is refused without asking the database.
pub fn is_well_formed(secret: &str) -> bool {
    let Some(split) = secret.len().checked_sub(CHECK_LENGTH) else { return false };
    secret.is_ascii() && split > RANDOM_LENGTH && checksum(&secret[..split]) == secret[split..]
}

fn checksum(body: &str) -> String {
    let digest = Sha256::digest(body.as_bytes());
    digest[..CHECK_LENGTH].iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_secret_is_told_by_its_checksum() {
        let secret = Secret::generate("fbx_live_");
        assert!(is_well_formed(secret.reveal()));
        let mut typo = secret.reveal().to_owned();
        let last = if typo.ends_with('a') { "b" } else { "a" };
        typo.replace_range(typo.len() - 1.., last);
        assert!(!is_well_formed(&typo));
        assert!(!is_well_formed("x") && !is_well_formed("") && !is_well_formed("ключ"));
    }

    #[test]
    fn neither_debug_nor_hint_gives_it_away() {
        let secret = Secret::generate("fbx_live_");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert!(secret.hint().starts_with("fbx_live_") && secret.hint().chars().count() == 9 + 4 + 1 + 4);
    }
}
