//! What may be asked of the scheduler. Answers are advice for people and
//! clients: by the time they are read they may be stale.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Scheduler,
    event::{Model, NodeId, NodeView},
    name::Name,
    node::Node,
};

impl Scheduler {
    /// The model of this name on any node, also on dead ones as they listed it
    /// last. The name is matched as given first, then in its other spelling.
    pub fn find_model(&self, asked: &str) -> Option<&Model> {
        let exact = Name { given: asked, other: None };
        self.find_on_any(&exact).or_else(|| self.find_on_any(&Name::new(asked)))
    }

    /// The live nodes that have the model, under either spelling of its name.
    pub fn live_with(&self, asked: &str) -> Vec<NodeId> {
        let name = Name::new(asked);
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.is_live() && node.find(&name).is_some()).map(|(index, _)| NodeId(index)).collect()
    }

    /// Every model of the fleet under the names the nodes give, the last
    /// modified first. What a live node says counts before what a dead one
    /// said last.
    pub fn models(&self) -> Vec<&Model> {
        let mut seen = BTreeSet::new();
        let mut models: Vec<&Model> =
            self.live_nodes_first().flat_map(Node::models).filter(|model| seen.insert(model.name.as_str())).collect();
        models.sort_by(|a, b| {
            let newest_first = Reverse(a.modified_unix).cmp(&Reverse(b.modified_unix));
            newest_first.then_with(|| a.name.cmp(&b.name))
        });
        models
    }

    /// Every node, in the order of the configuration.
    pub fn nodes(&self) -> Vec<NodeView> {
        let queued = self.queue.lengths();
        let waiting = |node: &Node| {
            let mine = queued.iter().filter(|(model, _)| node.find(&Name::new(model)).is_some());
            mine.map(|(_, waiting)| waiting).sum()
        };
        self.nodes.iter().map(|node| NodeView { waiting: waiting(node), ..node.view() }).collect()
    }

    /// Requests that wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Requests that wait for each model, under the names clients used; no zeros.
    pub fn queued_by_model(&self) -> BTreeMap<Arc<str>, usize> {
        self.queue.lengths()
    }

    /// Requests on nodes.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.queue.len()
    }

    /// Nodes that are up or suspect.
    pub fn can_serve(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_live()).count()
    }

    fn find_on_any(&self, name: &Name) -> Option<&Model> {
        let mut nodes = self.live_nodes_first();
        nodes.find_map(|node| node.find(name)).map(|(_, model)| model)
    }

    fn live_nodes_first(&self) -> impl Iterator<Item = &Node> {
        let live = self.nodes.iter().filter(|node| node.is_live());
        live.chain(self.nodes.iter().filter(|node| !node.is_live()))
    }
}
