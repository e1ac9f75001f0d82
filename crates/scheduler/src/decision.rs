//! What must the shell around the scheduler do next?

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    failure::Failure,
    ids::{NodeId, RequestId},
};

/// An instruction to the shell, which carries it out and reports back with events.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Decision {
    /// Send the request to the node.
    Dispatch {
        /// The request.
        id: RequestId,
        /// The node it goes to.
        node: NodeId,
        /// Starts at 1.
        attempt: u32,
    },
    /// Refuse the client. The request is over; no [`Event::Left`] is needed.
    Refuse {
        /// The request.
        id: RequestId,
        /// The reason, and when to try again.
        refusal: Refusal,
    },
    /// Break off the running attempt, because its node fell silent. A request without a first byte goes back to the
    /// queue, and no [`Event::Failed`] is needed. After the first byte the client gets an error, and [`Event::Left`]
    /// follows.
    Abandon {
        /// The request.
        id: RequestId,
    },
    /// Unload a model from a node's memory, and report [`Event::Unloaded`].
    Unload {
        /// The node to unload from.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
    },
    /// Load a model into a node's memory by a request of the gateway's own, and report [`Event::Loaded`].
    Load {
        /// The node to load on.
        node: NodeId,
        /// The model as the node lists it.
        model: Arc<str>,
        /// The request that caused the load; it may have ended by now. `None` for a hint.
        cause: Option<RequestId>,
    },
}

/// Why a request is refused, and when the client may try again.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason.
    pub reason: RefusalReason,
    /// When a new try may succeed; at least 1 s.
    pub retry_after: Duration,
}

/// Why a request is refused.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub enum RefusalReason {
    /// The user's own part of the queue is full.
    UserQueueFull,
    /// The queue is full.
    QueueFull,
    /// It waited for as long as it was allowed to.
    DeadlinePassed,
    /// No live node has the model.
    NoNode,
    /// Live nodes have the model, but no node, live or not, has both the model and the route.
    NoRoute,
    /// No node could load the model, and loading is not tried again for a while.
    NotLoaded {
        /// How the last load failed.
        last: Failure,
    },
    /// Attempts failed, and no further one is allowed.
    Exhausted {
        /// How the last attempt failed.
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
