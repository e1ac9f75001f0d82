//! How is a point in time given? On a clock that only runs forward, and on the wall clock.
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;

/// A point in time on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic; only differences have a meaning.
    pub uptime: Duration,
    /// Wall clock, milliseconds since 1970-01-01 UTC.
    pub unix_ms: i64,
}

impl Moment {
    /// Days since 1970-01-01 UTC.
    pub fn day(&self) -> i32 {
        i32::try_from(self.unix_ms.div_euclid(DAY_MS)).unwrap_or(i32::MAX)
    }
}
