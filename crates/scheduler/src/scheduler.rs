//! What does the scheduler hold?

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::NodeSpec,
    drain::Drain,
    estimate::FIRST_GUESS,
    explain::Journal,
    fleet::Fleet,
    forecast::Forecast,
    ids::{RequestId, Time},
    learned::Learned,
    model::{ModelId, Models},
    node::Node,
    prefix::PrefixMemory,
    queue::{FairQueue, Next},
    queue_limits::QueueLimits,
    request::Request,
};

/// The fleet, the queue, and all that is known of both. [`Scheduler::handle`] is the way in.
#[derive(Clone)]
pub struct Scheduler {
    pub(crate) limits: QueueLimits,
    pub(crate) fleet: Fleet,
    pub(crate) models: Models,
    /// By [`ModelId`]: what the nodes have cached.
    pub(crate) memories: Vec<PrefixMemory>,
    /// Exactly the live ones: queued or running.
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) queue: FairQueue,
    pub(crate) drain: Drain,
    pub(crate) journal: Journal,
    /// The last plan's, kept to save allocations.
    pub(crate) forecast: Forecast,
    /// The same.
    pub(crate) line: Vec<Next>,
    /// What an earlier run had learned.
    pub(crate) recalled: Learned,
    /// Seconds a token takes on a node that was not measured: as on the fastest of the others.
    pub(crate) guess: f64,
    pub(crate) arrivals: u64,
    /// Live requests that count towards the retry budget.
    pub(crate) costly_retries: usize,
    pub(crate) beat_at: Option<Time>,
    /// Plans made so far.
    pub(crate) plans: u64,
    /// Models to be planned for before the current event is done with.
    pub(crate) stirred: BTreeSet<ModelId>,
    pub(crate) has_losses: bool,
    pub(crate) has_moves: bool,
    /// The request that has just arrived, until a plan has come to it.
    pub(crate) newcomer: Option<RequestId>,
    /// Loads that the current event has begun.
    pub(crate) loads_begun: usize,
    /// By [`ModelId`]: when loads are looked for again, in seconds.
    pub(crate) next_looks: Vec<f64>,
    /// Where the next look for a node to load on begins.
    pub(crate) load_cursor: usize,
}

impl Scheduler {
    /// A fleet of which nothing is known yet: every node is down until its first [`crate::Event::Answered`], and has no
    /// models until its first [`crate::Event::Listed`].
    pub fn new(limits: QueueLimits, nodes: Vec<NodeSpec>) -> Self {
        Self {
            limits,
            fleet: Fleet::new(nodes.into_iter().map(Node::new)),
            models: Models::default(),
            memories: Vec::new(),
            requests: BTreeMap::new(),
            queue: FairQueue::new(limits),
            drain: Drain::default(),
            journal: Journal::default(),
            forecast: Forecast::default(),
            line: Vec::new(),
            recalled: Learned::default(),
            guess: FIRST_GUESS,
            arrivals: 0,
            costly_retries: 0,
            beat_at: None,
            plans: 0,
            stirred: BTreeSet::new(),
            has_losses: false,
            has_moves: false,
            newcomer: None,
            loads_begun: 0,
            next_looks: Vec::new(),
            load_cursor: 0,
        }
    }

    /// Brings the index of the fleet up to date, and notes what is to be planned.
    pub(crate) fn settle(&mut self, now: Time) {
        let news = self.fleet.settle(now);
        for (node, model) in news.unloaded {
            if let Some(memory) = self.memories.get_mut(model.0) {
                memory.forget(node);
            }
        }
        self.stirred.extend(news.models);
        self.has_losses |= news.has_losses;
        self.has_moves |= news.has_moves;
    }

    /// Takes nodes that were not measured to be as fast as the fastest that was.
    pub(crate) fn guess_speed(&mut self) {
        let measured = self.fleet.iter().filter_map(|node| node.speed.alone());
        self.guess = measured.min_by(f64::total_cmp).unwrap_or(FIRST_GUESS);
    }
}
