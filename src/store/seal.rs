//! Encrypts the credentials of nodes in the database, so that they are useless without the pepper.
//!
//! The whole text of a node's settings is sealed with AES-256-GCM. The key is derived from the pepper for this purpose
//! alone, and the node's name is authenticated as well, so that the text of another node cannot be put in its place.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::error::StoreError;
use super::keys::Peppers;

const PREFIX: &str = "sealed-1:";
const PURPOSE: &str = "settings of nodes";

/// Whether a text from the database is sealed.
pub(super) fn is_sealed(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The text as it is stored: sealed if there is a pepper, and as it is otherwise.
pub(super) fn seal(peppers: &Peppers, name: &str, text: String) -> Result<String, StoreError> {
    let Some(key) = peppers.derived(PURPOSE).next().and_then(|key| key_of(&key)) else { return Ok(text) };
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    let mut sealed = text.into_bytes();
    // Fails only for texts of about 64 GiB.
    let done = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut sealed);
    done.map_err(|_| StoreError::NoNode(name.to_owned()))?;
    Ok(format!("{PREFIX}{}", STANDARD.encode([&nonce[..], &sealed].concat())))
}

/// Opens a stored text. `None` if its pepper is not configured, or the text was changed.
pub(super) fn open(peppers: &Peppers, name: &str, stored: &str) -> Option<String> {
    let Some(sealed) = stored.strip_prefix(PREFIX) else { return Some(stored.to_owned()) };
    let sealed = STANDARD.decode(sealed).ok()?;
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    peppers.derived(PURPOSE).find_map(|key| {
        let mut text = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = key_of(&key)?.open_in_place(nonce, Aad::from(name), &mut text).ok()?.len();
        text.truncate(length);
        String::from_utf8(text).ok()
    })
}

fn key_of(secret: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, secret).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::KeySettings;

    fn peppers(current: &str, previous: &[&str]) -> Peppers {
        let previous_peppers = previous.iter().map(|pepper| (*pepper).to_owned()).collect();
        let settings = KeySettings { pepper: Some(current.to_owned()), previous_peppers, ..KeySettings::default() };
        Peppers::load(&settings).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_its_pepper_for_its_node_and_else_not() {
        let (old, new) = (peppers("the older pepper", &[]), peppers("the newer pepper", &["the older pepper"]));
        let sealed = seal(&old, "a", "geheim".to_owned()).unwrap();
        assert!(is_sealed(&sealed) && !sealed.contains("geheim"));
        assert_ne!(sealed, seal(&old, "a", "geheim".to_owned()).unwrap());
        for peppers in [&old, &new] {
            assert_eq!(open(peppers, "a", &sealed).as_deref(), Some("geheim"));
        }
        assert_eq!(open(&old, "b", &sealed), None);
        assert_eq!(open(&Peppers::default(), "a", &sealed), None);
        assert_eq!(open(&old, "a", &seal(&new, "a", "geheim".to_owned()).unwrap()), None);
        for broken in ["sealed-1:", "sealed-1:AAAA", "sealed-1:!", &sealed[..sealed.len() - 4]] {
            assert_eq!(open(&old, "a", broken), None, "{broken}");
        }
    }

    #[test]
    fn without_a_pepper_nothing_is_sealed() {
        let stored = seal(&Peppers::default(), "a", "{}".to_owned()).unwrap();
        assert_eq!((stored.as_str(), open(&Peppers::default(), "a", &stored).as_deref()), ("{}", Some("{}")));
    }
}
