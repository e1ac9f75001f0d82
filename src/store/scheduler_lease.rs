//! Which gateway schedules for all? The only row of the table `scheduler_lease`, in Postgres only: by its clock, and
//! taken, renewed and given up in one statement each.
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement, Value};

use super::database::Store;
use super::deadline::within;
use super::error::StoreError;
use super::keys::random_hex;

/// Longest wait for the database.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long the lease lasts.
const LEASE_MS: i64 = 5_000;
const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The lease, as this gateway sees it.
#[derive(Clone, Debug)]
pub struct SchedulerLease {
    store: Store,
    gateway: String,
}

/// What became of asking for the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// This gateway has it.
    Held {
        /// Its epoch.
        epoch: u64,
    },
    /// Another gateway has it.
    Taken {
        /// That gateway.
        holder: String,
        /// Where its link listens.
        address: String,
        /// The epoch of its lease.
        epoch: u64,
    },
    /// Nobody has it.
    Free,
}

impl SchedulerLease {
    pub(super) fn new(store: Store, gateway: String) -> Self {
        Self { store, gateway }
    }

    /// Takes the lease if nobody has it, or renews it. With another epoch than `epoch`, this gateway has not renewed it
    /// but taken it anew.
    ///
    /// # Errors
    /// The database is away.
    pub async fn take(&self, address: &str, epoch: u64) -> Result<Asked, StoreError> {
        let take = format!(
            "INSERT INTO scheduler_lease (id, holder, address, epoch, until_ms) \
             VALUES (1, $1, $2, 1, {NOW_MS} + {LEASE_MS}) ON CONFLICT (id) DO UPDATE SET \
             epoch = scheduler_lease.epoch + CASE WHEN scheduler_lease.holder = $1 AND scheduler_lease.epoch = $3 \
             THEN 0 ELSE 1 END, \
             holder = excluded.holder, address = excluded.address, until_ms = excluded.until_ms \
             WHERE scheduler_lease.holder = $1 OR scheduler_lease.until_ms < {NOW_MS} RETURNING epoch"
        );
        let values = [self.gateway.clone().into(), address.into(), signed(epoch).into()];
        match self.ask(take, values).await? {
            Some(row) => Ok(Asked::Held { epoch: unsigned(row.try_get_by_index(0)?) }),
            None => self.read().await,
        }
    }

    /// Who has the lease.
    ///
    /// # Errors
    /// The database is away.
    pub async fn read(&self) -> Result<Asked, StoreError> {
        let read = format!("SELECT holder, address, epoch FROM scheduler_lease WHERE id = 1 AND until_ms >= {NOW_MS}");
        let Some(row) = self.ask(read, []).await? else { return Ok(Asked::Free) };
        let (holder, address) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        Ok(Asked::Taken { holder, address, epoch: unsigned(row.try_get_by_index(2)?) })
    }

    /// Gives the lease up, if this gateway has it.
    ///
    /// # Errors
    /// The database is away; the lease then ends by itself.
    pub async fn give_up(&self) -> Result<(), StoreError> {
        let give_up = "UPDATE scheduler_lease SET until_ms = 0 WHERE id = 1 AND holder = $1 RETURNING epoch";
        self.ask(give_up.to_owned(), [self.gateway.clone().into()]).await?;
        Ok(())
    }

    /// The secret of the links: the first gateway makes it, all others find it here.
    ///
    /// # Errors
    /// The database is away.
    pub async fn secret(&self) -> Result<String, StoreError> {
        let find = "INSERT INTO scheduler_lease (id, holder, address, epoch, until_ms, secret) \
                    VALUES (1, '', '', 0, 0, $1) ON CONFLICT (id) DO UPDATE SET \
                    secret = coalesce(scheduler_lease.secret, excluded.secret) RETURNING secret";
        let row = self.ask(find.to_owned(), [random_hex()?.into()]).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("scheduler_lease".to_owned()))?;
        Ok(row.try_get_by_index(0)?)
    }

    async fn ask<const N: usize>(&self, sql: String, values: [Value; N]) -> Result<Option<QueryResult>, StoreError> {
        if !self.store.is_online() {
            return Err(StoreError::TimedOut(Duration::ZERO));
        }
        let db = &self.store.db;
        within(DEADLINE, db.query_one_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values))).await
    }
}

fn signed(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

fn unsigned(epoch: i64) -> u64 {
    u64::try_from(epoch).unwrap_or_default()
}
