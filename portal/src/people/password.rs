//! Passwords: argon2id, on threads that may be busy, a few at a time so that a flood of sign-ins cannot take all memory.

use std::sync::LazyLock;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngCore;
use tokio::sync::Semaphore;

pub const MIN_LENGTH: usize = 10;
const MAX_LENGTH: usize = 200;
/// Hashes computed at once: 19 MiB each.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("Use at least {MIN_LENGTH} characters.")]
    TooShort,
    #[error("Use at most {MAX_LENGTH} characters.")]
    TooLong,
    #[error("This password is among the first that are tried. Choose another.")]
    Common,
    #[error("the password could not be hashed")]
    Hashing,
}

/// OWASP's first recommendation for argon2id: 19 MiB, 2 passes, 1 lane.
fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19 * 1024, 2, 1, None).expect("fixed parameters within argon2's bounds"))
}

fn salt() -> SaltString {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    SaltString::encode_b64(&bytes).expect("16 bytes are a salt")
}

/// Long enough and not one of the first guesses; nothing about kinds of characters.
pub fn check(password: &str, email: &str) -> Result<(), PasswordError> {
    let length = password.chars().count();
    if length < MIN_LENGTH {
        return Err(PasswordError::TooShort);
    }
    if length > MAX_LENGTH {
        return Err(PasswordError::TooLong);
    }
    let lower = password.to_lowercase();
    let distinct = lower.chars().collect::<std::collections::HashSet<_>>().len();
    let guesses = ["1234567890", "password", "qwertyuiop", "letmein", "administrator", "welcome"];
    let stripped = lower.trim_end_matches(|c: char| c.is_ascii_digit() || c == '!');
    if distinct < 4 || lower == email.to_lowercase() || guesses.iter().any(|guess| stripped == *guess || lower == *guess) {
        return Err(PasswordError::Common);
    }
    Ok(())
}

pub async fn hash(password: String) -> Result<String, PasswordError> {
    let _slot = AT_ONCE.acquire().await.map_err(|_| PasswordError::Hashing)?;
    tokio::task::spawn_blocking(move || {
        let salt = salt();
        argon2().hash_password(password.as_bytes(), &salt).map(|hash| hash.to_string()).map_err(|_| PasswordError::Hashing)
    })
    .await
    .map_err(|_| PasswordError::Hashing)?
}

/// Whether the password fits. Without a hash (no such person, no password yet) it works as long and says no, so that
/// time does not tell whether an address is known.
pub async fn verify(password: String, hash: Option<String>) -> Result<bool, PasswordError> {
    static NOBODY: LazyLock<String> = LazyLock::new(|| {
        let salt = salt();
        argon2().hash_password(b"nobody", &salt).map(|hash| hash.to_string()).unwrap_or_default()
    });
    let _slot = AT_ONCE.acquire().await.map_err(|_| PasswordError::Hashing)?;
    tokio::task::spawn_blocking(move || {
        let known = hash.is_some();
        let text = hash.unwrap_or_else(|| NOBODY.clone());
        let parsed = PasswordHash::new(&text).map_err(|_| PasswordError::Hashing)?;
        Ok(argon2().verify_password(password.as_bytes(), &parsed).is_ok() && known)
    })
    .await
    .map_err(|_| PasswordError::Hashing)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_someone_fits() {
        let hash = hash("a sentence to keep".into()).await.expect("hashes");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(verify("a sentence to keep".into(), Some(hash.clone())).await.expect("verifies"));
        assert!(!verify("a sentence to keeP".into(), Some(hash)).await.expect("verifies"));
        assert!(!verify("nobody".into(), None).await.expect("verifies"));
    }

    #[test]
    fn the_first_guesses_are_refused() {
        let email = "robin@northbank.example";
        assert!(check("a sentence to keep", email).is_ok());
        for bad in ["short", "password123", "aaaaaaaaaaaa", "robin@northbank.example", "1234567890", &"x".repeat(201)] {
            assert!(check(bad, email).is_err(), "{bad}");
        }
    }
}
