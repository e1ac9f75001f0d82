//! Who is awake? The accounts and keys that requests work with: made, let rest, and taken over by a new directory.
use std::sync::Arc;

use super::records::{ShortText, UserRecord, minute_of, moment_of};
use super::{Directory, KeyIndex};
use crate::store::account::{Account, UserEntry};
use crate::store::key::{DEFAULT_NAME, Key, KeyMaker, KeySpec};

impl Directory {
    /// The account of a user, made by `make` if it rests.
    pub(in crate::store) fn wake_user(
        &mut self,
        name: &str,
        make: impl FnOnce(&UserEntry) -> Arc<Account>,
    ) -> Option<Arc<Account>> {
        let index = *self.by_name.get(name)?;
        self.wake_user_at(index, make)
    }

    fn wake_user_at(&mut self, index: u32, make: impl FnOnce(&UserEntry) -> Arc<Account>) -> Option<Arc<Account>> {
        let UserRecord { entry, awake, .. } = self.users[index as usize].as_mut()?;
        self.awake_users.insert(index);
        let account = awake.get_or_insert_with(|| {
            let account = make(entry);
            account.set_group(entry.group.as_ref().and_then(|name| self.groups.get(name)).cloned());
            account
        });
        Some(account.clone())
    }

    /// A key, and the account of its user; made by `make` where they rest.
    pub(in crate::store) fn wake_key(
        &mut self,
        KeyIndex(index): KeyIndex,
        make_account: impl FnOnce(&UserEntry) -> Arc<Account>,
        make_key: impl FnOnce(KeyMaker) -> Arc<Key>,
    ) -> Option<Arc<Key>> {
        let record = self.keys[index as usize].as_ref()?;
        if let Some(key) = &record.awake {
            return Some(key.clone());
        }
        let account = self.wake_user_at(record.user, make_account)?;
        // Borrowed anew, because waking the account needed the whole directory.
        let record = self.keys[index as usize].as_mut()?;
        let name = record.name.as_ref().map_or_else(|| DEFAULT_NAME.to_owned(), ShortText::text);
        let spec = record.spec.as_deref().cloned().unwrap_or_default();
        let key = make_key(KeyMaker {
            id: record.id.text().into(),
            account,
            created_at_ms: record.created_at_ms,
            last_used_ms: moment_of(record.used_minute),
            spec: KeySpec { name, ..spec },
            secrets: self.secrets.list(record.secrets),
        });
        record.awake = Some(key.clone());
        self.awake_keys.insert(index);
        Some(key)
    }

    /// Every account that is awake.
    pub(in crate::store) fn awake_accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.awake_users.iter().filter_map(|index| self.users[*index as usize].as_ref()?.awake.as_ref())
    }

    /// Every key that is awake.
    pub(in crate::store) fn awake_keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.awake_keys.iter().filter_map(|index| self.keys[*index as usize].as_ref()?.awake.as_ref())
    }

    /// Lets those rest that nobody else holds, as far as `is_idle` agrees.
    pub(in crate::store) fn rest(
        &mut self,
        key_is_idle: impl Fn(&Key) -> bool,
        account_is_idle: impl Fn(&Account) -> bool,
    ) {
        let Self { users, keys, awake_users, awake_keys, .. } = self;
        awake_keys.retain(|index| {
            let Some(record) = keys[*index as usize].as_mut() else { return false };
            // With one count left nobody but the record holds it, and no request can start while the directory is
            // locked.
            let is_idle = record.awake.as_ref().is_some_and(|key| Arc::strong_count(key) == 1 && key_is_idle(key));
            if let Some(key) = record.awake.take_if(|_| is_idle) {
                // The record outlives the key, and lists show when it was last used.
                record.used_minute = record.used_minute.max(key.last_used_ms().map_or(0, minute_of));
            }
            !is_idle
        });
        // After the keys: each key that is awake holds its account.
        awake_users.retain(|index| {
            let Some(record) = users[*index as usize].as_mut() else { return false };
            let is_idle = record.awake.as_ref().is_some_and(|it| Arc::strong_count(it) == 1 && account_is_idle(it));
            if let Some(account) = record.awake.take_if(|_| is_idle) {
                record.entry.last_seen_ms = record.entry.last_seen_ms.max(account.last_seen_ms());
            }
            !is_idle
        });
    }

    /// Takes over everybody who is awake from the directory that this one replaces. Those who are not here any more go, and
    /// their running requests end.
    pub(in crate::store) fn inherit(&mut self, old: &mut Self) {
        self.groups = std::mem::take(&mut old.groups);
        for record in old.users.iter_mut().flatten() {
            let Some(account) = record.awake.take() else { continue };
            let name = account.user().shared();
            match self.user_of(account.usage_id()).cloned() {
                Some(entry) => {
                    account.set(&entry);
                    self.wake_user(&name, |_| account.clone());
                }
                None => account.close(),
            }
        }
        for record in old.keys.iter_mut().flatten() {
            let Some(key) = record.awake.take() else { continue };
            let index = self.key_of(key.account().user().as_str(), key.id());
            let taken_over = index.and_then(|index| {
                // The key itself is kept, as requests hold it; only what the new record says of it is taken from there.
                let mut now = None;
                self.wake_key(
                    index,
                    |_| key.account().clone(),
                    |maker| {
                        now = Some((maker.spec, maker.secrets));
                        key.clone()
                    },
                )?;
                now
            });
            match taken_over {
                Some((spec, secrets)) => {
                    key.set_spec(spec);
                    key.set_secrets(secrets);
                }
                None => key.revoke(),
            }
        }
    }
}
