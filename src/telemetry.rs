//! Where does the log go? To standard error, as one structured line for each event.
//!
//! A busy gateway ends thousands of requests a second, with a line for each. So lines are collected and written
//! together: every [`FLUSH`] at the latest, and at once for warnings and errors.
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod plain;

use plain::{LineTime, PlainFields};

/// How long a line may wait to be written.
const FLUSH: Duration = Duration::from_millis(50);
/// Lines are written once they add up to this many bytes.
const BUFFER: usize = 64 * 1024;

/// Libraries that may only log warnings and errors, whatever the level.
const QUIET: [&str; 3] = ["sqlx", "actix_server", "sea_orm_migration"];

/// The valid names of levels.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,ollama_gateway=debug`. Default `info`.
    pub level: String,
    /// `text` for people, `json` for machines. Default `text`.
    pub format: Format,
}

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

impl LogSettings {
    /// Which events are written.
    ///
    /// # Errors
    /// Why the level is not valid.
    pub fn filter(&self) -> Result<Targets, String> {
        if !self.level.chars().all(|letter| letter == ' ' || letter.is_ascii_graphic()) {
            return Err("a level must be printable ASCII".to_owned());
        }
        // The library would take an unknown level for the name of a module, and numbers for levels.
        for part in self.level.split(',') {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
            if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                return Err(format!("`{level}` is not a level: expected one of {}", LEVELS.join(", ")));
            }
        }
        let filter: Targets = self.level.parse().map_err(|error| format!("{error}"))?;
        // It warns of every client that leaves before the end of its answer.
        let filter = filter.with_target("actix_http::h2", LevelFilter::OFF);
        // At every start, sqlx logs at `info` that its table exists already.
        Ok(QUIET.into_iter().fold(filter, |filter, target| filter.with_target(target, Level::WARN)))
    }

    /// Starts logging; a second call in the same process changes nothing. Dropping the returned value writes the last
    /// lines.
    pub fn install(&self) -> LogFlusher {
        let filter = self.filter().unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
        let lines = Lines::default();
        let has_colours = io::stderr().is_terminal();
        let builder =
            tracing_subscriber::fmt().with_max_level(Level::TRACE).with_ansi(has_colours).with_writer(lines.clone());
        let installed = match self.format {
            Format::Text if has_colours => builder.finish().with(filter).try_init(),
            Format::Text => {
                builder.fmt_fields(PlainFields).with_timer(LineTime::default()).finish().with(filter).try_init()
            }
            Format::Json => builder.json().flatten_event(true).finish().with(filter).try_init(),
        };
        drop(installed);
        LogFlusher(lines)
    }
}

/// Lines that have not been written yet.
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
    // If the log cannot be written, there is nobody to tell.
    let _ = io::stderr().write_all(waiting);
    waiting.clear();
}

/// Writes one event's line.
struct LogLine<'a> {
    lines: &'a Lines,
    at_once: bool,
}

impl Write for LogLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.append(line, self.at_once);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine { lines: self, at_once: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> LogLine<'a> {
        LogLine { lines: self, at_once: *event.level() <= Level::WARN }
    }
}

/// Writes waiting lines while it runs and when it is dropped.
pub struct LogFlusher(Lines);

impl LogFlusher {
    /// Writes waiting lines at intervals, for ever.
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
        for level in ["info", "TRACE", "off", "info,ollama_gateway=debug", "ollama_gateway::relay=trace,sqlx=warn"] {
            assert!(settings(level).filter().is_ok(), "{level}");
        }
        for level in ["loud", "WARNING", "0", "", "info,", "loud=very", "info,ollama_gateway=very", "\na\u{fffd}["] {
            assert!(settings(level).filter().is_err(), "{level}");
        }
    }

    #[test]
    fn a_level_holds_for_its_module_and_the_libraries_stay_quiet() {
        let filter =
            LogSettings { level: "info,ollama_gateway=debug".to_owned(), ..LogSettings::default() }.filter().unwrap();
        let written = |target, level| filter.would_enable(target, &level);
        assert!(written("ollama_gateway::relay", Level::DEBUG) && !written("ollama_gateway::relay", Level::TRACE));
        assert!(written("rustls", Level::INFO) && !written("rustls", Level::DEBUG));
        assert!(written("sqlx::query", Level::WARN) && !written("sqlx::query", Level::INFO));
    }

    #[test]
    fn a_line_without_colours_reads_as_the_library_would_write_it() {
        let written = |log: &dyn Fn(Lines) -> tracing::Dispatch, message: &str| {
            let lines = Lines::default();
            tracing::dispatcher::with_default(&log(lines.clone()), || {
                let late = None::<u64>;
                tracing::info!(user = "ann \"a\"", name = "é\n", plain = "a b", model = %"m:1", late, "{message}");
                tracing::info!(code = 200_u16, below = -1, share = 0.5, is_stream = true, list = ?[1, 2], message);
            });
            String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap()
        };
        let builder = |lines| tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(lines);
        let ours = |lines| builder(lines).fmt_fields(PlainFields).finish().into();
        let theirs = |lines| builder(lines).finish().into();

        assert_eq!(written(&ours, "it ended"), written(&theirs, "it ended"));
        assert_eq!(written(&ours, "it ended \"\\"), written(&theirs, "it ended \"\\"));
        let deceiving = written(&ours, "red \u{1b}[31m\nsecond line");
        assert_eq!(deceiving.matches(char::is_control).count(), 2, "one at the end of each line: {deceiving}");
    }

    #[test]
    fn a_line_begins_with_its_time() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone());
        let before = crate::clock::since_epoch();
        tracing::subscriber::with_default(log.with_timer(LineTime::default()).finish(), || {
            tracing::info!("one");
            tracing::info!("two");
        });
        let after = crate::clock::since_epoch();
        let written = String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
        assert_eq!(written.lines().count(), 2);
        for line in written.lines() {
            let text = line.split(' ').next().unwrap();
            let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
            let nanos = u128::try_from(at.unix_timestamp_nanos()).unwrap();
            // It is cut to microseconds.
            assert!((before.as_nanos() - 1_000..=after.as_nanos()).contains(&nanos), "{text}");
            assert_eq!(text.len(), "2026-11-28T13:20:57.123456Z".len(), "{text}");
        }
    }
}
