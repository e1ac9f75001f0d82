//! All nodes, by the ids that the scheduler knows them by.
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::endpoint::NodeEndpoint;
use scheduler::NodeId;

/// The nodes that there are. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Fleet(Arc<RwLock<BTreeMap<NodeId, Arc<NodeEndpoint>>>>);

impl Fleet {
    /// The node with this id; `None` when it was taken out.
    pub fn get(&self, node: NodeId) -> Option<Arc<NodeEndpoint>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// A node joins, or is spoken to in another way from now on.
    pub(crate) fn put(&self, node: NodeId, endpoint: NodeEndpoint) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(node, Arc::new(endpoint));
    }

    /// A node leaves. Who speaks with it may end.
    pub(crate) fn remove(&self, node: NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}
