//! When was each key, and each user, last used? Known in memory to the minute, and written down now and then: no request
//! waits for it.
use std::collections::BTreeMap;
use std::sync::Arc;

use entity::{key, user};
use sea_orm::{ActiveValue, ColumnTrait, Condition, EntityTrait, QueryFilter};

use super::accounts::Accounts;
use super::deadline::within_deadline;
use super::error::StoreError;
use super::many;

/// Names of one statement.
const BATCH: usize = 500;

/// Who was used last in which minute.
type Minutes = BTreeMap<i64, Vec<Arc<str>>>;

impl Accounts {
    /// Writes down when keys and users were last used, as far as that has changed since `since_ms`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn write_last_used(&self, since_ms: i64) -> Result<(), StoreError> {
        let (keys, users) = self.used_since(since_ms);
        let backend = self.store.db.get_database_backend();
        for (used_ms, ids) in keys {
            for ids in ids.chunks(BATCH) {
                let column = key::Column::LastUsedMs;
                let update = key::Entity::update_many()
                    .set(key::ActiveModel { last_used_ms: ActiveValue::Set(Some(used_ms)), ..Default::default() })
                    .filter(many::is_any(key::Column::Id, backend, ids))
                    // Another gateway may have seen it later.
                    .filter(Condition::any().add(column.is_null()).add(column.lt(used_ms)));
                within_deadline(update.exec(&self.store.db)).await?;
            }
        }
        for (seen_ms, names) in users {
            for names in names.chunks(BATCH) {
                let column = user::Column::LastSeenMs;
                let update = user::Entity::update_many()
                    .set(user::ActiveModel { last_seen_ms: ActiveValue::Set(Some(seen_ms)), ..Default::default() })
                    .filter(many::is_any(user::Column::Id, backend, names))
                    .filter(Condition::any().add(column.is_null()).add(column.lt(seen_ms)));
                within_deadline(update.exec(&self.store.db)).await?;
            }
        }
        Ok(())
    }

    fn used_since(&self, since_ms: i64) -> (Minutes, Minutes) {
        let (mut keys, mut users) = (Minutes::new(), Minutes::new());
        let directory = self.read();
        for key in directory.awake_keys() {
            if let Some(used_ms) = key.last_used_ms().filter(|used_ms| *used_ms >= since_ms) {
                keys.entry(used_ms).or_default().push(key.id().clone());
            }
        }
        for account in directory.awake_accounts().filter(|account| account.last_seen_ms() >= since_ms.max(1)) {
            users.entry(account.last_seen_ms()).or_default().push(account.user().shared());
        }
        (keys, users)
    }
}
