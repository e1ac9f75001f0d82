//! How is a row of a report named?
use time::OffsetDateTime;

use crate::store::Label;

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A day as a date; anything else is its own name.
pub(super) fn text_of(label: &Label) -> String {
    match label {
        Label::Day(day) => OffsetDateTime::from_unix_timestamp(i64::from(*day) * DAY_SECONDS)
            .map(|moment| moment.date().to_string())
            .unwrap_or_default(),
        Label::Name(name) => name.clone(),
    }
}
