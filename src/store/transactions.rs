//! The kinds of transactions: those that write on SQLite, and those of slow statements on Postgres.
use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

/// Options of a transaction that writes. On SQLite, one that starts by reading would fail if another wrote meanwhile.
pub(super) fn immediate() -> TransactionOptions {
    TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..Default::default() }
}

/// A transaction for slow statements: Postgres lets each of them run for `patience`.
pub(super) async fn begin_patiently(
    db: &DatabaseConnection,
    patience: Duration,
    isolation_level: Option<IsolationLevel>,
) -> Result<DatabaseTransaction, DbErr> {
    let options = TransactionOptions { isolation_level, ..Default::default() };
    let transaction = db.begin_with_options(options).await?;
    if transaction.get_database_backend() == DatabaseBackend::Postgres {
        let statement = format!("SET LOCAL statement_timeout = {}", patience.as_millis());
        transaction.execute_unprepared(&statement).await?;
    }
    Ok(transaction)
}
