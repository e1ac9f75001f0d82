//! The local SQLite file, which stores every usage row before its answer is complete, whatever the database is.
//!
//! With SQLite it is the database. In front of Postgres it is an outbox, from which rows are copied (see `outbox`), and it
//! has a copy of users and keys for a start without Postgres. It has the tables of the database and a few of its own.
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use migration::{
    LocalMigrator, Migrator, follow_admins_on_sqlite, follow_people_on_sqlite, forget_admins_on_sqlite,
    forget_people_on_sqlite,
};
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, RuntimeErr, Statement, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;

use super::deadline::{STATEMENT_DEADLINE, within_deadline};
use super::error::StoreError;
use super::private::{self, beside};
use super::reserve::{Reserve, Turn};
use super::rollups;
use super::settings::{DatabaseSettings, Synchronous};
use super::transactions::immediate;

/// Largest file that is checked completely at the start, bytes; that takes a tenth of a second at most.
const CHECKED_WHOLE: u64 = 32 << 20;
/// SQLite's codes for a damaged file: `SQLITE_CORRUPT` and `SQLITE_NOTADB`.
const DAMAGED: [i32; 2] = [11, 26];

/// The open file. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Local {
    /// Connections for the gateway's own tasks, so that no report delays a row.
    pub(super) db: DatabaseConnection,
    pub(super) reserve: Arc<Reserve>,
    pub(super) path: Arc<Path>,
    pub(super) synchronous: Synchronous,
    pub(super) is_outbox: bool,
    /// Whether no other gateway used the file when it was opened.
    pub(super) is_alone: bool,
}

impl Local {
    /// Opens and checks the local file of these settings, and brings its tables up to date. No other gateway starts on the
    /// file before the [`Turn`] is dropped.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], or when it cannot be opened.
    pub(super) async fn open(settings: &DatabaseSettings) -> Result<(Self, Turn), StoreError> {
        let path = settings.local_path().to_path_buf();
        private::make(&path)?;
        let is_outbox = settings.sqlite_path().is_none();
        let opened = Reserve::open(&path).await;
        let (reserve, is_alone, turn) = opened.map_err(|error| StoreError::File { path: path.clone(), error })?;
        if !is_alone {
            tracing::warn!(
                path = %path.display(),
                "another gateway on this machine uses the same file: limits are not shared through it, as they are through Postgres"
            );
        }
        if let Err(error) = reserve.take() {
            tracing::error!(%error, path = %path.display(), "the disk has no room for usage: no request is admitted until it has");
        }
        let opened = async {
            look_for_a_cut(&path)?;
            let db = Database::connect(options(settings)).await?;
            check(&db, &path).await?;
            // All or nothing, and one gateway at a time: half a schema would make every later start fail.
            let transaction = db.begin_with_options(immediate()).await?;
            Migrator::up(&transaction, None).await?;
            LocalMigrator::up(&transaction, None).await?;
            transaction.execute_unprepared(if is_outbox { MAKE_OUTBOX } else { UNMAKE_OUTBOX }).await?;
            let people = if is_outbox {
                rollups::forget(&transaction).await?;
                [forget_people_on_sqlite(), forget_admins_on_sqlite()].concat()
            } else {
                rollups::follow(&transaction).await?;
                [follow_people_on_sqlite(), follow_admins_on_sqlite()].concat()
            };
            for statement in people {
                transaction.execute_unprepared(&statement).await?;
            }
            transaction.commit().await?;
            Ok::<_, DbErr>(db)
        };
        let db = opened.await.map_err(|error| match damage(&error) {
            Some(detail) => StoreError::Damaged { path: path.clone(), detail, is_outbox },
            None => error.into(),
        })?;
        private::close_to_others(&path)?;
        let (reserve, synchronous) = (Arc::new(reserve), settings.synchronous);
        Ok((Self { db, reserve, path: path.into(), synchronous, is_outbox, is_alone }, turn))
    }

    /// Writes a value that nobody reads, to find out whether writing works.
    pub(super) async fn try_write(&self) -> Result<(), StoreError> {
        within_deadline(self.db.execute_unprepared("PRAGMA user_version = 1")).await?;
        Ok(())
    }
}

/// SQLite's own cache of pages, for each of a dozen connections: half a MiB. With SQLite's default of four times as much,
/// memory still grows after hundreds of thousands of requests; the operating system caches the file as well.
pub(super) const PAGE_CACHE: &str = "-512";

/// Puts each new row into the outbox, by a trigger: the row and its entry are written together or not at all.
const MAKE_OUTBOX: &str = "CREATE TRIGGER IF NOT EXISTS usage_to_outbox AFTER INSERT ON usage \
    BEGIN INSERT OR IGNORE INTO outbox (request_id) VALUES (NEW.request_id); END";
const UNMAKE_OUTBOX: &str = "DROP TRIGGER IF EXISTS usage_to_outbox";

/// The options with which the gateway opens its SQLite file, everywhere.
pub(super) fn options(settings: &DatabaseSettings) -> ConnectOptions {
    let url = if settings.sqlite_path().is_some() { settings.url.clone() } else { "sqlite://".to_owned() };
    // The path exactly as it is in the settings: parsing it as a URL would turn `%20` into a space.
    let path = settings.local_path().to_path_buf();
    let synchronous = match settings.synchronous {
        Synchronous::Normal => SqliteSynchronous::Normal,
        Synchronous::Full => SqliteSynchronous::Full,
    };
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(4)
        .acquire_timeout(STATEMENT_DEADLINE)
        .connect_timeout(STATEMENT_DEADLINE)
        // By default it would log every statement.
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                .filename(&path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(synchronous)
                .busy_timeout(STATEMENT_DEADLINE)
                .pragma("cache_size", PAGE_CACHE)
        });
    options
}

/// Fails if the file was cut off at its end: SQLite would read the missing part of a page as zeros, which may pass for
/// values. While the write-ahead log holds pages, a short file is no error, as the log has the rest.
fn look_for_a_cut(path: &Path) -> Result<(), DbErr> {
    const EMPTY_LOG: u64 = 32;
    let length_of = |path: &Path| path.metadata().map_or(0, |file| file.len());
    let mut head = [0; 32];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    if read.is_err() || length_of(&beside(path, "wal")) > EMPTY_LOG {
        return Ok(());
    }
    let page = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 65_536,
        page => u64::from(page),
    };
    let pages = u32::from_be_bytes([head[28], head[29], head[30], head[31]]);
    let (is, should_be) = (length_of(path), page * u64::from(pages));
    match is < should_be {
        true => Err(DbErr::Custom(format!("{DAMAGE}{is} bytes are left of {should_be}"))),
        false => Ok(()),
    }
}

/// Checks the whole file, up to [`CHECKED_WHOLE`]: a large one would delay the start by minutes. Damage to a larger file
/// is found when that part is read, or by an operator's `PRAGMA quick_check`.
async fn check(db: &DatabaseConnection, path: &Path) -> Result<(), DbErr> {
    if path.metadata().map_or(0, |file| file.len()) > CHECKED_WHOLE {
        return Ok(());
    }
    let statement = Statement::from_string(db.get_database_backend(), "PRAGMA quick_check(1)");
    let verdict: Option<String> = match db.query_one_raw(statement).await? {
        Some(row) => row.try_get_by_index(0)?,
        None => None,
    };
    match verdict.as_deref() {
        Some("ok") => Ok(()),
        other => Err(DbErr::Custom(format!("{DAMAGE}{}", other.unwrap_or("it cannot be checked")))),
    }
}

const DAMAGE: &str = "damaged: ";

/// What is wrong with the file, if the error says that it is damaged.
fn damage(error: &DbErr) -> Option<String> {
    if let DbErr::Custom(text) = error {
        return text.strip_prefix(DAMAGE).map(str::to_owned);
    }
    let (code, cause) = refused(error)?;
    DAMAGED.contains(&code).then(|| cause.message().to_owned())
}

/// SQLite's primary code for an error of its own, and the error.
fn refused(error: &DbErr) -> Option<(i32, &dyn DatabaseError)> {
    let (DbErr::Conn(RuntimeErr::SqlxError(cause))
    | DbErr::Exec(RuntimeErr::SqlxError(cause))
    | DbErr::Query(RuntimeErr::SqlxError(cause))) = error
    else {
        return None;
    };
    let cause = cause.as_database_error()?;
    let code: i32 = cause.code()?.parse().ok()?;
    Some((code & 0xff, cause))
}
