//! May one more list or sum of usage be read? Each user may read two at a time, and all users together three, because the
//! operator needs the database as well; operators' reports take turns too, two at a time, because what requests need is in
//! the same database.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::error::ApiError;

/// Reads of one user at a time, those that wait included.
const OF_USER: usize = 2;
/// Reads of all users at a time, fewer than the store's connections for lists and sums.
const OF_USERS: usize = 3;
/// Reports of operators that are read at a time, however many pages each has.
const OF_OPERATORS: usize = 2;
/// Longest wait of a user for a turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait of an operator for a turn. Longer, as a report in CSV that has begun would end in the middle.
const OPERATORS_PATIENCE: Duration = Duration::from_secs(30);

/// The reads under way, by user. Shared by all workers.
#[derive(Debug)]
pub struct Reads {
    turns: Arc<Semaphore>,
    reports: Semaphore,
    users: Mutex<HashMap<Arc<str>, usize>>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(OF_USERS)),
            reports: Semaphore::new(OF_OPERATORS),
            users: Mutex::default(),
        }
    }
}

/// A turn to read, which ends on drop.
#[derive(Debug)]
pub(super) struct Turn {
    _place: Place,
    _turn: OwnedSemaphorePermit,
}

/// One read in its user's count, until it is dropped.
#[derive(Debug)]
struct Place {
    reads: Arc<Reads>,
    user: Arc<str>,
}

impl Reads {
    /// Waits for a turn.
    ///
    /// # Errors
    /// 429 if the user has as many reads as one may have, or no turn comes in time.
    pub(super) async fn turn(self: &Arc<Self>, user: Arc<str>) -> Result<Turn, ApiError> {
        {
            let mut users = self.lock();
            let count = users.entry(user.clone()).or_default();
            if *count >= OF_USER {
                return Err(ApiError::reads_too_much());
            }
            *count += 1;
        }
        let place = Place { reads: self.clone(), user };
        match tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn { _place: place, _turn: turn }),
            _ => Err(ApiError::reads_too_much()),
        }
    }

    /// Waits for a turn to read a page of an operator's report.
    ///
    /// # Errors
    /// 429 if no turn comes in time.
    pub(super) async fn report(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.report_within(OPERATORS_PATIENCE).await
    }

    async fn report_within(&self, patience: Duration) -> Result<SemaphorePermit<'_>, ApiError> {
        match tokio::time::timeout(patience, self.reports.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(ApiError::reads_too_much()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.reads.lock();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn a_user_has_two_turns_and_others_have_theirs() {
        let reads = Arc::<Reads>::default();
        let first = reads.turn("ann".into()).await.unwrap();
        let _second = reads.turn("ann".into()).await.unwrap();
        assert_eq!(reads.turn("ann".into()).await.unwrap_err().code(), 429);
        let other = reads.turn("ben".into()).await.unwrap();
        drop((first, other));
        assert!(reads.turn("ann".into()).await.is_ok());
        assert_eq!(reads.lock().len(), 1);
    }

    #[actix_rt::test]
    async fn reports_of_operators_take_turns() {
        let reads = Reads::default();
        let (first, _second) = (reads.report().await.unwrap(), reads.report().await.unwrap());
        let refused = reads.report_within(Duration::from_millis(1)).await;
        assert_eq!(refused.unwrap_err().code(), 429);
        let (next, ()) = tokio::join!(reads.report(), async { drop(first) });
        assert!(next.is_ok());
    }
}
