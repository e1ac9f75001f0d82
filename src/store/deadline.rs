//! How long may a statement take? Every wait for a database goes through here, so none is unbounded.
use std::future::Future;
use std::time::Duration;

use sea_orm::DbErr;

use super::error::StoreError;

/// Longest wait for an ordinary statement.
pub(super) const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);

/// Waits for a statement, [`STATEMENT_DEADLINE`] at most.
pub(super) async fn within_deadline<T>(statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
    within(STATEMENT_DEADLINE, statement).await
}

/// Waits for a statement, `deadline` at most.
pub(super) async fn within<T>(
    deadline: Duration,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, statement).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::TimedOut(deadline)),
    }
}
