//! What is the shell to do?

use std::{sync::Arc, time::Duration};

use crate::{
    failure::Failure,
    ids::{NodeId, RequestId},
};

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
    /// Live nodes have the model, and none of them the route.
    NoRoute,
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
            Self::NoRoute => "no_route",
            Self::NotLoaded { .. } | Self::Exhausted { .. } => "exhausted",
        }
    }
}
