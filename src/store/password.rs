//! Which password does Postgres get? The one in its file, which is read again while the gateway runs.
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::error::StoreError;

/// `database.password_file`.
pub(super) struct PasswordFile {
    path: PathBuf,
    /// The password that new connections use.
    current: Mutex<String>,
}

/// Keeps the password out of logs.
impl std::fmt::Debug for PasswordFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PasswordFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl PasswordFile {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_path_buf(), current: Mutex::new(read(path)?) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The password if it is another one now.
    pub(super) fn read_again(&self) -> Result<Option<String>, StoreError> {
        let read = read(&self.path)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = *current != read;
        current.clone_from(&read);
        Ok(differs.then_some(read))
    }
}

/// The content of a file with a password, without the end of its line.
pub(super) fn read(path: &Path) -> Result<String, StoreError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| StoreError::PasswordFile { path: path.to_path_buf(), error })?;
    Ok(text.trim_end().to_owned())
}
