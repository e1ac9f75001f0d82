//! Makes the local files readable for the gateway's own user only, whatever the umask is: they hold usage, the names of
//! users, and credentials of nodes.
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::StoreError;

const OWN: u32 = 0o600;
const OWN_FOLDER: u32 = 0o700;

/// Creates the file and its folder if they are missing. SQLite gives the files beside it the same permissions.
pub(super) fn make(path: &Path) -> Result<(), StoreError> {
    make_folder(path)?;
    let file = OpenOptions::new().create(true).append(true).mode(OWN).open(path);
    file.map_err(|error| StoreError::File { path: path.to_path_buf(), error })?;
    close_to_others(path)
}

/// Creates the folder of a file if it is missing.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let made = DirBuilder::new().recursive(true).mode(OWN_FOLDER).create(folder);
    made.map_err(|error| StoreError::File { path: folder.to_path_buf(), error })
}

/// Removes the permissions of others on the file and on those beside it.
pub(super) fn close_to_others(path: &Path) -> Result<(), StoreError> {
    for path in [
        path.to_path_buf(),
        beside(path, "wal"),
        beside(path, "shm"),
        beside(path, "reserve"),
        beside(path, "starting"),
    ] {
        match close(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::File { path, error }),
            _ => {}
        }
    }
    Ok(())
}

/// The path of a file beside another: `gateway.db-wal` for `gateway.db` and `wal`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-");
    name.push(ending);
    name.into()
}

fn close(path: &Path) -> io::Result<()> {
    if path.metadata()?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(OWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let error = make(&folder.path().join("file/data/gateway.db")).unwrap_err().to_string();
        assert!(error.contains("file/data") && error.contains("database.url"), "{error}");
    }

    #[test]
    fn a_folder_that_is_made_is_the_gateways_own() {
        let folder = tempfile::tempdir().unwrap();
        make(&folder.path().join("data/gateway.db")).unwrap();
        let mode = folder.path().join("data").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWN_FOLDER, "{mode:o}");
    }
}
