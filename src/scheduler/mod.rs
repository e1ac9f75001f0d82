//! Which request goes to which node, and when? Pure: events in, decisions out.
//!
//! The shell tells [`Scheduler::handle`] what happened and when, and carries
//! out what comes back. Nothing here reads a clock, does I/O or guesses: the
//! same events make the same decisions.
//!
//! # Types
//!
//! | type | holds |
//! |---|---|
//! | `Request` | one live request: queued, or on one node; its failures so far |
//! | `FairQueue` | the waiting ones, a lane per user, by turns, bounded, with deadlines |
//! | `Node` | models on disk and in memory, what runs, health |
//! | `Breaker` | unseen, closed, open until t, half-open |
//! | `Placement` | the node for a request: now, later or never |
//! | `Drain` | how fast the queue drains, for `Retry-After` |
//!
//! # States of a request
//!
//! ```text
//! Arrived --> queued <--> running --> over
//!    |          |  Failed   |          ^
//!    |          |           +- Left, or Failed for the last time
//!    |          +- Left, deadline, or no node left
//!    +- refused at once, or straight to running when there is a free slot
//! ```
//! # Invariants
//!
//! 1. A request is bound to a node only when that node has a free slot for its
//!    model: never more than `slots` run of one model on one node.
//! 2. No slot is free for a request that waits, except for one whose only free
//!    nodes are of a lower rank than a live one (see `placement`).
//! 3. Every request that arrives ends exactly once: by a refusal, or by
//!    [`Event::Left`].
//! 4. After its first byte a request is never sent anywhere else.
//! 5. At most `max_queued` wait, and `max_queued_per_user` of one user, not
//!    counting those that came back from a failed attempt.
//!
//! # Steps
//!
//! A request that arrives:
//! 1. is refused if its deadline has passed, or if no live node has the model;
//! 2. goes straight to a free slot, if nobody like it waits;
//! 3. is refused if its user's share or the queue is full;
//! 4. else waits.
//!
//! An attempt that failed:
//! 5. gives its slot back, and counts against the node's health;
//! 6. goes to the front of its user's lane, if it may be tried again;
//! 7. else is refused.
//!
//! Whenever a slot may have become free or a node came or went, for the
//! classes of requests that may be concerned:
//! 8. take the request whose turn it is;
//! 9. if a node has a free slot, send it there, and go on with 8;
//! 10. if no live node is left for its class, refuse the whole class;
//! 11. else leave the class aside, and go on with 8.

mod breaker;
mod drain;
mod ending;
mod event;
mod name;
mod node;
mod placement;
#[cfg(test)]
mod properties;
mod queue;
mod request;
#[cfg(test)]
mod rules;
mod view;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::event::{
    Decision, Event, Failure, Loaded, Model, NodeId, NodeSpec, NodeState, NodeView, Outcome, Refusal, RefusalReason,
    RequestId, Routed, Time, Transitions,
};
use self::{
    drain::Drain,
    node::Node,
    placement::{Placement, Slot, place},
    queue::{Class, FairQueue},
    request::{Attempt, Request},
};

/// How much may wait.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Requests that may wait in all. Default 1000. Zero: nothing waits; what
    /// finds no free slot is refused.
    pub max_queued: usize,
    /// Requests of one user that may wait. Default 100. Zero: as above.
    pub max_queued_per_user: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_queued: 1000, max_queued_per_user: 100 }
    }
}

/// See the module.
pub struct Scheduler {
    settings: Settings,
    nodes: Vec<Node>,
    /// Exactly the live ones: queued or running.
    requests: BTreeMap<RequestId, Request>,
    queue: FairQueue,
    drain: Drain,
    arrivals: u64,
    dispatches: u64,
    /// Live requests that weigh on the retry budget.
    costly_retries: usize,
}

/// What waiting requests may gain or lose by an event.
enum Change {
    Nothing,
    /// A slot for the model listed under this name.
    Slot(Arc<str>),
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
            requests: BTreeMap::new(),
            queue: FairQueue::new(settings),
            drain: Drain::default(),
            arrivals: 0,
            dispatches: 0,
            costly_retries: 0,
        }
    }

    /// Takes note of an event and decides what follows from it. `now` must
    /// never go back. Events about unknown requests or nodes are ignored.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let change = match event {
            Event::Arrived { id, user, model, deadline } => {
                self.arrive(id, Request::new(user, model, deadline, self.arrivals), now, &mut decisions)
            }
            Event::FirstByte { id } => self.first_byte(id),
            Event::Failed { id, failure } => self.fail(id, failure, now, &mut decisions),
            Event::Left { id, outcome } => self.leave(id, outcome, now),
            Event::Listed { node, models } => self.judge(node, |node| node.list(models)),
            Event::Resident { node, loaded } => self.judge(node, |node| node.reside(loaded)),
            Event::Answered { node } => self.judge(node, |node| node.answered(now)),
            Event::Silent { node, error } => self.judge(node, |node| node.silent(error, now)),
            Event::Tick => self.tick(now, &mut decisions),
        };
        match change {
            Change::Nothing => {}
            Change::Slot(listed) => self.place_waiting(self.queue.classes_of(&listed), now, &mut decisions),
            Change::Fleet => self.place_waiting(self.queue.classes(), now, &mut decisions),
        }
        decisions
    }

    /// When an [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadline = self.queue.next_deadline()?;
        let back_offs = self.nodes.iter().filter_map(Node::busy_until);
        Some(back_offs.fold(deadline, Time::min))
    }

    fn arrive(&mut self, id: RequestId, request: Request, now: Time, decisions: &mut Vec<Decision>) -> Change {
        if self.requests.contains_key(&id) {
            return Change::Nothing;
        }
        // 1.
        if request.deadline() <= now {
            decisions.push(self.refusal(id, &request, RefusalReason::DeadlinePassed, now));
            return Change::Nothing;
        }
        self.arrivals += 1;
        let placement = place(&self.nodes, &request.class(), now);
        let objection = match placement {
            Placement::Never => Some(RefusalReason::NoNode),
            // 2.
            Placement::Now(slot) if !self.queue.has_fresh(&request.model) => {
                self.requests.insert(id, request);
                self.start(id, slot, decisions);
                return Change::Nothing;
            }
            // 3.
            _ => self.queue.objection(&request.user),
        };
        if let Some(reason) = objection {
            decisions.push(self.refusal(id, &request, reason, now));
            return Change::Nothing;
        }
        // 4.
        let model = request.model.clone();
        self.queue.push(request.entry(id));
        self.requests.insert(id, request);
        match placement {
            Placement::Now(_) => Change::Slot(model),
            _ => Change::Nothing,
        }
    }

    fn place_waiting(&mut self, mut classes: Vec<Class>, now: Time, decisions: &mut Vec<Decision>) {
        // 8.
        while let Some((index, id)) = self.queue.next_of(&classes) {
            match place(&self.nodes, &classes[index], now) {
                // 9.
                Placement::Now(slot) => {
                    if let Some(request) = self.requests.get(&id) {
                        self.queue.remove(&request.entry(id));
                    }
                    self.start(id, slot, decisions);
                }
                // 10.
                Placement::Never => {
                    for id in self.queue.ids_of(&classes.swap_remove(index)) {
                        self.refuse_without_node(id, now, decisions);
                    }
                }
                // 11.
                Placement::Later => {
                    classes.swap_remove(index);
                }
            }
        }
    }

    fn start(&mut self, id: RequestId, slot: Slot, decisions: &mut Vec<Decision>) {
        let Slot { node, listed } = slot;
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        self.dispatches += 1;
        let is_warm = self.nodes[node.0].has_loaded(&listed);
        let epoch = self.nodes[node.0].occupy(id, &listed, self.dispatches);
        let attempt = request.start(Attempt { node, listed, epoch, has_first_byte: false });
        self.nodes[node.0].count_routed(attempt, is_warm);
        self.queue.served(&request.user);
        decisions.push(Decision::Dispatch { id, node, attempt });
    }
}
