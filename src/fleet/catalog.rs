//! What do the nodes say about their models, in their own words? Kept for clients of Ollama's API, whose lists contain
//! more than the scheduler needs.
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use serde_json::Value;

use super::listing::Said;
use super::twins::Twins;
use scheduler::NodeId;

/// Each node's latest listing, as the probers received it.
#[derive(Debug, Default)]
pub struct Catalog {
    nodes: DashMap<NodeId, NodeReport>,
    twins: Mutex<Twins>,
}

#[derive(Debug, Default)]
struct NodeReport {
    version: Option<String>,
    /// When it entered its present state, as Unix time in milliseconds.
    since_ms: Option<i64>,
    /// When it was last probed, as Unix time in milliseconds, whether it answered or not.
    probed_at_ms: Option<i64>,
    tags: Vec<Said>,
    loaded: Vec<Said>,
    /// An operator changed its models, so they must be listed again soon.
    is_stale: bool,
}

/// What is known of a node besides its models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The version of its software; `None` if it does not report one.
    pub version: Option<String>,
    /// When it entered its present state, as Unix time in milliseconds; `None` before the first probe.
    pub since_ms: Option<i64>,
    /// When it was last probed, as Unix time in milliseconds, whether it answered or not.
    pub probed_at_ms: Option<i64>,
}

impl Catalog {
    /// The node's facts; empty if nothing is known of it.
    pub fn facts(&self, node: NodeId) -> NodeFacts {
        let facts = |said: &NodeReport| NodeFacts {
            version: said.version.clone(),
            since_ms: said.since_ms,
            probed_at_ms: said.probed_at_ms,
        };
        self.nodes.get(&node).map(|said| facts(&said)).unwrap_or_default()
    }

    pub(crate) fn probed(&self, node: NodeId, at_ms: i64) {
        self.nodes.entry(node).or_default().probed_at_ms = Some(at_ms);
    }

    pub(crate) fn state_changed(&self, node: NodeId, at_ms: i64) {
        self.nodes.entry(node).or_default().since_ms = Some(at_ms);
    }

    pub(crate) fn hear_version(&self, node: NodeId, version: String) {
        self.nodes.entry(node).or_default().version = Some(version);
    }

    pub(crate) fn hear_tags(&self, node: NodeId, tags: Vec<Said>) {
        self.nodes.entry(node).or_default().tags = tags;
    }

    /// Returns the nodes that are now known to be the same engine.
    pub(crate) fn hear_loaded(&self, node: NodeId, loaded: Vec<Said>) -> Vec<NodeId> {
        let twins = self.lock_twins().hear(node, &loaded);
        self.nodes.entry(node).or_default().loaded = loaded;
        twins
    }

    /// The other nodes that are the same engine, as far as is known.
    pub fn twins(&self, node: NodeId) -> Vec<NodeId> {
        self.lock_twins().of(node)
    }

    /// Both nodes have the same address.
    pub(crate) fn share_address(&self, one: NodeId, other: NodeId) {
        self.lock_twins().join(one, other);
    }

    /// A node that does not answer has nothing in memory that anybody could use.
    pub(crate) fn hear_nothing(&self, node: NodeId) {
        self.nodes.entry(node).or_default().loaded.clear();
    }

    /// Has the node's models listed again soon, because they are about to change.
    pub fn expect_change(&self, node: NodeId) {
        self.nodes.entry(node).or_default().is_stale = true;
    }

    /// Whether the models must be listed again; resets the mark.
    pub(crate) fn take_stale(&self, node: NodeId) -> bool {
        self.nodes.get_mut(&node).is_some_and(|mut said| std::mem::take(&mut said.is_stale))
    }

    /// A node left.
    pub(crate) fn forget(&self, node: NodeId) {
        self.nodes.remove(&node);
        self.lock_twins().forget(node);
    }

    /// Every model on any node's disk, once, as `/api/tags` lists it.
    pub fn tags(&self) -> Vec<Value> {
        self.union(|said| &said.tags)
    }

    /// Every model in any node's memory, once, as `/api/ps` lists it.
    pub fn loaded(&self) -> Vec<Value> {
        self.union(|said| &said.loaded)
    }

    /// The oldest version in the fleet: what it can do, every node can do.
    pub fn version(&self) -> Option<String> {
        let numbers = |version: &str| -> Vec<u64> {
            version.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse().unwrap_or(0)).collect()
        };
        self.nodes.iter().filter_map(|said| said.version.clone()).min_by_key(|version| numbers(version))
    }

    fn lock_twins(&self) -> MutexGuard<'_, Twins> {
        self.twins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn union(&self, list: impl Fn(&NodeReport) -> &Vec<Said>) -> Vec<Value> {
        let mut nodes: Vec<NodeId> = self.nodes.iter().map(|said| *said.key()).collect();
        nodes.sort_unstable();
        let mut names = BTreeSet::new();
        let mut models = Vec::new();
        for said in nodes.iter().filter_map(|node| self.nodes.get(node)) {
            let new = list(&said).iter().filter(|model| names.insert(model.name().to_owned()));
            models.extend(new.map(Said::value));
        }
        models
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(entries: &[Value]) -> Vec<Said> {
        entries.iter().map(Said::new).collect()
    }

    #[test]
    fn a_model_of_several_nodes_is_listed_once_and_the_oldest_version_counts() {
        let catalog = Catalog::default();
        catalog.hear_tags(NodeId(1), said(&[json!({"name": "a", "x": 1}), json!({"name": "b"})]));
        catalog.hear_tags(NodeId(0), said(&[json!({"name": "a", "x": 0})]));
        catalog.hear_version(NodeId(0), "0.10.1".to_owned());
        catalog.hear_version(NodeId(1), "0.9.6".to_owned());
        assert_eq!(catalog.tags(), [json!({"name": "a", "x": 0}), json!({"name": "b"})]);
        assert_eq!(catalog.version().as_deref(), Some("0.9.6"));
        assert!(catalog.loaded().is_empty());
    }
}
