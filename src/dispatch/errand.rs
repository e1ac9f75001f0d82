//! What does the scheduler want done to the memory of nodes?
use std::sync::Arc;

use super::load_cost::LoadCost;
use scheduler::NodeId;

/// What is to be done to a node's memory.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Bring a model in.
    Load {
        /// Where.
        node: NodeId,
        /// As the node lists it.
        model: Arc<str>,
        /// Of the request that caused it.
        cost: Option<Arc<LoadCost>>,
    },
    /// Take a model out.
    Unload {
        /// Where.
        node: NodeId,
        /// As the node lists it.
        model: Arc<str>,
    },
}
