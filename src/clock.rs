//! The one place where the clock is read. Whatever decides takes a [`Moment`] (or an uptime) as an argument.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use limits::Moment;

/// A handle on the machine's clocks; copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts counting the uptime.
    #[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Monotonic time since a minute before the gateway started: a minute, so that the admissions of the last minute,
    /// which survive a restart, have a place on this clock too.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed() + Duration::from_secs(60)
    }

    /// Both clocks at once.
    #[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
    pub fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { uptime: self.uptime(), unix_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX) }
    }
}
