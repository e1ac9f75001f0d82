//! What happened outside?

use std::sync::Arc;

use crate::{
    catalog::{Loaded, Model, NodeSpec},
    failure::{Failure, Outcome},
    ids::{NodeId, RequestId, Time},
    prefix::Prefix,
    route::{Route, RouteSet},
};

/// A request, as the scheduler needs to know it.
#[derive(Clone, PartialEq, Debug)]
pub struct Arrival {
    /// The new request.
    pub id: RequestId,
    /// Whose turn it takes.
    pub user: Arc<str>,
    /// The user's share, beside others': twice the weight, twice the work. Above 0.
    pub weight: f64,
    /// The model as the client named it.
    pub model: Arc<str>,
    /// Tokens of the prompt, about.
    pub prompt_tokens: u64,
    /// The most tokens the answer may have, if there is a limit.
    pub max_output: Option<u64>,
    /// How many it will have, where that is known: none for embeddings.
    pub known_output: Option<u64>,
    /// The prompt up to the end of each message, the shortest first: what of it a node may still have cached. Empty
    /// where nothing is known.
    pub prefixes: Arc<[Prefix]>,
    /// The route it came by.
    pub route: Route,
    /// Whether the answer streams, so that tokens are seen as they come.
    pub is_stream: bool,
    /// Until when it may wait in the queue.
    pub deadline: Time,
}

/// Something that happened outside.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A client asks. An id already known is ignored.
    Arrived(Arrival),
    /// Somebody is about to use this model: it may be loaded where there is room for it.
    Wanted {
        /// The model as the client named it.
        model: Arc<str>,
    },
    /// The node's first byte is here: never retried from now on.
    FirstByte {
        /// The running request.
        id: RequestId,
    },
    /// The answer has come so far. Told of a stream about once a second, and of any answer at its end.
    Progress {
        /// The running request.
        id: RequestId,
        /// Tokens so far.
        tokens: u64,
    },
    /// The client of a stream does not take what the node sends: that nothing is heard of it says nothing of the node.
    /// Told before each [`Event::Tick`].
    Stalled {
        /// The running request.
        id: RequestId,
    },
    /// The running attempt failed before any byte reached the client; asks for
    /// another attempt.
    Failed {
        /// The running request.
        id: RequestId,
        /// What went wrong.
        failure: Failure,
    },
    /// Queued or running: it is over.
    Left {
        /// The request that ended.
        id: RequestId,
        /// How it ended.
        outcome: Outcome,
    },
    /// `/api/tags` answered.
    Listed {
        /// Which node.
        node: NodeId,
        /// All it has on disk. A report that is the same list as the last one changes nothing and costs nothing.
        models: Arc<[Model]>,
    },
    /// `/api/ps` answered.
    Resident {
        /// Which node.
        node: NodeId,
        /// All it has in memory.
        loaded: Vec<Loaded>,
    },
    /// What a node is now is known to have these routes, whatever it had before.
    Routes {
        /// Which node.
        node: NodeId,
        /// All it may be asked for.
        routes: RouteSet,
    },
    /// The liveness probe was answered.
    Answered {
        /// Which node.
        node: NodeId,
    },
    /// The liveness probe failed.
    Silent {
        /// Which node.
        node: NodeId,
        /// What the probe met, for people.
        error: String,
    },
    /// A [`Decision::Load`] was carried out, or could not be.
    Loaded {
        /// Which node.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
        /// Why not, if it is not in memory now.
        result: Result<(), Failure>,
    },
    /// A [`Decision::Unload`] was carried out, or could not be.
    Unloaded {
        /// Which node.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
        /// Why not, if it may still be in memory.
        result: Result<(), Failure>,
    },
    /// A node joins the fleet. Its id is the number of nodes so far: ids are never used again.
    NodeJoined {
        /// Its id.
        node: NodeId,
        /// What is known of it.
        spec: NodeSpec,
    },
    /// What is configured of a node changed.
    NodeChanged {
        /// Which node.
        node: NodeId,
        /// What is known of it now.
        spec: NodeSpec,
    },
    /// A node leaves the fleet: nothing is sent to it from now on, and it is not shown any more.
    NodeLeft {
        /// Which node.
        node: NodeId,
    },
    /// An operator wants a node to finish what runs there and take nothing new; or to take requests again.
    Drain {
        /// Which node.
        node: NodeId,
        /// Whether it drains from now on.
        on: bool,
    },
    /// Time passed.
    Tick,
}
