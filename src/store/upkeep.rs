//! Looks after stored usage: deletes rows that are too old, and compares the daily sums with the rows.
//!
//! Rows are deleted in batches with a pause after each. On SQLite, writers wait while a batch is deleted, so the next one has
//! fewer rows if this one took longer than [`HELD`], and what it needs from the disk is read before. A round that failed is
//! repeated. The sums stay. The rows of today and yesterday stay as well, whatever the setting, because limits count them
//! and the comparison reads them. Of several gateways on one Postgres, only one deletes at a time.
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use entity::usage::{Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect,
    Select, Statement, TransactionTrait,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::database::{Store, locks};
use super::deadline::within_deadline;
use super::error::StoreError;
use super::many;
use super::transactions::immediate;
use super::usage_row::{DAY_MS, first_id};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Fewest days to keep rows: limits count those of today and yesterday.
pub const MIN_RETENTION_DAYS: u32 = 2;
/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(3600);
/// Time to the next round after one that failed or found the database away.
const RETRY: Duration = Duration::from_secs(300);
/// Time before the first round on a large database.
const LATER: Duration = Duration::from_secs(60);
/// Most rows deleted by one statement, and fewest unless no more are left.
const BATCH: RangeInclusive<u64> = 50..=1_000;
/// How long writers may wait for a batch.
const HELD: Duration = Duration::from_millis(5);
/// Time between two batches.
const PAUSE: Duration = Duration::from_millis(50);

/// For how many days is what kept, today included? `None` = for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Usage rows.
    pub usage_days: Option<u32>,
    /// Entries of the audit log.
    pub audit_days: Option<u32>,
}

/// The task that looks after stored usage and the audit log.
#[derive(Debug)]
pub struct Upkeep {
    store: Store,
    retention: Retention,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Upkeep {
    /// Keeps what `retention` says.
    pub fn new(store: Store, retention: Retention, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { store, retention, clock, metrics }
    }

    /// Does a round at once, or after a minute on a large database, and then every hour until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // An interrupted round does no harm.
        let _ = stop.run_until_cancelled(self.run_for_ever()).await;
    }

    async fn run_for_ever(&self) {
        // The first requests after a start must not wait behind a comparison of millions of rows.
        if self.store.is_large().await {
            tokio::time::sleep(LATER).await;
        }
        loop {
            let done = self.store.is_online() && self.round().await;
            tokio::time::sleep(if done { ROUND } else { RETRY }).await;
        }
    }

    /// Does one round. Returns whether all of it succeeded.
    async fn round(&self) -> bool {
        let swept = match self.sweep().await {
            Ok(0) => true,
            Ok(rows) => {
                tracing::info!(rows, "old usage rows were deleted");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "old usage rows could not be deleted");
                false
            }
        };
        // Each task is done whatever became of the one before; the round is repeated sooner if any failed.
        let pruned = self.store.prune_changes().await;
        if let Err(error) = &pruned {
            tracing::warn!(%error, "the log of changes of users and keys could not be shortened");
        }
        let forgotten = self.forget_audit().await;
        if let Err(error) = &forgotten {
            tracing::warn!(%error, "old audit log entries could not be deleted");
        }
        self.compare().await && swept && pruned.is_ok() && forgotten.is_ok()
    }

    async fn compare(&self) -> bool {
        match self.store.wrong_rollups(self.clock.now().day() - 1).await {
            Ok(wrong) => {
                self.metrics.rollups_compared(wrong);
                if wrong > 0 {
                    tracing::warn!(sums = wrong, "sums of usage differ from the rows of today and yesterday");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "sums of usage could not be compared with the rows");
                false
            }
        }
    }

    /// Deletes the audit log entries that are too old.
    async fn forget_audit(&self) -> Result<(), StoreError> {
        let Some(days) = self.retention.audit_days else { return Ok(()) };
        let days = i32::try_from(days.max(1)).unwrap_or(i32::MAX);
        let first_kept = self.clock.now().day().saturating_sub(days - 1);
        let mut entries = 0;
        loop {
            let gone = self.store.forget_audit(i64::from(first_kept).saturating_mul(DAY_MS)).await?;
            entries += gone;
            if gone == 0 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if entries > 0 {
            tracing::info!(entries, "old audit log entries were deleted");
        }
        Ok(())
    }

    /// Deletes the rows that are too old, unless another gateway is at it; how many.
    async fn sweep(&self) -> Result<u64, StoreError> {
        let Some(days) = self.retention.usage_days else { return Ok(0) };
        let days = i32::try_from(days.max(MIN_RETENTION_DAYS)).unwrap_or(i32::MAX);
        let first_kept = self.clock.now().day().saturating_sub(days - 1);
        let (mut swept, mut rows) = (0, *BATCH.start());
        loop {
            if self.store.db.get_database_backend() == DatabaseBackend::Sqlite {
                within_deadline(warm(&self.store, first_kept, rows)).await?;
            }
            let (gone, held) = within_deadline(self.delete_batch(first_kept, rows)).await?;
            swept += gone;
            if gone < rows {
                return Ok(swept);
            }
            rows = next_batch(rows, held);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Deletes at most so many rows from before the day `first_kept`. Returns how many, and for how long writers waited.
    async fn delete_batch(&self, first_kept: i32, rows: u64) -> Result<(u64, Duration), DbErr> {
        let transaction = self.store.db.begin_with_options(immediate()).await?;
        let began = self.clock.uptime();
        let gone = delete_old(&transaction, first_kept, rows).await?;
        transaction.commit().await?;
        Ok((gone, self.clock.uptime().saturating_sub(began)))
    }
}

/// How many rows are deleted after so many that took so long.
fn next_batch(rows: u64, held: Duration) -> u64 {
    let next = if held > HELD {
        rows / 2
    } else if held < HELD / 2 {
        rows * 2
    } else {
        rows
    };
    next.clamp(*BATCH.start(), *BATCH.end())
}

/// Reads what deleting a batch will change: entries of users' rows are all over their index.
async fn warm(store: &Store, first_kept: i32, rows: u64) -> Result<(), DbErr> {
    let sql = "SELECT count(*) FROM (SELECT user_id, request_id FROM usage WHERE request_id < ? AND day < ? LIMIT ?) AS old \
        CROSS JOIN usage AS entry INDEXED BY usage_user_request \
        ON entry.user_id = old.user_id AND entry.request_id = old.request_id";
    let values = [end_of_old(first_kept).into(), first_kept.into(), rows.into()];
    store.reads.query_one_raw(Statement::from_sql_and_values(DatabaseBackend::Sqlite, sql, values)).await?;
    Ok(())
}

async fn delete_old(transaction: &DatabaseTransaction, first_kept: i32, rows: u64) -> Result<u64, DbErr> {
    if transaction.get_database_backend() == DatabaseBackend::Postgres {
        let lock = format!("SELECT pg_try_advisory_xact_lock({})", locks::SWEEP);
        let lock = Statement::from_string(DatabaseBackend::Postgres, lock);
        let row = transaction.query_one_raw(lock).await?;
        if !row.map_or(Ok(false), |row| row.try_get_by_index(0))? {
            return Ok(0);
        }
    }
    let old: Vec<Uuid> = old_rows(first_kept, rows).into_tuple().all(transaction).await?;
    let gone = Entity::delete_many()
        .filter(many::is_any_id(Column::RequestId, transaction.get_database_backend(), old))
        .exec(transaction)
        .await?;
    Ok(gone.rows_affected)
}

/// The oldest rows from before the day `first_kept`. Ids begin with the time, so these come first in the primary key, and
/// no others are read.
pub(super) fn old_rows(first_kept: i32, rows: u64) -> Select<Entity> {
    Entity::find()
        .select_only()
        .column(Column::RequestId)
        .filter(Column::RequestId.lt(end_of_old(first_kept)))
        .filter(Column::Day.lt(first_kept))
        .limit(rows)
}

fn end_of_old(first_kept: i32) -> Uuid {
    first_id(i64::from(first_kept) * DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_took_long_is_followed_by_a_smaller_one_within_bounds() {
        for (rows, held, next) in
            [(50, HELD * 9, 50), (400, HELD * 2, 200), (400, HELD, 400), (400, HELD / 3, 800), (800, HELD / 3, 1_000)]
        {
            assert_eq!(next_batch(rows, held), next, "{rows} {held:?}");
        }
    }
}
