//! Disk space in reserve, which is freed when the disk is full, so that the rows of running requests still fit.
//!
//! The reserve is a file beside the local file. Each gateway that uses the local file holds a shared lock on it. If a
//! starting gateway can lock it alone, no other is running, so all noted requests are those of a process that died.
//! That lock cannot be turned into a shared one in a single step, so only one gateway at a time starts on a local file:
//! the one with the [`Turn`].
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::private::beside;

/// Room for thousands of rows: a row takes about 400 bytes, and each transaction writes a page of each index as well.
const BYTES: usize = 4 << 20;

/// Longest wait for another gateway that starts on the same local file, or for a copy that takes its place.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a lock.
const AGAIN: Duration = Duration::from_millis(20);

/// The right to start on a local file; held until what a process that died left behind has been taken over.
#[derive(Debug)]
pub(super) struct Turn {
    _locked: File,
}

#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    held: AtomicBool,
}

impl Reserve {
    /// Opens the reserve of this local file without filling it. The flag is true if no other gateway uses the file.
    ///
    /// # Errors
    /// When a file cannot be opened, or others keep this gateway out for [`PATIENCE`].
    pub(super) async fn open(local: &Path) -> io::Result<(Self, bool, Turn)> {
        Self::open_within(PATIENCE, local).await
    }

    async fn open_within(patience: Duration, local: &Path) -> io::Result<(Self, bool, Turn)> {
        let deadline = Instant::now() + patience;
        let starting = lockable(&beside(local, "starting"))?;
        until(deadline, "another gateway is starting on it", || starting.try_lock().is_ok()).await?;
        let file = lockable(&beside(local, "reserve"))?;
        let is_alone = file.try_lock().is_ok();
        if is_alone {
            file.unlock()?;
        }
        until(deadline, "a copy is being put in its place", || file.try_lock_shared().is_ok()).await?;
        let held = file.metadata()?.len() >= BYTES as u64;
        Ok((Self { file, held: AtomicBool::new(held) }, is_alone, Turn { _locked: starting }))
    }

    /// Locks out every gateway while the returned file is open; `None` if a gateway is running.
    pub(super) fn keep_out(local: &Path) -> io::Result<Option<File>> {
        let file = lockable(&beside(local, "reserve"))?;
        Ok(file.try_lock().is_ok().then_some(file))
    }

    /// Whether the reserve takes up its space on the disk.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Fills the reserve.
    ///
    /// # Errors
    /// When the disk has too little room.
    pub(super) fn take(&self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        let taken = match fallocate(&self.file, FallocateFlags::empty(), 0, BYTES as u64) {
            // Not every file system can do that. A file that is only made longer takes no space, so bytes are written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.write_all_at(&vec![0xa5; BYTES], 0),
            taken => taken.map_err(io::Error::from),
        };
        if taken.is_err() {
            // A part of the reserve would only take room from the rows that it is for.
            self.file.set_len(0)?;
        }
        taken?;
        self.held.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Frees the reserve. False if it was free already.
    pub(super) fn release(&self) -> bool {
        // Swapped, so that of two writers who find the disk full one frees it and tries again.
        let was_held = self.held.swap(false, Ordering::Relaxed);
        was_held && self.file.set_len(0).is_ok()
    }
}

fn lockable(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Tries again and again until the deadline.
async fn until(deadline: Instant, what_else: &'static str, is_locked: impl Fn() -> bool) -> io::Result<()> {
    while !is_locked() {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, what_else));
        }
        sleep(AGAIN).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn the_room_is_on_the_disk_until_it_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("gateway.db");
        let path = beside(&local, "reserve");
        let (reserve, alone, _) = Reserve::open(&local).await.unwrap();
        assert!(alone && !reserve.is_held() && !reserve.release());
        reserve.take().unwrap();
        assert!(reserve.is_held() && path.metadata().unwrap().len() == BYTES as u64);
        assert!(path.metadata().unwrap().blocks() * 512 >= BYTES as u64, "it takes up its space");
        assert!(reserve.release() && !reserve.is_held() && path.metadata().unwrap().len() == 0);
        reserve.take().unwrap();
        drop(reserve);
        assert!(Reserve::open(&local).await.unwrap().0.is_held(), "it lasts");
    }

    #[tokio::test]
    async fn only_one_that_finds_nobody_else_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("gateway.db");
        let (first, alone, turn) = Reserve::open(&local).await.unwrap();
        assert!(alone);
        drop(turn);
        let (second, alone, _) = Reserve::open(&local).await.unwrap();
        assert!(!alone);
        drop((first, second));
        assert!(Reserve::open(&local).await.unwrap().1);
    }

    #[tokio::test]
    async fn one_gateway_at_a_time_starts_and_none_while_a_copy_takes_the_place_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("gateway.db");
        let open = || Reserve::open_within(Duration::from_millis(100), &local);
        let (first, _, turn) = open().await.unwrap();
        assert_eq!(open().await.unwrap_err().to_string(), "another gateway is starting on it");
        let (second, ()) = tokio::join!(Reserve::open(&local), async {
            sleep(Duration::from_millis(50)).await;
            drop(turn);
        });
        assert!(!second.unwrap().1, "the first one is there");
        drop(first);
        let kept_out = Reserve::keep_out(&local).unwrap().unwrap();
        assert_eq!(open().await.unwrap_err().to_string(), "a copy is being put in its place");
        drop(kept_out);
        assert!(open().await.unwrap().1);
    }
}
