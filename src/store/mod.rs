//! What outlives a request: users, keys, usage. The only module that names `entity`; SQLite and Postgres alike.
mod access;
mod accounts;
mod changes;
mod keys;
mod learned;
mod leases;
mod local;
mod nodes;
mod outbox;
mod recorder;
mod report;
mod reserve;
mod rollups;
mod running;
mod snapshot;
mod upkeep;
mod usage;
mod user_keys;
mod writer;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migration::Migrator;
use sea_orm::sqlx::Connection;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr,
    IsolationLevel, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use serde::{Deserialize, Serialize};

pub use access::{Access, Account, AllowedModels, Key, KeySpec, Reserved, Terms, UserId};
pub use accounts::{Accounts, Found, NewUser};
pub use changes::Changes;
pub use keys::{ApiKey, KeyDigest, KeySettings, SecretEnd, random_hex};
pub use leases::{Broker, Leaser, NotLeased};
use local::Local;
pub use nodes::StoredNode;
pub use outbox::{Copied, Copier};
pub use recorder::{Receipt, Recorder, RowPermit, StorageFull};
pub use report::{Dimension, Group, Label, Report, Sums};
pub use upkeep::{MIN_RETENTION_DAYS, Upkeep};
pub use usage::{ModelTotals, Page, Period, Status, TokensFrom, UsageRow};
pub use user_keys::{KeyChange, MadeKey};
pub use writer::Writer;

/// Longest wait for any statement.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for the schema to be brought up to date, which may have to read every row.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(600);
/// Longest wait for a Postgres that is away, where there is a copy of users and keys to start with.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a connection to be in order again, after a statement that was given up.
const RELEASE_DEADLINE: Duration = Duration::from_secs(1);

/// Postgres' locks among gateways, each with a number of its own. Those on one subject of leases are anywhere else.
mod locks {
    /// Who brings the schema up to date.
    pub(in crate::store) const MIGRATION: i64 = 0x6f6c_6c61_6d61;
    /// Who is there.
    pub(in crate::store) const GATEWAYS: i64 = 0x6f6c_6c61_6d62;
    /// Who deletes old rows.
    pub(in crate::store) const SWEEP: i64 = 0x6f6c_6c61_6d63;
}

/// Where users, keys and usage are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `sqlite://PATH` (created if missing) or `postgres://USER:PASSWORD@HOST:PORT/NAME`. Default
    /// `sqlite://data/gateway.db`.
    pub url: String,
    /// A file that holds the password, so that it stays out of `url`. Postgres only. Default `null`.
    pub password_file: Option<PathBuf>,
    /// With Postgres: the local SQLite file that keeps usage rows until Postgres has them (created if missing).
    /// Each gateway needs its own, on a disk that outlives the process. Default `data/outbox.db`.
    pub outbox: PathBuf,
    /// What a usage row survives once its answer is complete: `normal` = the gateway being killed, `full` = a power
    /// cut as well, at the price of a disk sync before each answer ends. Default `normal`.
    pub synchronous: Synchronous,
    /// Share of each limit that one of several gateways on the same Postgres may hold in reserve, percent, 1 to 50.
    /// A larger reserve carries a gateway further through an outage of Postgres; a smaller one leaves more for the
    /// others. Default `5`.
    pub lease_percent: u8,
    /// How long one of several gateways keeps its share of the limits after it has lost Postgres, seconds, 10 to
    /// 3600. After that it refuses requests under a limit with 503, and the others may use the share. All gateways
    /// need the same value. Default `60`.
    pub lease_seconds: u64,
    /// Days to keep usage rows, today (UTC) included, at least 2. Older rows are deleted at the start and hourly;
    /// their daily sums stay and `GET /admin/usage` still reports them. `null` = keep rows for ever. Default
    /// `null`.
    pub usage_retention_days: Option<u32>,
}

/// What a row that was acknowledged outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// The death of the process; a power cut may take the last moments.
    #[default]
    Normal,
    /// A power cut, too: every group of rows waits for the disk.
    Full,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "sqlite://data/gateway.db".to_owned(),
            password_file: None,
            outbox: PathBuf::from("data/outbox.db"),
            synchronous: Synchronous::default(),
            lease_percent: 5,
            lease_seconds: 60,
            usage_retention_days: None,
        }
    }
}

impl Settings {
    /// The file of a SQLite database, without options; `None` for Postgres.
    pub fn sqlite_path(&self) -> Option<&Path> {
        let path = self.url.strip_prefix("sqlite:")?.trim_start_matches("//");
        Some(Path::new(path.split('?').next().unwrap_or(path)))
    }

    /// The file in which usage is safe first: the SQLite database itself, or the outbox in front of Postgres.
    pub fn local_path(&self) -> &Path {
        self.sqlite_path().unwrap_or(&self.outbox)
    }

    /// Whether the URL is of a kind that the gateway knows.
    pub fn is_known_kind(&self) -> bool {
        ["sqlite:", "postgres://", "postgresql://"].iter().any(|kind| self.url.starts_with(kind))
    }
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The user is there already.
    #[error("user `{0}` exists already")]
    Exists(String),
    /// No such user.
    #[error("there is no user `{0}`")]
    NotFound(String),
    /// No such key of the user.
    #[error("there is no key `{0}`")]
    NoKey(String),
    /// The user has as many keys as one may.
    #[error("a user may have {0} keys; revoke one that is not used any more")]
    TooManyKeys(usize),
    /// The operating system has no randomness for a key.
    #[error("there is no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The file with the pepper could not be used.
    #[error("keys.pepper_file: {}: {error}", path.display())]
    PepperFile {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The node is there already.
    #[error("node `{0}` exists already")]
    NodeExists(String),
    /// No such node was added.
    #[error("there is no node `{0}`")]
    NoNode(String),
    /// The database did not answer in time.
    #[error("the database did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The database refused, or is away.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
    /// The folder of the database file could not be made.
    #[error("the folder of the database file could not be made: {0}")]
    Folder(#[from] std::io::Error),
    /// The local file is not what the gateway wrote.
    #[error(
        "{} is damaged: {detail}. Nothing was changed. {}", path.display(),
        if *is_outbox {
            "Usage that is not in Postgres yet is in it, nothing else: repair it (`sqlite3 FILE .recover`), or move it and \
             the files beside it away to start without that usage"
        } else {
            "Put a backup in its place, repair it (`sqlite3 FILE .recover`), or move it and the files beside it away to start \
             with an empty database"
        }
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
        /// Whether it is the file in front of Postgres.
        is_outbox: bool,
    },
    /// The file with the password could not be read.
    #[error("database.password_file: {}: {error}", path.display())]
    PasswordFile {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// An open database with the current schema. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// What users, keys and reports are read from: the SQLite file, or Postgres.
    db: DatabaseConnection,
    local: Local,
    /// Whether the schema of `db` is known to be current; false while a Postgres was away since the start.
    online: Arc<AtomicBool>,
}

impl Store {
    /// Opens the local file, connects and brings the schema up to date. A Postgres that is away is no obstacle once the
    /// local file has a copy of users and keys.
    ///
    /// # Errors
    /// When a file cannot be opened or is damaged, or a database cannot be reached that is needed.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        let password = settings.password_file.as_deref().map(read_password).transpose()?;
        let local = Local::open(settings).await?;
        if !local.is_outbox {
            let db = Database::connect(local::options(settings)).await?;
            return Ok(Self { db, local, online: Arc::new(AtomicBool::new(true)) });
        }
        let db = Database::connect(postgres(&settings.url, password)).await?;
        let store = Self { db, local, online: Arc::default() };
        let has_copy = !snapshot::People::read_copy(&store).await?.users.is_empty();
        let patience = if has_copy { START_PATIENCE } else { STATEMENT_DEADLINE };
        match store.go_online(patience).await {
            Err(error) if !has_copy => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the database is away: users and keys are those of the last copy");
            }
            Ok(()) => {}
        }
        Ok(store)
    }

    /// Whether the database was there at least once since the start.
    fn is_online(&self) -> bool {
        self.online.load(Ordering::Relaxed)
    }

    /// The database went away in the middle of the start.
    fn go_offline(&self) {
        self.online.store(false, Ordering::Relaxed);
    }

    /// Makes up for what could not be done at the start: a database that answers within `patience` gets the schema that it
    /// lacks, and the time for that.
    async fn go_online(&self, patience: Duration) -> Result<(), StoreError> {
        if !self.is_online() {
            if within(patience, self.lacks_schema()).await? {
                tracing::info!("the database is brought up to date");
                within(MIGRATION_DEADLINE, self.migrate()).await?;
            }
            self.online.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The same for those who must not wait for a new schema: somebody else is at it.
    async fn meet(&self) -> Result<(), StoreError> {
        if !self.is_online() {
            if within_deadline(self.lacks_schema()).await? {
                return Err(DbErr::Migration("the database is being brought up to date".to_owned()).into());
            }
            self.online.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn lacks_schema(&self) -> Result<bool, DbErr> {
        Ok(!Migrator::get_pending_migrations_read_only(&self.db).await?.is_empty())
    }

    /// Applies the schema under a lock, because sea-orm's migrator takes none and several gateways may start at once.
    async fn migrate(&self) -> Result<(), DbErr> {
        let transaction = begin_patiently(&self.db, MIGRATION_DEADLINE, None).await?;
        transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({})", locks::MIGRATION)).await?;
        Migrator::up(&transaction, None).await?;
        transaction.commit().await
    }

    /// Closes the connections.
    pub async fn close(self) {
        for connection in [self.db, self.local.db] {
            let closing = tokio::time::timeout(STATEMENT_DEADLINE, connection.close());
            if let Ok(Err(error)) = closing.await {
                tracing::warn!(%error, "the database did not close cleanly");
            }
        }
    }
}

fn read_password(path: &Path) -> Result<String, StoreError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| StoreError::PasswordFile { path: path.to_path_buf(), error })?;
    Ok(text.trim_end().to_owned())
}

fn postgres(url: &str, password: Option<String>) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.to_owned());
    options
        // One of them hears of changes.
        .max_connections(5)
        .acquire_timeout(STATEMENT_DEADLINE)
        .connect_timeout(STATEMENT_DEADLINE)
        .connect_lazy(true)
        // On by default, and would write every statement to the log.
        .sqlx_logging(false)
        // A query that we stopped waiting for must not hold its connection for ever.
        .statement_timeout(STATEMENT_DEADLINE)
        .set_application_name("ollama-gateway")
        // Nor must a server that is frozen or cut off: without this the pool waits for it to answer before it gives the
        // connection up.
        .map_sqlx_postgres_pool_opts(|pool| {
            pool.after_release(|connection, _| {
                Box::pin(async move {
                    match tokio::time::timeout(RELEASE_DEADLINE, connection.ping()).await {
                        Ok(Ok(())) => Ok(true),
                        Ok(Err(error)) => Err(error),
                        Err(_) => Err(sea_orm::sqlx::Error::PoolTimedOut),
                    }
                })
            })
        });
    if let Some(password) = password {
        options.map_sqlx_postgres_opts(move |postgres| postgres.password(&password));
    }
    options
}

/// For a transaction that writes: SQLite gives up at once on one that begins as a reader while another writes.
fn immediate() -> TransactionOptions {
    TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..Default::default() }
}

/// A transaction for what takes its time: Postgres ends a statement of it only after this.
async fn begin_patiently(
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

/// Waits for a statement, but not for ever.
async fn within_deadline<T>(statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
    within(STATEMENT_DEADLINE, statement).await
}

async fn within<T>(deadline: Duration, statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, statement).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::TimedOut(deadline)),
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::Statement;

    use super::*;

    #[actix_rt::test]
    async fn a_password_file_is_read_before_anything_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (file, database) = (folder.path().join("password"), folder.path().join("gateway.db"));
        let url = format!("sqlite://{}", database.display());
        let settings = Settings { url, password_file: Some(file.clone()), ..Settings::default() };
        let error = Store::open(&settings).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("database.password_file: {}: ", file.display())), "{error}");
        assert!(!database.exists());
        std::fs::write(&file, "secret\n").unwrap();
        Store::open(&settings).await.unwrap().close().await;
    }

    #[actix_rt::test]
    async fn each_degree_of_safety_is_what_the_local_file_runs_with() {
        for (setting, expected) in [(Synchronous::Normal, 1), (Synchronous::Full, 2)] {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
            let store = Store::open(&Settings { url, synchronous: setting, ..Settings::default() }).await.unwrap();
            for db in [&store.db, &store.local.db] {
                let statement = Statement::from_string(db.get_database_backend(), "PRAGMA synchronous");
                let row = db.query_one_raw(statement).await.unwrap().unwrap();
                assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), expected, "{setting:?}");
            }
            store.close().await;
        }
    }
}
