//! What has become of the health of nodes? Each change once, until somebody takes it, for people who watch the fleet.

use std::collections::VecDeque;

use crate::{
    ids::{NodeId, Time},
    report::NodeState,
};

/// Changes that are kept for whoever takes them; of more, the oldest are lost.
const KEPT: usize = 1024;

/// Where a node's circuit breaker stands.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum BreakerPhase {
    /// The node has not been heard of yet.
    Unseen,
    /// In use.
    Closed,
    /// Out.
    Open,
    /// On trial.
    HalfOpen,
}

/// What people want to know of a node's health.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct NodeHealth {
    /// Whether it can be used.
    pub state: NodeState,
    /// Where its breaker stands, which `state` hides while the node drains.
    pub breaker: BreakerPhase,
    /// Whether an operator wants it to take nothing new, whatever its state.
    pub is_draining: bool,
}

/// Of a node that nobody has heard of.
impl Default for NodeHealth {
    fn default() -> Self {
        Self { state: NodeState::Down, breaker: BreakerPhase::Unseen, is_draining: false }
    }
}

/// That a node's health is another than before.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct HealthChange {
    /// Whose.
    pub node: NodeId,
    /// When it was noticed.
    pub at: Time,
    /// What it was.
    pub before: NodeHealth,
    /// What it is.
    pub after: NodeHealth,
    /// What went wrong last, while the node is not healthy.
    pub why: Option<String>,
}

/// Changes that nobody has taken yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthLog {
    changes: VecDeque<HealthChange>,
}

impl HealthLog {
    pub(crate) fn add(&mut self, change: HealthChange) {
        if self.changes.len() == KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<HealthChange> {
        self.changes.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_changes_than_are_kept_the_oldest_are_lost() {
        let mut log = HealthLog::default();
        for number in 0..=KEPT {
            let (before, after) = (NodeHealth::default(), NodeHealth::default());
            log.add(HealthChange { node: NodeId(number), at: Time::ZERO, before, after, why: None });
        }
        let taken = log.take();
        assert_eq!((taken.len(), taken[0].node, log.is_empty()), (KEPT, NodeId(1), true));
    }
}
