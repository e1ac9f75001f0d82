//! What outlives a request: users, keys, usage. The only module that names `entity`; SQLite and Postgres alike.
mod accounts;
mod keys;
mod recorder;
mod usage;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use migration::Migrator;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseBackend, DatabaseConnection, DbErr, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use serde::{Deserialize, Serialize};

pub use accounts::{Account, Accounts, NewUser, UserId};
pub use keys::{ApiKey, KeyDigest, random_hex};
pub use recorder::{Recorder, RowPermit, StorageFull, Writer};
pub use usage::{ModelTotals, Page, Period, Status, TokensFrom, UsageRow};

/// Longest wait for any statement.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);
/// Any constant will do, so long as every gateway uses the same.
const MIGRATION_LOCK: i64 = 0x6f6c_6c61_6d61;

/// Where rows are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `sqlite://PATH` (created when it does not exist) or `postgres://USER:PASSWORD@HOST:PORT/NAME`.
    /// Default `sqlite://data/gateway.db`.
    pub url: String,
    /// A file that holds the password, which then stays out of `url`; Postgres only. Default `null`.
    pub password_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { url: "sqlite://data/gateway.db".to_owned(), password_file: None }
    }
}

impl Settings {
    /// The file of a SQLite database, without options; `None` for Postgres.
    pub fn sqlite_path(&self) -> Option<&Path> {
        let path = self.url.strip_prefix("sqlite:")?.trim_start_matches("//");
        Some(Path::new(path.split('?').next().unwrap_or(path)))
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
    /// The database did not answer in time.
    #[error("the database did not answer within {} s", STATEMENT_DEADLINE.as_secs())]
    TimedOut,
    /// The database refused, or is away.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
    /// The folder of the database file could not be made.
    #[error("the folder of the database file could not be made: {0}")]
    Folder(#[from] std::io::Error),
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
    db: DatabaseConnection,
}

impl Store {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// When the database cannot be reached or the schema not be applied.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        if let Some(folder) = settings.sqlite_path().and_then(Path::parent) {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = options(&settings.url);
        if let Some(path) = &settings.password_file {
            let password = std::fs::read_to_string(path)
                .map_err(|error| StoreError::PasswordFile { path: path.clone(), error })?;
            options.map_sqlx_postgres_opts(move |postgres| postgres.password(password.trim_end()));
        }
        let db = Database::connect(options).await?;
        let store = Self { db };
        store.migrate().await?;
        Ok(store)
    }

    /// Applies the schema under a lock, because sea-orm's migrator takes none and several gateways may start at once.
    async fn migrate(&self) -> Result<(), StoreError> {
        if self.db.get_database_backend() == DatabaseBackend::Postgres {
            let transaction = self.db.begin().await?;
            transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
            Migrator::up(&transaction, None).await?;
            transaction.commit().await?;
        } else {
            Migrator::up(&self.db, None).await?;
        }
        Ok(())
    }

    /// Closes the connections.
    pub async fn close(self) {
        if let Err(error) = self.db.close().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
    }
}

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.to_owned());
    options
        .max_connections(4)
        .acquire_timeout(STATEMENT_DEADLINE)
        .connect_timeout(STATEMENT_DEADLINE)
        // On by default, and would write every statement to the log.
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|sqlite| {
            sqlite
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Normal)
                .busy_timeout(STATEMENT_DEADLINE)
        });
    if !url.starts_with("sqlite:") {
        // A query that we stopped waiting for must not hold its connection for ever.
        options.statement_timeout(STATEMENT_DEADLINE).set_application_name("ollama-gateway");
    }
    options
}

/// Waits for a statement, but not for ever.
async fn within_deadline<T>(statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
    match tokio::time::timeout(STATEMENT_DEADLINE, statement).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn a_password_file_is_read_before_anything_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (file, database) = (folder.path().join("password"), folder.path().join("gateway.db"));
        let url = format!("sqlite://{}", database.display());
        let settings = Settings { url, password_file: Some(file.clone()) };
        let error = Store::open(&settings).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("database.password_file: {}: ", file.display())), "{error}");
        assert!(!database.exists());
        std::fs::write(&file, "secret\n").unwrap();
        Store::open(&settings).await.unwrap().close().await;
    }
}
