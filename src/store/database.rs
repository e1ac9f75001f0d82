//! Opens the database, brings its schema up to date, and closes it.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migration::Migrator;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::{AssertSqlSafe, Connection, Executor};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, EntityTrait, RuntimeErr};
use sea_orm_migration::MigratorTrait;

use super::deadline::{STATEMENT_DEADLINE, within, within_deadline};
use super::error::StoreError;
use super::keys::Peppers;
use super::local::{self, Local};
use super::password::{self, PasswordFile};
use super::pooler::refuse_shared_sessions;
use super::running;
use super::settings::DatabaseSettings;
use super::transactions::begin_patiently;

/// Longest wait for a schema change, which may have to read every row.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(600);
/// Longest wait at the start for a Postgres that is away, if the gateway can start with a copy of users and keys.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// Longest pause between two statements of a transaction.
const IDLE_DEADLINE: Duration = Duration::from_secs(3);
/// Longest wait for a connection to recover after a statement on it was abandoned.
const RELEASE_DEADLINE: Duration = Duration::from_secs(1);

/// The numbers of the advisory locks that gateways on one Postgres take. Leases are locked by hashes of names, which are
/// unlikely to equal one of these.
pub(super) mod locks {
    /// Held while the schema changes.
    pub(in crate::store) const MIGRATION: i64 = 0x6f6c_6c61_6d61;
    /// Held while it is decided which gateways are alive.
    pub(in crate::store) const GATEWAYS: i64 = 0x6f6c_6c61_6d62;
    /// Held while old rows are deleted.
    pub(in crate::store) const SWEEP: i64 = 0x6f6c_6c61_6d63;
}

/// An open database with the current schema. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// The database of users, keys and usage: the SQLite file, or Postgres.
    pub(super) db: DatabaseConnection,
    /// Further connections to it for lists and sums of usage, so that no report delays a change or the copier.
    pub(super) reads: DatabaseConnection,
    pub(super) local: Local,
    /// Seals the credentials of nodes.
    pub(super) peppers: Peppers,
    /// The file with Postgres' password, if there is one.
    pub(super) password: Option<Arc<PasswordFile>>,
    /// Whether the schema of `db` is known to be current; false until Postgres has been reached once.
    online: Arc<AtomicBool>,
}

impl Store {
    /// Opens the local file, turns the notes of a process that died into usage, connects, and brings the schema up to
    /// date. If Postgres is away, the store opens all the same, provided the local file has a copy of users and keys.
    ///
    /// # Errors
    /// When a file cannot be opened or is damaged, or the database is needed and cannot be reached.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, StoreError> {
        let file = settings.password_file.as_deref().map(PasswordFile::open).transpose()?.map(Arc::new);
        let (local, turn) = Local::open(settings).await?;
        if local.is_alone {
            let recovered = running::recover(&local).await?;
            if recovered > 0 {
                tracing::warn!(requests = recovered, "requests were interrupted when the gateway last ended");
            }
        }
        drop(turn);
        if !local.is_outbox {
            let db = Database::connect(local::options(settings)).await?;
            let reads = Database::connect(local::options(settings)).await?;
            let online = Arc::new(AtomicBool::new(true));
            return Ok(Self { db, reads, local, peppers: Peppers::default(), password: None, online });
        }
        let password = file.as_ref().map(|file| file.current());
        let db = Database::connect(postgres(&settings.url, password.clone())).await?;
        let reads = Database::connect(postgres(&settings.url, password)).await?;
        let store = Self { db, reads, local, peppers: Peppers::default(), password: file, online: Arc::default() };
        let has_copy = within_deadline(entity::user::Entity::find().one(&store.local.db)).await?.is_some();
        let patience = if has_copy { START_PATIENCE } else { STATEMENT_DEADLINE };
        match store.go_online(patience).await {
            // No start with a copy changes that.
            Err(error @ StoreError::SharedSessions) => return Err(error),
            Err(error) if !has_copy => return Err(unanswered(error)),
            Err(error) => {
                tracing::warn!(%error, "the database is away: users and keys are those of the last copy");
            }
            Ok(()) => {}
        }
        Ok(store)
    }

    /// Replaces the peppers that seal the credentials of nodes.
    pub fn with_peppers(self, peppers: Peppers) -> Self {
        Self { peppers, ..self }
    }

    /// Whether the database was reachable at least once since the start.
    pub(super) fn is_online(&self) -> bool {
        self.online.load(Ordering::Relaxed)
    }

    /// Marks the database as not reached, because it went away in the middle of the start.
    pub(super) fn go_offline(&self) {
        self.online.store(false, Ordering::Relaxed);
    }

    /// Does what the start could not: if the database answers within `patience`, its schema is brought up to date, which
    /// may take longer.
    pub(super) async fn go_online(&self, patience: Duration) -> Result<(), StoreError> {
        if !self.is_online() {
            refuse_shared_sessions(&self.db, &self.reads, patience).await?;
            if within(patience, self.lacks_schema()).await.map_err(explained)? {
                tracing::info!("the database is brought up to date");
                within(MIGRATION_DEADLINE, self.migrate()).await.map_err(explained)?;
            }
            self.online.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Like [`Store::go_online`] for callers that must not wait for a schema change: it fails while one is missing.
    pub(super) async fn meet(&self) -> Result<(), StoreError> {
        if !self.is_online() {
            refuse_shared_sessions(&self.db, &self.reads, STATEMENT_DEADLINE).await?;
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

    /// Changes the schema under a lock, because sea-orm's migrator takes none and several gateways may start at once.
    async fn migrate(&self) -> Result<(), DbErr> {
        let transaction = begin_patiently(&self.db, MIGRATION_DEADLINE, None).await?;
        transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({})", locks::MIGRATION)).await?;
        Migrator::up(&transaction, None).await?;
        transaction.commit().await
    }

    /// Closes the connections.
    pub async fn close(self) {
        for connection in [self.reads, self.db, self.local.db] {
            let closing = tokio::time::timeout(STATEMENT_DEADLINE, connection.close());
            if let Ok(Err(error)) = closing.await {
                tracing::warn!(%error, "the database did not close cleanly");
            }
        }
    }
}

/// What an operator can do about an error of a schema change.
pub(super) fn explained(error: StoreError) -> StoreError {
    let text = error.to_string();
    // The migrator's words for a migration that the database has had and this program does not know.
    if text.contains("is missing, this migration has been applied") {
        return StoreError::Newer;
    }
    // Postgres' code for a missing privilege.
    let is_denied = |error: &DbErr| match error {
        DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause)) => {
            cause.as_database_error().and_then(|cause| cause.code()).is_some_and(|code| code == "42501")
        }
        _ => false,
    };
    match error {
        StoreError::Database(cause) if is_denied(&cause) => StoreError::NotGranted(cause.to_string()),
        other => other,
    }
}

/// The pool tries again and again to connect, and in the end says only that it waited in vain.
fn unanswered(error: StoreError) -> StoreError {
    let is_pools = |cause: &sea_orm::sqlx::Error| matches!(cause, sea_orm::sqlx::Error::PoolTimedOut);
    match error {
        StoreError::TimedOut(time) => StoreError::NoAnswer(time),
        StoreError::Database(DbErr::Conn(RuntimeErr::SqlxError(cause))) if is_pools(&cause) => {
            StoreError::NoAnswer(STATEMENT_DEADLINE)
        }
        other => other,
    }
}

/// How the database is opened by a command that only reads, also while a gateway runs on it.
pub(super) fn read_only(settings: &DatabaseSettings) -> Result<ConnectOptions, StoreError> {
    let password = settings.password_file.as_deref().map(password::read).transpose()?;
    if settings.sqlite_path().is_none() {
        return Ok(postgres(&settings.url, password));
    }
    let path = settings.local_path().to_path_buf();
    let mut options = ConnectOptions::new("sqlite://".to_owned());
    options
        .max_connections(1)
        .acquire_timeout(STATEMENT_DEADLINE)
        .connect_timeout(STATEMENT_DEADLINE)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| sqlite.filename(&path).read_only(true).busy_timeout(STATEMENT_DEADLINE));
    Ok(options)
}

/// Connects to Postgres, and finds out whether the gateway can work with what answers there. Changes nothing.
///
/// # Errors
/// When it cannot be reached, or not be used.
pub async fn try_postgres(settings: &DatabaseSettings) -> Result<(), StoreError> {
    let db = within_deadline(Database::connect(read_only(settings)?)).await?;
    let tried = refuse_shared_sessions(&db, &db, STATEMENT_DEADLINE).await;
    // Behind a connection that hangs, nobody waits for its end.
    drop(tokio::time::timeout(RELEASE_DEADLINE, db.close()).await);
    tried.map_err(unanswered)
}

fn postgres(url: &str, password: Option<String>) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.to_owned());
    options
        // One of them listens for changes.
        .max_connections(5)
        .acquire_timeout(STATEMENT_DEADLINE)
        .connect_timeout(STATEMENT_DEADLINE)
        .connect_lazy(true)
        // By default it would log every statement.
        .sqlx_logging(false)
        .set_application_name("ollama-gateway")
        .map_sqlx_postgres_pool_opts(|pool| {
            pool.after_connect(|connection, _| {
                Box::pin(async move {
                    // A query that nobody waits for any more must not keep its connection. Said here, as pgbouncer refuses
                    // connections that begin with it.
                    let deadline = STATEMENT_DEADLINE.as_millis();
                    // Nor may a gateway that is stopped within a transaction keep its locks: the others wait for them.
                    let idle = IDLE_DEADLINE.as_millis();
                    let set =
                        format!("SET statement_timeout = {deadline}; SET idle_in_transaction_session_timeout = {idle}");
                    connection.execute(AssertSqlSafe(set)).await.map(drop)
                })
            })
            // Neither may a server that is frozen or cut off: without this, the pool waits for its answer before it gives
            // up the connection.
            .after_release(|connection, _| {
                Box::pin(async move {
                    match tokio::time::timeout(RELEASE_DEADLINE, connection.ping()).await {
                        Ok(Ok(())) => Ok(true),
                        Ok(Err(error)) => Err(error),
                        Err(_) => Err(sea_orm::sqlx::Error::PoolTimedOut),
                    }
                })
            })
        });
    options.map_sqlx_postgres_opts(move |postgres| {
        // Since version 12 Postgres writes numbers exactly by itself, and pgbouncer refuses connections that ask for it.
        let postgres = with_bare_host(postgres.extra_float_digits(None));
        match &password {
            Some(password) => postgres.password(password),
            None => postgres,
        }
    });
    options
}

/// A URL has the address of IPv6 in brackets, which are no part of it: with them it would be looked up as a name.
fn with_bare_host(options: PgConnectOptions) -> PgConnectOptions {
    let bare = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::to_owned);
    match bare {
        Some(host) => options.host(&host),
        None => options,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use sea_orm::Statement;

    use super::*;
    use crate::store::settings::Synchronous;

    #[actix_rt::test]
    async fn others_can_read_none_of_the_local_files_new_or_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/gateway.db");
        let settings = DatabaseSettings { url: format!("sqlite://{}", path.display()), ..DatabaseSettings::default() };
        let modes = || {
            let files = std::fs::read_dir(folder.path().join("data")).unwrap().map(|file| file.unwrap().path());
            files.map(|file| (file.clone(), file.metadata().unwrap().permissions().mode() & 0o777)).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            let store = Store::open(&settings).await.unwrap();
            assert!(modes().len() >= 4, "with its log, its index and the reserve: {:?}", modes());
            assert!(modes().iter().all(|(_, mode)| *mode == 0o600), "{:?}", modes());
            store.close().await;
            // As a version before left them.
            for (path, _) in modes() {
                std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
            }
        }
    }

    #[actix_rt::test]
    async fn a_password_file_is_read_before_anything_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (file, database) = (folder.path().join("password"), folder.path().join("gateway.db"));
        let url = format!("sqlite://{}", database.display());
        let settings = DatabaseSettings { url, password_file: Some(file.clone()), ..DatabaseSettings::default() };
        let error = Store::open(&settings).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("database.password_file: {}: ", file.display())), "{error}");
        assert!(!database.exists());
        std::fs::write(&file, "secret\n").unwrap();
        Store::open(&settings).await.unwrap().close().await;
    }

    #[actix_rt::test]
    async fn each_degree_of_safety_is_what_the_local_file_runs_with() {
        for (synchronous, expected) in [(Synchronous::Normal, 1), (Synchronous::Full, 2)] {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
            let settings = DatabaseSettings { url, synchronous, ..DatabaseSettings::default() };
            let store = Store::open(&settings).await.unwrap();
            for db in [&store.db, &store.local.db] {
                let statement = Statement::from_string(db.get_database_backend(), "PRAGMA synchronous");
                let row = db.query_one_raw(statement).await.unwrap().unwrap();
                assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), expected, "{synchronous:?}");
            }
            store.close().await;
        }
    }

    #[actix_rt::test]
    async fn postgres_is_reached_at_an_address_of_ipv6_and_who_finds_none_reads_what_to_look_at() {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let url = format!("postgres://u:secret@{}/n", listener.local_addr().unwrap());
        let accepted = std::thread::spawn(move || listener.accept().is_ok());
        let settings = DatabaseSettings { url, ..DatabaseSettings::default() };

        // What listens there hangs up, and after that nothing does.
        assert!(try_postgres(&settings).await.is_err() && accepted.join().unwrap());
        let error = try_postgres(&settings).await.unwrap_err().to_string();

        assert!(
            error.contains("the host, the port and `sslmode` in database.url") && !error.contains("secret"),
            "{error}"
        );
    }
}
