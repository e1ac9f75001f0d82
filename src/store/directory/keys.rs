//! Which keys are there, and which one does a digest open? Records of keys, chained by user, with their secrets.
use std::sync::Arc;

use hashbrown::hash_table::Entry;

use super::records::{CompactId, KeyEntry, KeyRecord, ShortText, minute_of};
use super::secrets::{Chain, SecretEntry};
use super::{Directory, KeyIndex, NONE, Presented, insert};
use crate::store::key::{DEFAULT_NAME, Key, KeySpec};
use crate::store::keys::KeyDigest;
use limits::Limits;

impl Directory {
    fn find_key(&self, id: &str) -> Option<u32> {
        let id = CompactId::of(id);
        let is_it = |index: &u32| self.keys[*index as usize].as_ref().is_some_and(|record| record.id == id);
        self.by_id.find(id.hash(), is_it).copied()
    }

    /// Takes a key up, or what has changed of one, without secrets. Nothing happens where its user is unknown: it is being
    /// deleted.
    pub(in crate::store) fn put_key(&mut self, entry: &KeyEntry<'_>) {
        let KeySpec { name, expires_at_ms, allowed_models, limits } = &entry.spec;
        // Most keys have neither a name nor terms of their own, so the record keeps them only where they differ.
        let name = Some(&**name).filter(|name| *name != DEFAULT_NAME).map(ShortText::of);
        let is_plain = expires_at_ms.is_none() && allowed_models.is_none() && *limits == Limits::default();
        let spec = (!is_plain).then(|| Box::new(KeySpec { name: String::new(), ..entry.spec.clone() }));
        let used_minute = entry.last_used_ms.map_or(0, minute_of);
        let id = CompactId::of(entry.id);
        let keys = &self.keys;
        let is_it = |index: &u32| keys[*index as usize].as_ref().is_some_and(|record| record.id == id);
        let hash_of = |index: &u32| keys[*index as usize].as_ref().map_or(0, |record| record.id.hash());
        let place = match self.by_id.entry(id.hash(), is_it, hash_of) {
            Entry::Occupied(known) => {
                let Some(record) = self.keys[*known.get() as usize].as_mut() else { return };
                (record.name, record.spec) = (name, spec);
                record.used_minute = record.used_minute.max(used_minute);
                if let Some(key) = &record.awake {
                    key.set_spec(entry.spec.clone());
                }
                return;
            }
            Entry::Vacant(place) => place,
        };
        let Some(user) = self.by_name.get(entry.user).copied() else { return };
        let Some(owner) = self.users[user as usize].as_mut() else { return };
        let record = KeyRecord {
            id,
            name,
            spec,
            awake: None,
            created_at_ms: entry.created_at_ms,
            user,
            next_of_user: owner.first_key,
            secrets: Chain::default(),
            used_minute,
        };
        let index = insert(&mut self.keys, &mut self.free_keys, record);
        owner.first_key = index;
        place.insert(index);
    }

    /// Takes a key away; running requests end.
    pub(in crate::store) fn remove_key(&mut self, id: &str) {
        if let Some(index) = self.find_key(id) {
            self.remove_key_at(index);
        }
    }

    pub(super) fn remove_key_at(&mut self, index: u32) {
        let Some(record) = self.keys[index as usize].take() else { return };
        self.secrets.remove(record.secrets);
        if let Ok(found) = self.by_id.find_entry(record.id.hash(), |other| *other == index) {
            found.remove();
        }
        self.unlink(record.user, index, record.next_of_user);
        if let Some(key) = record.awake {
            key.revoke();
        }
        self.awake_keys.remove(&index);
        self.free_keys.push(index);
    }

    /// Takes a key out of the chain of its user's keys.
    fn unlink(&mut self, user: u32, index: u32, next: u32) {
        let Some(owner) = self.users[user as usize].as_mut() else { return };
        if owner.first_key == index {
            owner.first_key = next;
            return;
        }
        let mut at = owner.first_key;
        while let Some(record) = self.keys.get_mut(at as usize).and_then(Option::as_mut) {
            if record.next_of_user == index {
                record.next_of_user = next;
                return;
            }
            at = record.next_of_user;
        }
    }

    /// Adds a secret to a key that is known.
    pub(in crate::store) fn add_secret(&mut self, key_id: &str, secret: &SecretEntry) {
        // Keys and secrets are read in one order, so the key is usually the one after the last.
        let is_next = |record: &KeyRecord| record.id == CompactId::of(key_id);
        let next = self.keys.get(self.next_key as usize).and_then(Option::as_ref).is_some_and(is_next);
        let Some(index) = Some(self.next_key).filter(|_| next).or_else(|| self.find_key(key_id)) else { return };
        self.next_key = index + 1;
        if let Some(record) = self.keys[index as usize].as_mut() {
            record.secrets = self.secrets.add(index, record.secrets, secret);
        }
    }

    /// Puts these secrets in the place of those that a key had.
    pub(in crate::store) fn set_secrets(&mut self, key_id: &str, secrets: &[SecretEntry]) {
        let Some(index) = self.find_key(key_id) else { return };
        let Some(record) = self.keys[index as usize].as_mut() else { return };
        self.secrets.remove(std::mem::take(&mut record.secrets));
        for secret in secrets {
            record.secrets = self.secrets.add(index, record.secrets, secret);
        }
        if let Some(key) = &record.awake {
            key.set_secrets(self.secrets.list(record.secrets));
        }
    }

    /// Whose key has a secret with this digest, and whether it opens the door at `now_ms`.
    pub(in crate::store) fn present(&self, digest: &KeyDigest, now_ms: i64) -> Option<Presented> {
        let (index, until_ms) = self.secrets.find(digest)?;
        let record = self.keys[index as usize].as_ref()?;
        let end = record.spec.as_ref().and_then(|spec| spec.expires_at_ms);
        if until_ms <= now_ms || end.is_some_and(|end| end <= now_ms) {
            return Some(Presented::Ended);
        }
        Some(match &record.awake {
            Some(key) => Presented::Awake(key.clone()),
            None => Presented::Resting(KeyIndex(index)),
        })
    }

    /// Where a key of a user's is.
    pub(in crate::store) fn key_of(&self, user: &str, id: &str) -> Option<KeyIndex> {
        let key = self.find_key(id)?;
        let record = self.keys[key as usize].as_ref()?;
        (self.by_name.get(user) == Some(&record.user)).then_some(KeyIndex(key))
    }

    /// Where a key is, whosever.
    pub(in crate::store) fn key(&self, id: &str) -> Option<KeyIndex> {
        self.find_key(id).map(KeyIndex)
    }

    /// The key, if it is awake.
    pub(in crate::store) fn awake_key(&self, id: &str) -> Option<Arc<Key>> {
        self.keys[self.find_key(id)? as usize].as_ref()?.awake.clone()
    }

    /// Where all keys of a user are.
    pub(in crate::store) fn keys_of(&self, user: &str) -> Vec<KeyIndex> {
        let mut at = self.user_record(user).map_or(NONE, |record| record.first_key);
        let mut keys = Vec::new();
        while let Some(Some(record)) = self.keys.get(at as usize) {
            keys.push(KeyIndex(at));
            at = record.next_of_user;
        }
        keys
    }
}
