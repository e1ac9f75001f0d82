//! Who is this key, and what may they use? Answered from memory; the database is behind it, never on a request's path.
//!
//! [`Accounts`] mirrors the tables `users` and `api_keys`. Changes go to the database first and then to memory, under
//! one lock with [`Accounts::refresh`], which picks up what other gateways on the same database have changed.
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use entity::{api_key, user};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter, Set, SqlErr, TransactionTrait,
};

use super::keys::{ApiKey, KeyDigest, PLAIN_SHA_256};
use super::snapshot::People;
use super::{Store, StoreError, usage, within_deadline};
use crate::limits::{Budget, Exceeded, Limits, Moment, Need, Reservation, Standing};

/// A user's name: `[A-Za-z0-9._@-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Checks a name; `None` where it has another form.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

/// A user as the request path sees them. Shared by all keys of the user and by every running request.
#[derive(Debug)]
pub struct Account {
    user: UserId,
    created_at_ms: i64,
    state: Mutex<AccountState>,
}

#[derive(Debug)]
struct AccountState {
    limits: Limits,
    budget: Budget,
}

impl Account {
    /// Whose account this is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// When the user was made, epoch milliseconds.
    pub fn created_at_ms(&self) -> i64 {
        self.created_at_ms
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.with(|state| state.limits)
    }

    /// Admits a request under the limits. See [`Budget::admit`].
    ///
    /// # Errors
    /// [`Exceeded`] when a limit stands in the way.
    pub fn admit(&self, need: Need, now: Moment) -> Result<Reservation, Exceeded> {
        self.with(|state| state.budget.admit(&state.limits, need, now))
    }

    /// Settles an ended request. See [`Budget::settle`].
    pub fn settle(&self, reservation: Reservation, tokens: u64, now: Moment) {
        self.with(|state| state.budget.settle(reservation, tokens, now));
    }

    /// Takes an admission back. See [`Budget::cancel`].
    pub fn cancel(&self, reservation: Reservation, now: Moment) {
        self.with(|state| state.budget.cancel(reservation, now));
    }

    /// What is used and left.
    pub fn standing(&self, now: Moment) -> Standing {
        self.with(|state| state.budget.standing(state.limits, now))
    }

    fn with<T>(&self, act: impl FnOnce(&mut AccountState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A user to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The name.
    pub user: UserId,
    /// The limits from the start.
    pub limits: Limits,
}

/// All users and keys, in memory, in front of the database.
#[derive(Debug)]
pub struct Accounts {
    store: Store,
    users: DashMap<Arc<str>, Arc<Account>>,
    keys: DashMap<KeyDigest, Arc<Account>>,
    /// Held while the database and memory change together. Nothing on a request's path takes it.
    changing: tokio::sync::Mutex<()>,
    /// What the copy for a start without the database holds.
    copied: Mutex<People>,
    /// Whether the database was there the last time it was asked.
    current: AtomicBool,
}

impl Accounts {
    /// Reads everybody, with what they have used today and in the last minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn load(store: Store, now: Moment) -> Result<Self, StoreError> {
        let accounts = Self {
            store,
            users: DashMap::new(),
            keys: DashMap::new(),
            changing: tokio::sync::Mutex::new(()),
            copied: Mutex::default(),
            current: AtomicBool::new(false),
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

    /// Whether somebody who is not here is unknown: false while the database is away, which may know them.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    /// The owner of a key.
    pub fn by_key(&self, digest: &KeyDigest) -> Option<Arc<Account>> {
        self.keys.get(digest).map(|account| account.clone())
    }

    /// The account of a user.
    pub fn by_user(&self, user: &str) -> Option<Arc<Account>> {
        self.users.get(user).map(|account| account.clone())
    }

    /// Everybody, by name.
    pub fn all(&self) -> Vec<Arc<Account>> {
        let mut all: Vec<Arc<Account>> = self.users.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by(|a, b| a.user.as_str().cmp(b.user.as_str()));
        all
    }

    /// Makes a user with a first key, which works as soon as this returns.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or when the database fails.
    pub async fn create(&self, new: NewUser, key: &ApiKey, now: Moment) -> Result<Arc<Account>, StoreError> {
        let _changing = self.changing.lock().await;
        let name = new.user.as_str();
        let user_row = user::Model {
            id: name.to_owned(),
            created_at_ms: now.unix_ms,
            requests_per_minute: new.limits.requests_per_minute.map(i64::from),
            tokens_per_day: new.limits.tokens_per_day.map(to_i64),
        };
        let key_row = api_key::Model {
            digest: key.digest().0.to_vec(),
            digest_version: PLAIN_SHA_256,
            user_id: name.to_owned(),
            last_four: key.last_four().to_owned(),
            created_at_ms: now.unix_ms,
        };
        let insert = async {
            let transaction = self.store.db.begin().await?;
            user_row.clone().into_active_model().insert(&transaction).await?;
            key_row.into_active_model().insert(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(insert).await.map_err(|error| match error {
            StoreError::Database(cause) if matches!(cause.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                StoreError::Exists(name.to_owned())
            }
            other => other,
        })?;
        // A name that was deleted and is made again goes on with what it has used today.
        let spent = usage::spent(&self.store, Some(name), now).await?;
        let account = self.take_up(new.user.clone(), &user_row, spent.get(name), now);
        self.keys.insert(key.digest(), account.clone());
        Ok(account)
    }

    /// Changes a user's limits, for the next request on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database fails.
    pub async fn set_limits(&self, user: &str, limits: Limits) -> Result<Arc<Account>, StoreError> {
        let _changing = self.changing.lock().await;
        let account = self.by_user(user).ok_or_else(|| StoreError::NotFound(user.to_owned()))?;
        let row = user::ActiveModel {
            id: Set(user.to_owned()),
            requests_per_minute: Set(limits.requests_per_minute.map(i64::from)),
            tokens_per_day: Set(limits.tokens_per_day.map(to_i64)),
            ..Default::default()
        };
        within_deadline(row.update(&self.store.db)).await.map_err(|error| match error {
            // Another gateway has deleted the user, and we have not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated) => StoreError::NotFound(user.to_owned()),
            other => other,
        })?;
        account.with(|state| state.limits = limits);
        Ok(account)
    }

    /// Deletes a user and all keys, which stop working at once. Usage rows stay.
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
            api_key::Entity::delete_many().filter(api_key::Column::UserId.eq(user)).exec(&transaction).await?;
            user::Entity::delete_by_id(user).exec(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(delete).await?;
        self.forget(user);
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

    async fn take_up_all(&self, People { users, keys }: &People, now: Moment) -> Result<(), StoreError> {
        let new = users.iter().any(|row| !self.users.contains_key(row.id.as_str()));
        let spent = if new { usage::spent(&self.store, None, now).await? } else { HashMap::new() };
        let names: HashSet<&str> = users.iter().map(|row| row.id.as_str()).collect();
        for gone in self.all().iter().filter(|account| !names.contains(account.user.as_str())) {
            self.forget(gone.user.as_str());
        }
        for row in users {
            match (self.by_user(&row.id), UserId::parse(&row.id)) {
                (Some(account), _) => account.with(|state| state.limits = limits_of(row)),
                (None, Some(user)) => drop(self.take_up(user, row, spent.get(&row.id), now)),
                (None, None) => tracing::warn!("a user with an unusable name stands in the database"),
            }
        }
        self.take_up_keys(keys);
        Ok(())
    }

    fn take_up_keys(&self, rows: &[api_key::Model]) {
        let mut known = HashSet::new();
        for row in rows {
            let (Ok(digest), Some(account)) =
                (row.digest.as_slice().try_into().map(KeyDigest), self.by_user(&row.user_id))
            else {
                continue;
            };
            known.insert(digest);
            self.keys.insert(digest, account);
        }
        self.keys.retain(|digest, _| known.contains(digest));
    }

    fn take_up(&self, user: UserId, row: &user::Model, spent: Option<&usage::Spent>, now: Moment) -> Arc<Account> {
        let (limits, mut budget) = (limits_of(row), Budget::default());
        if let Some(spent) = spent {
            // Admissions count only under a limit, before a restart as after it.
            let ages = spent.admission_ages.iter().copied().filter(|_| limits.requests_per_minute.is_some());
            budget.restore(spent.tokens_today, ages, now);
        }
        let state = Mutex::new(AccountState { limits, budget });
        let account = Arc::new(Account { user: user.clone(), created_at_ms: row.created_at_ms, state });
        self.users.insert(user.0, account.clone());
        account
    }

    fn forget(&self, user: &str) {
        self.keys.retain(|_, account| account.user.as_str() != user);
        self.users.remove(user);
    }
}

fn limits_of(row: &user::Model) -> Limits {
    Limits {
        requests_per_minute: row.requests_per_minute.map(|limit| u32::try_from(limit.max(0)).unwrap_or(u32::MAX)),
        tokens_per_day: row.tokens_per_day.map(|limit| u64::try_from(limit).unwrap_or(0)),
    }
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_have_a_narrow_form() {
        for good in ["user-123", "a", "A.b_c@d-e", &"x".repeat(64)] {
            assert!(UserId::parse(good).is_some(), "{good}");
        }
        for bad in ["", " ", "a b", "a/b", "é", "a\n", &"x".repeat(65)] {
            assert!(UserId::parse(bad).is_none(), "{bad}");
        }
    }
}
