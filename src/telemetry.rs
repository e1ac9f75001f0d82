//! Where does the log go? One structured line an event, to standard error.
//!
//! A busy gateway ends thousands of requests a second, each with a line: lines are gathered and written together, at the
//! latest every [`FLUSH`], and at once from a warning on.
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait to be written.
const FLUSH: Duration = Duration::from_millis(50);
/// Lines are written when there are so many bytes of them.
const BUFFER: usize = 64 * 1024;

/// The log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,ollama_gateway=debug`. Default `info`.
    pub level: String,
    /// `text` for people, `json` for machines. Default `text`.
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

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

impl LogSettings {
    /// Whether the level can be understood.
    ///
    /// # Errors
    /// Why not.
    pub fn filter(&self) -> Result<EnvFilter, String> {
        // A filter takes any word that is no level for the name of a module, of which there is then nothing.
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        for directive in self.level.split(',') {
            let word = directive.rsplit('=').next().unwrap_or_default().trim();
            if !levels.iter().any(|level| word.eq_ignore_ascii_case(level)) {
                return Err(format!("`{word}` is not one of {}", levels.join(", ")));
            }
        }
        // sqlx tells at every start, as `info`, that its table exists already.
        let filter = EnvFilter::builder().parse(&self.level).map_err(|error| error.to_string())?;
        ["sqlx=warn", "actix_server=warn", "sea_orm_migration=warn"]
            .into_iter()
            .try_fold(filter, |filter, directive| {
                Ok(filter.add_directive(directive.parse().map_err(|error| format!("{error}"))?))
            })
    }

    /// Starts logging; the second call in a process changes nothing. Dropping what it returns writes the last lines.
    pub fn install(&self) -> LogFlusher {
        let filter = self.filter().unwrap_or_else(|_| EnvFilter::new("info"));
        let lines = Lines::default();
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(lines.clone());
        let installed = match self.format {
            Format::Text => builder.try_init(),
            Format::Json => builder.json().flatten_event(true).try_init(),
        };
        drop(installed);
        LogFlusher(lines)
    }
}

/// Lines that are not written yet.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn append(&self, line: &[u8], at_once: bool) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend_from_slice(line);
        if at_once || waiting.len() >= BUFFER {
            write_out(&mut waiting);
        }
    }

    fn flush(&self) {
        write_out(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn write_out(waiting: &mut Vec<u8>) {
    // Where the log cannot be written there is nobody to tell.
    let _ = io::stderr().write_all(waiting);
    waiting.clear();
}

/// Writes one event's line.
struct Line<'a> {
    lines: &'a Lines,
    at_once: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.append(line, self.at_once);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, at_once: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line { lines: self, at_once: *event.level() <= Level::WARN }
    }
}

/// Writes the lines that wait, as long as it runs and when it is dropped.
pub struct LogFlusher(Lines);

impl LogFlusher {
    /// Writes what waits, again and again.
    pub async fn run(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(FLUSH).await;
            self.0.flush();
        }
    }
}

impl Drop for LogFlusher {
    fn drop(&mut self) {
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        let settings = |level: &str| LogSettings { level: level.to_owned(), ..LogSettings::default() };
        assert!(settings("info,ollama_gateway=debug").filter().is_ok());
        assert!(settings("loud=very").filter().is_err());
    }
}
