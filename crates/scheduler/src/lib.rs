//! Which request goes to which node, and when? Pure: events in, decisions out.
//!
//! The shell tells [`Scheduler::handle`] what happened and when, and carries out what it returns. Nothing here reads a
//! clock, does I/O or draws random numbers: the same events make the same decisions, also in a clone.
//!
//! # Types
//!
//! | type | holds |
//! |---|---|
//! | `Request` | one live request: queued or on one node, with its failures so far |
//! | `FairQueue` | the waiting requests: a lane for each user, in groups, least service first, bounded, with deadlines |
//! | `Node` | its models, what runs, what is loaded, health, speed |
//! | `Instance` | one model on one node: in memory or not, slots, what runs |
//! | `Load` | a model being loaded into a node's memory |
//! | `Hosts` | the nodes that have one model in memory, as the last plan saw them |
//! | `Plan` | where the next requests would go as things stand; the algorithm is described there |
//! | `Breaker` | unseen, closed, open until t, half-open |
//! | `Drain` | how fast the queue drains, for `Retry-After` |
//! | `Journal` | why each of the latest requests went where it went |
//! | `HealthLog` | what has become of the health of nodes, until somebody takes it |
//!
//! # States of a request
//!
//! ```text
//! Arrived --> queued <--> running --> over
//!    |          |  Failed   |          ^
//!    |          |  Abandon  +- Left, or Failed for the last time
//!    |          +- Left, deadline, or no node left
//!    +- refused at once, or straight to running if a slot is free
//! ```
//! # Invariants
//!
//! 1. A request is bound to a node only when that node has the model in memory and a free slot for it. At most `slots`
//!    requests of one model run on one node, or one more while the number of slots is being learned.
//! 2. No slot stays free while a request for its model waits, unless the plan expects it to be served sooner elsewhere.
//! 3. Every request that arrives ends exactly once: by a refusal, or by [`Event::Left`].
//! 4. After its first byte a request is never sent anywhere else.
//! 5. At most `max_queued` requests wait, and at most `max_queued_per_user` of one user, not counting those that
//!    returned from a failed attempt.
//! 6. Nothing is sent to a model that is about to be unloaded, and it is unloaded only when nothing runs on it.
//!
//! # Steps
//!
//! A request that arrives:
//! 1. is refused if its deadline has passed, or if no live node has the model;
//! 2. joins the queue, and goes straight to a node if the plan has a free slot for it;
//! 3. is refused if it would have to wait, and the queue or its user's part of it is full;
//! 4. otherwise waits.
//!
//! An attempt that failed, or was broken off because its node fell silent:
//! 5. frees its slot, and counts against what is to blame: the node, the model there, or nobody yet (see [`Blame`]);
//! 6. goes to the front of its user's lane if it may be tried again;
//! 7. otherwise is refused.
//!
//! Then, after every event:
//! 8. loads whose victims have drained go on;
//! 9. waiting requests are placed (see [`plan`]);
//! 10. if a node was lost, requests with no node left are refused.

mod absorb;
mod accusations;
mod adopt;
mod breaker;
mod calibration;
mod catalog;
mod choose;
mod correction;
mod decision;
mod dispatch;
mod disuse;
mod drain;
mod drift;
mod ending;
mod estimate;
mod event;
mod explain;
mod failure;
mod fleet;
mod forecast;
mod forget;
mod handle;
mod health_log;
mod hosts;
mod ids;
mod instance;
mod journal;
mod learned;
mod loading;
mod lookup;
mod model;
mod node;
mod older_first;
mod place;
mod place_search;
mod plan;
mod prefix;
#[cfg(test)]
mod properties;
mod queue;
mod queue_limits;
mod reading;
mod recall;
mod report;
mod request;
mod room;
#[cfg(test)]
mod rules;
mod running;
mod scheduler;
mod service;
mod share;
mod sharing;
mod silence;
mod slots;
mod sorted_set;
mod suspicion;
mod view;
mod witnesses;

pub use self::{
    catalog::{Loaded, Model, NodeSpec},
    decision::{Decision, Refusal, RefusalReason},
    event::{Adopted, Arrival, Event, Ongoing},
    explain::{Alternative, Backlog, Kind, Step, Story, What},
    failure::{Blame, Failure, Outcome},
    health_log::{BreakerPhase, HealthChange, NodeHealth},
    ids::{NodeId, RequestId, Time},
    learned::Learned,
    prefix::Prefix,
    queue::Membership,
    queue_limits::QueueLimits,
    report::{NodeState, NodeView, PromptTokens, Routed, Transitions, Use},
    scheduler::Scheduler,
    share::{Reach, Share, Spare},
    view::{NODES_AT_A_LOOK, Pace, Waiting},
};
pub use crate::failure::CanaryVerdict;
pub use crate::ids::{Route, RouteSet};
