//! How is an event written for people whose log has no colours? As the library would write it, at two thirds of the
//! cost, because each request ends with a line of some twenty fields.
use std::fmt::{self, Debug};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::clock::{rfc3339, since_epoch};

/// Writes fields as `name=value`, one blank apart, and the message as it is.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = PlainLine { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct PlainLine<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    /// The first error; nothing is written after it.
    result: fmt::Result,
}

impl PlainLine<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        self.result = self.result.and_then(|()| {
            if !std::mem::replace(&mut self.is_empty, false) {
                self.writer.write_char(' ')?;
            }
            if field.name() != "message" {
                self.writer.write_str(field.name())?;
                self.writer.write_char('=')?;
            }
            value(&mut self.writer)
        });
    }
}

impl Visit for PlainLine<'_> {
    fn record_str(&mut self, field: &Field, text: &str) {
        let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\');
        match (field.name(), is_plain) {
            ("message", true) => self.write(field, |line| line.write_str(text)),
            ("message", false) => self.record_debug(field, &format_args!("{text}")),
            (_, true) => self.write(field, |line| {
                line.write_char('"')?;
                line.write_str(text)?;
                line.write_char('"')
            }),
            (_, false) => self.write(field, |line| write!(line, "{text:?}")),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, |line| line.write_str(if value { "true" } else { "false" }));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, |line| line.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, |line| line.write_str(itoa::Buffer::new().format(value)));
    }

    /// Control characters in a message could deceive whoever reads the log on a terminal.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            return self.write(field, |line| write!(line, "{value:?}"));
        }
        let message = format!("{value:?}");
        match message.contains(char::is_control) {
            true => self.write(field, |line| write!(line, "{}", message.escape_debug())),
            false => self.write(field, |line| line.write_str(&message)),
        }
    }
}

/// The time of an event in UTC, to the microsecond. Lines of the same second share what comes before its fraction.
#[derive(Debug, Default)]
pub(super) struct LineTime(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    unix_seconds: u64,
    /// Without its fraction and zone; empty before the first line.
    text: String,
}

impl FormatTime for LineTime {
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        let now = since_epoch();
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.text.is_empty() || second.unix_seconds != now.as_secs() {
            let text = rfc3339(i64::try_from(now.as_secs()).unwrap_or_default().saturating_mul(1000));
            *second = Second { unix_seconds: now.as_secs(), text: text.trim_end_matches('Z').to_owned() };
        }
        line.write_str(&second.text)?;
        drop(second);
        write!(line, ".{:06}Z", now.subsec_micros())
    }
}
