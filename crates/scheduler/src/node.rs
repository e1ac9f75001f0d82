//! What is known of one node: its models, what runs there, what it loads, its health and its speed.

use std::{sync::Arc, time::Duration};

use super::{
    breaker::{Breaker, Epoch},
    estimate::{FIRST_GUESS, LoadTime, PREFILL_RATIO, PREFILL_SLOWDOWN, REFERENCE_BYTES, Speed},
    event::{Failure, Loaded, NodeSpec, NodeState, NodeView, RequestId, Routed, Time},
    instance::{Instance, Running},
    loading::Load,
    model::{ModelId, Models},
};

/// How long a node that called itself busy is left alone.
const BUSY_BACK_OFF: Duration = Duration::from_secs(1);
/// What a node says of its memory may be older than what it answered to a load or an unload; and Ollama lists a model
/// until its memory is free again, seconds after it said that it goes.
const LISTING_LAG_SECONDS: f64 = 5.0;
/// When a node on trial may have answered.
const TRIAL_SECONDS: f64 = 2.0;
/// After its return a node takes so many at first, and twice as many with every answer that begins.
const FIRST_RAMP: u32 = 1;
const WHOLE_RAMP: u32 = 64;

/// While two looks at a node agree in this, it is open to the same requests, but for slots.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) struct Standing {
    is_live: bool,
    admits: bool,
    listings: u64,
    is_draining: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) breaker: Breaker,
    /// By [`ModelId`].
    instances: Vec<Option<Instance>>,
    /// How often the models on disk changed.
    listings: u64,
    pub(crate) load: Option<Load>,
    pub(crate) is_draining: bool,
    pub(crate) has_left: bool,
    in_flight: u32,
    /// Requests at a time since its return; `None` when it takes all again.
    ramp: Option<u32>,
    busy_until: Option<Time>,
    /// Seconds; when a token, an answer or a load of it was last seen.
    pub(crate) heard_at: f64,
    pub(crate) speed: Speed,
    pub(crate) load_time: LoadTime,
    /// The most ever seen in its memory, bytes.
    most_resident: u64,
    /// It was seen to push a model out by itself: its memory is no larger than what was seen in it.
    pushes_out: bool,
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
            listings: 0,
            load: None,
            is_draining: false,
            has_left: false,
            in_flight: 0,
            ramp: None,
            busy_until: None,
            heard_at: 0.0,
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
        self.instances[model.0].get_or_insert_with(|| Instance::new(listed.into(), slots))
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
        let busy = self.busy_until.map_or(0.0, |until| until.saturating_sub(now).as_secs_f64());
        let is_full = self.ramp.is_some_and(|ramp| self.in_flight >= ramp);
        if self.breaker.admits() && !is_full { busy } else { busy.max(TRIAL_SECONDS) }
    }

    // How long things take there.

    /// Seconds a token takes for a stream that runs alone.
    pub(crate) fn token_seconds(&self, instance: &Instance, guess: f64) -> f64 {
        let size = instance.model_bytes() / REFERENCE_BYTES;
        self.speed.alone().unwrap_or(guess) * size * instance.correction.factor
    }

    /// Seconds until the first token of a prompt with so many tokens to read, beside so many others.
    pub(crate) fn prefill_seconds(&self, instance: &Instance, tokens: f64, others: f64, guess: f64) -> f64 {
        let stretch = 1.0 + PREFILL_SLOWDOWN * others;
        let unmeasured = || tokens * self.token_seconds(instance, guess) / PREFILL_RATIO;
        instance.prefill.at(tokens).unwrap_or_else(unmeasured) * stretch
    }

    /// Seconds until a running request gives its slot back.
    pub(crate) fn seconds_left(&self, instance: &Instance, running: &Running, now: f64, guess: f64) -> f64 {
        let others = f64::from(self.in_flight.saturating_sub(1));
        let token = self.token_seconds(instance, guess) * self.speed.stretch(others);
        let since = now - running.heard_at;
        match running.began_at {
            Some(_) => {
                let coming = running.output - running.delivered - since / token;
                coming.max(0.3 * running.output).min(running.tokens_left()) * token
            }
            None => {
                let prefill = self.prefill_seconds(instance, running.prompt, running.others, guess);
                (prefill - (now - running.sent_at)).max(0.1 * prefill) + running.output * token
            }
        }
    }

    pub(crate) fn load_seconds(&self, instance: &Instance) -> f64 {
        self.load_time.of(instance.model_bytes())
    }

    // What happens to it.

    /// A request is sent here.
    pub(crate) fn occupy(&mut self, model: ModelId, running: Running) -> Epoch {
        self.in_flight += 1;
        let id = running.id;
        if let Some(instance) = self.instance_mut(model) {
            if instance.running.len() >= instance.slot_count() {
                instance.slots.probing(id);
            }
            instance.running.push(running);
        }
        self.breaker.dispatched(id)
    }

    /// A request sent here is over.
    pub(crate) fn vacate(&mut self, id: RequestId, model: ModelId) -> Option<Running> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.breaker.released(id);
        let instance = self.instance_mut(model)?;
        let index = instance.running.iter().position(|running| running.id == id)?;
        instance.slots.ended(id);
        Some(instance.running.swap_remove(index))
    }

    /// A request was sent here, in its so-manieth attempt.
    pub(crate) fn count_routed(&mut self, attempt: u32, caused_load: bool) {
        match (attempt, caused_load) {
            (1, false) => self.routed.warm += 1,
            (1, true) => self.routed.cold += 1,
            _ => self.routed.fallback += 1,
        }
    }

    /// The first byte of an answer came.
    pub(crate) fn started(&mut self, epoch: Epoch) {
        self.breaker.started(epoch);
        self.ramp = self.ramp.map(|ramp| ramp * 2).filter(|ramp| *ramp < WHOLE_RAMP);
        self.forget_error_when_up();
    }

    /// A whole answer came.
    pub(crate) fn completed(&mut self, epoch: Epoch) {
        self.completed += 1;
        self.breaker.succeeded(epoch);
        self.started(epoch);
    }

    /// An attempt failed after its first byte.
    pub(crate) fn broke_off(&mut self, failure: Failure, epoch: Epoch, now: Time) {
        self.failed += 1;
        self.breaker.broke_off(epoch, now);
        self.last_error = Some(failure.to_string());
        self.went_out();
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, model: ModelId, failure: Failure, epoch: Epoch, now: Time) {
        self.failed += 1;
        match failure {
            Failure::Busy => {
                self.busy_until = Some(now + BUSY_BACK_OFF);
                if let Some(instance) = self.instance_mut(model) {
                    instance.slots.overrun(instance.running.len(), now.as_secs_f64());
                }
            }
            Failure::Missing => self.forget(model),
            Failure::Unreachable | Failure::Silent => self.breaker.unreachable(epoch, now),
            _ => self.breaker.failed(epoch, now),
        }
        if !matches!(failure, Failure::Busy | Failure::Missing) {
            self.last_error = Some(failure.to_string());
            self.forget_error_when_up();
        }
        self.went_out();
    }

    /// It is taken for dead although it answers probes.
    pub(crate) fn fell_silent(&mut self, now: Time) {
        self.breaker.take_out(now);
        self.last_error = Some(Failure::Silent.to_string());
        self.went_out();
    }

    pub(crate) fn fail_load(&mut self, failure: Failure) {
        self.last_error = Some(format!("could not load a model: it {failure}"));
    }

    /// After what may have taken it out: it comes back slowly, and what is in its memory then is for it to say.
    fn went_out(&mut self) {
        if !self.breaker.is_live() {
            self.ramp = Some(FIRST_RAMP);
            self.instances_mut().for_each(|(_, instance)| instance.resident_since = None);
        }
    }

    /// The model is not there although it was listed.
    pub(crate) fn forget(&mut self, model: ModelId) {
        if let Some(instance) = self.instance_mut(model) {
            instance.listing = None;
            instance.resident_since = None;
            self.listings += 1;
        }
    }

    /// Takes over a listing of what is on disk.
    pub(crate) fn list(&mut self, listed: Vec<super::event::Model>, models: &mut Models) {
        let mut changed = false;
        let mut seen = Vec::with_capacity(listed.len());
        for model in listed {
            let id = models.meet(&model.name);
            seen.push(id);
            let instance = self.meet(id, &model.name);
            if instance.listing.as_ref() != Some(&model) {
                let before =
                    instance.listing.as_ref().map(|before| &before.digest).or(instance.recalled_digest.as_ref());
                if before.is_some_and(|digest| *digest != model.digest) {
                    // Another model of the same name: what was learned was of the old one.
                    (instance.correction, instance.prefill) = Default::default();
                    instance.vram_bytes = None;
                }
                instance.listed = model.name.as_str().into();
                instance.listing = Some(model);
                changed = true;
            }
        }
        for (id, instance) in self.instances_mut() {
            if instance.listing.is_some() && !seen.contains(&id) {
                instance.listing = None;
                changed = true;
            }
        }
        self.listings += u64::from(changed);
    }

    /// Takes over a listing of what is in memory; the models that came into it by others' doing count from now on.
    pub(crate) fn reside(&mut self, loaded: Vec<Loaded>, models: &mut Models, now: f64) {
        self.most_resident =
            self.most_resident.max(loaded.iter().map(|loaded| loaded.vram_bytes).fold(0, u64::saturating_add));
        let mut seen = Vec::with_capacity(loaded.len());
        let loading = self.load.as_ref().map(|load| load.model);
        for Loaded { name, vram_bytes, context_length } in loaded {
            let id = models.meet(&name);
            seen.push(id);
            let instance = self.meet(id, &name);
            (instance.vram_bytes, instance.context_length) =
                (Some(vram_bytes).filter(|bytes| *bytes > 0), context_length);
            let is_leaving = instance.left_at.is_some_and(|left| now < left + LISTING_LAG_SECONDS);
            if loading != Some(id) && !is_leaving {
                instance.resident_since.get_or_insert(now);
            }
        }
        let mut pushed_out = false;
        for (id, instance) in self.instances_mut() {
            let is_gone = instance.resident_since.is_some_and(|since| since + LISTING_LAG_SECONDS < now);
            if is_gone && !seen.contains(&id) && instance.running.is_empty() {
                pushed_out |= !instance.is_leaving;
                instance.resident_since = None;
                instance.sessions.clear();
            }
        }
        // A model that goes soon after another came was pushed out; one that goes at rest has expired.
        let has_just_loaded = |instance: &Instance| instance.resident_since.is_some_and(|since| now - since < 10.0);
        let had_load = loading.is_some() || self.instances().any(|(_, instance)| has_just_loaded(instance));
        self.pushes_out |= pushed_out && had_load;
    }

    /// A probe was answered.
    pub(crate) fn answered(&mut self, now: Time) {
        self.breaker.answered(now);
        self.forget_error_when_up();
    }

    /// A probe was not answered.
    pub(crate) fn silent(&mut self, error: String, now: Time) {
        self.breaker.silent(now);
        self.last_error = Some(error);
        self.went_out();
    }

    /// When a node that called itself busy is to be asked again.
    pub(crate) fn busy_until(&self) -> Option<Time> {
        self.busy_until
    }

    /// Ends a back-off that has passed.
    pub(crate) fn end_back_off(&mut self, now: Time) {
        self.busy_until = self.busy_until.filter(|until| *until > now);
    }

    pub(crate) fn reconfigure(&mut self, spec: NodeSpec) {
        if spec.slots != self.spec.slots {
            for (_, instance) in self.instances_mut() {
                instance.slots = super::instance::Slots::new(spec.slots);
            }
        }
        self.spec = spec;
    }

    pub(crate) fn view(&self) -> NodeView {
        let listings = self.instances().filter_map(|(_, instance)| instance.listing.clone());
        let mut models: Vec<_> = listings.collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let resident = |(_, instance): (ModelId, &Instance)| Loaded {
            name: instance.listed.to_string(),
            vram_bytes: instance.footprint(),
            context_length: instance.context_length,
        };
        let mut loaded: Vec<_> = self.residents().map(resident).collect();
        loaded.sort_by(|a, b| a.name.cmp(&b.name));
        let learned = self.instances().filter(|(_, instance)| instance.listing.is_some());
        let most_slots = || learned.map(|(_, instance)| instance.slot_count() as u32).max().unwrap_or(1);
        NodeView {
            name: self.spec.name.clone(),
            state: self.state(),
            slots: self.spec.slots.unwrap_or_else(most_slots),
            waiting: 0,
            in_flight: self.in_flight,
            models,
            loaded,
            last_error: self.last_error.clone(),
            completed: self.completed,
            failed: self.failed,
            routed: self.routed,
            transitions: self.breaker.transitions(),
            loading: self.loading_name().map(|name| name.to_string()),
            loads: self.loads,
            tokens_per_second: self.speed.alone().map(|seconds| 1.0 / seconds),
        }
    }

    fn state(&self) -> NodeState {
        match self.breaker.state() {
            NodeState::Up | NodeState::Suspect if self.is_draining => NodeState::Draining,
            state => state,
        }
    }

    fn loading_name(&self) -> Option<&Arc<str>> {
        let load = self.load.as_ref()?;
        Some(&self.instance(load.model)?.listed)
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
