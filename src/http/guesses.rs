//! Is somebody guessing keys? Counts wrong keys by network. A valid key is neither counted nor delayed, and a missing key
//! is no guess.
use std::net::IpAddr;
use std::time::Duration;

use super::counters::{Counters, network};

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
