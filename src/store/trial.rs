//! Would the store open its files? Asked by `check`, which leaves nothing behind.
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::StoreError;
use super::keys::{KeySettings, Peppers};
use super::password;
use super::settings::DatabaseSettings;

/// Tries the files with secrets, and whether the local file can be written or made. Returns everything that would keep the
/// store from opening.
pub fn try_files(database: &DatabaseSettings, keys: &KeySettings) -> Vec<StoreError> {
    let path = database.local_path();
    let tried = [
        Peppers::load(keys).map(drop),
        database.password_file.as_deref().map_or(Ok(()), |file| password::read(file).map(drop)),
        write_at(path).map_err(|error| StoreError::File { path: path.to_path_buf(), error }),
    ];
    tried.into_iter().filter_map(Result::err).collect()
}

fn write_at(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return OpenOptions::new().append(true).open(path).map(drop);
    }
    let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let trial = folder.join(format!(".ollama-gateway-{}", std::process::id()));
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(&trial)?;
    std::fs::remove_file(&trial)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(database: &DatabaseSettings, keys: &KeySettings) -> Vec<String> {
        try_files(database, keys).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_local_file_is_tried_without_being_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let url = format!("sqlite://{}", folder.path().join(name).display());
            tried(&DatabaseSettings { url, ..DatabaseSettings::default() }, &KeySettings::default())
        };
        assert_eq!(at("data/more/gateway.db"), [""; 0]);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(at("file"), [""; 0]);
        let errors = at("file/gateway.db");
        assert!(errors.len() == 1 && errors[0].contains("file/gateway.db"), "{errors:?}");
        assert_eq!(at("").len(), 1, "a folder is no file");
    }

    #[test]
    fn files_with_secrets_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("gateway.db").display());
        let missing = Some(folder.path().join("missing"));
        let database = DatabaseSettings { url, password_file: missing.clone(), ..DatabaseSettings::default() };
        let errors = tried(&database, &KeySettings { pepper_file: missing, ..KeySettings::default() });
        let begins = |at: usize, with: &str| errors.get(at).is_some_and(|error| error.starts_with(with));
        assert!(begins(0, "keys.pepper_file: ") && begins(1, "database.password_file: "), "{errors:?}");
    }
}
