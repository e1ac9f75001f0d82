//! The words spoken with the scheduler: what happened, what to do, and what
//! both sides know about requests, nodes and models.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// Time since the gateway started.
pub type Time = Duration;

/// One request of a client, from arrival to end. Never used twice.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct RequestId(pub u64);

/// Index into the configured nodes.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct NodeId(pub usize);

/// What the configuration says about a node.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// How the operator calls it.
    pub name: String,
    /// Requests one model takes at a time there (`OLLAMA_NUM_PARALLEL`); `None` means that it is learned, from 1 on.
    /// A node with zero slots is never used.
    pub slots: Option<u32>,
    /// Memory for models in bytes; `None` means that everything fits until the node itself was seen to push something
    /// out, and from then on no more than was ever seen in it.
    pub vram_bytes: Option<u64>,
}

/// A model on a node's disk, as `/api/tags` lists it.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Model {
    /// The name as the node gives it.
    pub name: String,
    /// Size on disk in bytes, which is about what it takes when loaded.
    pub size_bytes: u64,
    /// Digest of the manifest.
    pub digest: String,
    /// When it was last changed, in seconds since 1970.
    pub modified_unix: i64,
    /// The architecture, as `llama`; some take one request at a time whatever the node's setting.
    #[serde(default)]
    pub family: String,
}

/// A model in a node's memory, as `/api/ps` lists it.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The name as the node gives it.
    pub name: String,
    /// Video memory it takes, in bytes.
    pub vram_bytes: u64,
    /// Tokens of context it was loaded with, where the node says so.
    #[serde(default)]
    pub context_length: Option<u64>,
}

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
    /// The same for all turns of a conversation, whose beginning a node may still have in a slot's cache.
    pub session: Option<u64>,
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
        /// All it has on disk.
        models: Vec<Model>,
    },
    /// `/api/ps` answered.
    Resident {
        /// Which node.
        node: NodeId,
        /// All it has in memory.
        loaded: Vec<Loaded>,
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

/// Why an attempt failed.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection was refused or not made in time. Takes the node out at once.
    Unreachable,
    /// The connection closed before the answer was whole: before its head (perhaps a stale pooled one), or within it.
    Reset,
    /// The node answered with a status of 500 or above (other than 503).
    Crashed,
    /// No first byte in time.
    TimedOut,
    /// The answer is not what Ollama sends, or is not finished although it ended properly.
    Garbled,
    /// 503 or 429. Not a health failure: the node gets no new request for 1 s.
    Busy,
    /// 404 for the model: the node's listing is stale, so the model is
    /// forgotten there until the next [`Event::Listed`].
    Missing,
    /// 401, 403 or a redirect: a mistake in the node's configuration.
    Denied,
    /// Far longer without a token than it was ever seen to need.
    Silent,
}

impl Failure {
    /// One word for it, for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Crashed => "crashed",
            Self::TimedOut => "timed_out",
            Self::Garbled => "garbled",
            Self::Busy => "busy",
            Self::Missing => "missing",
            Self::Denied => "denied",
            Self::Silent => "silent",
        }
    }

    /// Whether the request itself may be the cause, or cost the node dearly:
    /// such a failure is retried once, within the retry budget.
    pub(crate) fn is_costly(self) -> bool {
        matches!(self, Self::Crashed | Self::TimedOut | Self::Garbled | Self::Silent)
    }

    /// Whether the same node may be tried again when no other is left.
    pub(crate) fn allows_same_node(self) -> bool {
        matches!(self, Self::Unreachable | Self::Reset | Self::Busy)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unreachable => "could not be reached",
            Self::Reset => "closed the connection before answering",
            Self::Crashed => "answered with a server error",
            Self::TimedOut => "sent no first byte in time",
            Self::Garbled => "sent a broken answer",
            Self::Busy => "is busy",
            Self::Missing => "does not have the model it listed",
            Self::Denied => "refused access or redirected",
            Self::Silent => "fell silent",
        })
    }
}

/// How a request ended.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Outcome {
    /// The whole answer was delivered.
    Completed,
    /// The client left: no verdict on the node.
    Cancelled,
    /// After the first byte, or for good.
    Failed(Failure),
}

/// What the shell is to do.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Decision {
    /// Send the request to the node.
    Dispatch {
        /// The request.
        id: RequestId,
        /// Where to.
        node: NodeId,
        /// Counted from 1.
        attempt: u32,
    },
    /// Tell the client no. The request is over; no [`Event::Left`] is needed.
    Refuse {
        /// The request.
        id: RequestId,
        /// Why, and when to come back.
        refusal: Refusal,
    },
    /// Break the running attempt off: its node fell silent. Before its first byte the request waits again, and no
    /// [`Event::Failed`] is needed; after it the client is told, and [`Event::Left`] follows.
    Abandon {
        /// The request.
        id: RequestId,
    },
    /// Take a model out of a node's memory, and tell by [`Event::Unloaded`].
    Unload {
        /// Which node.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
    },
    /// Bring a model into a node's memory, with no request of a client's, and tell by [`Event::Loaded`].
    Load {
        /// Which node.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
        /// Whose request caused it; it may have ended by now. `None` for a hint.
        cause: Option<RequestId>,
    },
}

/// Why a request is refused, and when to come back.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// When another try may succeed; at least 1 s.
    pub retry_after: Duration,
}

/// Why a request is refused.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum RefusalReason {
    /// The user's own share of the queue is full.
    UserQueueFull,
    /// The queue is full.
    QueueFull,
    /// It waited as long as it may.
    DeadlinePassed,
    /// No live node has the model.
    NoNode,
    /// The model could not be brought into any node's memory, and that is not tried again for a while.
    NotLoaded {
        /// What the last load met.
        last: Failure,
    },
    /// It was tried, and is not tried again.
    Exhausted {
        /// What the last attempt met.
        last: Failure,
    },
}

impl RefusalReason {
    /// One word for it, for metrics and operators.
    pub fn label(self) -> &'static str {
        match self {
            Self::UserQueueFull => "user_full",
            Self::QueueFull => "full",
            Self::DeadlinePassed => "deadline",
            Self::NoNode => "no_node",
            Self::NotLoaded { .. } | Self::Exhausted { .. } => "exhausted",
        }
    }
}

/// Whether a node can be used.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Healthy.
    Up,
    /// Used, but on trial or with one failure outstanding.
    Suspect,
    /// Not used: it failed, or was never heard of.
    Down,
    /// Finishes what runs and takes nothing new, as an operator wants.
    Draining,
}

/// Requests given to a node since the start.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Serialize)]
pub struct Routed {
    /// The model was in memory, or somebody else had it loaded.
    pub warm: u64,
    /// The model was loaded for this request.
    pub cold: u64,
    /// Another attempt had failed before.
    pub fallback: u64,
}

/// Changes of a node's breaker since the start, by the state it came to.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Serialize)]
pub struct Transitions {
    /// Back in use.
    pub closed: u64,
    /// Taken out.
    pub open: u64,
    /// On trial.
    pub half_open: u64,
}

/// A node as operators see it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct NodeView {
    /// Its configured name.
    pub name: String,
    /// Whether it can be used.
    pub state: NodeState,
    /// Requests one model takes at a time, configured or as learned so far.
    pub slots: u32,
    /// Requests running there now, over all models.
    pub in_flight: u32,
    /// Requests waiting for models it has.
    pub waiting: usize,
    /// What it last listed on disk, by name.
    pub models: Vec<Model>,
    /// What it last listed in memory.
    pub loaded: Vec<Loaded>,
    /// What went wrong last, while the node is not healthy.
    pub last_error: Option<String>,
    /// Requests completed there since the start.
    pub completed: u64,
    /// Attempts that failed there since the start.
    pub failed: u64,
    /// What it was given since the start, and how well it fitted.
    pub routed: Routed,
    /// How often it was taken out and brought back.
    pub transitions: Transitions,
    /// The model it is about to have in memory, if it loads one.
    pub loading: Option<String>,
    /// Models loaded there by the gateway since the start.
    pub loads: u64,
    /// Tokens a second of one stream of a 5 GB model that runs alone, as learned; `None` before anything ran.
    pub tokens_per_second: Option<f64>,
}
