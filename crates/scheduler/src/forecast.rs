//! When will each slot of a model be free, and how long would a request take there? A plan has one forecast for its
//! model.

use crate::{
    estimate::{PREFILL_RATIO, PREFILL_SLOWDOWN},
    explain::{Alternative, Kind},
    fleet::Fleet,
    ids::{NodeId, Time},
    instance::Instance,
    model::ModelId,
    node::Node,
    prefix::{Prefix, PrefixMemory},
};

/// The place of a node that has none.
const NOWHERE: u32 = u32::MAX;
/// The least time for which a taken slot counts as taken, so that it is never mistaken for a free one.
const TAKEN_SECONDS: f64 = 1e-3;

/// How long a model takes on a node; computed once for each plan.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Rates {
    /// Seconds a token for a stream that runs alone.
    token: f64,
    /// How much each other stream lengthens that.
    slowdown: f64,
    /// Seconds until the first token of an empty prompt, and for each prompt token.
    prefill: (f64, f64),
}

impl Rates {
    pub(crate) fn of(node: &Node, instance: &Instance, guess: f64) -> Self {
        let token = node.token_seconds(instance, guess);
        let unmeasured = (0.0, token / PREFILL_RATIO);
        Self { token, slowdown: node.speed.slowdown(), prefill: instance.prefill.straight().unwrap_or(unmeasured) }
    }

    /// The factors by which reading and writing take longer beside this many other streams.
    pub(crate) fn stretch(&self, others: f64) -> (f64, f64) {
        (1.0 + PREFILL_SLOWDOWN * others, 1.0 + self.slowdown * others)
    }

    /// Seconds to read the prompt and to write the answer.
    pub(crate) fn service(&self, uncached: f64, output: f64, stretch: (f64, f64)) -> (f64, f64) {
        let (fixed, each) = self.prefill;
        ((fixed + each * uncached).max(0.0) * stretch.0, output * self.token * stretch.1)
    }
}

/// A request's size in tokens, which decides how long it takes.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Work {
    pub(crate) prompt: f64,
    pub(crate) output: f64,
}

/// A node that has the model in memory, or will once a load has ended.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    first: usize,
    count: usize,
    pub(crate) is_resident: bool,
    /// Seconds until the node takes requests at all, free slots aside.
    pub(crate) opens_in: f64,
    /// One request more than the slots may be sent, to see whether it runs in parallel.
    pub(crate) wants_probe: bool,
    rates: Rates,
    /// How much of the prompt expected in slots and in the host's memory is really found there, as shares.
    trust: (f64, f64),
    /// Other requests on the node, including those that this plan placed there.
    others: f64,
    /// What they make of `rates`.
    stretch: (f64, f64),
    /// For the request being placed: prompt tokens that the node is expected to have cached.
    pub(crate) cached: f64,
    pub(crate) is_in_host: bool,
    /// The same before `trust` is applied.
    pub(crate) remembered: f64,
    /// When the newest prompt that begins as this one was used there; 0 if none was.
    used: u64,
    /// Prompts used before then are in the host's memory only.
    in_slots_since: u64,
    /// The slot that will be free first, and the seconds until then.
    soonest: (usize, f64),
}

impl Place {
    /// Seconds until a slot is free here.
    pub(crate) fn wait(&self) -> f64 {
        self.soonest.1.max(self.opens_in)
    }

    /// Whether a request placed here starts at once.
    pub(crate) fn starts_at_once(&self) -> bool {
        self.is_resident && self.opens_in == 0.0 && (self.soonest.1 == 0.0 || self.wants_probe)
    }

    /// Called after every change of its wait or of what runs there.
    fn settle(&mut self) {
        self.stretch = self.stretch_after(self.wait());
    }

    fn service(&self, work: Work, stretch: (f64, f64)) -> (f64, f64) {
        self.rates.service(work.prompt - self.cached, work.output, stretch)
    }

    /// How much others slow down a request that begins after this wait. If it waits, one of them has left by then.
    fn stretch_after(&self, wait: f64) -> (f64, f64) {
        let leaves = if wait > 0.0 { 1.0 } else { 0.0 };
        self.rates.stretch((self.others - leaves).max(0.0))
    }

    /// The cost of serving a request here, and the seconds until its first token: those of [`Place::weigh`].
    pub(crate) fn cost(&self, work: Work) -> (f64, f64) {
        let (prefill, decode) = self.service(work, self.stretch);
        let first_token = self.wait() + prefill;
        (first_token + decode, first_token)
    }

    /// The expected cost of serving a request here.
    pub(crate) fn weigh(&self, work: Work) -> Alternative {
        let wait = self.wait();
        let (prefill, decode) = self.service(work, self.stretch);
        let kind = if wait > 0.0 { Kind::Wait } else { Kind::Now };
        let (prompt, cached) = (work.prompt, self.cached);
        Alternative { node: self.node, kind, wait, load: 0.0, regret: 0.0, prefill, decode, prompt, cached }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Forecast {
    /// In the order of node ids; loads in progress come last.
    pub(crate) places: Vec<Place>,
    /// Seconds until each slot is free; the slots of one place are next to each other.
    slots: Vec<f64>,
    /// By node: its place, or [`NOWHERE`].
    place_of: Vec<u32>,
}

impl Forecast {
    /// Starts from the model's slots as they are now.
    pub(crate) fn begin(
        &mut self,
        fleet: &Fleet,
        model: ModelId,
        memory: Option<&PrefixMemory>,
        now: Time,
        guess: f64,
    ) {
        self.places.iter().for_each(|place| self.place_of[place.node.0] = NOWHERE);
        self.place_of.resize(fleet.len(), NOWHERE);
        self.places.clear();
        self.slots.clear();
        let seconds = now.as_secs_f64();
        for id in &fleet.of(model).hosts {
            let node = &fleet[*id];
            let Some(instance) = node.instance(model) else { continue };
            let first = self.slots.len();
            let count = instance.slot_count();
            self.slots.resize(first + count, 0.0);
            for (slot, running) in instance.running.iter().take(count).enumerate() {
                let left = node.seconds_left(instance, running, seconds, guess);
                self.slots[first + slot] = left.max(TAKEN_SECONDS);
            }
            self.add_place(node, *id, instance, first, now, guess);
            if let (Some(memory), Some(place)) = (memory, self.places.last_mut()) {
                place.in_slots_since = memory.in_slots_since(*id);
            }
        }
    }

    fn add_place(&mut self, node: &Node, id: NodeId, instance: &Instance, first: usize, now: Time, guess: f64) {
        let place = Place {
            node: id,
            first,
            count: self.slots.len() - first,
            is_resident: instance.resident_since.is_some(),
            opens_in: node.opens_in(now),
            wants_probe: instance.wants_probe(now.as_secs_f64()),
            rates: Rates::of(node, instance, guess),
            trust: (instance.cache.slot_trust.0, instance.cache.host_trust.0),
            others: f64::from(node.in_flight()),
            stretch: (1.0, 1.0),
            cached: 0.0,
            is_in_host: false,
            remembered: 0.0,
            used: 0,
            in_slots_since: 0,
            soonest: (first, f64::INFINITY),
        };
        self.place_of[id.0] = self.places.len() as u32;
        self.places.push(place);
        self.find_soonest(self.places.len() - 1);
    }

    /// Adds a node that will have the model in memory in `ready` seconds.
    pub(crate) fn add_load(&mut self, node: &Node, id: NodeId, model: ModelId, ready: f64, now: Time, guess: f64) {
        let Some(instance) = node.instance(model) else { return };
        let first = self.slots.len();
        self.slots.resize(first + instance.slot_count(), ready.max(TAKEN_SECONDS));
        self.add_place(node, id, instance, first, now, guess);
    }

    fn find_soonest(&mut self, place: usize) {
        let Place { first, count, .. } = self.places[place];
        let slots = &self.slots[first..first + count];
        // No slot is free sooner than now, so the first one that is ends the search.
        let free = slots.iter().position(|wait| *wait == 0.0).map(|slot| (slot, 0.0));
        let soonest = || slots.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let found = free.or_else(soonest);
        self.places[place].soonest = found.map_or((first, f64::INFINITY), |(slot, wait)| (first + slot, wait));
        self.places[place].settle();
    }

    /// Marks the first slot of a place as taken for this long from now.
    pub(crate) fn occupy(&mut self, place: usize, seconds: f64) {
        let (slot, _) = self.places[place].soonest;
        // A request that takes over a slot adds no stream. It is counted all the same: a node with many requests
        // planned is going to be full, and its streams slow.
        self.places[place].others += 1.0;
        self.slots[slot] = seconds.max(TAKEN_SECONDS);
        self.find_soonest(place);
    }

    /// A request was sent to a place, which may not take another one now.
    pub(crate) fn sent(
        &mut self,
        place: usize,
        node: &Node,
        instance: &Instance,
        memory: Option<&PrefixMemory>,
        now: Time,
    ) {
        let place = &mut self.places[place];
        place.opens_in = node.opens_in(now);
        place.settle();
        place.wants_probe = instance.wants_probe(now.as_secs_f64());
        place.in_slots_since = memory.map_or(0, |memory| memory.in_slots_since(place.node));
    }

    /// Whether a request could start anywhere at once.
    pub(crate) fn has_start(&self) -> bool {
        self.places.iter().any(Place::starts_at_once)
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Sets how much each node has cached of the request that is placed next, which has `prompt` tokens.
    pub(crate) fn set_cached(&mut self, memory: Option<&PrefixMemory>, prefixes: &[Prefix], prompt: f64) {
        for place in &mut self.places {
            (place.cached, place.remembered, place.used, place.is_in_host) = (0.0, 0.0, 0, false);
        }
        let Some(memory) = memory else { return };
        memory.find(prefixes, prompt, |found| {
            let place = self.place_of.get(found.node.0).and_then(|place| self.places.get_mut(*place as usize));
            if let Some(place) = place {
                place.remembered = place.remembered.max(found.tokens);
                place.used = found.used;
            }
        });
        for place in self.places.iter_mut().filter(|place| place.used > 0) {
            place.is_in_host = place.used < place.in_slots_since;
            place.cached = place.remembered * if place.is_in_host { place.trust.1 } else { place.trust.0 };
        }
    }

    /// How many requests of this size the taken slots can serve within this time.
    pub(crate) fn served_within(&self, seconds: f64, work: Work) -> usize {
        let mut served = 0_usize;
        for place in &self.places {
            for slot in place.first..place.first + place.count {
                let wait = self.slots[slot].max(place.opens_in);
                if wait > 0.0 && wait < seconds {
                    let (prefill, decode) = place.service(work, place.stretch_after(wait));
                    let count = ((seconds - wait) / (prefill + decode).max(TAKEN_SECONDS)).floor();
                    served = served.saturating_add(count as usize);
                }
            }
        }
        served
    }
}
