//! Copies usage rows from the local file to Postgres, each exactly once and without delaying anything.
//!
//! One task, the [`Copier`], takes the oldest rows of the outbox, inserts them with one statement that skips existing
//! rows, and removes them from the outbox once that is committed. Every failure is retried, with a pause from 50 ms to
//! 5 s; rows that were committed after all are skipped then. Only a row whose content Postgres refuses is parked, so that
//! it does not block the others. While Postgres is away, rows only take up room in the local file.
use std::time::Duration;

use entity::{outbox, parked, swept_token, usage};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, RuntimeErr, Statement, TransactionTrait,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::accounts::Accounts;
use super::database::Store;
use super::deadline::{STATEMENT_DEADLINE, within_deadline};
use super::error::StoreError;
use super::many;
use super::transactions::immediate;
use super::usage_row::{DAY_MS, first_id, ids_of, insert_rows};
use crate::clock::Clock;

/// Rows of one statement.
const BATCH: u64 = 1_000;
/// How long rows gather before they are copied, as nobody waits for them.
const GATHER: Duration = Duration::from_millis(100);
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(5);
/// Time between two sweeps of old rows.
const SWEEP: Duration = Duration::from_secs(600);
/// Days of which it is known what groups had used in rows that are gone: longer than a month.
const SWEPT_DAYS: i32 = 40;

/// The progress of the copier, for metrics and for those who wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows that are not in Postgres yet.
    pub waiting: u64,
    /// Rows that Postgres refused, in this run and before.
    pub parked: u64,
    /// Rows that left the outbox since the start.
    pub(super) done: u64,
    /// Rows that entered the outbox since the start, including those that an earlier run left.
    pub(super) taken: u64,
    /// Whether Postgres answered when it was last tried.
    pub is_up: bool,
}

impl Copied {
    /// Adds to both counts. A row may be copied before the writer reports it, so `done` can be ahead of `taken`.
    fn count(&mut self, taken: u64, done: u64) {
        self.taken += taken;
        self.done += done;
        self.waiting = self.taken.saturating_sub(self.done);
    }
}

/// What the copier shares with the writer and the recorder.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) copied: watch::Sender<Copied>,
    wake: Notify,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { copied: watch::Sender::new(Copied { is_up: true, ..Copied::default() }), wake: Notify::new() }
    }

    /// Counts rows that went into the local file, and wakes the copier.
    pub(super) fn taken(&self, rows: u64) {
        self.copied.send_modify(|copied| copied.count(rows, 0));
        self.wake.notify_one();
    }

    /// Waits until every row that is in the local file now is in Postgres, or until Postgres is away.
    pub(super) async fn emptied(&self) {
        let goal = self.copied.borrow().taken;
        // The sender is ours, so the wait cannot fail.
        let _ = self
            .copied
            .subscribe()
            .wait_for(|copied| copied.done >= goal || copied.waiting == 0 || !copied.is_up)
            .await;
    }
}

/// The task that copies rows to Postgres.
#[derive(Debug)]
pub struct Copier {
    store: Store,
    /// Told which rows have reached the database.
    accounts: Option<std::sync::Arc<Accounts>>,
    outbox: std::sync::Arc<Outbox>,
    clock: Clock,
}

impl Copier {
    pub(super) fn new(store: Store, outbox: std::sync::Arc<Outbox>, clock: Clock) -> Self {
        Self { store, accounts: None, outbox, clock }
    }

    /// Tells these accounts which rows are copied from now on.
    pub fn tell(&mut self, accounts: std::sync::Arc<Accounts>) {
        self.accounts = Some(accounts);
    }

    /// Copies what an earlier run left, for `patience` at most, so that limits start with all of it.
    pub async fn catch_up(&self, patience: Duration) {
        self.count().await;
        if self.store.is_online() {
            let _ = tokio::time::timeout(patience, self.copy_all()).await;
        }
    }

    /// Copies until `stop`, and then the rest, for `patience` at most. What cannot be copied stays in the local file.
    pub async fn run(self, stop: CancellationToken, patience: Duration) {
        // An interrupted copy does no harm: it is repeated.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.copy_for_ever() => {}
        }
        if self.outbox.copied.borrow().is_up {
            let _ = tokio::time::timeout(patience, self.copy_all()).await;
        }
    }

    async fn copy_for_ever(&self) {
        let mut pause = *RETRY.start();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let idle = match self.step().await {
                Ok(BATCH) => continue,
                Ok(0) => None,
                Ok(_) => Some(GATHER),
                Err(_) => Some(jittered(pause)),
            };
            let is_up = self.outbox.copied.borrow().is_up;
            pause = if is_up { *RETRY.start() } else { (pause * 2).min(*RETRY.end()) };
            tokio::select! {
                () = self.more(idle) => {}
                _ = sweep.tick() => self.sweep().await,
            }
        }
    }

    async fn copy_all(&self) {
        while matches!(self.step().await, Ok(1..)) {}
    }

    async fn more(&self, idle: Option<Duration>) {
        match idle {
            Some(idle) => tokio::time::sleep(idle).await,
            None => self.outbox.wake.notified().await,
        }
    }

    /// Copies one batch. Returns how many rows left the outbox.
    async fn step(&self) -> Result<u64, StoreError> {
        let result = self.copy().await;
        let is_up = result.is_ok();
        let was_up = self.outbox.copied.borrow().is_up;
        match &result {
            Err(error) if was_up => {
                tracing::warn!(%error, "the database is away; usage stays in the local file until it is back");
            }
            Ok(_) if !was_up => tracing::info!("the database is back"),
            _ => {}
        }
        self.outbox.copied.send_modify(|copied| {
            copied.is_up = is_up;
            copied.count(0, *result.as_ref().unwrap_or(&0));
        });
        result
    }

    async fn copy(&self) -> Result<u64, StoreError> {
        self.store.go_online(STATEMENT_DEADLINE).await?;
        let local = &self.store.local.db;
        let oldest = outbox::Entity::find().order_by_asc(outbox::Column::RequestId).limit(BATCH);
        let oldest: Vec<Uuid> =
            within_deadline(oldest.all(local)).await?.into_iter().map(|entry| entry.request_id).collect();
        if oldest.is_empty() {
            return Ok(0);
        }
        let backend = local.get_database_backend();
        let rows =
            usage::Entity::find().filter(many::is_any_id(usage::Column::RequestId, backend, oldest.iter().copied()));
        let rows = within_deadline(rows.all(local)).await?;
        self.insert(&rows).await?;
        let done = outbox::Entity::delete_many().filter(many::is_any_id(
            outbox::Column::RequestId,
            backend,
            oldest.iter().copied(),
        ));
        within_deadline(done.exec(local)).await?;
        Ok(oldest.len() as u64)
    }

    /// Inserts the rows. If Postgres refuses the content of one, halves the batch until that row is alone, and parks it.
    async fn insert(&self, rows: &[usage::Model]) -> Result<(), StoreError> {
        let mut parts = vec![rows];
        while let Some(part) = parts.pop() {
            match within_deadline(insert_rows(&self.store.db, part)).await {
                Ok(()) => self.accounts.iter().for_each(|accounts| accounts.sent(part)),
                Err(StoreError::Database(error)) if is_refusal(&error) => match part {
                    [row] => self.park(row, &error).await?,
                    _ => parts.extend([&part[part.len() / 2..], &part[..part.len() / 2]]),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn park(&self, row: &usage::Model, error: &DbErr) -> Result<(), StoreError> {
        let request_id = row.request_id;
        let entry = parked::Model { request_id, reason: error.to_string(), parked_at_ms: self.clock.now().unix_ms };
        let insert = parked::Entity::insert(entry.into_active_model()).on_conflict_do_nothing();
        within_deadline(insert.exec_without_returning(&self.store.local.db)).await?;
        tracing::error!(%request_id, %error, "the database refused a usage row, which stays in the local file");
        self.outbox.copied.send_modify(|copied| copied.parked += 1);
        Ok(())
    }

    /// Counts the rows that an earlier run left.
    async fn count(&self) {
        let local = &self.store.local.db;
        let waiting = within_deadline(sea_orm::PaginatorTrait::count(outbox::Entity::find(), local)).await;
        let parked = within_deadline(sea_orm::PaginatorTrait::count(parked::Entity::find(), local)).await;
        self.outbox.copied.send_modify(|copied| {
            copied.waiting = waiting.unwrap_or_default();
            copied.taken = copied.waiting;
            copied.parked = parked.unwrap_or_default();
        });
    }

    /// Deletes local rows that are in Postgres and no longer count towards a limit.
    async fn sweep(&self) {
        let old = usage::Entity::find()
            .select_only()
            .column(usage::Column::RequestId)
            .filter(usage::Column::RequestId.lt(first_id(i64::from(self.clock.now().day() - 1) * DAY_MS)))
            .filter(usage::Column::RequestId.not_in_subquery(ids_of(outbox::Entity::find(), outbox::Column::RequestId)))
            .filter(usage::Column::RequestId.not_in_subquery(ids_of(parked::Entity::find(), parked::Column::RequestId)))
            .limit(BATCH);
        let local = &self.store.local.db;
        let swept = async {
            loop {
                let gone: Vec<Uuid> = within_deadline(old.clone().into_tuple().all(local)).await?;
                within_deadline(sweep_rows(local, &gone)).await?;
                if (gone.len() as u64) < BATCH {
                    break;
                }
            }
            let old = swept_token::Column::Day.lt(self.clock.now().day() - SWEPT_DAYS);
            within_deadline(swept_token::Entity::delete_many().filter(old).exec(local)).await?;
            Ok::<_, StoreError>(())
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "old rows could not be deleted from the local file");
        }
    }
}

/// Deletes these rows, and adds what groups had used in them to what is known of rows that are gone: a month is longer than
/// rows are kept here.
async fn sweep_rows(local: &DatabaseConnection, gone: &[Uuid]) -> Result<(), DbErr> {
    use usage::Column::{CompletionTokens, Day, GroupId, PromptTokens, RequestId};
    let transaction = local.begin_with_options(immediate()).await?;
    let backend = transaction.get_database_backend();
    let rows = || many::is_any_id(RequestId, backend, gone.iter().copied());
    let used = usage::Entity::find().filter(rows()).filter(GroupId.is_not_null());
    let used = used.select_only().column(Day).column(GroupId).group_by(Day).group_by(GroupId);
    let used = used.column_as(PromptTokens.sum().add(CompletionTokens.sum()), "tokens");
    let used: Vec<(i32, String, i64)> = used.into_tuple().all(&transaction).await?;
    for (day, group_id, tokens) in used {
        let add = "INSERT INTO swept_tokens (day, group_id, tokens) VALUES (?, ?, ?) \
                   ON CONFLICT (day, group_id) DO UPDATE SET tokens = swept_tokens.tokens + excluded.tokens";
        let values = [day.into(), group_id.into(), tokens.into()];
        let add = Statement::from_sql_and_values(transaction.get_database_backend(), add, values);
        transaction.execute_raw(add).await?;
    }
    usage::Entity::delete_many().filter(rows()).exec(&transaction).await?;
    transaction.commit().await
}

/// Whether the database refused the content of a row, rather than being unable to work at the moment.
fn is_refusal(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause))) = error else {
        return false;
    };
    let code = cause.as_database_error().and_then(|cause| cause.code());
    // Data exceptions, broken constraints, and exceeded limits, such as a name that is too long for an index.
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// A random part of the pause, from half to all of it, so that gateways do not all return at once.
fn jittered(pause: Duration) -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_copied_before_it_was_counted_does_not_wait_for_ever() {
        let mut copied = Copied::default();
        copied.count(0, 1);
        assert_eq!(copied.waiting, 0);
        copied.count(1, 0);
        assert_eq!(copied.waiting, 0);
        copied.count(2, 0);
        assert_eq!(copied.waiting, 2);
    }
}
