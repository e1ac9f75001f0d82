//! What must be done to the nodes' memory, and how long were the loads that one request caused? Each request has a
//! [`LoadCost`], in which the loader measures the gateway's own loads.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use scheduler::NodeId;

/// A change to a node's memory.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Load a model.
    Load {
        /// The node.
        node: NodeId,
        /// As the node lists it.
        model: Arc<str>,
        /// Measures the load for the request that caused it, if there is one.
        cost: Option<Arc<LoadCost>>,
    },
    /// Unload a model.
    Unload {
        /// The node.
        node: NodeId,
        /// As the node lists it.
        model: Arc<str>,
    },
}

/// The time of the loads that one request caused.
#[derive(Debug, Default)]
pub struct LoadCost(Mutex<Loads>);

#[derive(Debug, Default)]
struct Loads {
    over: Option<Duration>,
    /// The uptimes at which the loads in progress began: usually one, and a second if the first one's node was removed.
    under_way: Vec<Duration>,
}

impl LoadCost {
    /// A load begins.
    pub(crate) fn begin(&self, now: Duration) {
        self.lock().under_way.push(now);
    }

    /// The load that began at `since` is over.
    pub(crate) fn end(&self, since: Duration, now: Duration) {
        let mut loads = self.lock();
        if let Some(index) = loads.under_way.iter().position(|began| *began == since) {
            loads.under_way.swap_remove(index);
            loads.over = Some(loads.over.unwrap_or_default() + now.saturating_sub(since));
        }
    }

    /// For a request that ends before its load: the time that the load has taken so far. `None` if the request caused
    /// none.
    pub(crate) fn so_far(&self, now: Duration) -> Option<Duration> {
        let loads = self.lock();
        let under_way = loads.under_way.iter().map(|since| now.saturating_sub(*since));
        loads.over.into_iter().chain(under_way).reduce(|a, b| a + b)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_request_pays_for_each_of_its_loads_and_for_what_one_under_way_has_taken() {
        let cost = LoadCost::default();
        assert_eq!(cost.so_far(ms(5)), None);
        cost.begin(ms(10));
        assert_eq!(cost.so_far(ms(14)), Some(ms(4)));
        cost.end(ms(10), ms(20));
        assert_eq!(cost.so_far(ms(50)), Some(ms(10)));
        cost.begin(ms(60));
        cost.begin(ms(61));
        assert_eq!(cost.so_far(ms(63)), Some(ms(15)));
        cost.end(ms(60), ms(64));
        assert_eq!(cost.so_far(ms(65)), Some(ms(18)));
        cost.end(ms(61), ms(65));
        cost.end(ms(61), ms(99));
        assert_eq!(cost.so_far(ms(99)), Some(ms(18)), "an end without a beginning is none");
    }
}
