//! Where does the log go? One structured line an event, to standard error.
use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How the log is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,ollama_gateway=debug`. Default `info`.
    pub level: String,
    /// `text` for people or `json` for machines. Default `text`.
    pub format: Format,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

impl Settings {
    /// Whether the level can be understood.
    ///
    /// # Errors
    /// Why not.
    pub fn filter(&self) -> Result<EnvFilter, String> {
        // sqlx tells at every start, as `info`, that its table exists already.
        let filter = EnvFilter::builder().parse(&self.level).map_err(|error| error.to_string())?;
        ["sqlx=warn", "actix_server=warn", "sea_orm_migration=warn"]
            .into_iter()
            .try_fold(filter, |filter, directive| {
                Ok(filter.add_directive(directive.parse().map_err(|error| format!("{error}"))?))
            })
    }

    /// Starts logging; the second call in a process changes nothing.
    pub fn install(&self) {
        let filter = self.filter().unwrap_or_else(|_| EnvFilter::new("info"));
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_span_events(FmtSpan::NONE)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let installed = match self.format {
            Format::Text => builder.try_init(),
            Format::Json => builder.json().flatten_event(true).try_init(),
        };
        drop(installed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        let settings = |level: &str| Settings { level: level.to_owned(), ..Settings::default() };
        assert!(settings("info,ollama_gateway=debug").filter().is_ok());
        assert!(settings("loud=very").filter().is_err());
    }
}
