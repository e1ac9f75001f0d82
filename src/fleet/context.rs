//! What is shared by everything that works on the nodes? Which of them exist, which are under maintenance, and what is told
//! about them.
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use scheduler::NodeId;

use super::catalog::Catalog;
use super::change_log::ChangeLog;
use super::endpoint::NodeEndpoint;
use super::series::Plots;
use crate::clock::Clock;
use crate::dispatch::Dispatcher;
use crate::metrics::Metrics;
use crate::store::Maintenance;

/// The nodes, and everything that is told about them. All copies share the same state.
#[derive(Clone, Debug)]
pub struct FleetContext {
    /// The nodes' endpoints.
    pub nodes: Fleet,
    /// What the nodes say about their models.
    pub catalog: Arc<Catalog>,
    /// Which of them are under maintenance.
    pub maintenances: Maintenances,
    /// What has changed lately.
    pub changes: Arc<ChangeLog>,
    /// What went on in the last hour.
    pub plots: Plots,
    /// The queue and its scheduler.
    pub dispatcher: Arc<Dispatcher>,
    /// The clock.
    pub clock: Clock,
    /// Where observations are counted.
    pub metrics: Arc<Metrics>,
}

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
