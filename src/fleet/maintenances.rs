//! Which of the present nodes are under maintenance, and is there anything else for a request?
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::store::Maintenance;
use scheduler::NodeId;

/// The maintenance of present nodes. All copies share it.
#[derive(Clone, Debug, Default)]
pub struct Maintenances(Arc<RwLock<BTreeMap<NodeId, Told>>>);

#[derive(Debug)]
struct Told {
    maintenance: Maintenance,
    /// Whether it still holds.
    holds: bool,
}

impl Maintenances {
    /// The maintenance of a node; `None` unless it is drained.
    pub fn of(&self, node: NodeId) -> Option<Maintenance> {
        self.get(node, true)
    }

    /// The maintenance that a node has been in last, even if that is over.
    pub(crate) fn last_of(&self, node: NodeId) -> Option<Maintenance> {
        self.get(node, false)
    }

    fn get(&self, node: NodeId, must_hold: bool) -> Option<Maintenance> {
        let told = self.0.read().unwrap_or_else(PoisonError::into_inner);
        told.get(&node).filter(|told| told.holds || !must_hold).map(|told| told.maintenance.clone())
    }

    /// The maintenance that ends first, if every one of these nodes is in one.
    pub fn of_all(&self, nodes: &[NodeId]) -> Option<Maintenance> {
        let all: Option<Vec<Maintenance>> = nodes.iter().map(|node| self.of(*node)).collect();
        all?.into_iter().min_by_key(|maintenance| maintenance.until_ms.unwrap_or(i64::MAX))
    }

    /// A node is drained, or (`None`) no longer so.
    pub(crate) fn put(&self, node: NodeId, maintenance: Option<Maintenance>) {
        let mut told = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match maintenance {
            Some(maintenance) => drop(told.insert(node, Told { maintenance, holds: true })),
            None => told.get_mut(&node).into_iter().for_each(|told| told.holds = false),
        }
    }

    /// A node left.
    pub(crate) fn forget(&self, node: NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}
