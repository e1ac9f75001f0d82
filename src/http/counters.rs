//! How often did something happen in the last minute? The number of counters is fixed, so a flood of names or addresses
//! takes no memory. Two names may share a counter; then both reach their bound a little early.
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(60);
const COUNTERS: usize = 4096;

/// Counters for windows of a minute. Shared by all workers.
#[derive(Debug)]
pub(super) struct Counters {
    counters: Mutex<Vec<Counter>>,
    /// Randomly seeded, so that nobody can choose whose counter to share.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// Uptime at the first event of the window.
    began: Duration,
    count: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self { counters: Mutex::new(vec![Counter::default(); COUNTERS]), hasher: RandomState::new() }
    }
}

impl Counters {
    /// Counts one more of `what`. Returns the count of its window, this one included, and how long the window still lasts.
    pub(super) fn count(&self, what: impl Hash, now: Duration) -> (u32, Duration) {
        // The remainder is below COUNTERS.
        let index = (self.hasher.hash_one(what) % COUNTERS as u64) as usize;
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = &mut counters[index];
        if counter.count == 0 || counter.began + WINDOW <= now {
            *counter = Counter { began: now, count: 0 };
        }
        counter.count = counter.count.saturating_add(1);
        (counter.count, (counter.began + WINDOW).saturating_sub(now))
    }
}

/// The network of an address: all of an IPv4 address, or the /64 of an IPv6 one, as a client can choose the rest freely.
pub(super) fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

/// Wrong keys of the last minute. Shared by all workers.
#[derive(Debug)]
pub struct Guesses {
    /// Wrong keys a network may send in a minute.
    limit: u32,
    counters: Counters,
}

impl Guesses {
    /// Lets every network send `limit` wrong keys a minute.
    pub fn new(limit: u32) -> Self {
        Self { limit, counters: Counters::default() }
    }

    /// Counts a wrong key from `address`.
    ///
    /// # Errors
    /// How long to wait, if the network has sent too many.
    pub fn wrong(&self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        match self.counters.count(network(address), now) {
            (wrong, left) if wrong > self.limit => Err(left),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_minute_begins_with_the_first_of_its_kind() {
        let counters = Counters::default();
        assert_eq!(counters.count("a", at(100)), (1, at(60)));
        assert_eq!(counters.count("a", at(130)), (2, at(30)));
        assert_eq!(counters.count("a", at(159)), (3, at(1)));
        assert_eq!(counters.count("a", at(160)), (1, at(60)));
    }

    #[test]
    fn networks_are_told_apart_as_clients_get_them() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
    }

    #[test]
    fn a_flood_takes_no_more_memory() {
        let counters = Counters::default();
        for number in 0..100_000u32 {
            counters.count(number, at(60));
        }
        assert_eq!(counters.counters.lock().unwrap().capacity(), COUNTERS);
    }

    #[test]
    fn a_network_may_be_wrong_so_often_a_minute() {
        let at = Duration::from_secs;
        let guesses = Guesses::new(3);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        for second in [100, 110, 120] {
            assert_eq!(guesses.wrong(address, at(second)), Ok(()));
        }
        assert_eq!(guesses.wrong(address, at(130)), Err(at(30)));
        assert_eq!(guesses.wrong("::ffff:10.0.0.1".parse().unwrap(), at(159)), Err(at(1)));
        assert_eq!(guesses.wrong(address, at(160)), Ok(()));
    }
}
