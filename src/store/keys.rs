//! How is a key made, and what is kept of it? `sk-<user>-<32 hex>`, of which only a digest is stored.
//!
//! A digest is an HMAC-SHA-256 with the operator's pepper, or a plain SHA-256 where there is none. Each says which, so
//! that a pepper may be added, changed or (slowly) retired: what a caller presents is looked up under every pepper that is
//! configured, and plain.
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::StoreError;

/// `digest_version` of a plain SHA-256 of the whole key. Enough for 128 random bits: there is nothing to guess.
const PLAIN_SHA_256: i16 = 1;
/// `digest_version` of an HMAC-SHA-256 with a pepper: whoever reads the database cannot even try a key out.
const PEPPERED: i16 = 2;
/// A pepper must be at least so long.
const MIN_PEPPER: usize = 16;

/// How users' keys are stored: as digests, never in the clear.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeySettings {
    /// A secret of at least 16 characters that is mixed into each digest and kept out of the database, so that a
    /// stolen database is of no use for testing keys. `null` = plain digests. Keys issued earlier keep working.
    /// Default `null`.
    pub pepper: Option<String>,
    /// A file with the pepper on its first line, instead of `pepper`; earlier peppers may follow, one per line.
    /// Default `null`.
    pub pepper_file: Option<PathBuf>,
    /// Earlier peppers, whose keys keep working. A key whose pepper is missing here is unknown. Default none.
    pub previous_peppers: Vec<String>,
    /// Whether users may list, make and revoke their own keys under `/v1/me/keys`, with at most the rights of the key that
    /// they use. Default `false`.
    pub self_service: bool,
}

/// The peppers stay out of logs.
impl fmt::Debug for KeySettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeySettings").field("pepper_file", &self.pepper_file).finish_non_exhaustive()
    }
}

impl KeySettings {
    /// What is wrong with a secret that somebody wrote: it is no secret, or cannot go into a header. Never the secret itself.
    pub fn unfit(secret: &str) -> Option<&'static str> {
        if secret.contains("${") {
            Some("holds `${`: a variable that nobody has put a value in for")
        } else if secret.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
            Some("holds a blank, a line break or a control character")
        } else {
            None
        }
    }

    /// Whether `pepper` is long enough to be one.
    pub fn is_fit(pepper: &str) -> bool {
        pepper.len() >= MIN_PEPPER
    }
}

/// What goes into digests. Cheap to clone.
#[derive(Clone, Default)]
pub struct Peppers {
    current: Option<Pepper>,
    previous: Arc<[Pepper]>,
}

#[derive(Clone)]
struct Pepper {
    secret: Arc<str>,
    /// Tells peppers apart without telling them.
    fingerprint: Arc<str>,
}

impl fmt::Debug for Peppers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Peppers(…)")
    }
}

impl Pepper {
    fn new(secret: &str) -> Self {
        let print = Sha256::new().chain_update("fingerprint of the pepper ").chain_update(secret).finalize();
        Self { secret: secret.into(), fingerprint: hex(&print[..4]).into() }
    }

    fn digest(&self, key: &str) -> KeyDigest {
        // HMAC takes a secret of any length.
        match Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()) {
            Ok(hmac) => KeyDigest(hmac.chain_update(key).finalize().into_bytes().into()),
            Err(_) => KeyDigest::of(key),
        }
    }
}

impl Peppers {
    /// Reads what is configured.
    ///
    /// # Errors
    /// When the file cannot be read, or what it holds is too short.
    pub fn load(settings: &KeySettings) -> Result<Self, StoreError> {
        let mut secrets: Vec<String> = settings.pepper.iter().cloned().collect();
        if let Some(path) = &settings.pepper_file {
            let failed = |error| StoreError::PepperFile { path: path.clone(), error };
            let text = std::fs::read_to_string(path).map_err(failed)?;
            let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
            if lines.is_empty() || !lines.iter().all(|line| KeySettings::is_fit(line)) {
                let short = format!("each line must be a pepper of at least {MIN_PEPPER} characters");
                return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, short)));
            }
            secrets.extend(lines);
        }
        let mut peppers = secrets.iter().map(|secret| Pepper::new(secret));
        let current = peppers.next();
        let previous = peppers.chain(settings.previous_peppers.iter().map(|secret| Pepper::new(secret))).collect();
        Ok(Self { current, previous })
    }

    /// Whether there is one.
    pub(super) fn is_given(&self) -> bool {
        self.current.is_some()
    }

    /// A secret for `purpose` from each pepper, that in force first.
    pub(super) fn derived<'a>(&'a self, purpose: &'a str) -> impl Iterator<Item = [u8; 32]> + 'a {
        self.current.iter().chain(self.previous.iter()).map(move |pepper| pepper.digest(purpose).0)
    }

    /// What is stored of a new key.
    pub(super) fn seal(&self, key: &ApiKey) -> Sealed {
        match &self.current {
            Some(pepper) => Sealed {
                digest: pepper.digest(&key.0),
                version: PEPPERED,
                pepper: Some(pepper.fingerprint.as_ref().to_owned()),
            },
            None => Sealed { digest: KeyDigest::of(&key.0), version: PLAIN_SHA_256, pepper: None },
        }
    }

    /// What may be stored of a key that a caller presents.
    pub(super) fn digests<'a>(&'a self, presented: &'a str) -> impl Iterator<Item = KeyDigest> + 'a {
        let peppered = self.current.iter().chain(self.previous.iter()).map(|pepper| pepper.digest(presented));
        peppered.chain(std::iter::once_with(|| KeyDigest::of(presented)))
    }

    /// Whether keys with this pepper's fingerprint can be told.
    pub(super) fn knows(&self, fingerprint: Option<&str>) -> bool {
        let Some(fingerprint) = fingerprint else { return true };
        self.current.iter().chain(self.previous.iter()).any(|pepper| *pepper.fingerprint == *fingerprint)
    }
}

/// A secret of a key, without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEnd {
    pub(super) digest: KeyDigest,
    /// Its last four characters, for lists.
    pub last_four: String,
    /// When it stops after a rotation, epoch milliseconds; `None` = with its key.
    pub until_ms: Option<i64>,
}

/// A digest as it is stored.
pub(super) struct Sealed {
    pub(super) digest: KeyDigest,
    pub(super) version: i16,
    pub(super) pepper: Option<String>,
}

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
    Ok(hex(&bytes))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

    fn peppers(settings: KeySettings) -> Peppers {
        Peppers::load(&settings).unwrap()
    }

    #[test]
    fn a_key_is_found_under_any_pepper_that_is_known_and_plain() {
        let key = ApiKey("sk-a-1".to_owned());
        let (old, new) = ("an old pepper, long", "a new pepper, longer");
        let plain = Peppers::default();
        let first = peppers(KeySettings { pepper: Some(old.to_owned()), ..KeySettings::default() });
        let second = peppers(KeySettings {
            pepper: Some(new.to_owned()),
            previous_peppers: vec![old.to_owned()],
            ..KeySettings::default()
        });
        for (sealed, finds) in [(plain.seal(&key), 3), (first.seal(&key), 2), (second.seal(&key), 1)] {
            let knowing = [&plain, &first, &second]
                .into_iter()
                .filter(|peppers| peppers.digests("sk-a-1").any(|digest| digest == sealed.digest));
            assert_eq!(knowing.count(), finds, "{:?}", sealed.pepper);
            assert_eq!(plain.knows(sealed.pepper.as_deref()), sealed.version == PLAIN_SHA_256);
            assert!(second.knows(sealed.pepper.as_deref()));
        }
        assert!(!format!("{second:?}").contains("pepper,"));
    }

    #[test]
    fn the_digest_with_a_pepper_is_the_standard_one() {
        // RFC 4231, test case 2.
        let digest = Pepper::new("Jefe").digest("what do ya want for nothing?");
        assert_eq!(hex(&digest.0), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_file_holds_the_pepper_and_those_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pepper");
        let settings = KeySettings { pepper_file: Some(path.clone()), ..KeySettings::default() };
        assert!(Peppers::load(&settings).unwrap_err().to_string().starts_with("keys.pepper_file: "));
        for bad in ["", "short\n", "0123456789abcdef\n\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(Peppers::load(&settings).is_err(), "{bad:?}");
        }
        std::fs::write(&path, "the newer pepper\nthe older pepper\n").unwrap();
        let peppers = Peppers::load(&settings).unwrap();
        assert_eq!(*peppers.current.as_ref().unwrap().secret, *"the newer pepper");
        assert_eq!(peppers.previous.len(), 1);
    }

    #[test]
    fn a_digest_matches_only_its_key() {
        assert!(KeyDigest::of("a").matches(&KeyDigest::of("a")));
        assert!(!KeyDigest::of("a").matches(&KeyDigest::of("b")));
    }
}
