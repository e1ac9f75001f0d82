//! When do rows move from SQLite's write-ahead log into the file itself?
//!
//! By SQLite's own rule, every thousandth page a commit does that: it waits for the disk three times, 10 ms and more, and
//! all complete answers wait for their rows. Here a thread beside the commits does it while they go on. But a log that
//! grows meanwhile is never done with, and so never begun anew. Therefore, once it is longer than [`MAX_LOG`], the
//! commits do the rest themselves, which is little, and begin it anew with the next row. A reader of an old state, such as
//! a long report, can only put that off.
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags};

use super::deadline::STATEMENT_DEADLINE;
use super::local::{Local, PAGE_CACHE};
use super::settings::Synchronous;

/// Rows and notes between two checkpoints. Each takes about a page.
const INTERVAL: usize = 500;
/// Pages, 8 MiB. Each commit writes some of the same pages again, and SQLite finds its way among all versions of a page
/// in the log, so a long log costs the processor.
const MAX_LOG: i64 = 2048;

/// How threads of the gateway's own open the local file, which exists.
#[derive(Clone, Debug)]
pub(super) struct LocalFile {
    path: PathBuf,
    synchronous: Synchronous,
    pub(super) is_outbox: bool,
}

impl LocalFile {
    pub(super) fn of(local: &Local) -> Self {
        Self { path: local.path.to_path_buf(), synchronous: local.synchronous, is_outbox: local.is_outbox }
    }

    /// With the same options as sea-orm's connections to the file.
    pub(super) fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(STATEMENT_DEADLINE)?;
        let synchronous = match self.synchronous {
            Synchronous::Normal => "NORMAL",
            Synchronous::Full => "FULL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", PAGE_CACHE)?;
        Ok(connection)
    }
}

/// From now on this connection's commits make no checkpoints.
pub(super) fn leave_checkpoints(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
}

/// The thread that makes checkpoints. Dropping this ends it, after the one that it may be making.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// `None` once it ends.
    bell: Option<SyncSender<()>>,
    /// For each ring of the bell, the length of the log afterwards.
    made: Receiver<i64>,
    thread: Option<JoinHandle<()>>,
    is_making: bool,
    /// Rows and notes written since the bell was rung.
    written: usize,
}

impl Checkpoints {
    pub(super) fn start(file: &LocalFile) -> std::io::Result<Self> {
        let ((bell, rung), (report, made)) = (sync_channel(1), sync_channel(1));
        let file = file.clone();
        let make = move || {
            let mut connection = None;
            for () in rung {
                // The commits make the next one then, or the log would grow without end.
                let log = checkpoint_on(&mut connection, &file)
                    .inspect_err(|error| tracing::debug!(%error, "a checkpoint failed"))
                    .unwrap_or(i64::MAX);
                if report.send(log).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoints".to_owned()).spawn(make)?;
        Ok(Self { bell: Some(bell), made, thread: Some(thread), is_making: false, written: 0 })
    }

    /// So many rows and notes have been committed on `connection`, which makes no checkpoints by itself.
    ///
    /// # Errors
    /// If `connection` had to make one and could not.
    pub(super) fn wrote(&mut self, records: usize, connection: &Connection) -> rusqlite::Result<()> {
        self.written += records;
        match self.made.try_recv() {
            Ok(log) => {
                self.is_making = false;
                if log > MAX_LOG {
                    self.written = 0;
                    checkpoint(connection)?;
                }
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return checkpoint(connection).map(drop),
        }
        if self.written >= INTERVAL && !self.is_making {
            self.written = 0;
            self.is_making = self.bell.as_ref().is_some_and(|bell| bell.try_send(()).is_ok());
        }
        Ok(())
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            // If it had panicked, there would be nothing to wait for.
            let _ = thread.join();
        }
    }
}

fn checkpoint_on(connection: &mut Option<Connection>, file: &LocalFile) -> rusqlite::Result<i64> {
    let made = match connection {
        Some(connection) => checkpoint(connection),
        None => checkpoint(connection.insert(file.open()?)),
    };
    if made.is_err() {
        *connection = None;
    }
    made
}

/// Moves what no reader needs in the log, without waiting for anybody; returns the length of the log, in pages.
fn checkpoint(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::database::Store;
    use crate::store::settings::DatabaseSettings;

    async fn opened() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
        let store = Store::open(&DatabaseSettings { url, ..DatabaseSettings::default() }).await.unwrap();
        (folder, store)
    }

    /// Writes notes, each of which fills a page.
    fn write(connection: &mut Connection, notes: usize) {
        let transaction = connection.transaction().unwrap();
        for _ in 0..notes {
            let id = uuid::Uuid::now_v7();
            let note = (&id.as_bytes()[..], "x".repeat(3000));
            transaction.execute("INSERT INTO running (request_id, row) VALUES (?, ?)", note).unwrap();
        }
        transaction.commit().unwrap();
    }

    /// A connection for commits, and the checkpoints beside it.
    fn beside(file: &LocalFile) -> (Connection, Checkpoints) {
        let connection = file.open().unwrap();
        leave_checkpoints(&connection).unwrap();
        (connection, Checkpoints::start(file).unwrap())
    }

    #[actix_rt::test]
    async fn rows_reach_the_file_although_no_commit_moves_them() {
        let (_folder, store) = opened().await;
        let file = LocalFile::of(&store.local);
        let (mut connection, mut checkpoints) = beside(&file);
        let length = || file.path.metadata().unwrap().len();
        write(&mut connection, 2 * INTERVAL);
        let before = length();
        checkpoints.wrote(INTERVAL - 1, &connection).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(length(), before, "the commits do not do it, and it is not time yet");

        checkpoints.wrote(1, &connection).unwrap();
        while length() < before + INTERVAL as u64 * 4096 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop((checkpoints, connection));
        store.close().await;
    }

    #[actix_rt::test]
    async fn the_log_begins_anew_although_it_never_rests() {
        let (_folder, store) = opened().await;
        let file = LocalFile::of(&store.local);
        let (mut connection, mut checkpoints) = beside(&file);
        for _ in 0..6 * MAX_LOG / 100 {
            write(&mut connection, 100);
            checkpoints.wrote(100, &connection).unwrap();
            while checkpoints.is_making && checkpoints.written > 0 {
                // One row at a time, until it is made.
                write(&mut connection, 1);
                checkpoints.wrote(1, &connection).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let log = super::super::private::beside(&file.path, "wal").metadata().unwrap().len();
        assert!(log < 2 * MAX_LOG as u64 * 4096, "{log}");
        drop((checkpoints, connection));
        store.close().await;
    }

    #[actix_rt::test]
    async fn rows_reach_the_file_although_checkpoints_beside_the_commits_fail() {
        let (folder, store) = opened().await;
        let file = LocalFile::of(&store.local);
        let missing = LocalFile { path: folder.path().join("missing.db"), ..file.clone() };
        let (mut connection, mut checkpoints) = (file.open().unwrap(), Checkpoints::start(&missing).unwrap());
        leave_checkpoints(&connection).unwrap();
        let length = || file.path.metadata().unwrap().len();
        write(&mut connection, INTERVAL);
        let before = length();

        checkpoints.wrote(INTERVAL, &connection).unwrap();
        assert_eq!(length(), before, "nothing has failed yet");
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            checkpoints.wrote(0, &connection).unwrap();
            if length() > before {
                break;
            }
        }
        assert!(length() > before);
        drop((checkpoints, connection));
        store.close().await;
    }
}
