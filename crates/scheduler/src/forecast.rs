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
    prefix::Cached,
};

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

    /// Seconds to read the prompt and to write the answer, beside this many other streams.
    pub(crate) fn service(&self, uncached: f64, output: f64, others: f64) -> (f64, f64) {
        let (fixed, each) = self.prefill;
        let prefill = (fixed + each * uncached).max(0.0) * (1.0 + PREFILL_SLOWDOWN * others);
        (prefill, output * self.token * (1.0 + self.slowdown * others))
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
    /// For the request being placed: prompt tokens that the node is expected to have cached.
    pub(crate) cached: f64,
    pub(crate) is_in_host: bool,
    /// The same before `trust` is applied.
    pub(crate) remembered: f64,
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

    fn service(&self, work: Work, wait: f64) -> (f64, f64) {
        let leaves = if wait > 0.0 { 1.0 } else { 0.0 };
        self.rates.service(work.prompt - self.cached, work.output, (self.others - leaves).max(0.0))
    }

    /// The expected cost of serving a request here.
    pub(crate) fn weigh(&self, work: Work) -> Alternative {
        let wait = self.wait();
        let (prefill, decode) = self.service(work, wait);
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
}

impl Forecast {
    /// Starts from the model's slots as they are now.
    pub(crate) fn begin(&mut self, fleet: &Fleet, model: ModelId, now: Time, guess: f64) {
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
            cached: 0.0,
            is_in_host: false,
            remembered: 0.0,
            soonest: (first, f64::INFINITY),
        };
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
        let slots = self.slots[first..first + count].iter().enumerate();
        let soonest = slots.min_by(|a, b| a.1.total_cmp(b.1));
        self.places[place].soonest = soonest.map_or((first, f64::INFINITY), |(slot, wait)| (first + slot, *wait));
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
    pub(crate) fn sent(&mut self, place: usize, node: &Node, instance: &Instance, now: Time) {
        self.places[place].opens_in = node.opens_in(now);
        self.places[place].wants_probe = instance.wants_probe(now.as_secs_f64());
    }

    /// Whether a request could start anywhere at once.
    pub(crate) fn has_start(&self) -> bool {
        self.places.iter().any(Place::starts_at_once)
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Sets how much each node has cached of the request that is placed next.
    pub(crate) fn set_cached(&mut self, found: &[Cached]) {
        self.places.iter_mut().for_each(|place| (place.cached, place.remembered) = (0.0, 0.0));
        if found.is_empty() {
            return;
        }
        for place in &mut self.places {
            if let Ok(index) = found.binary_search_by_key(&place.node, |cached| cached.node) {
                let Cached { tokens, is_in_host, .. } = found[index];
                place.cached = tokens * if is_in_host { place.trust.1 } else { place.trust.0 };
                (place.remembered, place.is_in_host) = (tokens, is_in_host);
            }
        }
    }

    /// How many requests of this size the taken slots can serve within this time.
    pub(crate) fn served_within(&self, seconds: f64, work: Work) -> usize {
        let mut served = 0_usize;
        for place in &self.places {
            for slot in place.first..place.first + place.count {
                let wait = self.slots[slot].max(place.opens_in);
                if wait > 0.0 && wait < seconds {
                    let (prefill, decode) = place.service(work, wait);
                    let count = ((seconds - wait) / (prefill + decode).max(TAKEN_SECONDS)).floor();
                    served = served.saturating_add(count as usize);
                }
            }
        }
        served
    }
}
