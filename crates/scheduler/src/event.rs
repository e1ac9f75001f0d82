//! What happened outside the scheduler?

use std::{sync::Arc, time::Duration};

use crate::{
    catalog::{Loaded, Model, NodeSpec},
    failure::{CanaryVerdict, Failure, Outcome},
    ids::{NodeId, RequestId, Route, RouteSet, Time},
    prefix::Prefix,
    queue::Membership,
    share::{Reach, Spare},
};

/// A request, as far as the scheduler needs to know it.
#[derive(Clone, PartialEq, Debug)]
pub struct Arrival {
    /// The new request's id.
    pub id: RequestId,
    /// The user whose lane it joins.
    pub user: Arc<str>,
    /// The user's weight: twice the weight gets twice the work. Above 0.
    pub weight: f64,
    /// The user's group; `None` if the user competes alone, as a group of one.
    pub membership: Option<Membership>,
    /// The model as the client named it.
    pub model: Arc<str>,
    /// Estimated tokens of the prompt.
    pub prompt_tokens: u64,
    /// The most tokens the answer may have, if it is limited.
    pub max_output: Option<u64>,
    /// How many tokens it will have, if that is known: 0 for embeddings.
    pub known_output: Option<u64>,
    /// The prompt up to the end of each message, shortest first; a node may still have such a beginning cached. Empty
    /// if the prompt was not digested.
    pub prefixes: Arc<[Prefix]>,
    /// The route it came in by.
    pub route: Route,
    /// Whether the answer is streamed, so that tokens are seen as they come.
    pub is_stream: bool,
    /// How long it may wait in the queue, as a point in time.
    pub deadline: Time,
}

/// A request as the gateway that carries it reports it.
#[derive(Clone, PartialEq, Debug)]
pub struct Adopted {
    /// The request, with its deadline by this scheduler's clock.
    pub arrival: Arrival,
    /// How long ago it arrived.
    pub waited: Duration,
    /// Attempts so far, including the running one.
    pub attempts: u32,
    /// The running attempt; `None` if the request waits.
    pub ongoing: Option<Ongoing>,
}

/// An attempt that runs.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Ongoing {
    /// The node it runs on.
    pub node: NodeId,
    /// How long ago it was sent there.
    pub sent_ago: Duration,
    /// How long ago its first byte came; `None` before that.
    pub began_ago: Option<Duration>,
    /// Tokens of the answer so far.
    pub tokens: u64,
}

/// Something that happened outside.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A client sent a request. An id that is already known is ignored.
    Arrived(Arrival),
    /// Somebody is about to use this model: it may be loaded if there is room for it.
    Wanted {
        /// The model as the client named it.
        model: Arc<str>,
    },
    /// The node sent its first byte: the request is never retried from now on.
    FirstByte {
        /// The running request.
        id: RequestId,
    },
    /// How far the answer has come. Sent about once a second for a stream, and at the end of every answer.
    Progress {
        /// The running request.
        id: RequestId,
        /// Tokens of the answer so far.
        tokens: u64,
    },
    /// The node says how long it worked on a request: it read the prompt and wrote the answer in this time, which ends
    /// about now. Sent before the request leaves.
    Worked {
        /// The running request.
        id: RequestId,
        /// The node's claim.
        time: Duration,
        /// The part of it in which it wrote the answer, if it says so.
        writing: Option<Duration>,
    },
    /// The client of a stream is not reading what the node sends, so silence says nothing about the node. Sent before
    /// each [`Event::Tick`].
    Stalled {
        /// The running request.
        id: RequestId,
    },
    /// The running attempt failed before any byte reached the client; the request asks for another attempt.
    Failed {
        /// The running request.
        id: RequestId,
        /// What went wrong.
        failure: Failure,
    },
    /// A queued or running request is over.
    Left {
        /// The request that ended.
        id: RequestId,
        /// How it ended.
        outcome: Outcome,
    },
    /// `/api/tags` answered.
    Listed {
        /// The node.
        node: NodeId,
        /// All models on its disk. A report equal to the last one changes nothing and costs nothing.
        models: Arc<[Model]>,
    },
    /// `/api/ps` answered.
    Resident {
        /// The node.
        node: NodeId,
        /// All models in its memory.
        loaded: Vec<Loaded>,
    },
    /// The routes of a node are now known. They replace what was known before.
    Routes {
        /// The node.
        node: NodeId,
        /// All routes it may be asked for.
        routes: RouteSet,
    },
    /// The liveness probe was answered.
    Answered {
        /// The node.
        node: NodeId,
    },
    /// The liveness probe failed.
    Silent {
        /// The node.
        node: NodeId,
        /// How the probe failed, in words for operators.
        error: String,
    },
    /// A canary ended that [`Scheduler::begin_canary`](crate::Scheduler::begin_canary) had allowed.
    CanaryEnded {
        /// The node.
        node: NodeId,
        /// How it ended.
        verdict: CanaryVerdict,
    },
    /// A [`Decision::Load`] was carried out, or could not be.
    Loaded {
        /// The node.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
        /// The failure, if the model is not in memory now.
        result: Result<(), Failure>,
    },
    /// A [`Decision::Unload`] was carried out, or could not be.
    Unloaded {
        /// The node.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
        /// The failure, if the model may still be in memory.
        result: Result<(), Failure>,
    },
    /// A node joins the fleet. Its id is the number of nodes so far; ids are never reused.
    NodeJoined {
        /// Its id.
        node: NodeId,
        /// Its configuration.
        spec: NodeSpec,
    },
    /// A node's configuration changed.
    NodeChanged {
        /// The node.
        node: NodeId,
        /// Its new configuration.
        spec: NodeSpec,
    },
    /// A node leaves the fleet: nothing is sent to it any more, and it is no longer shown.
    NodeLeft {
        /// The node.
        node: NodeId,
    },
    /// An operator drains a node, or puts it back in use.
    Drain {
        /// The node.
        node: NodeId,
        /// True to drain it, false to put it back in use.
        on: bool,
    },
    /// Another gateway's scheduler has decided on this request so far. An id that is already known is ignored.
    Adopted(Box<Adopted>),
    /// The slots that this gateway may use have changed.
    Shared {
        /// The slots it may use from now on.
        reach: Reach,
    },
    /// Under [`Reach::Held`], another gateway has given up these slots to this one. Otherwise nothing follows from it.
    Spared(Spare),
    /// Time passed.
    Tick,
}
