//! Disk space in reserve, which is freed when the disk is full, so that the rows of running requests still fit.
//!
//! The reserve is a file beside the local file. Each gateway that uses the local file holds a shared lock on it. If a
//! starting gateway can lock it alone, no other is running, so all noted requests are those of a process that died.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for thousands of rows: a row takes about 400 bytes, and each transaction writes a page of each index as well.
const BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    held: AtomicBool,
}

impl Reserve {
    /// Opens the file without filling it. The flag is true if no other gateway had it open.
    pub(super) fn open(path: &Path) -> io::Result<(Self, bool)> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let is_alone = file.try_lock().is_ok();
        if is_alone {
            file.unlock()?;
        }
        file.lock_shared()?;
        let held = file.metadata()?.len() >= BYTES as u64;
        Ok((Self { file, held: AtomicBool::new(held) }, is_alone))
    }

    /// Locks out every gateway while the returned file is open; `None` if a gateway is running.
    pub(super) fn keep_out(path: &Path) -> io::Result<Option<File>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
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
        // Bytes are written, as a file that is only made longer takes no space.
        let written = self.file.write_all_at(&vec![0xa5; BYTES], 0);
        if written.is_err() {
            // A part of the reserve would only take room from the rows that it is for.
            self.file.set_len(0)?;
        }
        written?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_on_the_disk_until_it_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let (reserve, alone) = Reserve::open(&path).unwrap();
        assert!(alone && !reserve.is_held() && !reserve.release());
        reserve.take().unwrap();
        assert!(reserve.is_held() && path.metadata().unwrap().len() == BYTES as u64);
        assert!(reserve.release() && !reserve.is_held() && path.metadata().unwrap().len() == 0);
        reserve.take().unwrap();
        drop(reserve);
        assert!(Reserve::open(&path).unwrap().0.is_held(), "it lasts");
    }

    #[test]
    fn only_one_that_finds_nobody_else_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let (first, alone) = Reserve::open(&path).unwrap();
        assert!(alone);
        let (second, alone) = Reserve::open(&path).unwrap();
        assert!(!alone);
        drop((first, second));
        assert!(Reserve::open(&path).unwrap().1);
    }
}
