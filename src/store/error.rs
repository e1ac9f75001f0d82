//! The errors of the store, most of which say what an operator can do about them.
use std::path::PathBuf;
use std::time::Duration;

use sea_orm::DbErr;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A user of this name exists already.
    #[error("user `{0}` exists already")]
    Exists(String),
    /// There is no such user.
    #[error("there is no user `{0}`")]
    NotFound(String),
    /// The user has no such key.
    #[error("there is no key `{0}`")]
    NoKey(String),
    /// The user has as many keys as one user may have.
    #[error("a user may have at most {0} keys; revoke one that is no longer used")]
    TooManyKeys(usize),
    /// An administrator of this name exists already.
    #[error("administrator `{0}` exists already")]
    AdminExists(String),
    /// There is no such administrator.
    #[error("there is no administrator `{0}`")]
    NoAdmin(String),
    /// There are as many administrators as there may be.
    #[error("there may be at most {0} administrators; delete one that is no longer needed")]
    TooManyAdmins(usize),
    /// A group of this name exists already.
    #[error("group `{0}` exists already")]
    GroupExists(String),
    /// There is no such group.
    #[error("there is no group `{0}`")]
    NoGroup(String),
    /// There are as many groups as there may be.
    #[error("there may be at most {0} groups; delete one that is no longer needed")]
    TooManyGroups(usize),
    /// The group still has users.
    #[error("group `{group}` still has {users} users; with `?members=release` they leave it")]
    GroupHasUsers {
        /// The name.
        group: String,
        /// How many.
        users: u64,
    },
    /// The operating system has no randomness for a key.
    #[error("the operating system gave no random bytes: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The file with the pepper could not be used.
    #[error("keys.pepper_file: {}: {error}", path.display())]
    PepperFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// The user has a key of this name already.
    #[error("the user has a key called `{0}` already")]
    KeyExists(String),
    /// A node of this name exists already.
    #[error("node `{0}` exists already")]
    NodeExists(String),
    /// No node of this name was added.
    #[error("there is no node `{0}`")]
    NoNode(String),
    /// The database did not answer in time.
    #[error("the database did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Postgres could not be reached at the start.
    #[error(
        "Postgres did not answer within {} s: see that it runs, and that the host, the port and `sslmode` in database.url \
         are right", .0.as_secs()
    )]
    NoAnswer(Duration),
    /// The database refused the statement, or is unreachable.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
    /// The local file could not be written.
    #[error("the local file could not be written: {0}")]
    Commit(#[from] rusqlite::Error),
    /// There is no thread to write with.
    #[error("usage rows need a thread of their own: {0}")]
    Thread(std::io::Error),
    /// A local file, or its folder, could not be made or used.
    #[error("{}: {error}; choose a place that the gateway's user may write to in database.url (or database.outbox)", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// Another gateway has the local file open.
    #[error("a gateway on this machine uses {}: stop it first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of the gateway has changed the schema.
    #[error(
        "a newer gateway upgraded this database: start that version again, or restore a backup from before the upgrade"
    )]
    Newer,
    /// The database's user may not create tables.
    #[error(
        "the database's user may not change the schema: GRANT CREATE, USAGE ON SCHEMA public TO that user, or make it the \
         owner of the database ({0})"
    )]
    NotGranted(String),
    /// A pooler in front of Postgres gives several connections one session.
    #[error(
        "database.url leads to a pooler that shares sessions, such as pgbouncer with `pool_mode = transaction`: set \
         `pool_mode = session` for this database there, or connect to Postgres itself"
    )]
    SharedSessions,
    /// A file to back up to, or to restore from, cannot be used.
    #[error("{}: {why}", path.display())]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as the end of a sentence about the file.
        why: String,
    },
    /// The local file does not hold what the gateway wrote.
    #[error(
        "{} is damaged: {detail}. Nothing was changed. {}", path.display(),
        if *is_outbox {
            "It holds usage that is not in Postgres yet, and nothing else: repair it (`sqlite3 FILE .recover`), or move it \
             and the files beside it away to start without that usage"
        } else {
            "Put a backup in its place, repair it (`sqlite3 FILE .recover`), or move it and the files beside it away to start \
             with an empty database"
        }
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's own words.
        detail: String,
        /// Whether the file stands in front of Postgres.
        is_outbox: bool,
    },
    /// The file with the password could not be read.
    #[error("database.password_file: {}: {error}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: std::io::Error,
    },
}
