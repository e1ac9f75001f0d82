//! How do users get keys, and lose them? Made, changed, rotated with an overlap, revoked: in the database, and then in
//! memory.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use entity::{key, key_digest};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    IntoActiveModel, QueryFilter, QuerySelect,
};

use super::account::LimitsChange;
use super::accounts::Accounts;
use super::allowed_models::AllowedModels;
use super::changes::begin_change;
use super::columns::{KeyColumns, secret_entry, to_i64};
use super::deadline::within_deadline;
use super::directory::SecretEntry;
use super::error::StoreError;
use super::key::{DEFAULT_NAME, Key, KeySpec, MadeKey};
use super::keys::{ApiKey, Sealed, SecretEnd, random_hex};
use limits::Moment;

/// Keys that one user may have.
const MAX_KEYS: usize = 100;

/// A change of a key: `None` = as it was.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// For lists; `Some(None)` = one that is free.
    pub name: Option<Option<String>>,
    /// Epoch milliseconds; `Some(None)` = it does not end.
    pub expires_at_ms: Option<Option<i64>>,
    /// `Some(None)` = every model.
    pub allowed_models: Option<Option<AllowedModels>>,
    /// Its own limits.
    pub limits: LimitsChange,
}

impl KeyChange {
    fn of(self, id: &str, name: Option<String>) -> key::ActiveModel {
        fn set<T, Column: Into<sea_orm::Value>>(
            given: Option<T>,
            column: impl FnOnce(T) -> Column,
        ) -> ActiveValue<Column> {
            given.map_or(ActiveValue::NotSet, |given| ActiveValue::Set(column(given)))
        }
        key::ActiveModel {
            id: ActiveValue::Unchanged(id.to_owned()),
            name: set(name, |name| name),
            expires_at_ms: set(self.expires_at_ms, |end| end),
            allowed_models: set(self.allowed_models, |models| models.as_ref().map(AllowedModels::to_text)),
            requests_per_minute: set(self.limits.requests_per_minute, |limit| limit.map(i64::from)),
            tokens_per_minute: set(self.limits.tokens_per_minute, |limit| limit.map(to_i64)),
            tokens_per_day: set(self.limits.tokens_per_day, |limit| limit.map(to_i64)),
            max_concurrency: set(self.limits.max_concurrency, |limit| limit.map(i64::from)),
            ..Default::default()
        }
    }
}

/// A key and its digest before they are anywhere.
pub(super) struct Draft {
    row: key::Model,
    digest: key_digest::Model,
    secret: ApiKey,
}

impl Draft {
    pub(super) fn key_id(&self) -> &str {
        &self.row.id
    }

    pub(super) async fn insert(&self, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        self.row.clone().into_active_model().insert(db).await?;
        self.digest.clone().into_active_model().insert(db).await?;
        Ok(())
    }
}

impl Accounts {
    pub(super) fn draft(&self, user: &str, spec: KeySpec, now: Moment) -> Result<Draft, StoreError> {
        let id = format!("key_{}", random_hex()?);
        let (secret, digest) = self.new_secret(user, &id, now)?;
        let row = key::Model {
            id,
            user_id: user.to_owned(),
            name: spec.name,
            created_at_ms: now.unix_ms,
            expires_at_ms: spec.expires_at_ms,
            allowed_models: spec.allowed_models.as_ref().map(AllowedModels::to_text),
            requests_per_minute: spec.limits.requests_per_minute.map(i64::from),
            tokens_per_minute: spec.limits.tokens_per_minute.map(to_i64),
            tokens_per_day: spec.limits.tokens_per_day.map(to_i64),
            max_concurrency: spec.limits.max_concurrency.map(i64::from),
            last_used_ms: None,
        };
        Ok(Draft { row, digest, secret })
    }

    fn new_secret(&self, user: &str, key_id: &str, now: Moment) -> Result<(ApiKey, key_digest::Model), StoreError> {
        let secret = ApiKey::generate(user)?;
        let Sealed { digest, version, pepper } = self.peppers.seal(&secret);
        let row = key_digest::Model {
            digest: digest.0.to_vec(),
            digest_version: version,
            pepper,
            key_id: key_id.to_owned(),
            last_four: secret.last_four().to_owned(),
            created_at_ms: now.unix_ms,
            expires_at_ms: None,
        };
        Ok((secret, row))
    }

    /// Takes up a key that is in the database now.
    pub(super) fn adopt(&self, draft: Draft, now: Moment) -> Option<MadeKey> {
        let Draft { row, digest, secret } = draft;
        let mut directory = self.write();
        directory.put_key(&KeyColumns::of(&row).entry());
        let secrets: Vec<_> = secret_entry(&digest, &self.peppers).into_iter().collect();
        directory.set_secrets(&row.id, &secrets);
        let index = directory.key(&row.id)?;
        Some(MadeKey { key: self.wake_key(&mut directory, index, None, now)?, secret })
    }

    /// A user's keys, oldest first, with when they were last used at any gateway, as far as the database tells.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn keys_of(&self, user: &str, now: Moment) -> Result<Vec<Arc<Key>>, StoreError> {
        let mut keys = self.wake_keys_of(user, now)?;
        if self.is_current() {
            let used = key::Entity::find().filter(key::Column::UserId.eq(user)).select_only();
            let used = used.column(key::Column::Id).column(key::Column::LastUsedMs).into_tuple();
            let used: Vec<(String, Option<i64>)> = within_deadline(used.all(&self.store.db)).await.unwrap_or_default();
            for (id, used_ms) in used {
                let key = keys.iter().find(|key| **key.id() == *id);
                key.zip(used_ms).into_iter().for_each(|(key, used_ms)| key.used_at(used_ms));
            }
        }
        keys.sort_unstable_by(|a, b| (a.created_at_ms(), a.id()).cmp(&(b.created_at_ms(), b.id())));
        Ok(keys)
    }

    fn wake_keys_of(&self, user: &str, now: Moment) -> Result<Vec<Arc<Key>>, StoreError> {
        let mut directory = self.write();
        if directory.user(user).is_none() {
            return Err(StoreError::NotFound(user.to_owned()));
        }
        let keys = directory.keys_of(user).into_iter();
        Ok(keys.filter_map(|index| self.wake_key(&mut directory, index, None, now)).collect())
    }

    fn key_of(&self, user: &str, id: &str, now: Moment) -> Result<Arc<Key>, StoreError> {
        let mut directory = self.write();
        if directory.user(user).is_none() {
            return Err(StoreError::NotFound(user.to_owned()));
        }
        let index = directory.key_of(user, id);
        let key = index.and_then(|index| self.wake_key(&mut directory, index, None, now));
        key.ok_or_else(|| StoreError::NoKey(id.to_owned()))
    }

    /// Makes a further key, which works as soon as this returns.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the user, [`StoreError::TooManyKeys`], [`StoreError::KeyExists`], or when the
    /// database fails.
    pub async fn create_key(
        &self,
        user: &str,
        name: Option<String>,
        spec: KeySpec,
        now: Moment,
    ) -> Result<MadeKey, StoreError> {
        let _changing = self.turn_to_change().await?;
        if !self.has_user(user) {
            return Err(StoreError::NotFound(user.to_owned()));
        }
        if self.read().keys_of(user).len() >= MAX_KEYS {
            return Err(StoreError::TooManyKeys(MAX_KEYS));
        }
        let mut draft = self.draft(user, spec, now)?;
        let insert = async {
            let transaction = begin_change(&self.store.db).await?;
            // Another gateway may have deleted the user.
            let user = entity::user::Entity::find_by_id(user).lock_shared().one(&transaction).await?;
            let Some(user) = user else { return Ok(Named::NoUser) };
            let Some(name) = free_name(&transaction, &user.id, name.as_deref(), draft.key_id()).await? else {
                return Ok(Named::Taken);
            };
            draft.row.name = name;
            draft.insert(&transaction).await?;
            transaction.commit().await?;
            Ok(Named::Free)
        };
        let made = match within_deadline(insert).await? {
            Named::Free => self.adopt(draft, now),
            Named::NoUser => None,
            Named::Taken => return Err(StoreError::KeyExists(name.unwrap_or_default())),
        };
        made.ok_or_else(|| StoreError::NotFound(user.to_owned()))
    }

    /// Gives a key a new secret. The one in force goes on working for `grace`; one that was rotated out before stops.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::NoKey`], or when the database fails.
    pub async fn rotate_key(&self, user: &str, id: &str, grace: Duration, now: Moment) -> Result<MadeKey, StoreError> {
        let _changing = self.turn_to_change().await?;
        let key = self.key_of(user, id, now)?;
        let (secret, row) = self.new_secret(user, id, now)?;
        let until_ms = now.unix_ms.saturating_add(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
        let rotate = async {
            let transaction = begin_change(&self.store.db).await?;
            // Of two gateways that rotate one key at once the second waits for the first.
            if key::Entity::find_by_id(id).lock_exclusive().one(&transaction).await?.is_none() {
                return Ok(false);
            }
            let of_key = || key_digest::Column::KeyId.eq(id);
            let in_force = || key_digest::Column::ExpiresAtMs.is_null();
            let ended = if grace.is_zero() { of_key() } else { of_key().and(in_force().not()) };
            key_digest::Entity::delete_many().filter(ended).exec(&transaction).await?;
            key_digest::Entity::update_many()
                .col_expr(key_digest::Column::ExpiresAtMs, Expr::value(until_ms))
                .filter(of_key())
                .filter(in_force())
                .exec(&transaction)
                .await?;
            row.clone().into_active_model().insert(&transaction).await?;
            transaction.commit().await?;
            Ok(true)
        };
        if !within_deadline(rotate).await? {
            return Err(StoreError::NoKey(id.to_owned()));
        }
        let in_force = key.secrets().into_iter().filter(|secret| secret.until_ms.is_none() && !grace.is_zero());
        let in_force = in_force.map(|secret| SecretEntry {
            end: SecretEnd { until_ms: Some(until_ms), ..secret },
            // It may be; then it opens nothing under its own pepper either.
            is_foreign: false,
        });
        let secrets: Vec<_> = in_force.chain(secret_entry(&row, &self.peppers)).collect();
        self.write().set_secrets(id, &secrets);
        Ok(MadeKey { key, secret })
    }

    /// Changes a key, for the next request on; those that run go on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NoKey`] or [`StoreError::KeyExists`], or when the database fails.
    pub async fn change_key(
        &self,
        user: &str,
        id: &str,
        change: KeyChange,
        now: Moment,
    ) -> Result<Arc<Key>, StoreError> {
        let _changing = self.turn_to_change().await?;
        let key = self.key_of(user, id, now)?;
        let update = async {
            let transaction = begin_change(&self.store.db).await?;
            let name = match &change.name {
                None => None,
                Some(wanted) => match free_name(&transaction, user, wanted.as_deref(), id).await? {
                    None => return Ok(None),
                    free => free,
                },
            };
            // Only what is given: another gateway may be changing something else.
            let row = change.clone().of(id, name).update(&transaction).await?;
            transaction.commit().await?;
            Ok(Some(row))
        };
        let row = within_deadline(update).await.map_err(|error| match error {
            // Another gateway has revoked it, and we have not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated | DbErr::RecordNotFound(_)) => {
                StoreError::NoKey(id.to_owned())
            }
            other => other,
        })?;
        let row = row.ok_or_else(|| StoreError::KeyExists(change.name.flatten().unwrap_or_default()))?;
        self.write().put_key(&KeyColumns::of(&row).entry());
        Ok(key)
    }

    /// Takes a key away: no request gets in with it from now on, and those that run end.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::NoKey`], or when the database fails.
    pub async fn revoke_key(&self, user: &str, id: &str) -> Result<(), StoreError> {
        let _changing = self.turn_to_change().await?;
        if !self.has_user(user) {
            return Err(StoreError::NotFound(user.to_owned()));
        }
        if self.read().key_of(user, id).is_none() {
            return Err(StoreError::NoKey(id.to_owned()));
        }
        let delete = async {
            let transaction = begin_change(&self.store.db).await?;
            key_digest::Entity::delete_many().filter(key_digest::Column::KeyId.eq(id)).exec(&transaction).await?;
            key::Entity::delete_by_id(id).exec(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(delete).await?;
        self.write().remove_key(id);
        Ok(())
    }
}

/// What became of the name for a new key.
enum Named {
    Free,
    Taken,
    NoUser,
}

/// The name that a key may have, beside those of the user's other keys; `None` if the wanted one is taken.
async fn free_name(
    db: &DatabaseTransaction,
    user: &str,
    wanted: Option<&str>,
    id: &str,
) -> Result<Option<String>, DbErr> {
    let others = key::Entity::find().filter(key::Column::UserId.eq(user)).filter(key::Column::Id.ne(id));
    let others: BTreeSet<String> =
        others.select_only().column(key::Column::Name).into_tuple().all(db).await?.into_iter().collect();
    if let Some(wanted) = wanted {
        return Ok(Some(wanted.to_owned()).filter(|wanted| !others.contains(wanted)));
    }
    let numbered = (2..).map(|number| format!("{DEFAULT_NAME}-{number}"));
    Ok(std::iter::once(DEFAULT_NAME.to_owned()).chain(numbered).find(|name| !others.contains(name)))
}
