//! Which request goes to which node, and when? Pure: events in, decisions out.
//!
//! The shell tells [`Scheduler::handle`] what happened and when, and carries
//! out what comes back. Nothing here reads a clock, does I/O or guesses: the
//! same events make the same decisions, and a clone that is told the same
//! events from then on makes the same decisions as well.
//!
//! # Types
//!
//! | type | holds |
//! |---|---|
//! | `Request` | one live request: queued, or on one node; its failures so far |
//! | `FairQueue` | the waiting ones, a lane per user, by least service, bounded, with deadlines |
//! | `Node` | models, what runs, what is loaded, health, speed |
//! | `Instance` | one model on one node: in memory or not, slots, what runs |
//! | `Load` | a model on its way into a node's memory |
//! | `Plan` | where the next requests would go as things stand; the algorithm is there |
//! | `Breaker` | unseen, closed, open until t, half-open |
//! | `Drain` | how fast the queue drains, for `Retry-After` |
//! | `Journal` | why each of the last requests went where it went |
//!
//! # States of a request
//!
//! ```text
//! Arrived --> queued <--> running --> over
//!    |          |  Failed   |          ^
//!    |          |  Abandon  +- Left, or Failed for the last time
//!    |          +- Left, deadline, or no node left
//!    +- refused at once, or straight to running when there is a free slot
//! ```
//! # Invariants
//!
//! 1. A request is bound to a node only when that node has the model in memory and a free slot for it: never more than
//!    `slots` run of one model on one node, and one more while the number of slots is being learned.
//! 2. No slot is free for a request that waits, unless the plan expects it to be served sooner elsewhere.
//! 3. Every request that arrives ends exactly once: by a refusal, or by
//!    [`Event::Left`].
//! 4. After its first byte a request is never sent anywhere else.
//! 5. At most `max_queued` wait, and `max_queued_per_user` of one user, not
//!    counting those that came back from a failed attempt.
//! 6. Nothing is sent to a model that is to leave a node's memory, and it is unloaded only when nothing of it runs there.
//!
//! # Steps
//!
//! A request that arrives:
//! 1. is refused if its deadline has passed, or if no live node has the model;
//! 2. is put into the queue, and goes straight on if the plan has a free slot for it;
//! 3. is refused if it would have to wait, and its user's share or the queue is full;
//! 4. else waits.
//!
//! An attempt that failed, or was broken off because its node fell silent:
//! 5. gives its slot back, and counts against the node's health;
//! 6. goes to the front of its user's lane, if it may be tried again;
//! 7. else is refused.
//!
//! Then, whatever happened:
//! 8. loads whose victims have drained go on;
//! 9. what waits is placed (see [`plan`]);
//! 10. where a node went, the requests that no node is left for are refused.

mod breaker;
mod drain;
mod ending;
mod estimate;
mod event;
mod explain;
mod instance;
mod learned;
mod loading;
mod model;
mod name;
mod node;
pub mod plan;
#[cfg(test)]
mod properties;
mod queue;
mod request;
#[cfg(test)]
mod rules;
mod silence;
mod view;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use self::{
    drain::Drain,
    explain::Journal,
    model::Models,
    node::Node,
    plan::Plan,
    queue::{Entry, FairQueue},
    request::{Request, cost},
};
pub use self::{
    event::{
        Arrival, Decision, Event, Failure, Loaded, Model, NodeId, NodeSpec, NodeState, NodeView, Outcome, Refusal,
        RefusalReason, RequestId, Routed, Time, Transitions,
    },
    explain::{Alternative, Kind, Step, Story, What},
    learned::Learned,
    view::Waiting,
};

/// How often the plan is made anew while nothing happens, and silent nodes are looked for.
const BEAT: Duration = Duration::from_secs(1);

/// How many requests may wait for a slot.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Requests that may wait, over all users; the next one gets 503. 0 = none may wait. Default `1000`.
    pub max_queued: usize,
    /// Requests of one user that may wait; the next one gets 429. 0 = none may wait. Default `100`.
    pub max_queued_per_user: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_queued: 1000, max_queued_per_user: 100 }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Scheduler {
    settings: Settings,
    nodes: Vec<Node>,
    models: Models,
    /// Exactly the live ones: queued or running.
    requests: BTreeMap<RequestId, Request>,
    queue: FairQueue,
    drain: Drain,
    journal: Journal,
    plan: Plan,
    /// What an earlier run had learned.
    recalled: Learned,
    arrivals: u64,
    /// Live requests that weigh on the retry budget.
    costly_retries: usize,
    beat_at: Option<Time>,
}

/// What waiting requests may gain or lose by an event.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Change {
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
    pub fn new(settings: Settings, nodes: Vec<NodeSpec>) -> Self {
        Self {
            settings,
            nodes: nodes.into_iter().map(Node::new).collect(),
            models: Models::default(),
            requests: BTreeMap::new(),
            queue: FairQueue::new(settings),
            drain: Drain::default(),
            journal: Journal::default(),
            plan: Plan::default(),
            recalled: Learned::default(),
            arrivals: 0,
            costly_retries: 0,
            beat_at: None,
        }
    }

    /// Takes note of an event and decides what follows from it. `now` must
    /// never go back. Events about unknown requests or nodes are ignored.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let change = match event {
            Event::Arrived(arrival) => self.arrive(arrival, now, &mut decisions),
            Event::Wanted { model } => self.want(&model, now, &mut decisions),
            Event::FirstByte { id } => self.first_byte(id, now),
            Event::Progress { id, tokens } => {
                self.progress(id, tokens, now);
                Change::Nothing
            }
            Event::Stalled { id } => {
                self.stalled(id, now);
                Change::Nothing
            }
            Event::Failed { id, failure } => self.fail(id, failure, now, &mut decisions),
            Event::Left { id, outcome } => self.leave(id, outcome, now),
            Event::Tick => self.tick(now, &mut decisions),
            event => self.hear_of_node(event, now, &mut decisions),
        };
        if change != Change::Nothing {
            self.go_on(change, now, &mut decisions);
        }
        self.arm(now);
        decisions
    }

    fn hear_of_node(&mut self, event: Event, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let seconds = now.as_secs_f64();
        match event {
            Event::Listed { node, models } => self.with_models(node, |node, known| node.list(models, known)),
            Event::Resident { node, loaded } => {
                let change = self.with_models(node, |node, known| node.reside(loaded, known, seconds));
                if change == Change::Nothing { Change::Slot } else { change }
            }
            Event::Answered { node } => self.judge(node, |node| node.answered(now)),
            Event::Silent { node, error } => self.judge(node, |node| node.silent(error, now)),
            Event::Loaded { node, model, result } => {
                self.loaded(node, &model, result, now);
                Change::Fleet
            }
            Event::Unloaded { node, model, result } => {
                self.unloaded(node, &model, result, now, decisions);
                Change::Fleet
            }
            Event::NodeJoined { node, spec } => {
                if node.0 == self.nodes.len() {
                    self.nodes.push(Node::new(spec));
                    self.recall_node(node);
                }
                Change::Nothing
            }
            Event::NodeChanged { node, spec } => {
                self.nodes.get_mut(node.0).into_iter().for_each(|node| node.reconfigure(spec.clone()));
                Change::Fleet
            }
            Event::NodeLeft { node } => self.judge(node, |node| node.has_left = true),
            Event::Drain { node, on } => self.judge(node, |node| node.is_draining = on),
            _ => Change::Nothing,
        }
    }

    fn with_models(&mut self, node: NodeId, act: impl FnOnce(&mut Node, &mut Models)) -> Change {
        let mut models = std::mem::take(&mut self.models);
        let change = self.judge(node, |node| act(node, &mut models));
        self.models = models;
        change
    }

    /// Steps 8 to 10.
    fn go_on(&mut self, change: Change, now: Time, decisions: &mut Vec<Decision>) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].load.is_some() {
                self.advance_load(NodeId(index), now, decisions);
            }
        }
        if self.queue.len() == 0 {
            return;
        }
        if change == Change::Fleet {
            self.refuse_unservable(now, decisions);
        }
        self.plan(now, decisions);
    }

    /// When an [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let back_offs = self.nodes.iter().filter_map(Node::busy_until);
        back_offs.chain(self.queue.next_deadline()).chain(self.beat_at).min()
    }

    fn arm(&mut self, now: Time) {
        let is_at_rest = self.requests.is_empty();
        self.beat_at = match self.beat_at {
            _ if is_at_rest => None,
            Some(at) if at > now => Some(at),
            _ => Some(now + BEAT),
        };
    }

    fn arrive(&mut self, arrival: Arrival, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let id = arrival.id;
        if self.requests.contains_key(&id) {
            return Change::Nothing;
        }
        self.journal.arrived(id, self.queue.len(), now);
        // 1.
        let model = self.models.find(&arrival.model);
        let servable = model.filter(|model| !self.has_no_node(*model, None, now));
        let Some(model) = servable.filter(|_| arrival.deadline > now) else {
            let reason = match model {
                _ if arrival.deadline <= now => RefusalReason::DeadlinePassed,
                Some(model) => self.why_no_node(model, None),
                None => RefusalReason::NoNode,
            };
            let retry_after = model.map_or(Duration::from_secs(5), |model| self.retry_after(reason, model, now));
            self.journal.note(id, What::Refused(reason), now);
            decisions.push(Decision::Refuse { id, refusal: Refusal { reason, retry_after } });
            return Change::Nothing;
        };
        self.models.get_mut(model).demand.asked(now.as_secs_f64());
        let objection = self.queue.objection(&arrival.user);
        let lane = self.queue.lane(&arrival.user, arrival.weight, now);
        self.arrivals += 1;
        self.requests.insert(id, Request::new(arrival, lane, model, self.arrivals, now));
        // 2.
        self.enqueue(id, now);
        let Some(reason) = objection else {
            // 4.
            return Change::Slot;
        };
        // 3.
        self.go_on(Change::Slot, now, decisions);
        if self.requests.get(&id).is_some_and(|request| request.attempt.is_none()) {
            self.refuse_queued(id, reason, now, decisions);
        }
        Change::Nothing
    }

    /// Puts a request into the queue.
    fn enqueue(&mut self, id: RequestId, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let size = |node: &Node| Some(node.instance(request.model)?.listing.as_ref()?.size_bytes);
        let bytes = self.nodes.iter().find_map(size).unwrap_or(0);
        let entry = Entry {
            id,
            model: request.model,
            position: request.position(),
            arrived: request.arrived,
            deadline: request.deadline,
            cost: cost(request.prompt, self.expected_output(request), bytes as f64),
        };
        self.queue.push(request.lane, entry, now);
    }

    /// Loads a model that is about to be asked for, where that costs nobody anything.
    fn want(&mut self, asked: &str, now: Time, decisions: &mut Vec<Decision>) -> Change {
        let Some(model) = self.models.find(asked) else { return Change::Nothing };
        let is_there = |node: &Node| {
            let is_loading = node.load.as_ref().is_some_and(|load| load.model == model);
            let is_resident = node.instance(model).is_some_and(|instance| instance.resident_since.is_some());
            node.is_open() && (is_loading || is_resident)
        };
        if self.nodes.iter().any(is_there) {
            return Change::Nothing;
        }
        let seconds = now.as_secs_f64();
        let candidates = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let instance = node.instance(model)?;
            let can = node.is_open() && node.load.is_none() && instance.listing.is_some();
            (can && instance.load_again_at <= seconds && node.has_room_for(instance))
                .then(|| (node.load_seconds(instance), NodeId(index)))
        });
        if let Some((_, node)) = candidates.min_by(|a, b| a.0.total_cmp(&b.0)) {
            self.begin_load(node, model, Vec::new(), None, now, decisions);
        }
        Change::Nothing
    }
}
