//! Who is this key, and what may they use? Answered from memory; the database is behind it, never on a request's path.
//!
//! [`Accounts`] mirrors the tables `users`, `keys` and `key_digests`. A change goes to the database first and then to
//! memory, under one lock with [`Accounts::refresh`], which takes up what has changed since it last looked: changes travel
//! as changes, however many users there are. A key or user that goes takes its running requests with it.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::access::Access;
use super::account::{Account, UserEntry};
use super::administrators::Administrators;
use super::database::Store;
use super::deadline::STATEMENT_DEADLINE;
use super::directory::{Directory, KeyIndex, Presented};
use super::error::StoreError;
use super::group::{GroupEntry, UserGroup};
use super::group_spent::{SpentByGroups, spent_by_groups};
use super::key::Key;
use super::keys::{KeyDigest, Peppers};
use super::people::Changed;
use super::spent::{MOST_LIMITED, SpentByAll, Whose, spent};
use super::subject::Subject;
use super::usage_id::name_of;
use limits::{Budget, Calendar, Ledger, Limits, Moment, PriorUse};

/// All users and keys, in memory, in front of the database.
#[derive(Debug)]
pub struct Accounts {
    pub(super) store: Store,
    pub(super) peppers: Peppers,
    pub(super) directory: RwLock<Directory>,
    pub(super) admins: Administrators,
    /// Held while the database and memory change together. Nothing on a request's path takes it.
    pub(super) changing: tokio::sync::Mutex<Position>,
    /// Rung when the copy in the local file has fallen behind.
    pub(super) copy_due: tokio::sync::Notify,
    /// How many secrets need a pepper that is not configured, as last said in the log.
    pub(super) foreign: AtomicUsize,
    /// Whether the database was there the last time it was asked.
    pub(super) current: AtomicBool,
    /// Whether other gateways may have a share of every limit.
    pub(super) sharing: AtomicBool,
}

/// How far the log of changes has been taken up.
#[derive(Debug)]
pub(super) struct Position {
    /// Up to this line; `None` where that is unknown.
    pub(super) seq: Option<i64>,
    /// The same for the copy in the local file.
    pub(super) copied: Option<i64>,
}

/// What a presented key turned out to be.
#[derive(Debug)]
pub enum Found {
    /// A good key.
    Access(Access),
    /// A key that has ended.
    Expired,
    /// No key that is known.
    Unknown,
}

impl Accounts {
    /// Whether somebody who is not here is unknown: false while the database is away, which may know them.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn to change something, for as long as a statement may take.
    pub(super) async fn turn_to_change(&self) -> Result<tokio::sync::MutexGuard<'_, Position>, StoreError> {
        let turn = tokio::time::timeout(STATEMENT_DEADLINE, self.changing.lock()).await;
        turn.map_err(|_| StoreError::TimedOut(STATEMENT_DEADLINE))
    }

    /// Who may come in with what a caller presents.
    pub fn find(&self, presented: &str, now: Moment) -> Found {
        let found = |digest: KeyDigest| match self.by_digest(&digest, now) {
            Found::Unknown => None,
            found => Some(found),
        };
        self.peppers.digests(presented).find_map(found).unwrap_or(Found::Unknown)
    }

    /// The digest under which what a caller presents is known, for [`Accounts::by_digest`].
    pub fn digest_of(&self, presented: &str, now: Moment) -> Option<KeyDigest> {
        self.peppers.digests(presented).find(|digest| self.read().present(digest, now.unix_ms).is_some())
    }

    /// Who may come in with the key of this digest.
    pub fn by_digest(&self, digest: &KeyDigest, now: Moment) -> Found {
        // A guard that lived on would stand in the way of the one that wakes the key.
        let found = self.read().present(digest, now.unix_ms);
        let key = match found {
            None => return Found::Unknown,
            Some(Presented::Ended) => return Found::Expired,
            Some(Presented::Awake(key)) => key,
            Some(Presented::Resting(_)) => match self.wake_presented(digest, now) {
                Some(key) => key,
                None => return Found::Unknown,
            },
        };
        key.used(now);
        key.account().seen(now);
        Found::Access(Access::by_key(key))
    }

    fn wake_presented(&self, digest: &KeyDigest, now: Moment) -> Option<Arc<Key>> {
        let mut directory = self.write();
        match directory.present(digest, now.unix_ms)? {
            Presented::Awake(key) => Some(key),
            Presented::Resting(index) => self.wake_key(&mut directory, index, None, now),
            Presented::Ended => None,
        }
    }

    pub(super) fn wake_key(
        &self,
        directory: &mut Directory,
        index: KeyIndex,
        prior: Option<&PriorUse>,
        now: Moment,
    ) -> Option<Arc<Key>> {
        directory.wake_key(
            index,
            |entry| self.account_of(entry, None, now),
            |maker| {
                let ledger = self.ledger_of(&maker.spec.limits, prior, now);
                Key::new(maker, ledger)
            },
        )
    }

    fn wake_user(
        &self,
        directory: &mut Directory,
        user: &str,
        prior: Option<&PriorUse>,
        now: Moment,
    ) -> Option<Arc<Account>> {
        directory.wake_user(user, |entry| self.account_of(entry, prior, now))
    }

    fn account_of(&self, entry: &UserEntry, prior: Option<&PriorUse>, now: Moment) -> Arc<Account> {
        let ledger = self.ledger_of(&entry.terms.limits, prior, now);
        Account::new(entry, ledger)
    }

    /// Wakes whom usage knows by this id.
    fn wake_usage(&self, directory: &mut Directory, usage_id: &str, prior: Option<&PriorUse>, now: Moment) {
        if let Some(user) = directory.user_of(usage_id).map(|entry| entry.user.shared()) {
            self.wake_user(directory, &user, prior, now);
        }
    }

    /// The account of a user.
    pub fn by_user(&self, user: &str, now: Moment) -> Option<Arc<Account>> {
        // The lock for reading must be gone before the one for writing is taken.
        let awake = self.read().account(user);
        awake.or_else(|| self.wake_user(&mut self.write(), user, None, now))
    }

    /// Access as a user, for a caller whom a network stands for.
    pub fn by_network(&self, user: &str, now: Moment) -> Option<Access> {
        let account = self.by_user(user, now)?;
        account.seen(now);
        Some(Access::without_key(account))
    }

    /// Whether there is such a user.
    pub fn has_user(&self, user: &str) -> bool {
        self.read().user(user).is_some()
    }

    /// How many users there are.
    pub fn count(&self) -> usize {
        self.read().user_count()
    }

    /// The names of users after this one, in order.
    pub fn names_after(&self, after: Option<&str>, limit: usize) -> Vec<Arc<str>> {
        self.read().names_after(after, limit)
    }

    /// Whether limits of those who are yet to come are shared with other gateways, too.
    pub(super) fn set_sharing(&self, sharing: bool) {
        self.sharing.store(sharing, Ordering::Relaxed);
    }

    /// Everybody who has limits and is awake.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let directory = self.read();
        let users = directory.awake_accounts().map(|account| Subject::User(account.clone()));
        let groups = directory.groups();
        let groups = groups.flat_map(|group| [Subject::Group(group.clone()), Subject::GroupMonth(group.clone())]);
        users.chain(directory.awake_keys().map(|key| Subject::Key(key.clone()))).chain(groups).collect()
    }

    /// Wakes those of whom something may count that this gateway does not know of.
    pub(super) fn wake(&self, changed: &Changed, now: Moment) {
        let mut directory = self.write();
        for id in &changed.users {
            self.wake_usage(&mut directory, id, None, now);
        }
        for id in &changed.keys {
            let index = directory.key(id);
            index.and_then(|index| self.wake_key(&mut directory, index, None, now));
        }
    }

    /// Lets those rest of whom nothing is in use, and nothing counts any more. Under shared limits nobody does: what others
    /// hold and have used is known of those alone who are awake.
    pub fn rest(&self, now: Moment) {
        if self.sharing.load(Ordering::Relaxed) {
            return;
        }
        let is_idle = |limits: &Limits, ledger: &mut Ledger| {
            let balance = ledger.balance(*limits, now);
            // Whether any of them is not zero: a sum could overflow.
            let used = balance.tokens_used | balance.tokens_reserved | balance.minute_tokens;
            used == 0 && balance.running == 0 && balance.requests_used == 0 && !ledger.is_shared()
        };
        self.write().rest(|key| key.with_ledger(is_idle), |account| account.with_ledger(is_idle));
    }

    /// These rows are in the database now.
    pub(super) fn sent(&self, rows: &[entity::usage::Model]) {
        let directory = self.read();
        for row in rows {
            let tokens = row.prompt_tokens.saturating_add(row.completion_tokens);
            let tokens = u64::try_from(tokens).unwrap_or_default();
            let account = directory.account(name_of(&row.user_id));
            if let Some(account) = account.filter(|account| **account.usage_id() == *row.user_id) {
                account.with_ledger(|_, ledger| ledger.sent(tokens, row.day));
            }
            if let Some(key) = row.key_id.as_deref().and_then(|id| directory.awake_key(id)) {
                key.with_ledger(|_, ledger| ledger.sent(tokens, row.day));
            }
            if let Some(group) = row.group_id.as_deref().and_then(|id| directory.group_of_usage(id)) {
                group.sent(tokens, row.day);
            }
        }
    }

    fn ledger_of(&self, limits: &Limits, prior: Option<&PriorUse>, now: Moment) -> Ledger {
        self.ledger_by(Calendar::Day, limits, prior, now)
    }

    /// A group with what is used of its limits.
    pub(super) fn group_of(&self, entry: &GroupEntry, spent: &SpentByGroups, now: Moment) -> Arc<UserGroup> {
        let (id, limits) = (entry.usage_id(), &entry.terms.limits);
        let ledger = self.ledger_by(Calendar::Day, limits, spent.of_day.get(&*id), now);
        let month = self.ledger_by(Calendar::Month, &Limits::default(), spent.of_month.get(&*id), now);
        UserGroup::new(entry, ledger, month)
    }

    fn ledger_by(&self, calendar: Calendar, limits: &Limits, prior: Option<&PriorUse>, now: Moment) -> Ledger {
        let mut budget = Budget::of(calendar);
        if let Some(prior) = prior {
            budget.restore(limits, prior.clone(), now);
        }
        let mut ledger = Ledger::of(budget, prior.map_or(0, |prior| prior.unsent_today), now);
        if self.sharing.load(Ordering::Relaxed) {
            ledger.begin_sharing(now);
        }
        ledger
    }

    /// Everybody, for a look at what they have used.
    pub(super) fn everybody(&self) -> Whose {
        Whose::Everybody(self.read().limited_by_minute(MOST_LIMITED))
    }

    /// Wakes everybody who has used something that still counts.
    pub(super) fn begin_with(&self, spent: &SpentByAll, now: Moment) {
        let mut directory = self.write();
        for (id, prior) in &spent.users {
            self.wake_usage(&mut directory, id, Some(prior), now);
        }
        for (id, prior) in &spent.keys {
            let index = directory.key(id);
            index.and_then(|index| self.wake_key(&mut directory, index, Some(prior), now));
        }
    }

    /// The clock is about to be set to another day: learns what everybody has used of it.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub async fn prepare_day(&self, day_of: Moment) -> Result<(), StoreError> {
        let _changing = self.turn_to_change().await?;
        let spent = spent(&self.store, &self.everybody(), day_of).await?;
        // Only the tokens are looked at.
        let by_groups = spent_by_groups(&self.store, &[], day_of).await?;
        // Whoever rests has used something of that day all the same.
        self.begin_with(&spent, day_of);
        let tokens = |prior: Option<&PriorUse>| prior.map_or(0, |prior| prior.tokens_today);
        let directory = self.read();
        for account in directory.awake_accounts() {
            let tokens = tokens(spent.users.get(&**account.usage_id()));
            account.with_ledger(|_, ledger| ledger.prepare_day(day_of.day(), tokens));
        }
        for key in directory.awake_keys() {
            let tokens = tokens(spent.keys.get(&**key.id()));
            key.with_ledger(|_, ledger| ledger.prepare_day(day_of.day(), tokens));
        }
        for group in directory.groups() {
            let used = |spent: &HashMap<String, PriorUse>| tokens(spent.get(&**group.usage_id()));
            group.prepare_day(day_of, used(&by_groups.of_day), used(&by_groups.of_month));
        }
        Ok(())
    }
}
