//! How fast is a refusal answered, and is it logged? A client that is refused again and again waits for each answer, and
//! cannot fill the log.
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::counters::{Counters, network};

/// Refusals in a minute that are answered at once.
const AT_ONCE: u32 = 10;
/// How much longer each further one is held back than the one before.
const STEP: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);
/// Answers that may be held back at a time; any further one goes out at once and closes its connection.
const MOST: usize = 2_000;
/// Lines of one kind that are logged in a minute; after that, only those whose count is a power of ten.
pub(super) const LINES: u32 = 60;

/// Refusals of the last minute. Shared by all workers.
#[derive(Debug, Default)]
pub struct Pace {
    refusals: Counters,
    lines: Counters,
    waiting: Arc<AtomicUsize>,
}

/// Who is refused: the user if known, else the network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    User(Arc<str>),
    Network(u128),
}

impl Who {
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Network(network(address))
    }
}

/// How to answer a refusal.
#[derive(Debug)]
pub(super) enum Answering {
    AtOnce,
    /// After a pause, during which the place is kept.
    After(Duration, Place),
    /// At once, closing the connection: too many answers are held back already.
    AndClose,
}

/// A place among the answers that are held back; freed on drop.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace {
    /// Counts a refusal and says how to answer it.
    pub(super) fn refused(&self, who: &Who, now: Duration) -> Answering {
        let (count, _) = self.refusals.count(who, now);
        let pause = pause(count);
        if pause.is_zero() {
            return Answering::AtOnce;
        }
        // Made before the count goes up, so that it goes down again whichever way this ends.
        let place = Place(self.waiting.clone());
        if self.waiting.fetch_add(1, Ordering::Relaxed) < MOST {
            Answering::After(pause, place)
        } else {
            Answering::AndClose
        }
    }

    /// Counts one more event of this kind. Returns the count of its minute if a line about it should be logged.
    pub(super) fn tells(&self, kind: impl Hash, now: Duration) -> Option<u32> {
        let (count, _) = self.lines.count(kind, now);
        (count <= LINES || is_power_of_ten(count)).then_some(count)
    }
}

fn pause(count: u32) -> Duration {
    (STEP * count.saturating_sub(AT_ONCE).min(1_000)).min(LONGEST)
}

fn is_power_of_ten(number: u32) -> bool {
    number == 10u32.saturating_pow(number.ilog10())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Who {
        Who::User("ann".into())
    }

    fn pauses(pace: &Pace, who: &Who, count: u32, now: Duration) -> Vec<Duration> {
        let pause = |answering| match answering {
            Answering::After(pause, _) => pause,
            Answering::AtOnce => Duration::ZERO,
            Answering::AndClose => panic!("nobody waits"),
        };
        (0..count).map(|_| pause(pace.refused(who, now))).collect()
    }

    #[test]
    fn the_first_refusals_come_at_once_and_each_further_one_later_up_to_a_second() {
        let (pace, now) = (Pace::default(), Duration::from_secs(60));
        let pauses_of_ann = pauses(&pace, &ann(), 100, now);
        assert!(pauses_of_ann[..10].iter().all(Duration::is_zero));
        assert!(pauses_of_ann[10..].windows(2).all(|pair| pair[0] <= pair[1]) && !pauses_of_ann[10].is_zero());
        assert_eq!(pauses_of_ann[99], LONGEST);
        let ben = Who::at("10.0.0.1".parse().unwrap());
        assert!(pauses(&pace, &ben, 10, now).iter().all(Duration::is_zero), "others hear at once");
        assert!(pauses(&pace, &ann(), 10, now + Duration::from_secs(60)).iter().all(Duration::is_zero));
    }

    #[test]
    fn so_many_wait_at_a_time_and_no_more() {
        let (pace, now) = (Pace::default(), Duration::from_secs(60));
        pauses(&pace, &ann(), AT_ONCE, now);
        let waiting: Vec<Answering> = (0..MOST).map(|_| pace.refused(&ann(), now)).collect();
        assert!(waiting.iter().all(|answering| matches!(answering, Answering::After(..))));
        assert!(matches!(pace.refused(&ann(), now), Answering::AndClose));
        drop(waiting);
        assert!(matches!(pace.refused(&ann(), now), Answering::After(..)));
    }

    #[test]
    fn a_flood_of_lines_is_folded() {
        let (pace, now) = (Pace::default(), Duration::from_secs(60));
        let told: Vec<u32> = (0..2_000).filter_map(|_| pace.tells("kind", now)).collect();
        assert_eq!(told, (1..=60).chain([100, 1_000]).collect::<Vec<_>>());
    }
}
