//! How do administrators come and go? Made with a key, changed, rotated with an overlap, deleted: in the database, and then
//! in memory.
use std::sync::Arc;
use std::time::Duration;

use entity::{admin, admin_digest};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, DbErr, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter,
    QuerySelect, SqlErr,
};

use super::accounts::Accounts;
use super::administrators::{Administrator, FoundAdmin, administrator, secret_of};
use super::changes::begin_change;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::keys::{ApiKey, KeyDigest, Sealed};
use super::role::Role;
use limits::Moment;

/// The most administrators.
const MAX_ADMINS: usize = 100;

/// An administrator to be made.
#[derive(Clone, Debug)]
pub struct NewAdmin {
    /// The name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When the key ends, epoch milliseconds; `None` = it does not.
    pub expires_at_ms: Option<i64>,
}

/// A change of an administrator: `None` = as it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdminChange {
    /// What they may do.
    pub role: Option<Role>,
    /// When the key ends, epoch milliseconds; `Some(None)` = it does not.
    pub expires_at_ms: Option<Option<i64>>,
}

impl Accounts {
    /// All administrators but whoever has the key of the configuration, by name.
    pub fn admins(&self) -> Arc<[Arc<Administrator>]> {
        self.admins.all()
    }

    /// An administrator.
    ///
    /// # Errors
    /// [`StoreError::NoAdmin`]
    pub fn admin(&self, name: &str) -> Result<Arc<Administrator>, StoreError> {
        self.admins.get(name).ok_or_else(|| StoreError::NoAdmin(name.to_owned()))
    }

    /// Whose key a caller presents, and the digest under which it is known.
    pub fn find_admin(&self, presented: &str, now: Moment) -> (FoundAdmin, Option<KeyDigest>) {
        if self.admins.all().is_empty() {
            return (FoundAdmin::Unknown, None);
        }
        for digest in self.peppers.digests(presented) {
            match self.admins.by_digest(&digest, now.unix_ms) {
                FoundAdmin::Unknown => {}
                found => return (found, Some(digest)),
            }
        }
        (FoundAdmin::Unknown, None)
    }

    /// Whose key has this digest.
    pub fn admin_by_digest(&self, digest: &KeyDigest, now: Moment) -> FoundAdmin {
        self.admins.by_digest(digest, now.unix_ms)
    }

    fn new_admin_secret(&self, name: &str, now: Moment) -> Result<(ApiKey, admin_digest::Model), StoreError> {
        let secret = ApiKey::generate(&format!("admin-{name}"))?;
        let Sealed { digest, version, pepper } = self.peppers.seal(&secret);
        let row = admin_digest::Model {
            digest: digest.0.to_vec(),
            digest_version: version,
            pepper,
            admin: name.to_owned(),
            last_four: secret.last_four().to_owned(),
            created_at_ms: now.unix_ms,
            expires_at_ms: None,
        };
        Ok((secret, row))
    }

    /// Makes an administrator with a key, which works as soon as this returns and is shown this once.
    ///
    /// # Errors
    /// [`StoreError::AdminExists`], [`StoreError::TooManyAdmins`], or when the database fails.
    pub async fn create_admin(&self, new: NewAdmin, now: Moment) -> Result<(Arc<Administrator>, ApiKey), StoreError> {
        let _changing = self.turn_to_change().await?;
        if self.admins.all().len() >= MAX_ADMINS {
            return Err(StoreError::TooManyAdmins(MAX_ADMINS));
        }
        let (secret, digest) = self.new_admin_secret(&new.name, now)?;
        let row = admin::Model {
            name: new.name,
            role: new.role.as_str().to_owned(),
            created_at_ms: now.unix_ms,
            expires_at_ms: new.expires_at_ms,
        };
        let insert = async {
            let transaction = begin_change(&self.store.db).await?;
            row.clone().into_active_model().insert(&transaction).await?;
            digest.clone().into_active_model().insert(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(insert).await.map_err(|error| match error {
            StoreError::Database(cause) if matches!(cause.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                StoreError::AdminExists(row.name.clone())
            }
            other => other,
        })?;
        let made = administrator(&row, secret_of(&digest).into_iter().collect());
        let made = made.ok_or_else(|| StoreError::NoAdmin(row.name))?;
        Ok((self.admins.put(made), secret))
    }

    /// Changes an administrator, from the next request on.
    ///
    /// # Errors
    /// [`StoreError::NoAdmin`], or when the database fails.
    pub async fn change_admin(&self, name: &str, change: AdminChange) -> Result<Arc<Administrator>, StoreError> {
        fn set<T: Into<sea_orm::Value>>(given: Option<T>) -> ActiveValue<T> {
            given.map_or(ActiveValue::NotSet, ActiveValue::Set)
        }
        let _changing = self.turn_to_change().await?;
        let known = self.admin(name)?;
        let row = admin::ActiveModel {
            name: ActiveValue::Unchanged(name.to_owned()),
            role: set(change.role.map(|role| role.as_str().to_owned())),
            expires_at_ms: set(change.expires_at_ms),
            ..Default::default()
        };
        let update = async {
            let transaction = begin_change(&self.store.db).await?;
            let row = row.update(&transaction).await?;
            transaction.commit().await?;
            Ok(row)
        };
        let row = within_deadline(update).await.map_err(|error| match error {
            // Another gateway has deleted it, and this one has not heard of it yet.
            StoreError::Database(DbErr::RecordNotUpdated | DbErr::RecordNotFound(_)) => {
                StoreError::NoAdmin(name.to_owned())
            }
            other => other,
        })?;
        let changed = administrator(&row, known.secrets.clone());
        Ok(self.admins.put(changed.ok_or_else(|| StoreError::NoAdmin(row.name))?))
    }

    /// Gives an administrator a new key. The one in force goes on working for `grace`; one that was rotated out before stops.
    ///
    /// # Errors
    /// [`StoreError::NoAdmin`], or when the database fails.
    pub async fn rotate_admin(
        &self,
        name: &str,
        grace: Duration,
        now: Moment,
    ) -> Result<(Arc<Administrator>, ApiKey), StoreError> {
        let _changing = self.turn_to_change().await?;
        self.admin(name)?;
        let (secret, digest) = self.new_admin_secret(name, now)?;
        let until_ms = now.unix_ms.saturating_add(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
        let rotate = async {
            let transaction = begin_change(&self.store.db).await?;
            // Of two gateways that rotate one key at once the second waits for the first.
            let Some(row) = admin::Entity::find_by_id(name).lock_exclusive().one(&transaction).await? else {
                return Ok(None);
            };
            let of_admin = || admin_digest::Column::Admin.eq(name);
            let in_force = || admin_digest::Column::ExpiresAtMs.is_null();
            let ended = if grace.is_zero() { of_admin() } else { of_admin().and(in_force().not()) };
            admin_digest::Entity::delete_many().filter(ended).exec(&transaction).await?;
            admin_digest::Entity::update_many()
                .col_expr(admin_digest::Column::ExpiresAtMs, Expr::value(until_ms))
                .filter(of_admin())
                .filter(in_force())
                .exec(&transaction)
                .await?;
            digest.into_active_model().insert(&transaction).await?;
            let digests = admin_digest::Entity::find().filter(of_admin()).all(&transaction).await?;
            transaction.commit().await?;
            Ok(Some((row, digests)))
        };
        let no_admin = || StoreError::NoAdmin(name.to_owned());
        let (row, digests) = within_deadline(rotate).await?.ok_or_else(no_admin)?;
        let rotated = administrator(&row, digests.iter().filter_map(secret_of).collect());
        Ok((self.admins.put(rotated.ok_or_else(no_admin)?), secret))
    }

    /// Takes an administrator's rights away, from the next request on.
    ///
    /// # Errors
    /// [`StoreError::NoAdmin`], or when the database fails.
    pub async fn delete_admin(&self, name: &str) -> Result<(), StoreError> {
        let _changing = self.turn_to_change().await?;
        self.admin(name)?;
        let delete = async {
            let transaction = begin_change(&self.store.db).await?;
            admin_digest::Entity::delete_many().filter(admin_digest::Column::Admin.eq(name)).exec(&transaction).await?;
            admin::Entity::delete_by_id(name).exec(&transaction).await?;
            transaction.commit().await
        };
        within_deadline(delete).await?;
        self.admins.remove(name);
        Ok(())
    }
}
