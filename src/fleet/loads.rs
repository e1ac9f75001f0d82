//! Who is charged for the time in which nodes load models? The request that caused the load; each load is charged once.
//!
//! The gateway's own loads are measured, each by a [`LoadCost`]. A node that loads by itself reports it in its own
//! dialect to every request that waited for it, and may do so while the gateway loads another model there.
//! [`NodeLoads`] makes sure that no moment of a node is charged twice.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::dispatch::LoadCost;

/// A shorter load time than this is the normal overhead of a request, not a load.
const LEAST_LOAD: Duration = Duration::from_millis(250);

/// The loads of one node.
#[derive(Debug, Default)]
pub(crate) struct NodeLoads(Mutex<Charged>);

#[derive(Debug, Default)]
struct Charged {
    /// The gateway's own loads in progress.
    own: u32,
    /// The start and end uptimes of the last load that was charged, or that was the gateway's own.
    last: (Duration, Duration),
}

impl NodeLoads {
    /// A load of the gateway's own, until the guard is dropped; `cost` belongs to the request that caused it.
    pub(crate) fn begin(self: &Arc<Self>, cost: Option<Arc<LoadCost>>, clock: Clock) -> LoadUnderWay {
        let since = clock.uptime();
        self.lock().own += 1;
        if let Some(cost) = &cost {
            cost.begin(since);
        }
        LoadUnderWay { node: self.clone(), cost, clock, since }
    }

    /// How much of a load that a node reports is charged to the request; the node got the request at `since`.
    pub(crate) fn charge(&self, since: Duration, reported: Duration) -> Option<Duration> {
        let mut charged = self.lock();
        if charged.own > 0 || reported < LEAST_LOAD {
            return None;
        }
        Some(charged.take(since, since + reported)).filter(|rest| *rest >= LEAST_LOAD)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Charged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charged {
    /// How much of this time lies outside the last load. If the two overlap, they are merged.
    fn take(&mut self, from: Duration, to: Duration) -> Duration {
        // One is enough: a node loads one model at a time.
        let (last_from, last_to) = self.last;
        if from >= last_to || to <= last_from {
            self.last = if to > last_to { (from, to) } else { self.last };
            return to.saturating_sub(from);
        }
        self.last = (from.min(last_from), to.max(last_to));
        last_from.saturating_sub(from) + to.saturating_sub(last_to)
    }
}

/// Ends a load when dropped, including a load that failed or was broken off.
#[derive(Debug)]
pub(crate) struct LoadUnderWay {
    node: Arc<NodeLoads>,
    cost: Option<Arc<LoadCost>>,
    clock: Clock,
    since: Duration,
}

impl Drop for LoadUnderWay {
    fn drop(&mut self) {
        let now = self.clock.uptime();
        if let Some(cost) = &self.cost {
            cost.end(self.since, now);
        }
        let mut charged = self.node.lock();
        charged.own -= 1;
        charged.take(self.since, now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_every_request_is_told_is_no_load() {
        let node = NodeLoads::default();
        assert_eq!(node.charge(ms(0), ms(60)), None);
        assert_eq!(node.charge(ms(0), ms(2000)), Some(ms(2000)));
    }

    #[test]
    fn a_load_that_several_waited_for_is_charged_once() {
        let node = NodeLoads::default();
        // The later load ended first.
        assert_eq!(node.charge(ms(1000), ms(2000)), Some(ms(2000)));
        assert_eq!(node.charge(ms(0), ms(3000)), Some(ms(1000)));
        assert_eq!(node.charge(ms(500), ms(2500)), None);
        assert_eq!(node.charge(ms(9000), ms(2000)), Some(ms(2000)), "the next load is another one");
    }

    #[test]
    fn nobody_pays_for_waiting_behind_a_load_of_the_gateways_own() {
        let node = Arc::new(NodeLoads::default());
        let clock = Clock::start();
        let cost = Arc::new(LoadCost::default());
        let load = node.begin(Some(cost.clone()), clock);
        assert_eq!(node.charge(ms(0), ms(2000)), None);
        assert!(cost.so_far(clock.uptime()).is_some());
        drop(load);
        let until = node.lock().last.1;
        assert_eq!(node.charge(until, ms(2000)), Some(ms(2000)), "what comes after it is another");
    }

    proptest! {
        #[test]
        fn no_moment_of_one_load_is_charged_twice(waits in proptest::collection::vec(0u64..5000, 1..8)) {
            let node = NodeLoads::default();
            // All of them wait for the end of the same load.
            let charged: Duration = waits.iter().filter_map(|wait| node.charge(ms(5000 - wait), ms(*wait))).sum();
            prop_assert!(charged <= ms(*waits.iter().max().unwrap()));
        }
    }
}
