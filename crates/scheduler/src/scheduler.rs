//! What does the scheduler hold?

use std::collections::BTreeMap;

use crate::{
    catalog::NodeSpec,
    drain::Drain,
    explain::Journal,
    forecast::Plan,
    ids::{RequestId, Time},
    learned::Learned,
    model::Models,
    node::Node,
    queue::FairQueue,
    queue_limits::QueueLimits,
    request::Request,
    share::Reach,
};

/// The state of the fleet and of its queue. [`Scheduler::handle`] is the way in.
#[derive(Clone)]
pub struct Scheduler {
    pub(crate) limits: QueueLimits,
    pub(crate) nodes: Vec<Node>,
    pub(crate) models: Models,
    /// Exactly the live ones: queued or running.
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) queue: FairQueue,
    pub(crate) drain: Drain,
    pub(crate) journal: Journal,
    pub(crate) plan: Plan,
    pub(crate) reach: Reach,
    /// What an earlier run had learned.
    pub(crate) recalled: Learned,
    pub(crate) arrivals: u64,
    /// Live requests that weigh on the retry budget.
    pub(crate) costly_retries: usize,
    pub(crate) beat_at: Option<Time>,
}

/// What waiting requests may gain or lose by an event.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) enum Change {
    Nothing,
    /// A slot, or time.
    Slot,
    /// A node, or models on it.
    Fleet,
}

impl Scheduler {
    /// A fleet of which nothing is known yet: every node is down until its
    /// first [`Event::Answered`] and has no models until its first
    /// [`Event::Listed`].
    pub fn new(limits: QueueLimits, nodes: Vec<NodeSpec>) -> Self {
        Self {
            limits,
            nodes: nodes.into_iter().map(Node::new).collect(),
            models: Models::default(),
            requests: BTreeMap::new(),
            queue: FairQueue::new(limits),
            drain: Drain::default(),
            journal: Journal::default(),
            plan: Plan::default(),
            reach: Reach::Whole,
            recalled: Learned::default(),
            arrivals: 0,
            costly_retries: 0,
            beat_at: None,
        }
    }
}
