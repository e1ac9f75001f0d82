//! Whose is this digest? A table of all secrets, by their digests; those of one key form a chain.
use hashbrown::HashTable;

use crate::store::keys::{KeyDigest, SecretEnd};

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// A secret as the database has it.
#[derive(Clone, Debug)]
pub(in crate::store) struct SecretEntry {
    pub(in crate::store) end: SecretEnd,
    /// Whether it was made with a pepper that is not configured.
    pub(in crate::store) is_foreign: bool,
}

/// Where the chain of a key's secrets begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(u32);

impl Default for Chain {
    fn default() -> Self {
        Self(NONE)
    }
}

/// All secrets.
#[derive(Debug, Default)]
pub(super) struct SecretTable {
    records: Vec<SecretRecord>,
    free: Vec<u32>,
    by_digest: HashTable<u32>,
    foreign: usize,
}

#[derive(Debug)]
struct SecretRecord {
    digest: KeyDigest,
    last_four: [u8; 4],
    /// `i64::MAX` = with its key.
    until_ms: i64,
    key: u32,
    next_of_key: u32,
    is_foreign: bool,
}

impl SecretTable {
    pub(super) fn reserve(&mut self, secrets: usize) {
        self.records.reserve_exact(secrets);
        self.by_digest.reserve(secrets, |_| 0);
    }

    /// Secrets that were made with a pepper which is not configured.
    pub(super) fn foreign(&self) -> usize {
        self.foreign
    }

    /// Adds a secret to the chain of a key, and returns the longer chain.
    pub(super) fn add(&mut self, key: u32, Chain(next_of_key): Chain, secret: &SecretEntry) -> Chain {
        let SecretEntry { end, is_foreign } = secret;
        // The record has room for four bytes; anything of another length is shown as `????`.
        let mut last_four = [b'?'; 4];
        if end.last_four.len() == last_four.len() {
            last_four.copy_from_slice(end.last_four.as_bytes());
        }
        let until_ms = end.until_ms.unwrap_or(i64::MAX);
        let record =
            SecretRecord { digest: end.digest, last_four, until_ms, key, next_of_key, is_foreign: *is_foreign };
        let index = match self.free.pop() {
            Some(free) => {
                self.records[free as usize] = record;
                free
            }
            None => {
                self.records.push(record);
                u32::try_from(self.records.len() - 1).unwrap_or(NONE)
            }
        };
        self.foreign += usize::from(*is_foreign);
        let records = &self.records;
        let hash_of = |index: &u32| first_eight(&records[*index as usize].digest.0);
        self.by_digest.insert_unique(first_eight(&end.digest.0), index, hash_of);
        Chain(index)
    }

    /// Removes every secret of a chain.
    pub(super) fn remove(&mut self, Chain(mut at): Chain) {
        while at != NONE {
            let secret = &self.records[at as usize];
            if let Ok(found) = self.by_digest.find_entry(first_eight(&secret.digest.0), |other| *other == at) {
                found.remove();
            }
            self.foreign -= usize::from(secret.is_foreign);
            self.free.push(at);
            at = secret.next_of_key;
        }
    }

    /// The secrets of a chain; the one in force last.
    pub(super) fn list(&self, Chain(mut at): Chain) -> Vec<SecretEnd> {
        let mut secrets = Vec::new();
        while let Some(secret) = self.records.get(at as usize) {
            secrets.push(SecretEnd {
                digest: secret.digest,
                last_four: String::from_utf8_lossy(&secret.last_four).into_owned(),
                until_ms: Some(secret.until_ms).filter(|until| *until != i64::MAX),
            });
            at = secret.next_of_key;
        }
        secrets.sort_by_key(|secret| (secret.until_ms.is_none(), secret.until_ms));
        secrets
    }

    /// The key that a digest belongs to, and when the secret ends (epoch milliseconds, `i64::MAX` = with its key).
    pub(super) fn find(&self, digest: &KeyDigest) -> Option<(u32, i64)> {
        let is_it = |index: &u32| self.records[*index as usize].digest == *digest;
        let secret = &self.records[*self.by_digest.find(first_eight(&digest.0), is_it)? as usize];
        Some((secret.key, secret.until_ms))
    }
}

/// A hash of what is random already.
pub(super) fn first_eight(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first: &[u8; 8]| u64::from_le_bytes(*first))
}
