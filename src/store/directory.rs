//! Where is everybody in memory?
//!
//! Most users and keys rest most of the time, and there may be a million of them. One that rests is a compact record; the
//! [`Account`] and [`Key`] that requests work with are made when the first request needs them, and dropped when nothing of
//! them is in use or counts any more. Digests and ids are found through tables of 4-byte indices into the records.
mod groups;
mod keys;
mod records;
mod secrets;
mod waking;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashTable;

pub(super) use self::records::KeyEntry;
use self::records::{KeyRecord, UserRecord};
pub(super) use self::secrets::SecretEntry;
use self::secrets::SecretTable;
use super::account::{Account, UserEntry};
use super::group::UserGroup;
use super::key::Key;
use super::usage_id::name_of;

/// No record; also the end of a chain.
const NONE: u32 = u32::MAX;

/// What a digest leads to.
#[derive(Debug)]
pub(super) enum Presented {
    /// A key that opens the door.
    Awake(Arc<Key>),
    /// The same; [`Directory::wake_key`] makes it.
    Resting(KeyIndex),
    /// A key, or a secret of it, that has ended.
    Ended,
}

/// Where the record of a key is. Valid only while the directory is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyIndex(u32);

/// Everybody.
#[derive(Debug, Default)]
pub(super) struct Directory {
    users: Vec<Option<UserRecord>>,
    free_users: Vec<u32>,
    /// By name, so that lists have an order.
    by_name: BTreeMap<Arc<str>, u32>,
    keys: Vec<Option<KeyRecord>>,
    free_keys: Vec<u32>,
    by_id: HashTable<u32>,
    /// The key that follows the one to which a secret was added last.
    next_key: u32,
    secrets: SecretTable,
    awake_users: BTreeSet<u32>,
    awake_keys: BTreeSet<u32>,
    groups: BTreeMap<Arc<str>, Arc<UserGroup>>,
}

impl Directory {
    /// Makes room for so many.
    pub(super) fn reserve(&mut self, users: usize, keys: usize, secrets: usize) {
        self.users.reserve_exact(users);
        self.keys.reserve_exact(keys);
        self.by_id.reserve(keys, |_| 0);
        self.secrets.reserve(secrets);
    }

    pub(super) fn user_count(&self) -> usize {
        self.by_name.len()
    }

    /// Secrets that were made with a pepper which is not configured.
    pub(super) fn foreign_secrets(&self) -> usize {
        self.secrets.foreign()
    }

    /// The names after this one, in order.
    pub(super) fn names_after(&self, after: Option<&str>, limit: usize) -> Vec<Arc<str>> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range::<str, _>((after, Bound::Unbounded)).take(limit).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn user(&self, name: &str) -> Option<&UserEntry> {
        self.user_record(name).map(|record| &record.entry)
    }

    /// The user whom usage knows by this id, unless the name is another user's by now.
    pub(super) fn user_of(&self, usage_id: &str) -> Option<&UserEntry> {
        self.user(name_of(usage_id)).filter(|entry| *entry.usage_id() == *usage_id)
    }

    /// The users of whom the last minute counts, by their ids in usage: it is limited for them, or for one of their keys.
    /// `None` for more than so many.
    pub(super) fn limited_by_minute(&self, most: usize) -> Option<BTreeSet<Arc<str>>> {
        let users = self.users.iter().flatten().filter(|record| record.entry.terms.limits.is_by_minute());
        let is_limited = |key: &&KeyRecord| key.spec.as_ref().is_some_and(|spec| spec.limits.is_by_minute());
        let of_keys = self.keys.iter().flatten().filter(is_limited);
        let of_keys = of_keys.filter_map(|key| self.users.get(key.user as usize)?.as_ref());
        let mut limited = BTreeSet::new();
        for record in users.chain(of_keys) {
            limited.insert(record.entry.usage_id());
            if limited.len() > most {
                return None;
            }
        }
        Some(limited)
    }

    /// When a user was last seen, epoch milliseconds; 0 = never.
    pub(super) fn last_seen_ms(&self, name: &str) -> i64 {
        let awake_ms = |record: &UserRecord| record.awake.as_ref().map_or(0, |account| account.last_seen_ms());
        self.user_record(name).map_or(0, |record| record.entry.last_seen_ms.max(awake_ms(record)))
    }

    /// Somebody else has seen a user.
    pub(super) fn seen(&mut self, name: &str, seen_ms: i64) {
        let Some(index) = self.by_name.get(name) else { return };
        if let Some(record) = self.users.get_mut(*index as usize).and_then(Option::as_mut) {
            record.entry.last_seen_ms = record.entry.last_seen_ms.max(seen_ms);
        }
    }

    /// The account, if it is awake.
    pub(super) fn account(&self, name: &str) -> Option<Arc<Account>> {
        self.user_record(name)?.awake.clone()
    }

    fn user_record(&self, name: &str) -> Option<&UserRecord> {
        self.users.get(*self.by_name.get(name)? as usize)?.as_ref()
    }

    /// Takes a user up, or what has changed of one; true for a new one. Another user of the name takes the place of the
    /// one before.
    pub(super) fn put_user(&mut self, mut entry: UserEntry) -> bool {
        // Somebody else has the name now: nothing of the one before, not even a running request, is theirs.
        if self.user(entry.user.as_str()).is_some_and(|known| known.generation != entry.generation) {
            self.remove_user(&entry.user.shared());
        }
        let group = entry.group.as_ref().and_then(|name| self.groups.get(name)).cloned();
        if let Some(group) = &group {
            entry.group = Some(group.name().clone());
        }
        if let Some(index) = self.by_name.get(entry.user.as_str())
            && let Some(Some(record)) = self.users.get_mut(*index as usize)
        {
            if let Some(account) = &record.awake {
                account.set(&entry);
                account.set_group(group);
            }
            // The database hears of it only now and then, so memory may know better.
            entry.last_seen_ms = entry.last_seen_ms.max(record.entry.last_seen_ms);
            record.entry = entry;
            return false;
        }
        let name = entry.user.shared();
        let index = insert(&mut self.users, &mut self.free_users, UserRecord { entry, first_key: NONE, awake: None });
        self.by_name.insert(name, index);
        true
    }

    /// Takes a user away, with all keys; running requests end.
    pub(super) fn remove_user(&mut self, name: &str) {
        let Some(index) = self.by_name.remove(name) else { return };
        while let Some(key) =
            self.users[index as usize].as_ref().map(|record| record.first_key).filter(|key| *key != NONE)
        {
            self.remove_key_at(key);
        }
        if let Some(account) = self.users[index as usize].take().and_then(|record| record.awake) {
            account.close();
        }
        self.awake_users.remove(&index);
        self.free_users.push(index);
    }
}

fn insert<T>(records: &mut Vec<Option<T>>, free: &mut Vec<u32>, record: T) -> u32 {
    if let Some(index) = free.pop() {
        records[index as usize] = Some(record);
        return index;
    }
    records.push(Some(record));
    index_of(records.len() - 1)
}

fn index_of(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::access::Access;
    use crate::store::account::{Terms, UserId};
    use crate::store::key::KeySpec;
    use crate::store::keys::{KeyDigest, SecretEnd};
    use limits::Ledger;

    fn user(name: &str) -> UserEntry {
        UserEntry {
            user: UserId::parse(name).unwrap(),
            created_at_ms: 1,
            generation: 1,
            terms: Terms::default(),
            profile: None,
            last_seen_ms: 0,
            group: None,
        }
    }

    fn key<'a>(id: &'a str, user: &'a str) -> KeyEntry<'a> {
        KeyEntry { id, user, created_at_ms: 1, last_used_ms: None, spec: KeySpec::default() }
    }

    fn secret(byte: u8, until_ms: Option<i64>) -> SecretEntry {
        let end = SecretEnd { digest: KeyDigest([byte; 32]), last_four: "abcd".to_owned(), until_ms };
        SecretEntry { end, is_foreign: false }
    }

    fn account(entry: &UserEntry) -> Arc<Account> {
        Account::new(entry, Ledger::default())
    }

    fn wake(directory: &mut Directory, byte: u8) -> Option<Arc<Key>> {
        match directory.present(&KeyDigest([byte; 32]), 10)? {
            Presented::Awake(key) => Some(key),
            Presented::Resting(index) => directory.wake_key(index, account, |maker| Key::new(maker, Ledger::default())),
            Presented::Ended => None,
        }
    }

    /// Users `a` and `b`, each with keys of every form of id.
    fn filled() -> Directory {
        let mut directory = Directory::default();
        for (turn, name) in ["a", "b"].into_iter().enumerate() {
            assert!(directory.put_user(user(name)) && !directory.put_user(user(name)));
            for number in 0..3_u8 {
                let byte = 10 * u8::try_from(turn).unwrap() + number;
                let id = if number == 0 { format!("key_{byte}") } else { format!("key_{byte:032x}") };
                directory.put_key(&key(&id, name));
                directory.add_secret(&id, &secret(byte, None));
            }
        }
        directory
    }

    #[test]
    fn a_key_is_found_by_its_digest_and_has_its_own_id_and_user() {
        let mut directory = filled();
        for (byte, name, id) in [(0, "a", "key_0".to_owned()), (12, "b", format!("key_{:032x}", 12))] {
            let key = wake(&mut directory, byte).unwrap();
            assert_eq!((key.account().user().as_str(), &**key.id()), (name, &*id));
            assert!(Arc::ptr_eq(&key, &wake(&mut directory, byte).unwrap()), "one key, however often it is asked for");
        }
        assert!(wake(&mut directory, 99).is_none());
    }

    #[test]
    fn secrets_and_keys_end_at_their_moment() {
        let mut directory = filled();
        let ended = |directory: &Directory, byte, now| {
            matches!(directory.present(&KeyDigest([byte; 32]), now), Some(Presented::Ended))
        };
        directory.set_secrets("key_0", &[secret(50, Some(20)), secret(51, None)]);
        assert!(directory.present(&KeyDigest([0; 32]), 10).is_none(), "the secret before is gone");
        assert!(!ended(&directory, 50, 19) && ended(&directory, 50, 20) && !ended(&directory, 51, 20));
        let spec = KeySpec { expires_at_ms: Some(30), ..KeySpec::default() };
        directory.put_key(&KeyEntry { spec, ..key("key_0", "a") });
        assert!(!ended(&directory, 51, 29) && ended(&directory, 51, 30));
    }

    #[test]
    fn whoever_goes_takes_running_requests_along_and_leaves_room() {
        let mut directory = filled();
        let (first, second, other) = (wake(&mut directory, 1), wake(&mut directory, 2), wake(&mut directory, 11));
        let (first, second, other) = (first.unwrap(), second.unwrap(), other.unwrap());
        directory.remove_key(first.id());
        assert!(Access::by_key(first).revoked().is_cancelled() && wake(&mut directory, 1).is_none());
        assert_eq!(directory.keys_of("a").len(), 2);
        directory.remove_user("a");
        assert!(Access::by_key(second).revoked().is_cancelled() && directory.user("a").is_none());
        assert!(!Access::by_key(other).revoked().is_cancelled());
        assert_eq!((directory.user_count(), directory.awake_keys().count()), (1, 1));
        let places = directory.keys.len();
        directory.put_user(user("c"));
        directory.put_key(&key("key_c", "c"));
        assert_eq!((directory.keys.len(), directory.keys_of("c").len()), (places, 1), "a free place is used again");
    }

    #[test]
    fn another_user_of_a_name_takes_nothing_over() {
        let mut directory = filled();
        let old = wake(&mut directory, 1).unwrap();
        assert!(directory.put_user(UserEntry { generation: 2, ..user("a") }), "it is a new user");
        assert!(Access::by_key(old.clone()).revoked().is_cancelled() && directory.keys_of("a").is_empty());
        assert!(directory.user_of("a").is_none() && directory.user_of("a~2").is_some());

        let mut directory = filled();
        let old = wake(&mut directory, 1).unwrap();
        let mut new = Directory::default();
        new.put_user(UserEntry { generation: 2, ..user("a") });
        new.inherit(&mut directory);
        assert!(Access::by_key(old).revoked().is_cancelled() && new.account("a").is_none());
    }

    #[test]
    fn whoever_is_idle_rests_unless_a_request_holds_them() {
        let mut directory = filled();
        let held = wake(&mut directory, 1).unwrap();
        wake(&mut directory, 11).unwrap().used_at(120_000);
        directory.rest(|_| true, |_| true);
        assert_eq!((directory.awake_keys().count(), directory.awake_accounts().count()), (1, 1));
        assert!(Arc::ptr_eq(&held, &wake(&mut directory, 1).unwrap()));
        assert_eq!(wake(&mut directory, 11).unwrap().last_used_ms(), Some(120_000), "what was noted is kept");
        drop(held);
        directory.rest(|_| false, |_| true);
        assert_eq!(directory.awake_keys().count(), 2);
    }

    #[test]
    fn a_new_directory_takes_over_those_who_are_awake() {
        let mut old = filled();
        let (stays, goes) = (wake(&mut old, 1).unwrap(), wake(&mut old, 11).unwrap());
        let mut new = Directory::default();
        new.put_user(user("a"));
        let spec = KeySpec { name: "other".to_owned(), ..KeySpec::default() };
        new.put_key(&KeyEntry { spec: spec.clone(), ..key(stays.id(), "a") });
        new.add_secret(stays.id(), &secret(77, None));
        new.inherit(&mut old);
        assert!(Arc::ptr_eq(&stays, &wake(&mut new, 77).unwrap()) && stays.spec() == spec);
        assert_eq!(stays.secrets().len(), 1);
        assert!(Access::by_key(goes).revoked().is_cancelled() && !Access::by_key(stays).revoked().is_cancelled());
    }

    #[test]
    fn names_come_in_order_and_page_by_page() {
        let mut directory = Directory::default();
        for name in ["c", "a", "b"] {
            directory.put_user(user(name));
        }
        let names =
            |after, limit| directory.names_after(after, limit).iter().map(ToString::to_string).collect::<String>();
        assert_eq!(
            (names(None, 2), names(Some("a"), 9), names(Some("c"), 9)),
            ("ab".into(), "bc".into(), String::new())
        );
    }
}
