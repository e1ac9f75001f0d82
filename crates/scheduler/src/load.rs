//! A model that is being loaded into a node's memory.

use crate::{failure::Failure, ids::RequestId, model::ModelId};

/// A load in progress on a node.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) model: ModelId,
    /// The models that are unloaded to make room.
    pub(crate) victims: Vec<ModelId>,
    pub(crate) phase: Phase,
    /// The request that asked for it; `None` for a hint. If that request leaves before the load begins, the next
    /// request that waits for the model takes its place, so that the load is not lost.
    pub(crate) cause: Option<RequestId>,
}

#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) enum Phase {
    Draining,
    /// `left` victims have not answered yet; `failed` is set if one of them could not be unloaded.
    Unloading {
        left: usize,
        failed: Option<Failure>,
    },
    Loading {
        since: f64,
    },
}
