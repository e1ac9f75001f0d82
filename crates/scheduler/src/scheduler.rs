//! What does the scheduler hold?

use crate::{
    catalog::NodeSpec,
    drain::Drain,
    estimate::FIRST_GUESS,
    explain::Best,
    fleet::Fleet,
    forecast::Forecast,
    hosts::Hosts,
    ids::{RequestId, Time},
    journal::Journal,
    learned::Learned,
    lookup::Lookup,
    model::{ModelId, Models},
    node::Node,
    prefix::PrefixMemory,
    queue::{FairQueue, Line},
    queue_limits::QueueLimits,
    request::Request,
    share::Reach,
    sorted_set::SortedSet,
    witnesses::Witnesses,
};

/// The fleet, the queue, and everything learned about both. Use it through [`Scheduler::handle`].
#[derive(Clone)]
pub struct Scheduler {
    pub(crate) limits: QueueLimits,
    pub(crate) fleet: Fleet,
    pub(crate) models: Models,
    /// By [`ModelId`]: what the nodes have cached of its prompts.
    pub(crate) memories: Vec<PrefixMemory>,
    /// By [`ModelId`]: what the last plan saw of its nodes.
    pub(crate) hosts: Vec<Hosts>,
    /// Exactly the live requests: queued or running. Boxed, so that the table is small.
    pub(crate) requests: Lookup<RequestId, Box<Request>>,
    pub(crate) queue: FairQueue,
    pub(crate) drain: Drain,
    pub(crate) journal: Journal,
    /// Users whose requests failed lately.
    pub(crate) witnesses: Witnesses,
    pub(crate) reach: Reach,
    /// The last plan's forecast, kept to save allocations.
    pub(crate) forecast: Forecast,
    /// Kept for the same reason.
    pub(crate) line: Line,
    pub(crate) best: Best,
    pub(crate) planned: Vec<ModelId>,
    /// What an earlier run had learned.
    pub(crate) recalled: Learned,
    /// Seconds a token on a node that was not measured: as on the fastest node.
    pub(crate) guess: f64,
    /// When unused estimates drifted last, in seconds.
    pub(crate) drifted_at: f64,
    pub(crate) arrivals: u64,
    /// Live requests that count against the retry budget.
    pub(crate) costly_retries: usize,
    pub(crate) beat_at: Option<Time>,
    /// Plans made so far.
    pub(crate) plans: u64,
    /// Models to plan for before the current event is finished.
    pub(crate) stirred: SortedSet<ModelId>,
    pub(crate) has_losses: bool,
    pub(crate) has_moves: bool,
    /// The request that has just arrived, until a plan has looked at it.
    pub(crate) newcomer: Option<RequestId>,
    /// Loads that the current event has begun.
    pub(crate) loads_begun: usize,
    /// By [`ModelId`]: when to look for loads again, in seconds.
    pub(crate) next_looks: Vec<f64>,
    /// The node at which the next look for a load begins.
    pub(crate) load_cursor: usize,
}

impl Scheduler {
    /// Creates a scheduler for nodes that have not been heard from: each is down until its first
    /// [`crate::Event::Answered`], and has no models until its first [`crate::Event::Listed`].
    pub fn new(limits: QueueLimits, nodes: Vec<NodeSpec>) -> Self {
        Self {
            limits,
            fleet: Fleet::new(nodes.into_iter().map(Node::new)),
            models: Models::default(),
            memories: Vec::new(),
            hosts: Vec::new(),
            requests: Lookup::default(),
            queue: FairQueue::new(limits),
            drain: Drain::default(),
            journal: Journal::default(),
            witnesses: Witnesses::default(),
            forecast: Forecast::default(),
            line: Line::default(),
            best: Best::default(),
            planned: Vec::new(),
            reach: Reach::Whole,
            recalled: Learned::default(),
            guess: FIRST_GUESS,
            drifted_at: 0.0,
            arrivals: 0,
            costly_retries: 0,
            beat_at: None,
            plans: 0,
            stirred: SortedSet::new(),
            has_losses: false,
            has_moves: false,
            newcomer: None,
            loads_begun: 0,
            next_looks: Vec::new(),
            load_cursor: 0,
        }
    }

    /// Updates the fleet's index, and collects the models to plan for.
    pub(crate) fn settle(&mut self, now: Time) {
        if !self.fleet.is_settled() {
            self.take_news(now);
        }
    }

    /// Apart from the question whether there is anything to do, which is asked several times in each event.
    #[inline(never)]
    fn take_news(&mut self, now: Time) {
        let news = self.fleet.settle(now);
        for (node, model) in news.unloaded.drain(..) {
            if let Some(memory) = self.memories.get_mut(model.0) {
                memory.forget(node);
            }
        }
        self.stirred.append(&mut news.models);
        self.has_losses |= std::mem::take(&mut news.has_losses);
        self.has_moves |= std::mem::take(&mut news.has_moves);
    }

    /// Assumes that unmeasured nodes are as fast as the fastest measured one.
    pub(crate) fn guess_speed(&mut self) {
        let measured = self.fleet.iter().filter_map(|node| node.speed.alone());
        self.guess = measured.min_by(f64::total_cmp).unwrap_or(FIRST_GUESS);
    }
}
