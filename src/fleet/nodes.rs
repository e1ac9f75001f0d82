//! Which nodes exist, by the ids that the scheduler uses?
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::endpoint::NodeEndpoint;
use scheduler::NodeId;

/// The present nodes. All copies share them.
#[derive(Clone, Debug, Default)]
pub struct Fleet(Arc<RwLock<BTreeMap<NodeId, Arc<NodeEndpoint>>>>);

impl Fleet {
    /// The node with this id; `None` if it was removed.
    pub fn get(&self, node: NodeId) -> Option<Arc<NodeEndpoint>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> Vec<NodeId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// The other nodes at the same address.
    pub(super) fn at_the_place_of(&self, node: NodeId) -> Vec<(NodeId, Arc<NodeEndpoint>)> {
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = nodes.get(&node).map(|endpoint| endpoint.place()) else { return Vec::new() };
        let others = nodes.iter().filter(|(id, endpoint)| **id != node && endpoint.place() == place);
        others.map(|(id, endpoint)| (*id, endpoint.clone())).collect()
    }

    /// Adds a node, or replaces its endpoint.
    pub(crate) fn put(&self, node: NodeId, endpoint: NodeEndpoint) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(node, Arc::new(endpoint));
    }

    /// Removes a node. Requests that are using it may finish.
    pub(crate) fn remove(&self, node: NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}
