//! How do users get keys, and lose them? Made, changed, rotated with an overlap, revoked: in the database, and then in
//! memory.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use entity::{key, key_digest};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, ExprTrait,
    IntoActiveModel, QueryFilter, QuerySelect, TransactionTrait,
};

use super::access::{Account, AllowedModels, Key, KeySpec, MadeKey};
use super::accounts::Accounts;
use super::changes::announce;
use super::columns::{spec_of, to_i64};
use super::deadline::within_deadline;
use super::error::StoreError;
use super::keys::{ApiKey, Sealed, SecretEnd, random_hex};
use super::transactions::immediate;
use limits::Moment;

/// Keys that one user may have.
const MAX_KEYS: usize = 100;

/// A change of a key: `None` = as it was.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// For lists.
    pub name: Option<String>,
    /// Epoch milliseconds; `Some(None)` = it does not end.
    pub expires_at_ms: Option<Option<i64>>,
    /// `Some(None)` = every model.
    pub allowed_models: Option<Option<AllowedModels>>,
    /// `Some(None)` = no limit, as in those below.
    pub requests_per_minute: Option<Option<u32>>,
    /// Of the requests admitted in any 60 s.
    pub tokens_per_minute: Option<Option<u64>>,
    /// Per UTC day.
    pub tokens_per_day: Option<Option<u64>>,
    /// Requests at a time.
    pub max_concurrency: Option<Option<u32>>,
}

impl KeyChange {
    fn of(self, id: &str) -> key::ActiveModel {
        fn set<T, Column: Into<sea_orm::Value>>(
            given: Option<T>,
            column: impl FnOnce(T) -> Column,
        ) -> ActiveValue<Column> {
            given.map_or(ActiveValue::NotSet, |given| ActiveValue::Set(column(given)))
        }
        key::ActiveModel {
            id: ActiveValue::Unchanged(id.to_owned()),
            name: set(self.name, |name| name),
            expires_at_ms: set(self.expires_at_ms, |end| end),
            allowed_models: set(self.allowed_models, |models| models.as_ref().map(text_of)),
            requests_per_minute: set(self.requests_per_minute, |limit| limit.map(i64::from)),
            tokens_per_minute: set(self.tokens_per_minute, |limit| limit.map(to_i64)),
            tokens_per_day: set(self.tokens_per_day, |limit| limit.map(to_i64)),
            max_concurrency: set(self.max_concurrency, |limit| limit.map(i64::from)),
            ..Default::default()
        }
    }
}

fn text_of(models: &AllowedModels) -> String {
    serde_json::json!(models.names()).to_string()
}

/// A key and its digest before they are anywhere.
pub(super) struct Draft {
    row: key::Model,
    digest: key_digest::Model,
    secret: ApiKey,
    end: SecretEnd,
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
        let (secret, digest, end) = self.new_secret(user, &id, now)?;
        let row = key::Model {
            id,
            user_id: user.to_owned(),
            name: spec.name,
            created_at_ms: now.unix_ms,
            expires_at_ms: spec.expires_at_ms,
            allowed_models: spec.allowed_models.as_ref().map(text_of),
            requests_per_minute: spec.limits.requests_per_minute.map(i64::from),
            tokens_per_minute: spec.limits.tokens_per_minute.map(to_i64),
            tokens_per_day: spec.limits.tokens_per_day.map(to_i64),
            max_concurrency: spec.limits.max_concurrency.map(i64::from),
            last_used_ms: None,
        };
        Ok(Draft { row, digest, secret, end })
    }

    fn new_secret(
        &self,
        user: &str,
        key_id: &str,
        now: Moment,
    ) -> Result<(ApiKey, key_digest::Model, SecretEnd), StoreError> {
        let secret = ApiKey::generate(user)?;
        let Sealed { digest, version, pepper } = self.peppers().seal(&secret);
        let row = key_digest::Model {
            digest: digest.0.to_vec(),
            digest_version: version,
            pepper,
            key_id: key_id.to_owned(),
            last_four: secret.last_four().to_owned(),
            created_at_ms: now.unix_ms,
            expires_at_ms: None,
        };
        let end = SecretEnd { digest, last_four: row.last_four.clone(), until_ms: None };
        Ok((secret, row, end))
    }

    /// Takes a key up that is in the database now.
    pub(super) fn adopt(&self, account: &Arc<Account>, draft: Draft, now: Moment) -> MadeKey {
        let key = self.take_up_key(account, &draft.row, vec![draft.end], None, now);
        MadeKey { key, secret: draft.secret }
    }

    /// A user's keys, oldest first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub fn keys_of(&self, user: &str) -> Result<Vec<Arc<Key>>, StoreError> {
        let account = self.by_user(user).ok_or_else(|| StoreError::NotFound(user.to_owned()))?;
        let is_theirs = |key: &Arc<Key>| Arc::ptr_eq(key.account(), &account);
        let mut keys: Vec<Arc<Key>> = self.keys.iter().map(|entry| entry.clone()).filter(is_theirs).collect();
        keys.sort_unstable_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        Ok(keys)
    }

    fn key_of(&self, user: &str, id: &str) -> Result<Arc<Key>, StoreError> {
        let keys = self.keys_of(user)?;
        keys.into_iter().find(|key| **key.id() == *id).ok_or_else(|| StoreError::NoKey(id.to_owned()))
    }

    /// Makes a further key, which works as soon as this returns.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the user, [`StoreError::TooManyKeys`], or when the database fails.
    pub async fn create_key(&self, user: &str, spec: KeySpec, now: Moment) -> Result<MadeKey, StoreError> {
        let _changing = self.changing.lock().await;
        let account = self.by_user(user).ok_or_else(|| StoreError::NotFound(user.to_owned()))?;
        if self.keys_of(user)?.len() >= MAX_KEYS {
            return Err(StoreError::TooManyKeys(MAX_KEYS));
        }
        let draft = self.draft(user, spec, now)?;
        let insert = async {
            let transaction = self.store.db.begin_with_options(immediate()).await?;
            // Another gateway may have deleted the user.
            let user = entity::user::Entity::find_by_id(user).lock_shared().one(&transaction).await?;
            if user.is_none() {
                return Ok(false);
            }
            draft.insert(&transaction).await?;
            announce(&transaction).await?;
            transaction.commit().await?;
            Ok(true)
        };
        match within_deadline(insert).await? {
            true => Ok(self.adopt(&account, draft, now)),
            false => Err(StoreError::NotFound(user.to_owned())),
        }
    }

    /// Gives a key a new secret. The one in force goes on working for `grace`; one that was rotated out before stops.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::NoKey`], or when the database fails.
    pub async fn rotate_key(&self, user: &str, id: &str, grace: Duration, now: Moment) -> Result<MadeKey, StoreError> {
        let _changing = self.changing.lock().await;
        let key = self.key_of(user, id)?;
        let (secret, row, end) = self.new_secret(user, id, now)?;
        let until_ms = now.unix_ms.saturating_add(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
        let rotate = async {
            let transaction = self.store.db.begin_with_options(immediate()).await?;
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
            row.into_active_model().insert(&transaction).await?;
            announce(&transaction).await?;
            transaction.commit().await?;
            Ok(true)
        };
        if !within_deadline(rotate).await? {
            return Err(StoreError::NoKey(id.to_owned()));
        }
        let in_force = key.secrets().into_iter().filter(|secret| secret.until_ms.is_none() && !grace.is_zero());
        let mut secrets: Vec<SecretEnd> =
            in_force.map(|secret| SecretEnd { until_ms: Some(until_ms), ..secret }).collect();
        secrets.push(end);
        self.set_secrets(&key, secrets);
        Ok(MadeKey { key, secret })
    }

    /// Changes a key, for the next request on; those that run go on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::NoKey`], or when the database fails.
    pub async fn change_key(&self, user: &str, id: &str, change: KeyChange) -> Result<Arc<Key>, StoreError> {
        let _changing = self.changing.lock().await;
        let key = self.key_of(user, id)?;
        let update = async {
            let transaction = self.store.db.begin_with_options(immediate()).await?;
            // Only what is given: another gateway may be changing something else.
            let row = change.of(id).update(&transaction).await?;
            announce(&transaction).await?;
            transaction.commit().await?;
            Ok(row)
        };
        let row = within_deadline(update).await.map_err(|error| match error {
            // Another gateway has revoked it, and we have not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated | DbErr::RecordNotFound(_)) => {
                StoreError::NoKey(id.to_owned())
            }
            other => other,
        })?;
        key.set_spec(spec_of(&row));
        Ok(key)
    }

    /// Takes a key away: no request gets in with it from now on, and those that run end.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] or [`StoreError::NoKey`], or when the database fails.
    pub async fn revoke_key(&self, user: &str, id: &str) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let key = self.key_of(user, id)?;
        let delete = async {
            let transaction = self.store.db.begin().await?;
            key_digest::Entity::delete_many().filter(key_digest::Column::KeyId.eq(id)).exec(&transaction).await?;
            key::Entity::delete_by_id(id).exec(&transaction).await?;
            announce(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(delete).await?;
        self.drop_keys(|other| other.id() == key.id());
        Ok(())
    }

    /// Writes down when keys were last used, as far as that has changed since `since_ms`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn write_last_used(&self, since_ms: i64) -> Result<(), StoreError> {
        let keys: Vec<(Arc<str>, i64)> =
            self.keys.iter().map(|key| (key.id.clone(), key.last_used_ms.load(Ordering::Relaxed))).collect();
        for (id, used_ms) in keys.into_iter().filter(|(_, used_ms)| *used_ms >= since_ms) {
            let column = key::Column::LastUsedMs;
            let update = key::Entity::update_many()
                .set(key::ActiveModel { last_used_ms: ActiveValue::Set(Some(used_ms)), ..Default::default() })
                .filter(key::Column::Id.eq(&*id))
                // Another gateway may have seen it later.
                .filter(Condition::any().add(column.is_null()).add(column.lt(used_ms)));
            within_deadline(update.exec(&self.store.db)).await?;
        }
        Ok(())
    }
}
