//! A model on its way into a node's memory.

use crate::{failure::Failure, ids::RequestId, model::ModelId};

/// A load under way on a node.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) model: ModelId,
    /// What makes room for it.
    pub(crate) victims: Vec<ModelId>,
    pub(crate) phase: Phase,
    /// Whose request asked for it; `None` for a hint. One that leaves before the load begins hands it on to the next that
    /// waits for the model: without that one nothing would be loaded.
    pub(crate) cause: Option<RequestId>,
}

#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) enum Phase {
    Draining,
    /// So many are still to answer; one of them would not go.
    Unloading {
        left: usize,
        failed: Option<Failure>,
    },
    Loading {
        since: f64,
    },
}
