//! Which configuration does a command use?
use std::path::Path;

use crate::config::{self, Config, ConfigError};

/// Reads the file, or the default one if it exists, and the environment. Reports renamed settings on stderr.
///
/// # Errors
/// Each mistake on a line of its own, then the number of mistakes.
pub(super) fn load(file: Option<&Path>) -> Result<Config, String> {
    // A name or value that is not Unicode cannot be one of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match config::load(file, environment) {
        Ok(document) => {
            for note in document.notes() {
                eprintln!("{note}");
            }
            Ok(document.value)
        }
        Err(ConfigError::Mistakes(mistakes)) => {
            let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            let count = if lines.len() == 1 { "1 mistake".to_owned() } else { format!("{} mistakes", lines.len()) };
            Err(format!("{}\n{count} in the configuration", lines.join("\n")))
        }
        Err(error) => Err(error.to_string()),
    }
}
