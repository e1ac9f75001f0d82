//! When have users or keys changed? Postgres notifies gateways at once; a look now and then covers lost notifications.
use std::time::Duration;

use migration::{PEOPLE_CHANNEL, PEOPLE_LOCK};
use sea_orm::sqlx::postgres::PgListener;
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};

use super::audit::append_pending;
use super::database::Store;
use super::deadline::STATEMENT_DEADLINE;
use super::transactions::immediate;

/// Waits for changes of users and keys.
#[derive(Debug)]
pub struct Changes {
    store: Store,
    listener: Option<PgListener>,
}

impl Changes {
    /// Will listen once [`Changes::wait`] is called. SQLite has no notifications.
    pub fn of(store: Store) -> Self {
        Self { store, listener: None }
    }

    /// Waits until something has changed, but at most for `longest`, because a notification may be lost.
    pub async fn wait(&mut self, longest: Duration) {
        let _ = tokio::time::timeout(longest, self.heard()).await;
    }

    async fn heard(&mut self) {
        if self.store.db.get_database_backend() != DatabaseBackend::Postgres {
            std::future::pending::<()>().await;
        }
        if self.listener.is_none() {
            match tokio::time::timeout(STATEMENT_DEADLINE, self.listen()).await {
                // Something may have changed before we listened, so this counts as a change.
                Ok(Ok(listener)) => return self.listener = Some(listener),
                Ok(Err(_)) | Err(_) => std::future::pending::<()>().await,
            }
        }
        if let Some(listener) = &mut self.listener
            && listener.recv().await.is_err()
        {
            self.listener = None;
            std::future::pending::<()>().await;
        }
    }

    async fn listen(&self) -> Result<PgListener, sea_orm::sqlx::Error> {
        let mut listener = PgListener::connect_with(self.store.db.get_postgres_connection_pool()).await?;
        listener.listen(PEOPLE_CHANNEL).await?;
        Ok(listener)
    }
}

/// A transaction that changes users, keys or administrators, with the audit entry of the request at hand in it. The lock that
/// the log of changes takes comes first, so that no two of these wait for each other crosswise.
pub(super) async fn begin_change(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let transaction = db.begin_with_options(immediate()).await?;
    if transaction.get_database_backend() == DatabaseBackend::Postgres {
        transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({PEOPLE_LOCK})")).await?;
    }
    append_pending(&transaction).await?;
    Ok(transaction)
}

/// A transaction that changes something else, with the audit entry of the request at hand in it.
pub(super) async fn begin_other_change(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let transaction = db.begin_with_options(immediate()).await?;
    append_pending(&transaction).await?;
    Ok(transaction)
}
