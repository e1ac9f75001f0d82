//! Who pays for the time that nodes load models? The request that caused the load, each load once.
//!
//! The gateway's own loads are measured, by a [`LoadCost`] each. A node that loads by itself says so in its own dialect, to
//! everybody who waited for it, and also where the gateway loads another model there: [`NodeLoads`] charges no moment of a
//! node twice.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::dispatch::LoadCost;

/// What a node reports below this is how it takes up any request, and no load.
const LEAST_LOAD: Duration = Duration::from_millis(250);

/// The loads of one node.
#[derive(Debug, Default)]
pub(crate) struct NodeLoads(Mutex<Charged>);

#[derive(Debug, Default)]
struct Charged {
    /// The gateway's own that are under way.
    own: u32,
    /// From and to, uptimes: the last load that is charged, or that was the gateway's own.
    last: (Duration, Duration),
}

impl NodeLoads {
    /// A load of the gateway's own, until the guard is dropped; `cost` is of whoever caused it.
    pub(crate) fn begin(self: &Arc<Self>, cost: Option<Arc<LoadCost>>, clock: Clock) -> LoadUnderWay {
        let since = clock.uptime();
        self.lock().own += 1;
        if let Some(cost) = &cost {
            cost.begin(since);
        }
        LoadUnderWay { node: self.clone(), cost, clock, since }
    }

    /// What of a load that a node reports is to be charged to the request that it was given at `since`.
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
    /// How much of this time is not in the last load, which it belongs to where they overlap.
    fn take(&mut self, from: Duration, to: Duration) -> Duration {
        let (last_from, last_to) = self.last;
        if from >= last_to || to <= last_from {
            self.last = if to > last_to { (from, to) } else { self.last };
            return to.saturating_sub(from);
        }
        self.last = (from.min(last_from), to.max(last_to));
        last_from.saturating_sub(from) + to.saturating_sub(last_to)
    }
}

/// Ends a load when dropped: also one that fails, or is broken off.
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
        // The later one has ended first.
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
            // They all wait for the end of one load.
            let charged: Duration = waits.iter().filter_map(|wait| node.charge(ms(5000 - wait), ms(*wait))).sum();
            prop_assert!(charged <= ms(*waits.iter().max().unwrap()));
        }
    }
}
