//! Is somebody guessing keys? Counts wrong ones by the network they come from.
//!
//! A network is an IPv4 address or an IPv6 /64. A good key is never counted nor held up, and a missing one is no guess.
//! Networks share a fixed number of counters, so that no flood of addresses takes memory; that two of them share one costs
//! a client with a wrong key its 401.
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(60);
const COUNTERS: usize = 4096;

/// Wrong keys of the last minute. Shared by all workers.
#[derive(Debug)]
pub struct Guesses {
    /// Wrong keys a network may send in a minute.
    limit: u32,
    counters: Mutex<Vec<Counter>>,
    /// Seeded, so that nobody can choose whom to share with.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// Uptime of the first one.
    began: Duration,
    wrong: u32,
}

impl Guesses {
    /// Lets every network be wrong `limit` times a minute.
    pub fn new(limit: u32) -> Self {
        let counters = Mutex::new(vec![Counter::default(); COUNTERS]);
        Self { limit, counters, hasher: RandomState::new() }
    }

    /// A key from `address` was wrong.
    ///
    /// # Errors
    /// When it was one too often: how long to wait.
    pub fn wrong(&self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        // The remainder is below COUNTERS.
        let index = (self.hasher.hash_one(network(address)) % COUNTERS as u64) as usize;
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = &mut counters[index];
        if counter.wrong == 0 || counter.began + WINDOW <= now {
            *counter = Counter { began: now, wrong: 0 };
        }
        if counter.wrong >= self.limit {
            return Err((counter.began + WINDOW).saturating_sub(now));
        }
        counter.wrong += 1;
        Ok(())
    }
}

/// What one client can choose freely is left out.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_network_may_be_wrong_so_often_a_minute() {
        let guesses = Guesses::new(3);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        for second in [100, 110, 120] {
            assert_eq!(guesses.wrong(address, at(second)), Ok(()));
        }
        assert_eq!(guesses.wrong(address, at(130)), Err(at(30)));
        assert_eq!(guesses.wrong("::ffff:10.0.0.1".parse().unwrap(), at(159)), Err(at(1)));
        assert_eq!(guesses.wrong(address, at(160)), Ok(()));
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
    fn a_flood_of_networks_takes_no_more_memory() {
        let guesses = Guesses::new(1);
        for number in 0..100_000u32 {
            let _ = guesses.wrong(IpAddr::V4(number.into()), at(60));
        }
        assert_eq!(guesses.counters.lock().unwrap().capacity(), COUNTERS);
    }
}
