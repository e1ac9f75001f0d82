//! All nodes, by the ids that the scheduler knows them by.
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::endpoint::NodeEndpoint;
use super::settings::{Flaw, NodeSettings};
use crate::scheduler::NodeId;

/// The nodes that there are. Copies share them.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<RwLock<BTreeMap<NodeId, Arc<NodeEndpoint>>>>);

impl Fleet {
    /// Nodes under the ids from 0 on.
    ///
    /// # Errors
    /// The index of the first node that cannot be used, and why.
    pub fn new(nodes: &[NodeSettings]) -> Result<Self, (usize, Flaw)> {
        let endpoints = nodes.iter().enumerate().map(|(index, node)| {
            let endpoint = NodeEndpoint::new(node).map_err(|why| (index, why))?;
            Ok((NodeId(index), Arc::new(endpoint)))
        });
        Ok(Self(Arc::new(RwLock::new(endpoints.collect::<Result<_, _>>()?))))
    }

    /// The node with this id; `None` when it was taken out.
    pub fn get(&self, node: NodeId) -> Option<Arc<NodeEndpoint>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Every node's id, the oldest first.
    pub fn ids(&self) -> Vec<NodeId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}
