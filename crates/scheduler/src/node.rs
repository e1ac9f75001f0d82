//! What is known of one node: its models, what runs there, what it loads, its health and its speed.

pub(crate) mod health;
mod listing;
mod speed;
mod view;

use crate::{
    breaker::Breaker,
    catalog::NodeSpec,
    estimate::{FIRST_GUESS, LoadTime, Speed},
    ids::Time,
    instance::Instance,
    load::Load,
    model::ModelId,
    report::Routed,
    route::RouteSet,
    share::Reach,
};

/// While two looks at a node agree in this, it is open to the same requests, but for slots.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) struct Standing {
    is_live: bool,
    admits: bool,
    pub(crate) listings: u64,
    is_draining: bool,
}

/// When a node on trial may have answered.
const TRIAL_SECONDS: f64 = 2.0;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) breaker: Breaker,
    /// By [`ModelId`].
    pub(crate) instances: Vec<Option<Instance>>,
    /// How often the models on disk changed.
    pub(crate) listings: u64,
    pub(crate) load: Option<Load>,
    /// What it may be asked for, as far as is known.
    pub(crate) routes: RouteSet,
    pub(crate) is_draining: bool,
    pub(crate) has_left: bool,
    /// Which of its slots this gateway may use.
    pub(crate) reach: Reach,
    pub(crate) in_flight: u32,
    /// Requests at a time since its return; `None` when it takes all again.
    pub(crate) ramp: Option<u32>,
    pub(crate) busy_until: Option<Time>,
    /// It was overdue with its streams, and gets no new request before then or before a token comes.
    pub(crate) quiet_until: Option<Time>,
    /// Seconds; when a token, an answer or a load of it was last seen.
    pub(crate) heard_at: f64,
    /// When it last began an answer, or gave a whole one.
    pub(crate) worked_at: Option<Time>,
    pub(crate) speed: Speed,
    pub(crate) load_time: LoadTime,
    /// The most ever seen in its memory, bytes.
    pub(crate) most_resident: u64,
    /// It was seen to push a model out by itself: its memory is no larger than what was seen in it.
    pub(crate) pushes_out: bool,
    pub(crate) last_error: Option<String>,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) loads: u64,
    pub(crate) routed: Routed,
}

impl Node {
    pub(crate) fn new(spec: NodeSpec) -> Self {
        Self {
            spec,
            breaker: Breaker::new(),
            instances: Vec::new(),
            listings: 0,
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
            worked_at: None,
            speed: Speed::default(),
            load_time: LoadTime::default(),
            most_resident: 0,
            pushes_out: false,
            last_error: None,
            completed: 0,
            failed: 0,
            loads: 0,
            routed: Routed::default(),
        }
    }

    // What is there.

    pub(crate) fn instance(&self, model: ModelId) -> Option<&Instance> {
        self.instances.get(model.0)?.as_ref()
    }

    pub(crate) fn instance_mut(&mut self, model: ModelId) -> Option<&mut Instance> {
        self.instances.get_mut(model.0)?.as_mut()
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = (ModelId, &Instance)> {
        let indexed = self.instances.iter().enumerate();
        indexed.filter_map(|(index, instance)| Some((ModelId(index), instance.as_ref()?)))
    }

    pub(crate) fn instances_mut(&mut self) -> impl Iterator<Item = (ModelId, &mut Instance)> {
        let indexed = self.instances.iter_mut().enumerate();
        indexed.filter_map(|(index, instance)| Some((ModelId(index), instance.as_mut()?)))
    }

    /// What is in memory and stays there.
    pub(crate) fn residents(&self) -> impl Iterator<Item = (ModelId, &Instance)> {
        self.instances().filter(|(_, instance)| instance.resident_since.is_some())
    }

    pub(crate) fn meet(&mut self, model: ModelId, listed: &str) -> &mut Instance {
        if self.instances.len() <= model.0 {
            self.instances.resize_with(model.0 + 1, || None);
        }
        let slots = self.spec.slots;
        self.instances[model.0].get_or_insert_with(|| {
            let portions = self.reach.portions(&self.spec.name);
            Instance { portions, ..Instance::new(listed.into(), slots) }
        })
    }

    /// What was known of a model there is known no more.
    pub(crate) fn drop_instance(&mut self, model: ModelId) {
        if let Some(instance) = self.instances.get_mut(model.0) {
            debug_assert!(instance.as_ref().is_none_or(|instance| instance.running.is_empty()));
            *instance = None;
        }
    }

    /// Whether the model is listed there.
    pub(crate) fn lists(&self, model: ModelId) -> bool {
        self.instance(model).is_some_and(|instance| instance.listing.is_some())
    }

    /// The most ever seen in memory, bytes, and whether the node was seen to push something out by itself.
    pub(crate) fn memory_seen(&self) -> (u64, bool) {
        (self.most_resident, self.pushes_out)
    }

    pub(crate) fn recall_memory(&mut self, most_resident: u64, pushes_out: bool) {
        (self.most_resident, self.pushes_out) = (most_resident, pushes_out);
    }

    /// Memory for models, bytes; `None` if nothing is known to be too much.
    pub(crate) fn budget(&self) -> Option<u64> {
        self.spec.vram_bytes.or(self.pushes_out.then_some(self.most_resident))
    }

    /// Whether a model fits beside what is in memory.
    pub(crate) fn has_room_for(&self, instance: &Instance) -> bool {
        let taken = self.residents().map(|(_, instance)| instance.footprint()).fold(0, u64::saturating_add);
        self.budget().is_none_or(|budget| taken.saturating_add(instance.footprint()) <= budget)
    }

    pub(crate) fn set_reach(&mut self, reach: &Reach) {
        self.reach = reach.clone();
        let portions = reach.portions(&self.spec.name);
        for instance in self.instances.iter_mut().flatten() {
            instance.portions.clone_from(&portions);
        }
    }

    /// Whether this gateway may have it load something next.
    pub(crate) fn may_load(&self) -> bool {
        self.load.is_none() && self.reach.loads_on(&self.spec.name)
    }

    /// Whether this gateway may use a slot for the model, now or after a load.
    pub(crate) fn may_serve(&self, model: ModelId, now: f64) -> bool {
        let is_loading = self.load.as_ref().is_some_and(|load| load.model == model);
        self.instance(model).filter(|instance| instance.slot_count() > 0).is_some_and(|instance| {
            let is_coming = is_loading || (self.reach.loads_on(&self.spec.name) && instance.load_again_at <= now);
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

    pub(crate) fn standing(&self) -> Standing {
        Standing {
            is_live: self.is_live(),
            admits: self.breaker.admits(),
            listings: self.listings,
            is_draining: self.is_draining,
        }
    }

    pub(crate) fn reopens_at(&self) -> Option<Time> {
        self.breaker.reopens_at()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Seconds until it takes a request, slots apart.
    pub(crate) fn opens_in(&self, now: Time) -> f64 {
        let closed_until = self.busy_until.into_iter().chain(self.quiet_until).max();
        let busy = closed_until.map_or(0.0, |until| until.saturating_sub(now).as_secs_f64());
        let is_full = self.ramp.is_some_and(|ramp| self.in_flight >= ramp);
        if self.breaker.admits() && !is_full { busy } else { busy.max(TRIAL_SECONDS) }
    }

    /// Whether it is overdue with its streams.
    pub(crate) fn is_quiet(&self, now: Time) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    fn forget_error_when_up(&mut self) {
        if self.breaker.is_faultless() {
            self.last_error = None;
        }
    }
}

/// What a node nobody has measured is taken for: as fast as the fastest.
pub(crate) fn fastest<'a>(nodes: impl Iterator<Item = &'a Node>) -> f64 {
    nodes.filter_map(|node| node.speed.alone()).min_by(f64::total_cmp).unwrap_or(FIRST_GUESS)
}
