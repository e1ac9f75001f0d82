//! Which time does the gateway go by? The only place that reads the clock. Whatever decides takes a [`Moment`] (or an
//! uptime) as an argument.
//!
//! Uptime includes the time that the machine slept. Leases run out meanwhile, and so do the slots that the other gateways
//! grant to one that is silent: a gateway that wakes up must see that time has passed. So a machine that was suspended is
//! like a process that was stopped, to every part.
//!
//! The wall clock that the rest of the code sees runs with the monotonic one. It follows the system's clock in small
//! corrections. It follows a large step only once that has lasted, so that a clock that jumps briefly does not end a
//! day.
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use limits::Moment;
use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A difference of at most this much is followed at once, in milliseconds.
const SMALL_MS: i64 = 2_000;
/// How long a larger step must last before it is followed.
const LASTING: Duration = Duration::from_secs(300);

/// A handle on the machine's clocks; all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// By [`since_boot`].
    started: Duration,
    wall: &'static Wall,
}

#[derive(Debug)]
struct Wall {
    started_ms: i64,
    /// The sum of all corrections since the start.
    corrected_ms: AtomicI64,
}

impl Clock {
    /// Starts counting the uptime.
    pub fn start() -> Self {
        let now = since_epoch();
        // Counted from the last whole millisecond of the wall clock, which would be up to two behind otherwise.
        let started = since_boot().saturating_sub(Duration::from_nanos(u64::from(now.subsec_nanos() % 1_000_000)));
        // It lives as long as the process, so every copy can refer to it.
        let wall = Box::leak(Box::new(Wall { started_ms: whole_ms(now), corrected_ms: AtomicI64::new(0) }));
        Self { started, wall }
    }

    /// Monotonic time, which starts at one minute: the admissions of the last minute survive a restart, and need a
    /// place on this clock.
    pub fn uptime(&self) -> Duration {
        self.elapsed() + Duration::from_secs(60)
    }

    fn elapsed(&self) -> Duration {
        since_boot().saturating_sub(self.started)
    }

    /// Both clocks at once.
    pub fn now(&self) -> Moment {
        let elapsed = self.elapsed();
        let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        let corrected_ms = self.wall.corrected_ms.load(Ordering::Relaxed);
        let unix_ms = self.wall.started_ms.saturating_add(elapsed_ms).saturating_add(corrected_ms);
        Moment { uptime: elapsed + Duration::from_secs(60), unix_ms }
    }

    /// The uptime of this process at a time of day; zero for one before that.
    pub fn uptime_at(&self, unix_ms: i64) -> Duration {
        let now = self.now();
        let ago = now.unix_ms.saturating_sub(unix_ms);
        match u64::try_from(ago) {
            Ok(ago) => now.uptime.saturating_sub(Duration::from_millis(ago)),
            Err(_) => now.uptime.saturating_add(Duration::from_millis(ago.unsigned_abs())),
        }
    }

    /// The time of day at an uptime of this process.
    pub fn unix_ms_at(&self, uptime: Duration) -> i64 {
        let now = self.now();
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        now.unix_ms.saturating_sub(ms(now.uptime)).saturating_add(ms(uptime))
    }

    /// By how much the system's clock is ahead, in milliseconds.
    pub fn behind_ms(&self) -> i64 {
        whole_ms(since_epoch()).saturating_sub(self.now().unix_ms)
    }

    /// Sets the wall clock forward, or back if `by_ms` is negative.
    pub fn correct(&self, by_ms: i64) {
        self.wall.corrected_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

/// Monotonic time, also while the machine sleeps.
fn since_boot() -> Duration {
    // What Linux calls monotonic stands still in a sleep; elsewhere it does not.
    #[cfg(target_os = "linux")]
    let time = clock_gettime(ClockId::Boottime);
    #[cfg(not(target_os = "linux"))]
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
    seconds.saturating_add(Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default()))
}

/// The system's clock, which may jump: whatever decides goes by a [`Clock`].
#[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn whole_ms(since_epoch: Duration) -> i64 {
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// A time for people and programs, from milliseconds since 1970: RFC 3339, in UTC.
pub fn rfc3339(unix_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// What to do about a difference between the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// Nothing.
    None,
    /// Follow a small difference silently.
    Small(i64),
    /// A large step was seen for the first time; do not follow it yet.
    Noticed(i64),
    /// A large step has lasted; follow it.
    Lasting(i64),
}

/// The step of the system's clock that is being observed.
#[derive(Debug, Default)]
pub struct Steps {
    /// The uptime when it was first seen, and its size.
    watched: Option<(Duration, i64)>,
}

impl Steps {
    /// Decides what to do, given how far the system's clock is ahead, in milliseconds.
    pub fn look(&mut self, behind_ms: i64, uptime: Duration) -> Correction {
        let is_small = |difference: i64| difference.saturating_abs() <= SMALL_MS;
        if is_small(behind_ms) {
            self.watched = None;
            return if behind_ms == 0 { Correction::None } else { Correction::Small(behind_ms) };
        }
        match self.watched {
            Some((since, step)) if is_small(behind_ms.saturating_sub(step)) => {
                if uptime < since + LASTING {
                    return Correction::None;
                }
                Correction::Lasting(behind_ms)
            }
            _ => {
                self.watched = Some((uptime, behind_ms));
                Correction::Noticed(behind_ms)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_that_of_the_system_to_the_millisecond() {
        let is_off = |_: &i32| {
            std::thread::sleep(Duration::from_micros(130));
            let clock = Clock::start();
            std::thread::sleep(Duration::from_micros(370));
            let (before, now, after) = (whole_ms(since_epoch()), clock.now().unix_ms, whole_ms(since_epoch()));
            now < before || now > after
        };
        // Somebody else may have the processor between two looks at the clocks.
        assert!((0..200).filter(is_off).count() < 20);
    }

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn copies_of_a_clock_are_corrected_together() {
        let clock = Clock::start();
        let (copy, before) = (clock, clock.now().unix_ms);
        clock.correct(-HOUR_MS);
        assert!((before - HOUR_MS..before).contains(&copy.now().unix_ms));
        assert!((HOUR_MS - 1_000..HOUR_MS + 1_000).contains(&copy.behind_ms()));
    }

    #[test]
    fn a_step_is_followed_once_it_has_lasted_and_a_jump_never() {
        let at = Duration::from_secs;
        let mut steps = Steps::default();
        assert_eq!(steps.look(0, at(60)), Correction::None);
        assert_eq!(steps.look(-40, at(70)), Correction::Small(-40));
        assert_eq!(steps.look(24 * HOUR_MS, at(80)), Correction::Noticed(24 * HOUR_MS));
        assert_eq!(steps.look(24 * HOUR_MS, at(379)), Correction::None);
        assert_eq!(steps.look(10, at(380)), Correction::Small(10), "it came back");
        assert_eq!(steps.look(-HOUR_MS, at(390)), Correction::Noticed(-HOUR_MS));
        assert_eq!(steps.look(-HOUR_MS - 100, at(690)), Correction::Lasting(-HOUR_MS - 100));
        assert_eq!(steps.look(HOUR_MS, at(700)), Correction::Noticed(HOUR_MS), "another step begins anew");
    }
}
