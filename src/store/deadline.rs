//! How long may a statement take? Every wait for a database goes through here, so none is unbounded.
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use sea_orm::DbErr;

use super::error::StoreError;

/// Longest wait for an ordinary statement.
pub(super) const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);

/// Waits for a statement, [`STATEMENT_DEADLINE`] at most.
pub(super) async fn within_deadline<T>(statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
    within(STATEMENT_DEADLINE, statement).await
}

/// A deadline passes in so many parts, of which a pause of the process takes up one at most: a statement that was done
/// before the pause is not given up after it.
const PARTS: u32 = 10;

/// Waits for a statement, `deadline` at most. Time in which the process was paused hardly counts.
pub(super) async fn within<T>(
    deadline: Duration,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, StoreError> {
    let mut statement = pin!(statement);
    for _ in 0..PARTS {
        if let Ok(result) = tokio::time::timeout(deadline / PARTS, &mut statement).await {
            return Ok(result?);
        }
    }
    Err(StoreError::TimedOut(deadline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn a_pause_of_the_process_is_not_taken_for_a_slow_statement() {
        let paused = async {
            std::thread::sleep(Duration::from_millis(300));
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        };
        assert!(within(Duration::from_millis(200), paused).await.is_ok());
        let slow = async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok(())
        };
        assert!(matches!(within(Duration::from_millis(200), slow).await, Err(StoreError::TimedOut(_))));
    }
}
