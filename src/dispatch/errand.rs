//! What must be done to the nodes' memory?
use std::sync::Arc;

use super::load_cost::LoadCost;
use scheduler::NodeId;

/// A change to a node's memory.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Load a model.
    Load {
        /// The node.
        node: NodeId,
        /// As the node lists it.
        model: Arc<str>,
        /// Measures the load for the request that caused it, if there is one.
        cost: Option<Arc<LoadCost>>,
    },
    /// Unload a model.
    Unload {
        /// The node.
        node: NodeId,
        /// As the node lists it.
        model: Arc<str>,
    },
}
