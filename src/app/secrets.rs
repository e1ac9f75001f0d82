//! Which files with secrets that are read only at the start hold something else by now? A reload names them.
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::Config;

/// Digests of what the files held, by setting; `None` for one that cannot be read.
#[derive(Debug)]
pub(super) struct StartSecrets(Vec<(&'static str, Option<[u8; 32]>)>);

impl StartSecrets {
    /// Reads the files that this configuration names.
    pub(super) fn of(config: &Config) -> Self {
        let files = [
            ("admin.key_file", &config.admin.key_file),
            ("cluster.secret_file", &config.cluster.secret_file),
            ("keys.pepper_file", &config.keys.pepper_file),
        ];
        Self(files.into_iter().filter_map(|(setting, file)| Some((setting, digest(file.as_deref()?)))).collect())
    }

    /// The settings whose files differ; those that only one of the two has are not among them.
    pub(super) fn changed(&self, now: &Self) -> Vec<String> {
        let differs = |(setting, digest): &&(&str, Option<[u8; 32]>)| {
            now.0.iter().any(|(other, new)| other == setting && new != digest)
        };
        self.0.iter().filter(differs).map(|(setting, _)| (*setting).to_owned()).collect()
    }
}

fn digest(file: &Path) -> Option<[u8; 32]> {
    std::fs::read(file).ok().map(|content| Sha256::digest(content.trim_ascii()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_secret_is_named_and_one_with_another_end_of_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.admin.key_file = Some(folder.path().join("key"));
        config.keys.pepper_file = Some(folder.path().join("pepper"));
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("key", "a\n");
        write("pepper", "b");
        let before = StartSecrets::of(&config);
        write("pepper", "b\n");
        assert!(before.changed(&StartSecrets::of(&config)).is_empty());
        write("key", "c");
        assert_eq!(before.changed(&StartSecrets::of(&config)), ["admin.key_file"]);
    }
}
