//! Who administers? The named administrators in memory; few, so that what is presented is compared with all of them.
use std::sync::{Arc, PoisonError, RwLock};

use entity::{admin, admin_digest};
use sea_orm::{DatabaseConnection, EntityTrait, IntoActiveModel, TransactionTrait};

use super::database::Store;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::keys::{KeyDigest, SecretEnd};
use super::role::Role;
use super::transactions::immediate;

/// A named administrator, without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator {
    /// For people, and in the audit log.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// Epoch milliseconds.
    pub created_at_ms: i64,
    /// When the key ends, epoch milliseconds; `None` = it does not.
    pub expires_at_ms: Option<i64>,
    /// The secrets of the key: the one in force last.
    pub secrets: Vec<SecretEnd>,
}

/// What a presented key turned out to be, as an administrator's.
#[derive(Debug)]
pub enum FoundAdmin {
    /// A good key.
    Admin(Arc<Administrator>),
    /// A key that has ended.
    Expired,
    /// No administrator's key that is known.
    Unknown,
}

/// All of them, by name.
#[derive(Debug)]
pub(super) struct Administrators(RwLock<Arc<[Arc<Administrator>]>>);

impl Administrators {
    pub(super) fn new(rows: &AdminRows) -> Self {
        Self(RwLock::new(rows.administrators()))
    }

    pub(super) fn all(&self) -> Arc<[Arc<Administrator>]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, rows: &AdminRows) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rows.administrators();
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Administrator>> {
        self.all().iter().find(|admin| *admin.name == *name).cloned()
    }

    /// Whose key has this digest.
    pub(super) fn by_digest(&self, digest: &KeyDigest, now_ms: i64) -> FoundAdmin {
        let all = self.all();
        let secrets = all.iter().flat_map(|admin| admin.secrets.iter().map(move |secret| (admin, secret)));
        let Some((admin, secret)) = secrets.into_iter().find(|(_, secret)| secret.digest.matches(digest)) else {
            return FoundAdmin::Unknown;
        };
        let has_ended = |end: Option<i64>| end.is_some_and(|end_ms| end_ms <= now_ms);
        if has_ended(secret.until_ms) || has_ended(admin.expires_at_ms) {
            return FoundAdmin::Expired;
        }
        FoundAdmin::Admin(admin.clone())
    }

    /// Takes up a change at once, before the log of changes tells of it.
    pub(super) fn put(&self, administrator: Administrator) -> Arc<Administrator> {
        let administrator = Arc::new(administrator);
        self.replace(&administrator.name.clone(), Some(administrator.clone()));
        administrator
    }

    pub(super) fn remove(&self, name: &str) {
        self.replace(name, None);
    }

    fn replace(&self, name: &str, new: Option<Arc<Administrator>>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let others = all.iter().filter(|admin| *admin.name != *name).cloned();
        let mut changed: Vec<_> = others.chain(new).collect();
        changed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        *all = changed.into();
    }
}

/// The rows of all administrators.
#[derive(Debug, Default)]
pub(super) struct AdminRows {
    admins: Vec<admin::Model>,
    digests: Vec<admin_digest::Model>,
}

impl AdminRows {
    /// All of them in a database.
    pub(super) async fn read(db: &DatabaseConnection) -> Result<Self, StoreError> {
        let admins = within_deadline(admin::Entity::find().all(db)).await?;
        let digests = within_deadline(admin_digest::Entity::find().all(db)).await?;
        Ok(Self { admins, digests })
    }

    fn administrators(&self) -> Arc<[Arc<Administrator>]> {
        let made = self.admins.iter().filter_map(|row| {
            let secrets = self.digests.iter().filter(|digest| digest.admin == row.name);
            administrator(row, secrets.filter_map(secret_of).collect()).map(Arc::new)
        });
        let mut all: Vec<Arc<Administrator>> = made.collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.into()
    }
}

/// An administrator with these secrets; `None` where the role is one of a later version.
pub(super) fn administrator(row: &admin::Model, mut secrets: Vec<SecretEnd>) -> Option<Administrator> {
    let Some(role) = Role::parse(&row.role) else {
        tracing::warn!(admin = row.name, "an administrator whose role is unknown is left out");
        return None;
    };
    secrets.sort_by_key(|secret| secret.until_ms.unwrap_or(i64::MAX));
    Some(Administrator {
        name: row.name.as_str().into(),
        role,
        created_at_ms: row.created_at_ms,
        expires_at_ms: row.expires_at_ms,
        secrets,
    })
}

/// `None` where the digest has another length.
pub(super) fn secret_of(row: &admin_digest::Model) -> Option<SecretEnd> {
    let digest = row.digest.as_slice().try_into().map(KeyDigest).ok()?;
    Some(SecretEnd { digest, last_four: row.last_four.clone(), until_ms: row.expires_at_ms })
}

impl Store {
    /// Puts a copy of all administrators in the local file, for a start while the database is away.
    pub(super) async fn copy_admins(&self, rows: &AdminRows) -> Result<(), StoreError> {
        let copy = async {
            let transaction = self.local.db.begin_with_options(immediate()).await?;
            admin_digest::Entity::delete_many().exec(&transaction).await?;
            admin::Entity::delete_many().exec(&transaction).await?;
            if !rows.admins.is_empty() {
                let rows = rows.admins.iter().cloned().map(IntoActiveModel::into_active_model);
                admin::Entity::insert_many::<admin::ActiveModel, _>(rows).exec_without_returning(&transaction).await?;
            }
            if !rows.digests.is_empty() {
                let rows = rows.digests.iter().cloned().map(IntoActiveModel::into_active_model);
                admin_digest::Entity::insert_many::<admin_digest::ActiveModel, _>(rows)
                    .exec_without_returning(&transaction)
                    .await?;
            }
            transaction.commit().await
        };
        within_deadline(copy).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, role: &str, expires_at_ms: Option<i64>) -> admin::Model {
        admin::Model { name: name.to_owned(), role: role.to_owned(), created_at_ms: 1, expires_at_ms }
    }

    fn digest(admin: &str, key: &str, expires_at_ms: Option<i64>) -> admin_digest::Model {
        admin_digest::Model {
            digest: KeyDigest::of(key).0.to_vec(),
            digest_version: 1,
            pepper: None,
            admin: admin.to_owned(),
            last_four: String::new(),
            created_at_ms: 1,
            expires_at_ms,
        }
    }

    #[test]
    fn a_key_opens_until_it_or_its_administrator_ends() {
        let rows = AdminRows {
            admins: vec![row("eve", "operator", Some(100)), row("bob", "viewer", None), row("zoe", "owner", None)],
            digests: vec![
                digest("eve", "new", None),
                digest("eve", "old", Some(50)),
                digest("bob", "bobs", None),
                digest("zoe", "zoes", None),
            ],
        };
        let admins = Administrators::new(&rows);
        let found = |key: &str, now_ms| match admins.by_digest(&KeyDigest::of(key), now_ms) {
            FoundAdmin::Admin(admin) => admin.name.to_string(),
            FoundAdmin::Expired => "expired".to_owned(),
            FoundAdmin::Unknown => "unknown".to_owned(),
        };
        assert_eq!(
            (found("old", 49), found("old", 50), found("new", 50)),
            ("eve".into(), "expired".into(), "eve".into())
        );
        assert_eq!(
            (found("new", 100), found("bobs", 100), found("", 1)),
            ("expired".into(), "bob".into(), "unknown".into())
        );
        assert_eq!(found("zoes", 1), "unknown", "of a role that is not known");
        assert_eq!(admins.get("eve").unwrap().secrets.last().unwrap().until_ms, None);
        admins.remove("bob");
        assert_eq!((found("bobs", 1), admins.all().len()), ("unknown".into(), 1));
    }
}
