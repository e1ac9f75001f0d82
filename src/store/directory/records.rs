//! What is kept of a user and of a key in memory?
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::secrets::{Chain, first_eight};
use crate::store::account::{Account, UserEntry};
use crate::store::key::{Key, KeySpec};

const MINUTE_MS: i64 = 60_000;
const PREFIX: &str = "key_";
/// Longest inline string, bytes: it leaves `ShortText` as large as three words.
const INLINE: usize = 22;

/// A key as the database has it, without its secrets.
#[derive(Clone, Debug)]
pub(in crate::store) struct KeyEntry<'a> {
    pub(in crate::store) id: &'a str,
    pub(in crate::store) user: &'a str,
    pub(in crate::store) created_at_ms: i64,
    pub(in crate::store) last_used_ms: Option<i64>,
    pub(in crate::store) spec: KeySpec,
}

#[derive(Debug)]
pub(super) struct UserRecord {
    pub(super) entry: UserEntry,
    pub(super) first_key: u32,
    pub(super) awake: Option<Arc<Account>>,
}

#[derive(Debug)]
pub(super) struct KeyRecord {
    pub(super) id: CompactId,
    /// `None` = the default name.
    pub(super) name: Option<ShortText>,
    /// `None` = no end, no limits, every model.
    pub(super) spec: Option<Box<KeySpec>>,
    pub(super) awake: Option<Arc<Key>>,
    pub(super) created_at_ms: i64,
    pub(super) user: u32,
    pub(super) next_of_user: u32,
    pub(super) secrets: Chain,
    /// Minutes since 1970; 0 = never.
    pub(super) used_minute: u32,
}

/// A string that is stored inline if it is short, as most names of keys are.
#[derive(Debug)]
pub(super) enum ShortText {
    Inline { length: u8, bytes: [u8; INLINE] },
    Boxed(Box<str>),
}

impl ShortText {
    pub(super) fn of(text: &str) -> Self {
        let mut bytes = [0; INLINE];
        match (u8::try_from(text.len()), bytes.get_mut(..text.len())) {
            (Ok(length), Some(place)) => {
                place.copy_from_slice(text.as_bytes());
                Self::Inline { length, bytes }
            }
            _ => Self::Boxed(text.into()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Inline { length, bytes } => {
                String::from_utf8_lossy(&bytes[..usize::from(*length).min(INLINE)]).into_owned()
            }
            Self::Boxed(text) => text.to_string(),
        }
    }
}

/// `key_` and 32 hex digits take 16 bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CompactId {
    Random([u8; 16]),
    Other(Box<str>),
}

impl CompactId {
    pub(super) fn of(id: &str) -> Self {
        let mut bytes = [0; 16];
        match id.strip_prefix(PREFIX).and_then(|digits| digits.as_bytes().try_into().ok()) {
            Some(digits) if from_hex(digits, &mut bytes) => Self::Random(bytes),
            _ => Self::Other(id.into()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Random(bytes) => bytes.iter().fold(PREFIX.to_owned(), |text, byte| text + &format!("{byte:02x}")),
            Self::Other(text) => text.to_string(),
        }
    }

    pub(super) fn hash(&self) -> u64 {
        match self {
            // Random, unless somebody makes ids by hand: then every bit counts.
            Self::Random(bytes) => {
                (first_eight(bytes) ^ first_eight(&bytes[8..]).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            }
            Self::Other(text) => {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                hasher.finish()
            }
        }
    }
}

/// What a byte is as a hex digit; more than 15 for what is none. Upper case is none, as ids are written in lower case.
const HEX: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    values
};
const NO_DIGIT: u8 = 0xff;

/// Reads lower-case hex digits; false where there are others.
fn from_hex(digits: &[u8; 32], bytes: &mut [u8; 16]) -> bool {
    let mut all = 0;
    for (pair, byte) in digits.chunks_exact(2).zip(bytes) {
        let (high, low) = (HEX[usize::from(pair[0])], HEX[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    all < 16
}

/// Minutes since 1970; 0 for never.
pub(super) fn minute_of(ms: i64) -> u32 {
    u32::try_from(ms / MINUTE_MS).unwrap_or_default()
}

/// The beginning of a minute, epoch milliseconds.
pub(super) fn moment_of(minute: u32) -> i64 {
    i64::from(minute) * MINUTE_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_and_only_one_of_32_lower_case_digits_is_compact() {
        let compact = "key_00112233445566778899aabbccddeeff";
        assert_eq!(CompactId::of(compact).text(), compact);
        assert!(matches!(CompactId::of(compact), CompactId::Random(_)));
        let others = [
            "key_00112233445566778899aabbccddeef".to_owned(),
            format!("{compact}0"),
            compact.to_uppercase().replace("KEY", "key"),
            compact.replace("key", "sk"),
            compact.replace('7', "g"),
            compact.replace("ff", "/:"),
            compact.replace("ff", "`é").replace('0', ""),
        ];
        for other in others {
            assert_eq!(CompactId::of(&other), CompactId::Other(other.clone().into()));
            assert_eq!(CompactId::of(&other).text(), other);
        }
    }

    #[test]
    fn a_short_text_reads_back_as_it_was_and_takes_no_more_than_three_words() {
        for length in [0, 1, INLINE - 1, INLINE, INLINE + 1, 255, 256, 1_000] {
            let text = "n".repeat(length);
            assert_eq!(ShortText::of(&text).text(), text);
        }
        let accents = "é".repeat(INLINE / 2);
        assert_eq!(ShortText::of(&accents).text(), accents);
        assert!(matches!(ShortText::of(&accents), ShortText::Inline { .. }));
        assert_eq!(size_of::<Option<ShortText>>(), 24);
    }
}
