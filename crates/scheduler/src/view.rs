//! What may others ask the scheduler? Its answers are for people and clients to read: they may be out of date on
//! arrival.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    catalog::Model,
    explain::{Alternative, Story},
    health_log::HealthChange,
    ids::{NodeId, RequestId, Time},
    instance::Instance,
    model::ModelId,
    node::Node,
    report::{NodeState, NodeView},
    running::Running,
    scheduler::Scheduler,
};

/// A waiting request. Such requests are listed in the order in which they would be considered now.
#[derive(Clone, PartialEq, Debug)]
pub struct Waiting {
    /// The request's id.
    pub id: RequestId,
    /// Its user.
    pub user: Arc<str>,
    /// The model, with its tag.
    pub model: Arc<str>,
    /// How long it has waited.
    pub waited: Time,
    /// What it waits for, by the last plan that got as far as this request.
    pub waits_for: Option<Alternative>,
}

/// How fast a running request is expected to be, as measured for its model on its node.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pace {
    /// Seconds until its first token.
    pub prefill: f64,
    /// Seconds a token.
    pub token: f64,
}

impl Pace {
    /// About how many tokens a node has written after this many seconds.
    pub fn tokens_after(&self, seconds: f64) -> u64 {
        // A cast rounds towards zero and saturates.
        ((seconds - self.prefill).max(0.0) / self.token.max(1e-6)) as u64
    }
}

/// Nodes to read at a time with the scheduler's lock held, so that no decision has to wait long.
pub const NODES_AT_A_LOOK: usize = 16;

impl Scheduler {
    /// How fast the request is expected to be; `None` unless it runs on a node whose speed was measured.
    pub fn pace(&self, id: RequestId) -> Option<Pace> {
        let (node, instance, running) = self.attempt_of(id)?;
        let alone = node.speed.alone()?;
        let prefill = node.prefill_seconds(instance, running.uncached, running.others, alone);
        Some(Pace { prefill, token: node.token_seconds(instance, alone) * node.speed.stretch(running.others) })
    }

    /// How fast the request is at least, so that what it writes unseen may be charged for; `None` unless it runs on a
    /// node whose speed is certain.
    pub fn certain_pace(&self, id: RequestId) -> Option<Pace> {
        let (node, instance, running) = self.attempt_of(id)?;
        let token = node.certain_token_seconds(instance, running.others)?;
        Some(Pace { token, ..self.pace(id)? })
    }

    /// A running request, and where it runs.
    fn attempt_of(&self, id: RequestId) -> Option<(&Node, &Instance, &Running)> {
        let request = self.requests.get(&id)?;
        let node = self.fleet.get(request.attempt.as_ref()?.node)?;
        let instance = node.instance(request.model)?;
        Some((node, instance, instance.running.iter().find(|running| running.id == id)?))
    }

    /// How much longer a running request is expected to hold its slot; `None` unless it runs on a node whose speed was
    /// measured.
    pub fn expected_rest(&self, id: RequestId, now: Time) -> Option<Time> {
        let (node, instance, running) = self.attempt_of(id)?;
        let seconds = node.seconds_left(instance, running, now.as_secs_f64(), node.speed.alone()?);
        Time::try_from_secs_f64(seconds).ok()
    }

    /// The model of this name, with or without its tag, on any node; for dead nodes, as they last listed it.
    pub fn find_model(&self, asked: &str) -> Option<&Model> {
        self.listing(self.models.find(asked)?)
    }

    /// The model as a node lists it: an open node's listing if there is one, else a live node's, else a dead node's.
    pub(crate) fn listing(&self, model: ModelId) -> Option<&Model> {
        let open = self.fleet.of(model).shelves.iter().map(|node| &self.fleet[*node]);
        open.chain(self.others()).find_map(|node| node.listing(model))
    }

    /// The nodes that take no requests, live ones first.
    fn others(&self) -> impl Iterator<Item = &Node> {
        let closed = || self.fleet.iter().filter(|node| !node.has_left && !node.is_open());
        closed().filter(|node| node.is_live()).chain(closed().filter(|node| !node.is_live()))
    }

    /// The live nodes that have the model, named with or without its tag.
    pub fn live_with(&self, asked: &str) -> Vec<NodeId> {
        let Some(model) = self.models.find(asked) else { return Vec::new() };
        self.fleet.ids().filter(|node| self.fleet[*node].is_live() && self.fleet[*node].lists(model)).collect()
    }

    /// The present nodes that have the model, named with or without its tag, whether they take requests or not.
    pub fn nodes_with(&self, asked: &str) -> Vec<NodeId> {
        let Some(model) = self.models.find(asked) else { return Vec::new() };
        self.fleet.ids().filter(|node| !self.fleet[*node].has_left && self.fleet[*node].lists(model)).collect()
    }

    /// Requests that run on any of these nodes.
    pub fn in_flight_on(&self, nodes: &[NodeId]) -> u32 {
        nodes.iter().filter_map(|node| self.fleet.get(*node)).map(Node::in_flight).sum()
    }

    /// When a node last began an answer or completed one.
    pub fn worked_at(&self, node: NodeId) -> Option<Time> {
        self.fleet.get(node)?.worked_at
    }

    /// Every model of the fleet, under the names that the nodes list, last modified first. What an open node lists
    /// takes precedence over what a closed node listed last.
    pub fn models(&self) -> Vec<&Model> {
        let on_open = |model| self.fleet[*self.fleet.of(model).shelves.first()?].listing(model);
        let mut found: BTreeMap<ModelId, &Model> =
            self.models.ids().filter_map(|model| Some((model, on_open(model)?))).collect();
        for (id, label) in self.others().flat_map(Node::labels) {
            if let (Some(model), false) = (label.model(), found.contains_key(&id)) {
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

    /// Every node of the fleet, in the order of joining.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.nodes_from(NodeId(0), self.fleet.len())
    }

    /// At most `most` nodes, starting with this one. Nodes that have left are skipped, but counted.
    pub fn nodes_from(&self, first: NodeId, most: usize) -> Vec<NodeView> {
        let waiting = |node: &Node| {
            let mine = self.queue.models().filter(|model| node.lists(*model));
            mine.map(|model| self.queue.waiting_for(model)).sum()
        };
        let ids = self.fleet.ids().skip(first.0).take(most);
        let present = ids.map(|id| (id, &self.fleet[id])).filter(|(_, node)| !node.has_left);
        present.map(|(id, node)| NodeView { waiting: waiting(node), ..node.view(id) }).collect()
    }

    /// The names of at most `most` nodes, from this one on, with the requests that run there and that wait for their models.
    pub fn sizes_from(&self, first: NodeId, most: usize) -> Vec<(String, (usize, usize))> {
        let waiting = |node: &Node| {
            let mine = self.queue.models().filter(|model| node.lists(*model));
            mine.map(|model| self.queue.waiting_for(model)).sum()
        };
        let present = self.fleet.iter().skip(first.0).take(most).filter(|node| !node.has_left);
        present.map(|node| (node.spec.name.clone(), (node.in_flight() as usize, waiting(node)))).collect()
    }

    /// How many nodes are in the fleet now.
    pub fn present_nodes(&self) -> usize {
        self.fleet.iter().filter(|node| !node.has_left).count()
    }

    /// A node's state and its latest error; `None` once it has left.
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

    /// How many nodes were ever in the fleet: one more than the largest id.
    pub fn node_count(&self) -> usize {
        self.fleet.len()
    }

    /// How many requests wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many requests wait for each model, by name with tag; models without any are left out.
    pub fn queued_by_model(&self) -> BTreeMap<Arc<str>, usize> {
        let name = |model| (self.models.get(model).name.clone(), self.queue.waiting_for(model));
        self.queue.models().map(name).collect()
    }

    /// The first `most` waiting requests; whoever's turn comes first is first.
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

    /// Whether this attempt of a request is running.
    pub fn runs(&self, id: RequestId, attempt: u32) -> bool {
        self.requests.get(&id).is_some_and(|request| request.attempt.is_some() && request.attempts == attempt)
    }

    /// The story of a request that has not ended, or did in the last hour.
    pub fn story(&self, id: RequestId, now: Time) -> Option<&Story> {
        self.journal.get(id, now)
    }

    /// The user and the model of a request that has not ended.
    pub fn whose(&self, id: RequestId) -> Option<(Arc<str>, Arc<str>)> {
        let request = self.requests.get(&id)?;
        Some((request.user.clone(), self.models.get(request.model).name.clone()))
    }

    /// The node's name, even after it has left.
    pub fn node_name(&self, node: NodeId) -> Option<&str> {
        self.fleet.get(node).map(|node| node.spec.name.as_str())
    }

    /// Seconds between two requests that leave the queue, as measured while others wait.
    pub fn drain_interval(&self) -> Option<Time> {
        self.drain.interval()
    }

    /// How many requests run on nodes.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.queue.len()
    }

    /// How many nodes are up or suspect.
    pub fn serving_nodes(&self) -> usize {
        self.fleet.open()
    }
}
