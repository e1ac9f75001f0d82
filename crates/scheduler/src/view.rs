//! What may be asked of the scheduler? Answers are advice for people and clients: by the time they are read they may be
//! stale.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use crate::{
    catalog::Model,
    explain::{Alternative, Story},
    health_log::HealthChange,
    ids::{NodeId, RequestId, Time},
    model::ModelId,
    node::Node,
    report::{NodeState, NodeView},
    scheduler::Scheduler,
};

/// A request that waits, in the order in which it would be looked at now.
#[derive(Clone, PartialEq, Debug)]
pub struct Waiting {
    /// Which.
    pub id: RequestId,
    /// Whose.
    pub user: Arc<str>,
    /// The model, with its tag.
    pub model: Arc<str>,
    /// How long so far.
    pub waited: Time,
    /// What it waits for, by the last plan that came as far as to it.
    pub waits_for: Option<Alternative>,
}

/// How fast a request that runs is expected to be, as measured of its model on its node.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Pace {
    /// Seconds until its first token.
    pub prefill: f64,
    /// Seconds that each token takes.
    pub token: f64,
}

impl Pace {
    /// Tokens that a node has written after so many seconds, about.
    pub fn tokens_after(&self, seconds: f64) -> u64 {
        // Towards zero, and never beyond the largest.
        ((seconds - self.prefill).max(0.0) / self.token.max(1e-6)) as u64
    }
}

impl Scheduler {
    /// How fast the request is expected to be; `None` unless it runs on a node whose speed was measured.
    pub fn pace(&self, id: RequestId) -> Option<Pace> {
        let request = self.requests.get(&id)?;
        let node = self.fleet.get(request.attempt.as_ref()?.node)?;
        let instance = node.instance(request.model)?;
        let running = instance.running.iter().find(|running| running.id == id)?;
        let alone = node.speed.alone()?;
        let prefill = node.prefill_seconds(instance, running.uncached, running.others, alone);
        Some(Pace { prefill, token: node.token_seconds(instance, alone) * node.speed.stretch(running.others) })
    }

    /// The model of this name on any node, in either spelling; also on dead nodes, as they listed it last.
    pub fn find_model(&self, asked: &str) -> Option<&Model> {
        self.listing(self.models.find(asked)?)
    }

    /// A model as some node lists it: an open one if there is one, else a live one, else a dead one.
    pub(crate) fn listing(&self, model: ModelId) -> Option<&Model> {
        let open = self.fleet.of(model).shelves.iter().map(|node| &self.fleet[*node]);
        open.chain(self.others()).find_map(|node| node.instance(model)?.model())
    }

    /// The nodes that take nothing, the live ones first.
    fn others(&self) -> impl Iterator<Item = &Node> {
        let closed = || self.fleet.iter().filter(|node| !node.has_left && !node.is_open());
        closed().filter(|node| node.is_live()).chain(closed().filter(|node| !node.is_live()))
    }

    /// The live nodes that have the model, under either spelling of its name.
    pub fn live_with(&self, asked: &str) -> Vec<NodeId> {
        let Some(model) = self.models.find(asked) else { return Vec::new() };
        self.fleet.ids().filter(|node| self.fleet[*node].is_live() && self.fleet[*node].lists(model)).collect()
    }

    /// When a node last began an answer, or gave a whole one.
    pub fn worked_at(&self, node: NodeId) -> Option<Time> {
        self.fleet.get(node)?.worked_at
    }

    /// Every model of the fleet under the names that the nodes give, the last modified first. What an open node lists
    /// counts before what a closed one listed last.
    pub fn models(&self) -> Vec<&Model> {
        let on_open = |model| self.fleet[*self.fleet.of(model).shelves.first()?].instance(model)?.model();
        let mut found: BTreeMap<ModelId, &Model> =
            self.models.ids().filter_map(|model| Some((model, on_open(model)?))).collect();
        for (id, instance) in self.others().flat_map(Node::instances) {
            if let (Some(model), false) = (instance.model(), found.contains_key(&id)) {
                found.insert(id, model);
            }
        }
        let mut models: Vec<&Model> = found.into_values().collect();
        models.sort_by(|a, b| {
            let newest_first = Reverse(a.modified_unix).cmp(&Reverse(b.modified_unix));
            newest_first.then_with(|| a.name.cmp(&b.name))
        });
        models
    }

    /// Every node of the fleet, in the order in which they joined.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.nodes_from(NodeId(0), self.fleet.len())
    }

    /// At most `most` nodes, from this one on. Those that have left the fleet are passed over, but count.
    pub fn nodes_from(&self, first: NodeId, most: usize) -> Vec<NodeView> {
        let waiting = |node: &Node| {
            let mine = self.queue.models().filter(|model| node.lists(*model));
            mine.map(|model| self.queue.waiting_for(model)).sum()
        };
        let ids = self.fleet.ids().skip(first.0).take(most);
        let present = ids.map(|id| (id, &self.fleet[id])).filter(|(_, node)| !node.has_left);
        present.map(|(id, node)| NodeView { waiting: waiting(node), ..node.view(id) }).collect()
    }

    /// Nodes that have not left.
    pub fn present_nodes(&self) -> usize {
        self.fleet.iter().filter(|node| !node.has_left).count()
    }

    /// A node's state and what went wrong there last; `None` once it has left.
    pub fn condition(&self, node: NodeId) -> Option<(NodeState, Option<&str>)> {
        let node = self.fleet.get(node).filter(|node| !node.has_left)?;
        Some((node.state(), node.last_error()))
    }

    /// What has become of the health of nodes since this was asked last.
    pub fn take_health_changes(&mut self) -> Vec<HealthChange> {
        self.fleet.health.take()
    }

    /// Whether there is something to take.
    pub fn has_health_changes(&self) -> bool {
        !self.fleet.health.is_empty()
    }

    /// Nodes that ever were in the fleet: the end of their ids.
    pub fn node_count(&self) -> usize {
        self.fleet.len()
    }

    /// Requests that wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Requests that wait for each model, under its name with a tag; no zeros.
    pub fn queued_by_model(&self) -> BTreeMap<Arc<str>, usize> {
        let name = |model| (self.models.get(model).name.clone(), self.queue.waiting_for(model));
        self.queue.models().map(name).collect()
    }

    /// The first `most` of those that wait, whoever's turn it is first.
    pub fn waiting(&self, most: usize, now: Time) -> Vec<Waiting> {
        let mut ids = Vec::new();
        self.queue.first(most, &mut ids);
        let waiting = |id: RequestId| {
            let request = self.requests.get(&id)?;
            let model = self.models.get(request.model).name.clone();
            let waited = now.saturating_sub(request.arrived);
            Some(Waiting { id, user: request.user.clone(), model, waited, waits_for: request.waits_for })
        };
        ids.into_iter().filter_map(waiting).collect()
    }

    /// Whether this attempt of a request runs.
    pub fn runs(&self, id: RequestId, attempt: u32) -> bool {
        self.requests.get(&id).is_some_and(|request| request.attempt.is_some() && request.attempts == attempt)
    }

    /// What is remembered of one of the last requests.
    pub fn story(&self, id: RequestId) -> Option<&Story> {
        self.journal.get(id)
    }

    /// The node's name, also of one that has left.
    pub fn node_name(&self, node: NodeId) -> Option<&str> {
        self.fleet.get(node).map(|node| node.spec.name.as_str())
    }

    /// How fast requests leave the queue: seconds between two of them, as measured while others wait.
    pub fn drain_interval(&self) -> Option<Time> {
        self.drain.interval()
    }

    /// Requests on nodes.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.queue.len()
    }

    /// Nodes that are up or suspect.
    pub fn serving_nodes(&self) -> usize {
        self.fleet.open()
    }
}
