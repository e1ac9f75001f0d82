//! What is known of one node? Its models, what runs there, what it loads, its health and its speed.

pub(crate) mod health;
mod listing;
pub(crate) mod speed;
mod streams;
mod synonyms;
mod view;

use std::sync::Arc;

use crate::{
    breaker::Breaker,
    catalog::{Model, NodeSpec},
    estimate::{LoadTime, Speed},
    ids::{RouteSet, Time},
    instance::{Instance, Load, Synonym},
    model::ModelId,
    report::Routed,
    share::Reach,
};

/// A guess of how long a node on trial takes to answer.
const TRIAL_SECONDS: f64 = 2.0;

/// When a node takes requests again.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) struct NodeOpening {
    /// The end of its back-off.
    pub(crate) until: Option<Time>,
    /// First it must show that it answers.
    is_on_trial: bool,
}

impl NodeOpening {
    /// Seconds until then; 0 if it takes requests now.
    pub(crate) fn seconds(self, now: Time) -> f64 {
        let busy = self.until.map_or(0.0, |until| until.saturating_sub(now).as_secs_f64());
        if self.is_on_trial { busy.max(TRIAL_SECONDS) } else { busy }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) breaker: Breaker,
    /// By [`ModelId`]. Boxed, because a node has only a few of the models of a large fleet. There is none for a synonym.
    instances: Vec<Option<Box<Instance>>>,
    /// In the order of their ids.
    synonyms: Vec<Synonym>,
    /// The models that are in memory or have requests running, in the order of their ids.
    active: Vec<ModelId>,
    /// The last report of its disk, as received.
    reported: Option<Arc<[Model]>>,
    /// The models on its disk, by name.
    shelf: Arc<[Model]>,
    /// Counts changes of what is on disk.
    pub(crate) listings: u64,
    /// Counts changes of what is in memory, being loaded or being unloaded.
    pub(crate) layouts: u64,
    load: Option<Load>,
    /// The routes it has, as far as is known.
    pub(crate) routes: RouteSet,
    pub(crate) is_draining: bool,
    pub(crate) has_left: bool,
    /// The slots that this gateway may use here.
    pub(crate) reach: Reach,
    in_flight: u32,
    /// After its return it takes only this many requests at a time; `None` once it takes all again.
    ramp: Option<u32>,
    busy_until: Option<Time>,
    /// Its streams were overdue: it gets no new request before then, unless a token comes earlier.
    quiet_until: Option<Time>,
    /// When a token, an answer or a load of it was last seen, in seconds.
    pub(crate) heard_at: f64,
    /// When a request was last sent to it or ended there, in seconds.
    pub(crate) used_at: f64,
    /// When it last began an answer or completed one.
    pub(crate) worked_at: Option<Time>,
    pub(crate) speed: Speed,
    pub(crate) load_time: LoadTime,
    /// The most that was ever in its memory, in bytes.
    most_resident: u64,
    /// It was seen to evict a model by itself, so its memory is no larger than `most_resident`.
    evicts: bool,
    last_error: Option<String>,
    completed: u64,
    failed: u64,
    pub(crate) loads: u64,
    routed: Routed,
}

impl Node {
    pub(crate) fn new(spec: NodeSpec) -> Self {
        Self {
            spec,
            breaker: Breaker::new(),
            instances: Vec::new(),
            synonyms: Vec::new(),
            active: Vec::new(),
            reported: None,
            shelf: Arc::default(),
            listings: 0,
            layouts: 0,
            load: None,
            routes: RouteSet::ALL,
            is_draining: false,
            has_left: false,
            reach: Reach::Whole,
            in_flight: 0,
            ramp: None,
            busy_until: None,
            quiet_until: None,
            heard_at: 0.0,
            used_at: f64::NEG_INFINITY,
            worked_at: None,
            speed: Speed::default(),
            load_time: LoadTime::default(),
            most_resident: 0,
            evicts: false,
            last_error: None,
            completed: 0,
            failed: 0,
            loads: 0,
            routed: Routed::default(),
        }
    }

    // What is there.

    pub(crate) fn instance(&self, model: ModelId) -> Option<&Instance> {
        match self.instances.get(model.0) {
            Some(Some(instance)) => Some(instance),
            _ => self.instance_of_synonym(model),
        }
    }

    pub(crate) fn instance_mut(&mut self, model: ModelId) -> Option<&mut Instance> {
        let main = self.main(model);
        self.instances.get_mut(main.0)?.as_deref_mut()
    }

    /// Every model that was seen there and has not been forgotten, under its main name.
    pub(crate) fn instances(&self) -> impl Iterator<Item = (ModelId, &Instance)> {
        let indexed = self.instances.iter().enumerate();
        indexed.filter_map(|(index, instance)| Some((ModelId(index), instance.as_deref()?)))
    }

    /// The models that are in memory or have requests running.
    pub(crate) fn active(&self) -> impl Iterator<Item = (ModelId, &Instance)> {
        self.active.iter().filter_map(|model| Some((*model, self.instance(*model)?)))
    }

    /// The models in memory, including those about to be unloaded.
    pub(crate) fn residents(&self) -> impl Iterator<Item = (ModelId, &Instance)> {
        self.active().filter(|(_, instance)| instance.resident_since.is_some())
    }

    pub(crate) fn meet(&mut self, model: ModelId, listed: &str) -> &mut Instance {
        if self.instances.len() <= model.0 {
            self.instances.resize_with(model.0 + 1, || None);
        }
        let model = self.main(model);
        let Self { instances, spec, reach, .. } = self;
        instances[model.0].get_or_insert_with(|| Box::new(new_instance(listed.into(), spec, reach)))
    }

    /// Sets since when a model is in memory, in seconds; `None` when it has left.
    pub(crate) fn set_resident(&mut self, model: ModelId, since: Option<f64>) {
        let Some(instance) = self.instance_mut(model) else { return };
        let is_new = std::mem::replace(&mut instance.resident_since, since).is_some() != since.is_some();
        self.layouts += u64::from(is_new);
        self.settle_active(self.main(model));
    }

    /// Marks a model as about to be unloaded, or as staying after all.
    pub(crate) fn set_leaving(&mut self, model: ModelId, is_leaving: bool) {
        if let Some(instance) = self.instance_mut(model) {
            instance.is_leaving = is_leaving;
            self.layouts += 1;
        }
    }

    fn settle_active(&mut self, model: ModelId) {
        // Only main names are active.
        let instance = self.instances.get(model.0).and_then(Option::as_deref);
        let is_active = instance.is_some_and(|it| it.resident_since.is_some() || !it.running.is_empty());
        match (self.active.binary_search(&model), is_active) {
            (Err(place), true) => self.active.insert(place, model),
            (Ok(place), false) => _ = self.active.remove(place),
            _ => {}
        }
    }

    pub(crate) fn load(&self) -> Option<&Load> {
        self.load.as_ref()
    }

    /// The load in progress. Its model must not be changed.
    pub(crate) fn load_mut(&mut self) -> Option<&mut Load> {
        self.load.as_mut()
    }

    /// Replaces the load in progress and returns the old one.
    pub(crate) fn set_load(&mut self, load: Option<Load>) -> Option<Load> {
        self.layouts += 1;
        std::mem::replace(&mut self.load, load)
    }

    /// Forgets what was known of a name there.
    pub(crate) fn drop_instance(&mut self, model: ModelId) {
        debug_assert!(!self.runs(model));
        self.drop_name(model);
    }

    /// Whether the model is listed there.
    pub(crate) fn lists(&self, model: ModelId) -> bool {
        self.label(model).is_some_and(|label| label.listing.is_some())
    }

    /// The most that was ever in memory, in bytes, and whether the node was seen to evict a model by itself.
    pub(crate) fn memory_seen(&self) -> (u64, bool) {
        (self.most_resident, self.evicts)
    }

    pub(crate) fn recall_memory(&mut self, most_resident: u64, evicts: bool) {
        (self.most_resident, self.evicts) = (most_resident, evicts);
    }

    /// Memory for models in bytes; `None` while no limit is known.
    pub(crate) fn budget(&self) -> Option<u64> {
        self.spec.vram_bytes.or(self.evicts.then_some(self.most_resident))
    }

    /// Bytes of memory that models use.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.residents().map(|(_, instance)| instance.footprint()).fold(0, u64::saturating_add)
    }

    /// Whether a model fits beside those in memory.
    pub(crate) fn has_room_for(&self, instance: &Instance) -> bool {
        self.budget().is_none_or(|budget| self.taken_bytes().saturating_add(instance.footprint()) <= budget)
    }

    pub(crate) fn set_reach(&mut self, reach: &Reach) {
        self.reach = reach.clone();
        let portions = reach.portions(&self.spec.name);
        for instance in self.instances.iter_mut().flatten() {
            instance.portions.clone_from(&portions);
            let held = u32::try_from(instance.running.len()).unwrap_or(u32::MAX);
            instance.ceiling = (*reach == Reach::Held).then_some(held);
        }
        self.layouts += 1;
    }

    /// Slots of this model that were another gateway's.
    pub(crate) fn take_spare(&mut self, model: ModelId, slots: u32) {
        if let Some(instance) = self.instance_mut(model) {
            instance.ceiling = instance.ceiling.map(|held| held.saturating_add(slots));
            self.layouts += 1;
        }
    }

    /// Whether this gateway is the one that loads and unloads here.
    pub(crate) fn is_loader(&self) -> bool {
        self.reach.loads_on(&self.spec.name)
    }

    /// Whether this gateway may start a load here now.
    pub(crate) fn may_load(&self) -> bool {
        self.load.is_none() && self.is_loader()
    }

    /// Whether this gateway may use a slot for the model, now or after a load.
    pub(crate) fn may_serve(&self, model: ModelId, now: f64) -> bool {
        let is_loading = self.load.as_ref().is_some_and(|load| self.are_same(load.model, model));
        self.instance(model).filter(|instance| instance.slot_count() > 0).is_some_and(|instance| {
            let is_coming = is_loading || (self.is_loader() && instance.load_again_at <= now);
            instance.resident_since.is_some() || is_coming
        })
    }

    // Whether it takes requests.

    pub(crate) fn is_live(&self) -> bool {
        self.spec.slots != Some(0) && !self.has_left && self.breaker.is_live()
    }

    /// Whether requests may be planned for it.
    pub(crate) fn is_open(&self) -> bool {
        self.is_live() && !self.is_draining
    }

    pub(crate) fn reopens_at(&self) -> Option<Time> {
        self.breaker.reopens_at()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Seconds until it takes requests, free slots aside.
    pub(crate) fn opens_in(&self, now: Time) -> f64 {
        self.opening().seconds(now)
    }

    /// What decides when it takes requests.
    pub(crate) fn opening(&self) -> NodeOpening {
        let is_full = self.ramp.is_some_and(|ramp| self.in_flight >= ramp);
        NodeOpening { until: self.closed_until(), is_on_trial: !self.breaker.admits() || is_full }
    }

    /// Whether some requests are kept away from it, however little runs there.
    pub(crate) fn is_particular(&self) -> bool {
        self.routes != RouteSet::ALL || self.breaker.is_accused()
    }

    /// Asserts what must hold after every step.
    pub(crate) fn check(&self) {
        debug_assert!(self.active.is_sorted());
        let is_active = |instance: &Instance| instance.resident_since.is_some() || !instance.running.is_empty();
        debug_assert!(self.active().all(|(_, instance)| is_active(instance)), "{}", self.spec.name);
        let running: usize = self.active().map(|(_, instance)| instance.running.len()).sum();
        debug_assert_eq!(running, self.in_flight as usize, "{}", self.spec.name);
    }
}

fn new_instance(listed: Arc<str>, spec: &NodeSpec, reach: &Reach) -> Instance {
    let portions = reach.portions(&spec.name);
    let ceiling = (*reach == Reach::Held).then_some(0);
    Instance { portions, ceiling, ..Instance::new(listed, spec.slots) }
}
