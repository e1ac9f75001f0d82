//! Which admin key is in force? The configured one, the one in a file, or a new one that is shown once.
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::store::random_hex;

/// The admin key and, if it is new, the file it was written to.
pub(super) struct Found {
    pub(super) key: String,
    pub(super) made: Option<PathBuf>,
}

/// Finds the admin key, or generates one.
pub(super) fn find(config: &Config) -> Result<Found, String> {
    if let Some(key) = known(config)? {
        return Ok(Found { key, made: None });
    }
    let path = default_file(config);
    let key = random_hex().map_err(|error| format!("no random bytes for an admin key: {error}"))?;
    write_private(&path, &key).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Found { key, made: Some(path) })
}

/// The admin key that is configured or in a file; `None` if one is to be generated.
///
/// # Errors
/// When the file cannot be read, or its key is too weak.
pub(super) fn known(config: &Config) -> Result<Option<String>, String> {
    if let Some(key) = &config.admin.key {
        return Ok(Some(key.clone()));
    }
    let path = config.admin.key_file.clone().unwrap_or_else(|| default_file(config));
    let key = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && config.admin.key_file.is_none() => {
            return Ok(None);
        }
        Err(error) => return Err(format!("admin.key_file: {}: {error}", path.display())),
    };
    config.accepts_admin_key(&key).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(Some(key))
}

fn default_file(config: &Config) -> PathBuf {
    config.data_folder().join("admin_key")
}

fn write_private(path: &Path, key: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{key}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config_in(folder: &Path) -> Config {
        let mut config = Config::default();
        config.database.url = format!("sqlite://{}/gateway.db", folder.display());
        config
    }

    #[test]
    fn a_key_is_made_once_in_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let config = config_in(folder.path());
        let first = find(&config).unwrap();
        let path = first.made.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = find(&config).unwrap();
        assert!(second.made.is_none() && second.key == first.key && first.key.len() == 32);
    }

    #[test]
    fn a_named_file_must_be_there_and_hold_a_fit_key() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config_in(folder.path());
        config.admin.key_file = Some(folder.path().join("key"));
        assert!(find(&config).is_err());
        std::fs::write(folder.path().join("key"), "a-key\n").unwrap();
        assert_eq!(find(&config).unwrap().key, "a-key");
        config.server.bind = "0.0.0.0:8000".to_owned();
        assert!(find(&config).is_err());
    }
}
