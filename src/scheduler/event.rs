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
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct NodeSpec {
    /// How the operator calls it.
    pub name: String,
    /// Requests one model takes at a time there (`OLLAMA_NUM_PARALLEL`).
    /// A node with zero slots is never used.
    pub slots: u32,
    /// Memory for models in bytes; `None` means that everything is taken to fit.
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
}

/// A model in a node's memory, as `/api/ps` lists it.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The name as the node gives it.
    pub name: String,
    /// Video memory it takes, in bytes.
    pub vram_bytes: u64,
}

/// Something that happened outside.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Event {
    /// A client asks. An id already known is ignored.
    Arrived {
        /// The new request.
        id: RequestId,
        /// Whose turn it takes.
        user: Arc<str>,
        /// The model as the client named it.
        model: Arc<str>,
        /// Until when it may wait in the queue.
        deadline: Time,
    },
    /// The node's first byte is here: never retried from now on.
    FirstByte {
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
        }
    }

    /// Whether the request itself may be the cause, or cost the node dearly:
    /// such a failure is retried once, within the retry budget.
    pub(super) fn is_costly(self) -> bool {
        matches!(self, Self::Crashed | Self::TimedOut | Self::Garbled)
    }

    /// Whether the same node may be tried again when no other is left.
    pub(super) fn allows_same_node(self) -> bool {
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
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
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
    /// It was tried, and is not tried again.
    Exhausted {
        /// What the last attempt met.
        last: Failure,
    },
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
}

/// Requests given to a node since the start.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Serialize)]
pub struct Routed {
    /// The model was in memory, or being loaded.
    pub warm: u64,
    /// It was not.
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
#[derive(Clone, Eq, PartialEq, Debug, Serialize)]
pub struct NodeView {
    /// Its configured name.
    pub name: String,
    /// Whether it can be used.
    pub state: NodeState,
    /// Requests one model takes at a time.
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
}
