//! What time is it? Nothing else in the simulator reads the clocks.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// What Ollama makes of a negative `keep_alive`.
pub(crate) const FOREVER: Duration = Duration::from_secs(292 * 365 * 24 * 3600);

/// The monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock, in UTC.
pub(crate) fn wall() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Seconds since 1970, for OpenAI's shapes.
pub(crate) fn unix_seconds() -> i64 {
    wall().unix_timestamp()
}

/// The wall clock in the format of `created_at`.
pub(crate) fn timestamp() -> String {
    rfc3339(wall())
}

/// A moment in the format of `created_at` and `expires_at`.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).expect("a moment between the years 0 and 9999 has an RFC 3339 form")
}

/// Nanoseconds, at least one, because Ollama leaves a zero out.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}
