//! When may a refused client come back? Judged by how fast the queue drains.

use std::time::Duration;

use crate::ids::Time;

/// The newest interval weighs one part in this many.
const SMOOTHING: u32 = 8;
const SHORTEST_SECONDS: u64 = 1;
const LONGEST_SECONDS: u64 = 120;
/// The advice for a full queue before anything was measured.
const LONGEST_GUESS_SECONDS: f64 = 5.0;

/// The mean time between two ends of requests while others wait. Idle times are left out, because they say nothing
/// about how fast the fleet can work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    last: Option<Time>,
    mean_interval: Option<Duration>,
}

impl Drain {
    /// A running request ended.
    pub(crate) fn ended(&mut self, is_backlogged: bool, now: Time) {
        if let Some(last) = self.last.filter(|_| is_backlogged) {
            let interval = now.saturating_sub(last);
            self.mean_interval = Some(match self.mean_interval {
                Some(mean) => (mean * (SMOOTHING - 1) + interval) / SMOOTHING,
                None => interval,
            });
        }
        self.last = is_backlogged.then_some(now);
    }

    /// The mean time between two ends, once it was measured.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.mean_interval
    }

    /// About when a client that is refused now would be served, from 1 s to 120 s.
    pub(crate) fn retry_after(&self, queued: usize, max_queued: usize, now: Time) -> Duration {
        let advice = match self.mean_interval {
            Some(mean) => {
                // A fleet that has come to a standstill is slower than the mean says.
                let since_last = self.last.map_or(Duration::ZERO, |last| now.saturating_sub(last));
                let waiting = u32::try_from(queued).unwrap_or(u32::MAX);
                mean.max(since_last).saturating_mul(waiting.saturating_add(1))
            }
            None => {
                let fullness = queued as f64 / max_queued.max(1) as f64;
                Duration::from_secs_f64(1.0 + (LONGEST_GUESS_SECONDS - 1.0) * fullness.min(1.0))
            }
        };
        advice.clamp(Duration::from_secs(SHORTEST_SECONDS), Duration::from_secs(LONGEST_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    #[test]
    fn before_anything_is_measured_the_advice_grows_with_the_queue() {
        let drain = Drain::default();
        assert_eq!(drain.retry_after(0, 100, at(0)), at(1));
        assert_eq!(drain.retry_after(50, 100, at(0)), at(3));
        assert_eq!(drain.retry_after(200, 100, at(0)), at(5));
        assert_eq!(drain.retry_after(0, 0, at(0)), at(1));
    }

    #[test]
    fn the_advice_is_the_queue_over_the_rate() {
        let mut drain = Drain::default();
        for second in 0..10 {
            drain.ended(true, at(2 * second));
        }
        assert_eq!(drain.retry_after(9, 100, at(18)), at(20));
        assert_eq!(drain.retry_after(1000, 1000, at(18)), at(120));
    }

    #[test]
    fn idle_times_are_not_counted() {
        let mut drain = Drain::default();
        drain.ended(true, at(0));
        drain.ended(true, at(2));
        drain.ended(false, at(4));
        drain.ended(true, at(1000));
        drain.ended(true, at(1002));
        assert_eq!(drain.retry_after(1, 100, at(1002)), at(4));
    }

    #[test]
    fn a_fleet_that_stands_still_makes_clients_wait_longer() {
        let mut drain = Drain::default();
        drain.ended(true, at(0));
        drain.ended(true, at(1));
        assert_eq!(drain.retry_after(1, 100, at(21)), at(40));
    }
}
