//! How is a key made, and what is kept of it? `sk-<user>-<32 hex>`, of which only a digest is stored.
use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// `digest_version` of a plain SHA-256 of the whole key. Enough for 128 random bits: there is nothing to guess.
pub(super) const PLAIN_SHA_256: i16 = 1;

/// A key as it is shown, once. Never logged: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Makes a new key for a user from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system has none.
    pub fn generate(user: &str) -> Result<Self, getrandom::Error> {
        Ok(Self(format!("sk-{user}-{}", random_hex()?)))
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The last four characters, for lists.
    pub fn last_four(&self) -> &str {
        &self.0[self.0.len() - 4..]
    }

    /// What is stored of it.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(…)")
    }
}

/// 128 random bits in hex.
///
/// # Errors
/// When the operating system has no randomness.
pub fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The SHA-256 of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub(super) [u8; 32]);

impl KeyDigest {
    /// Digests what a caller presents.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_documented_form_and_never_repeats() {
        let key = ApiKey::generate("user-123").unwrap();
        let random = key.reveal().strip_prefix("sk-user-123-").unwrap();
        assert!(random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(key, ApiKey::generate("user-123").unwrap());
        assert!(!format!("{key:?}").contains(random));
    }

    #[test]
    fn a_digest_matches_only_its_key() {
        assert!(KeyDigest::of("a").matches(&KeyDigest::of("a")));
        assert!(!KeyDigest::of("a").matches(&KeyDigest::of("b")));
    }
}
