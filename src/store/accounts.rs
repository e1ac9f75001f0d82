//! Who is this key, and what may they use? Answered from memory; the database is behind it, never on a request's path.
//!
//! [`Accounts`] mirrors the tables `users`, `keys` and `key_digests`. Changes go to the database first and then to memory,
//! under one lock with [`Accounts::refresh`], which picks up what other gateways on the same database have changed. A key
//! or user that goes takes its running requests with it.
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use entity::{key, key_digest, user};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect, QueryTrait, Set,
    SqlErr, TransactionTrait,
};

use super::access::{Access, Account, Key, KeySpec, MadeKey, Terms, UserId};
use super::changes::announce;
use super::columns::{secret_of, spec_of, terms_of, to_i64, to_millis};
use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::keys::{KeyDigest, KeySettings, Peppers, SecretEnd};
use super::snapshot::People;
use super::spent::spent;
use super::subject::Subject;
use super::transactions::immediate;
use limits::{Budget, Ledger, Limits, Moment, PriorUse};

/// A user to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The name.
    pub user: UserId,
    /// Limits and weight from the start.
    pub terms: Terms,
}

/// All users and keys, in memory, in front of the database.
#[derive(Debug)]
pub struct Accounts {
    pub(super) store: Store,
    peppers: Peppers,
    users: DashMap<Arc<str>, Arc<Account>>,
    pub(super) keys: DashMap<Arc<str>, Arc<Key>>,
    pub(super) secrets: DashMap<KeyDigest, Arc<Key>>,
    /// Secrets that were made with a pepper which is not configured.
    foreign: AtomicUsize,
    /// Held while the database and memory change together. Nothing on a request's path takes it.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// What the copy for a start without the database holds.
    copied: Mutex<People>,
    /// Whether the database was there the last time it was asked.
    current: AtomicBool,
    /// Whether other gateways may have a share of every limit.
    sharing: AtomicBool,
}

/// Whose key was presented.
#[derive(Debug)]
pub enum Found {
    /// A good one.
    Access(Access),
    /// One that has ended.
    Expired,
    /// None that is known.
    Unknown,
}

impl Accounts {
    /// Reads everybody, with what they have used today and in the last minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn load(store: Store, settings: &KeySettings, now: Moment) -> Result<Self, StoreError> {
        let is_outbox = store.local.is_outbox;
        let accounts = Self {
            store,
            peppers: Peppers::load(settings)?,
            users: DashMap::new(),
            keys: DashMap::new(),
            secrets: DashMap::new(),
            foreign: AtomicUsize::new(0),
            changing: tokio::sync::Mutex::new(()),
            copied: Mutex::default(),
            current: AtomicBool::new(false),
            // Until it is known who else is there.
            sharing: AtomicBool::new(is_outbox),
        };
        if accounts.store.is_online() {
            match accounts.refresh(now).await {
                Err(error) if accounts.store.local.is_outbox => {
                    tracing::warn!(%error, "the database went away: users and keys are those of the last copy");
                    accounts.store.go_offline();
                }
                done => return done.map(|()| accounts),
            }
        }
        let people = People::read_copy(&accounts.store).await?;
        accounts.take_up_all(&people, now).await?;
        Ok(accounts)
    }

    pub(super) fn peppers(&self) -> &Peppers {
        &self.peppers
    }

    /// Whether somebody who is not here is unknown: false while the database is away, which may know them.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    /// Who may come in with what a caller presents.
    pub fn find(&self, presented: &str, now: Moment) -> Found {
        let known = |digest: KeyDigest| self.secrets.get(&digest).map(|key| (digest, key.clone()));
        match self.peppers.digests(presented).find_map(known) {
            Some((digest, key)) if key.opens(&digest, now) => {
                key.used(now);
                Found::Access(Access::by_key(key))
            }
            Some(_) => Found::Expired,
            None => Found::Unknown,
        }
    }

    /// The account of a user.
    pub fn by_user(&self, user: &str) -> Option<Arc<Account>> {
        self.users.get(user).map(|account| account.clone())
    }

    /// Whether limits of those who are yet to come are shared with other gateways, too.
    pub(super) fn set_sharing(&self, sharing: bool) {
        self.sharing.store(sharing, Ordering::Relaxed);
    }

    /// Everybody who has limits.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let users = self.users.iter().map(|account| Subject::User(account.clone()));
        users.chain(self.keys.iter().map(|key| Subject::Key(key.clone()))).collect()
    }

    /// These rows are in the database now.
    pub(super) fn sent(&self, rows: &[entity::usage::Model]) {
        for row in rows {
            let tokens = row.prompt_tokens.saturating_add(row.completion_tokens);
            let tokens = u64::try_from(tokens).unwrap_or_default();
            if let Some(account) = self.users.get(row.user_id.as_str()) {
                account.with_ledger(|_, ledger| ledger.sent(tokens, row.day));
            }
            if let Some(key) = row.key_id.as_deref().and_then(|id| self.keys.get(id)) {
                key.with_ledger(|_, ledger| ledger.sent(tokens, row.day));
            }
        }
    }

    fn ledger_of(&self, limits: &Limits, spent: Option<&PriorUse>, now: Moment) -> Ledger {
        let mut budget = Budget::default();
        if let Some(spent) = spent {
            budget.restore(limits, spent.clone(), now);
        }
        let mut ledger = Ledger::of(budget, spent.map_or(0, |spent| spent.unsent_today), now.day());
        if self.sharing.load(Ordering::Relaxed) {
            ledger.begin_sharing(now);
        }
        ledger
    }

    /// Everybody, by name.
    pub fn all(&self) -> Vec<Arc<Account>> {
        let mut all: Vec<Arc<Account>> = self.users.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by(|a, b| a.user().as_str().cmp(b.user().as_str()));
        all
    }

    /// Makes a user with a first key, which works as soon as this returns.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or when the database fails.
    pub async fn create(&self, new: NewUser, now: Moment) -> Result<MadeKey, StoreError> {
        let _changing = self.changing.lock().await;
        let name = new.user.as_str();
        let Terms { limits, weight } = new.terms;
        let user_row = user::Model {
            id: name.to_owned(),
            created_at_ms: now.unix_ms,
            requests_per_minute: limits.requests_per_minute.map(i64::from),
            tokens_per_day: limits.tokens_per_day.map(to_i64),
            tokens_per_minute: limits.tokens_per_minute.map(to_i64),
            max_concurrency: limits.max_concurrency.map(i64::from),
            weight_millis: to_millis(weight),
        };
        let drafted = self.draft(name, KeySpec::default(), now)?;
        // A name that was deleted and is made again goes on with what it has used today. Read first: once the user is in the
        // database, nothing may fail that would keep the key from whoever asked.
        let spent = spent(&self.store, Some(name), now).await?;
        let insert = async {
            let transaction = self.store.db.begin().await?;
            user_row.clone().into_active_model().insert(&transaction).await?;
            drafted.insert(&transaction).await?;
            announce(&transaction).await?;
            transaction.commit().await
        };
        match within_deadline(insert).await {
            Ok(()) => {}
            Err(StoreError::Database(cause))
                if matches!(cause.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
            {
                return Err(StoreError::Exists(name.to_owned()));
            }
            Err(error) => {
                self.undo(name, drafted.key_id()).await;
                return Err(error);
            }
        }
        let account = self.take_up(new.user.clone(), &user_row, spent.users.get(name), now);
        Ok(self.adopt(&account, drafted, now))
    }

    /// Takes out a user whose making failed, but may have come to be all the same: nobody has the key.
    async fn undo(&self, user: &str, key_id: &str) {
        let undo = async {
            let transaction = self.store.db.begin_with_options(immediate()).await?;
            if key::Entity::delete_by_id(key_id).exec(&transaction).await?.rows_affected > 0 {
                key_digest::Entity::delete_many()
                    .filter(key_digest::Column::KeyId.eq(key_id))
                    .exec(&transaction)
                    .await?;
                user::Entity::delete_by_id(user).exec(&transaction).await?;
            }
            transaction.commit().await
        };
        if let Err(error) = within_deadline(undo).await {
            tracing::warn!(user, %error, "a user who was not made may be there without a key: delete and make it again");
        }
    }

    /// Changes a user's limits and weight, for the next request on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database fails.
    pub async fn set_terms(&self, user: &str, terms: Terms) -> Result<Arc<Account>, StoreError> {
        let _changing = self.changing.lock().await;
        let account = self.by_user(user).ok_or_else(|| StoreError::NotFound(user.to_owned()))?;
        let Terms { limits, weight } = terms;
        let row = user::ActiveModel {
            id: Set(user.to_owned()),
            requests_per_minute: Set(limits.requests_per_minute.map(i64::from)),
            tokens_per_day: Set(limits.tokens_per_day.map(to_i64)),
            tokens_per_minute: Set(limits.tokens_per_minute.map(to_i64)),
            max_concurrency: Set(limits.max_concurrency.map(i64::from)),
            weight_millis: Set(to_millis(weight)),
            ..Default::default()
        };
        let update = async {
            let transaction = self.store.db.begin().await?;
            row.update(&transaction).await?;
            announce(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(update).await.map_err(|error| match error {
            // Another gateway has deleted the user, and we have not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated) => StoreError::NotFound(user.to_owned()),
            other => other,
        })?;
        account.set_terms(terms);
        Ok(account)
    }

    /// Deletes a user and all keys, which stop working at once; running requests end. Usage rows stay.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database fails.
    pub async fn delete(&self, user: &str) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        if !self.users.contains_key(user) {
            return Err(StoreError::NotFound(user.to_owned()));
        }
        let delete = async {
            let transaction = self.store.db.begin().await?;
            let keys = key::Entity::find().filter(key::Column::UserId.eq(user));
            let ids = keys.select_only().column(key::Column::Id).into_query();
            key_digest::Entity::delete_many()
                .filter(key_digest::Column::KeyId.in_subquery(ids))
                .exec(&transaction)
                .await?;
            key::Entity::delete_many().filter(key::Column::UserId.eq(user)).exec(&transaction).await?;
            user::Entity::delete_by_id(user).exec(&transaction).await?;
            announce(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(delete).await?;
        self.forget(user);
        Ok(())
    }

    /// The clock is about to be set to another day: learns what everybody has used of it.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub async fn prepare_day(&self, day_of: Moment) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let spent = spent(&self.store, None, day_of).await?;
        let tokens = |spent: Option<&PriorUse>| spent.map_or(0, |spent| spent.tokens_today);
        for account in self.all() {
            let tokens = tokens(spent.users.get(account.user().as_str()));
            account.with_ledger(|_, ledger| ledger.prepare_day(day_of.day(), tokens));
        }
        for key in &self.keys {
            let tokens = tokens(spent.keys.get(&**key.id()));
            key.with_ledger(|_, ledger| ledger.prepare_day(day_of.day(), tokens));
        }
        Ok(())
    }

    /// Takes up what has changed in the database since the last time.
    ///
    /// # Errors
    /// When the database fails; memory is then as it was.
    pub async fn refresh(&self, now: Moment) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let people = People::read(&self.store).await;
        self.current.store(people.is_ok(), Ordering::Relaxed);
        let people = people?;
        self.take_up_all(&people, now).await?;
        self.keep_copy(people).await;
        Ok(())
    }

    async fn keep_copy(&self, people: People) {
        let is_same = || *self.copied.lock().unwrap_or_else(PoisonError::into_inner) == people;
        if !self.store.local.is_outbox || is_same() {
            return;
        }
        match people.keep_copy(&self.store).await {
            Ok(()) => *self.copied.lock().unwrap_or_else(PoisonError::into_inner) = people,
            Err(error) => tracing::warn!(%error, "users and keys could not be copied for a start without the database"),
        }
    }

    /// What takes rights away comes first, and needs nothing that may fail; whoever is new comes with what they have used.
    async fn take_up_all(&self, people: &People, now: Moment) -> Result<(), StoreError> {
        let People { users, keys, digests } = people;
        let names: HashSet<&str> = users.iter().map(|row| row.id.as_str()).collect();
        for gone in self.all().iter().filter(|account| !names.contains(account.user().as_str())) {
            self.forget(gone.user().as_str());
        }
        let ids: HashSet<&str> = keys.iter().map(|row| row.id.as_str()).collect();
        self.drop_keys(|key| !ids.contains(&**key.id()));
        self.count_foreign(digests);
        let mut secrets: HashMap<&str, Vec<SecretEnd>> = HashMap::new();
        for row in digests {
            secrets.entry(&row.key_id).or_default().extend(secret_of(row));
        }
        let (mut new_users, mut new_keys) = (Vec::new(), Vec::new());
        for row in users {
            match self.by_user(&row.id) {
                Some(account) => account.set_terms(terms_of(row)),
                None => new_users.push(row),
            }
        }
        for row in keys {
            let secrets = secrets.remove(row.id.as_str()).unwrap_or_default();
            match self.keys.get(row.id.as_str()).map(|key| key.clone()) {
                Some(key) => {
                    key.last_used_ms.fetch_max(row.last_used_ms.unwrap_or_default(), Ordering::Relaxed);
                    key.set_spec(spec_of(row));
                    self.set_secrets(&key, secrets);
                }
                None => new_keys.push((row, secrets)),
            }
        }
        if new_users.is_empty() && new_keys.is_empty() {
            return Ok(());
        }
        let spent = spent(&self.store, None, now).await?;
        for row in new_users {
            match UserId::parse(&row.id) {
                Some(user) => drop(self.take_up(user, row, spent.users.get(&row.id), now)),
                None => tracing::warn!("a user with an unusable name stands in the database"),
            }
        }
        for (row, secrets) in new_keys {
            // Else its user is being deleted.
            if let Some(account) = self.by_user(&row.user_id) {
                self.take_up_key(&account, row, secrets, spent.keys.get(&row.id), now);
            }
        }
        Ok(())
    }

    fn count_foreign(&self, digests: &[key_digest::Model]) {
        let foreign = digests.iter().filter(|row| !self.peppers.knows(row.pepper.as_deref())).count();
        if foreign != self.foreign.swap(foreign, Ordering::Relaxed) && foreign > 0 {
            tracing::warn!(secrets = foreign, "keys were made with a pepper that is not configured: they open nothing");
        }
    }

    pub(super) fn take_up_key(
        &self,
        account: &Arc<Account>,
        row: &key::Model,
        secrets: Vec<SecretEnd>,
        spent: Option<&PriorUse>,
        now: Moment,
    ) -> Arc<Key> {
        let spec = spec_of(row);
        let ledger = self.ledger_of(&spec.limits, spent, now);
        let key = Key::new(account, row, spec, ledger);
        self.keys.insert(key.id().clone(), key.clone());
        self.set_secrets(&key, secrets);
        key
    }

    /// Puts the secrets of a key, sorted, in the place of those it had.
    pub(super) fn set_secrets(&self, key: &Arc<Key>, mut secrets: Vec<SecretEnd>) {
        // The one in force last.
        secrets.sort_by_key(|secret| (secret.until_ms.is_none(), secret.until_ms));
        let before = {
            let mut held = key.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            if *held == secrets {
                return;
            }
            std::mem::replace(&mut *held, secrets.clone())
        };
        for gone in before.iter().filter(|old| secrets.iter().all(|secret| secret.digest != old.digest)) {
            self.secrets.remove(&gone.digest);
        }
        for secret in secrets {
            self.secrets.insert(secret.digest, key.clone());
        }
    }

    pub(super) fn drop_keys(&self, gone: impl Fn(&Key) -> bool) {
        let keys: Vec<Arc<Key>> = self.keys.iter().map(|key| key.clone()).filter(|key| gone(key)).collect();
        for key in keys {
            self.set_secrets(&key, Vec::new());
            self.keys.remove(key.id());
            key.revoke();
        }
    }

    fn take_up(&self, user: UserId, row: &user::Model, spent: Option<&PriorUse>, now: Moment) -> Arc<Account> {
        let terms = terms_of(row);
        let account = Account::new(user, row.created_at_ms, terms, self.ledger_of(&terms.limits, spent, now));
        self.users.insert(account.user().shared(), account.clone());
        account
    }

    fn forget(&self, user: &str) {
        self.drop_keys(|key| key.account().user().as_str() == user);
        if let Some((_, account)) = self.users.remove(user) {
            account.close();
        }
    }
}
