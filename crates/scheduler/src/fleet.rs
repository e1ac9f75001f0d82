//! Which nodes have which model, and where is a slot free? Holds the nodes, and an index that is updated with every
//! event, so that an event only looks at the nodes and models it concerns.
//!
//! To change a node, borrow it from here, which marks it as touched. [`Fleet::settle`] then updates the index and
//! reports the models that the queue should plan for again.

use std::{
    collections::BTreeSet,
    ops::{Index, IndexMut},
};

use crate::{
    estimate::LoadTime,
    health_log::{HealthChange, HealthLog, NodeHealth},
    ids::{NodeId, Time},
    instance::Load,
    model::ModelId,
    node::Node,
    sorted_set::SortedSet,
};

/// Where a model is, among the open nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whereabouts {
    /// Nodes that have it in memory and are not about to unload it.
    pub(crate) hosts: SortedSet<NodeId>,
    /// Nodes that are loading it or making room for it.
    pub(crate) loading: SortedSet<NodeId>,
    /// Nodes that have it on disk.
    pub(crate) shelves: SortedSet<NodeId>,
    /// Hosts that would take one more request, leaving health and back-offs aside.
    pub(crate) vacant: SortedSet<NodeId>,
    /// Slots of all hosts together.
    pub(crate) slots: usize,
}

/// What the index holds of a node.
#[derive(Clone, Debug, Default)]
struct Entered {
    /// Something about the node may have changed since it was entered.
    is_touched: bool,
    is_open: bool,
    listings: u64,
    layouts: u64,
    /// The models that it hosts, and the slots of each.
    hosted: Vec<(ModelId, usize)>,
    /// Models in memory, even if the node is not open or the model is about to be unloaded.
    resident: Vec<ModelId>,
    /// All names of the model that it is loading.
    loading: Vec<ModelId>,
    shelved: Vec<ModelId>,
    /// Whether it may refuse some routes or users, and whether some models have several names.
    kind: (bool, bool),
    /// Whether it takes a request at once, provided that a slot is free.
    admits: bool,
    health: NodeHealth,
}

/// What has changed for the queue since the index was last settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// Models to plan for again.
    pub(crate) models: SortedSet<ModelId>,
    /// A node closed or lost a model, so some requests may have no node left.
    pub(crate) has_losses: bool,
    /// A node's memory has changed, so a model that is in no memory may fit now.
    pub(crate) has_moves: bool,
    /// Models that have left a node's memory.
    pub(crate) unloaded: Vec<(NodeId, ModelId)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    nodes: Vec<Node>,
    entered: Vec<Entered>,
    whereabouts: Vec<Whereabouts>,
    touched: Vec<NodeId>,
    /// By node: how often it was touched.
    changes: Vec<u64>,
    /// Nodes with a load in progress.
    loading: SortedSet<NodeId>,
    /// Those of them that were touched since their loads were last taken on.
    touched_loads: SortedSet<NodeId>,
    /// Nodes in back-off, because they answered that they are busy or were overdue, and until when.
    busy: BTreeSet<(Time, NodeId)>,
    /// Nodes that do not take every request: they lack some routes, or some users avoid them.
    particular: SortedSet<NodeId>,
    /// Nodes on which some models have several names.
    synonymous: SortedSet<NodeId>,
    open: usize,
    news: News,
    pub(crate) health: HealthLog,
}

impl Index<NodeId> for Fleet {
    type Output = Node;

    fn index(&self, node: NodeId) -> &Node {
        &self.nodes[node.0]
    }
}

impl IndexMut<NodeId> for Fleet {
    fn index_mut(&mut self, node: NodeId) -> &mut Node {
        self.touch(node);
        &mut self.nodes[node.0]
    }
}

impl Fleet {
    pub(crate) fn new(nodes: impl Iterator<Item = Node>) -> Self {
        let mut fleet = Self::default();
        nodes.for_each(|node| fleet.push(node));
        fleet
    }

    pub(crate) fn push(&mut self, node: Node) {
        let id = NodeId(self.nodes.len());
        self.nodes.push(node);
        self.entered.push(Entered::default());
        self.changes.push(0);
        self.touch(id);
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node.0)
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        (node.0 < self.nodes.len()).then(|| &mut self[node])
    }

    /// For what neither the index nor a plan depends on.
    pub(crate) fn untouched(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.0]
    }

    /// A number that changes whenever anything about a node may have changed.
    pub(crate) fn changes(&self, node: NodeId) -> u64 {
        self.changes[node.0]
    }

    fn touch(&mut self, node: NodeId) {
        self.changes[node.0] += 1;
        if !std::mem::replace(&mut self.entered[node.0].is_touched, true) {
            self.touched.push(node);
        }
        if self.loading.binary_search(&node).is_ok() {
            self.touched_loads.insert(node);
        }
    }

    /// Gives nodes that have loaded nothing yet the load times of the others. Touches no node, since nothing about it
    /// changes.
    pub(crate) fn guess_load_times(&mut self, usual: &LoadTime) {
        self.nodes.iter_mut().for_each(|node| node.load_time.guess(usual));
    }

    /// Nodes that are open.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Nodes that may refuse some routes or users. The index must have been settled.
    pub(crate) fn particular(&self) -> impl Iterator<Item = NodeId> {
        self.particular.iter().copied()
    }

    /// Whether two models may be one under two names.
    /// The nodes that have several names for the same weights.
    pub(crate) fn with_synonyms(&self) -> impl Iterator<Item = NodeId> {
        self.synonymous.iter().copied()
    }

    pub(crate) fn has_synonyms(&self) -> bool {
        !self.synonymous.is_empty()
    }

    /// Takes the nodes whose loads may go on: they were touched, or nobody waits any longer for one of these models.
    pub(crate) fn take_loads(&mut self, unwanted: impl Iterator<Item = ModelId>) -> SortedSet<NodeId> {
        let mut loads = std::mem::take(&mut self.touched_loads);
        for model in unwanted {
            loads.extend(self.of(model).loading.iter().copied());
        }
        loads
    }

    /// When the next back-off ends.
    pub(crate) fn next_back_off_end(&self) -> Option<Time> {
        self.busy.first().map(|(until, _)| *until)
    }

    /// Ends the back-offs that have passed.
    pub(crate) fn end_back_offs(&mut self, now: Time) {
        while let Some((_, node)) = self.busy.first().copied().filter(|(until, _)| *until <= now) {
            self[node].end_back_off(now);
            self.busy.pop_first();
        }
    }

    /// Where a model is. The index must have been settled.
    pub(crate) fn of(&self, model: ModelId) -> &Whereabouts {
        const NOWHERE: &Whereabouts = &Whereabouts {
            hosts: SortedSet::new(),
            loading: SortedSet::new(),
            shelves: SortedSet::new(),
            vacant: SortedSet::new(),
            slots: 0,
        };
        self.whereabouts.get(model.0).unwrap_or(NOWHERE)
    }

    fn of_mut(&mut self, model: ModelId) -> &mut Whereabouts {
        if self.whereabouts.len() <= model.0 {
            self.whereabouts.resize_with(model.0 + 1, Whereabouts::default);
        }
        &mut self.whereabouts[model.0]
    }

    /// Touches the nodes whose number of slots is still being learned: the passing of time may allow another probe.
    pub(crate) fn look_for_probes(&mut self) {
        let learning = self.ids().filter(|node| self[*node].spec.slots.is_none() && self[*node].in_flight() > 0);
        for node in learning.collect::<Vec<_>>() {
            self.touch(node);
        }
    }

    /// Whether nothing was touched since the index was last updated.
    pub(crate) fn is_settled(&self) -> bool {
        self.touched.is_empty()
    }

    /// Updates the index. Returns what has changed, which the caller takes.
    pub(crate) fn settle(&mut self, now: Time) -> &mut News {
        let mut touched = std::mem::take(&mut self.touched);
        for node in touched.drain(..) {
            self.entered[node.0].is_touched = false;
            self.enter(node, now);
        }
        self.touched = touched;
        &mut self.news
    }

    fn enter(&mut self, id: NodeId, now: Time) {
        let node = &self.nodes[id.0];
        if cfg!(debug_assertions) {
            node.check();
        }
        let (is_open, opening) = (node.is_open(), node.opening());
        let admits = opening.seconds(now) == 0.0;
        if let Some(until) = opening.until {
            self.busy.insert((until, id));
        }
        let entered = &mut self.entered[id.0];
        let kind = (node.is_particular(), node.has_synonyms());
        if std::mem::replace(&mut entered.kind, kind) != kind {
            self.particular.set(id, kind.0);
            self.synonymous.set(id, kind.1);
        }
        let has_moved = entered.is_open != is_open || entered.layouts != node.layouts;
        // A node that opens or closes enters or leaves every index, though its lists are the same.
        let is_relisted = entered.is_open != is_open || entered.listings != node.listings;
        let admitted = std::mem::replace(&mut entered.admits, admits);
        let has_opened = admits && !admitted;
        let health = node.health();
        // A node that has left is told of as such, not as one that is down.
        let before = std::mem::replace(&mut entered.health, health);
        if before != health && !node.has_left {
            let why = node.last_error().map(str::to_owned);
            self.health.add(HealthChange { node: id, at: now, before, after: health, why });
        }
        if is_relisted {
            self.enter_shelf(id, is_open);
        }
        if has_moved || is_relisted {
            self.enter_memory(id, is_open);
        }
        self.enter_vacancies(id, has_opened, now);
    }

    // Apart from `enter`, as are the other parts that hardly any event needs: it runs with every event.
    #[cold]
    fn enter_shelf(&mut self, id: NodeId, is_open: bool) {
        let node = &self.nodes[id.0];
        let listed = node.labels().filter(|(_, label)| is_open && label.listing.is_some());
        let mut shelved: Vec<ModelId> = listed.map(|(model, _)| model).collect();
        shelved.sort_unstable();
        let before = std::mem::replace(&mut self.entered[id.0].shelved, shelved.clone());
        for model in before.iter().filter(|model| shelved.binary_search(model).is_err()) {
            self.of_mut(*model).shelves.remove(&id);
            self.news.has_losses = true;
        }
        for model in shelved {
            self.of_mut(model).shelves.insert(id);
            self.news.models.insert(model);
        }
    }

    #[cold]
    fn enter_memory(&mut self, id: NodeId, is_open: bool) {
        let node = &self.nodes[id.0];
        // Sorted, for the binary searches below.
        let mut resident: Vec<ModelId> = node.residents().flat_map(|(model, _)| node.names(model)).collect();
        resident.sort_unstable();
        let serving = node.residents().filter(|(_, instance)| is_open && instance.is_serving());
        let mut hosted: Vec<(ModelId, usize)> = Vec::new();
        for (model, instance) in serving {
            let names = node.names(model).filter(|name| node.lists(*name));
            hosted.extend(names.map(|name| (name, instance.slot_count())));
        }
        hosted.sort_unstable();
        let loading = node.load().filter(|_| is_open).into_iter();
        let loading: Vec<ModelId> = loading.flat_map(|load: &Load| node.names(load.model)).collect();
        let has_load = node.load().is_some();
        let (listings, layouts) = (node.listings, node.layouts);
        self.loading.set(id, has_load);
        let entered = &mut self.entered[id.0];
        self.open = self.open + usize::from(is_open) - usize::from(entered.is_open);
        (entered.is_open, entered.listings, entered.layouts) = (is_open, listings, layouts);
        let were_resident = std::mem::replace(&mut entered.resident, resident.clone());
        let were_hosted = std::mem::replace(&mut entered.hosted, hosted.clone());
        let was_loading = std::mem::replace(&mut entered.loading, loading.clone());
        let unloaded = were_resident.into_iter().filter(|model| resident.binary_search(model).is_err());
        self.news.unloaded.extend(unloaded.map(|model| (id, model)));
        // Take out all that was entered before, then enter what is there now: the sums stay right whatever has changed.
        for (model, slots) in were_hosted {
            let whereabouts = self.of_mut(model);
            whereabouts.slots -= slots;
            if hosted.binary_search_by_key(&model, |(model, _)| *model).is_err() {
                whereabouts.hosts.remove(&id);
                whereabouts.vacant.remove(&id);
                self.news.models.insert(model);
            }
        }
        for model in was_loading {
            self.of_mut(model).loading.remove(&id);
            self.news.models.insert(model);
        }
        for (model, slots) in hosted {
            let whereabouts = self.of_mut(model);
            whereabouts.slots += slots;
            whereabouts.hosts.insert(id);
            self.news.models.insert(model);
        }
        for model in loading {
            self.of_mut(model).loading.insert(id);
        }
        self.news.has_moves = true;
        self.news.has_losses = true;
    }

    /// Records where a slot is free.
    fn enter_vacancies(&mut self, id: NodeId, has_opened: bool, now: Time) {
        let Self { nodes, entered, whereabouts, news, .. } = self;
        for (model, slots) in &mut entered[id.0].hosted {
            let instance = nodes[id.0].instance(*model);
            let (Some(instance), Some(whereabouts)) = (instance, whereabouts.get_mut(model.0)) else { continue };
            let count = instance.slot_count();
            let is_vacant = instance.has_vacancy(count, now.as_secs_f64());
            whereabouts.slots = whereabouts.slots + count - *slots;
            *slots = count;
            if !is_vacant {
                whereabouts.vacant.remove(&id);
            } else if whereabouts.vacant.insert(id) || has_opened {
                news.models.insert(*model);
            }
        }
    }
}
