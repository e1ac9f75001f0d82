//! When will each slot of a model be free, and how long would a request take there? A plan has one forecast for its
//! model: it starts from what is so now, and places the requests that are planned.
//!
//! Every request goes to the place where it costs least. What it costs anywhere is at least the wait there, so the
//! places are searched in the order of their waits, and only until the wait alone is longer than the best total.

use crate::{
    explain::{Alternative, Kind},
    hosts::{HostOutlook, Hosts, TAKEN_SECONDS},
    ids::{NodeId, Time},
    instance::Instance,
    node::{
        Node,
        speed::{Rates, Work},
    },
    prefix::{PrefixMemory, Trail},
};

/// A node that has the model in memory, or will once a load has ended.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    first: usize,
    count: usize,
    /// How many of its slots are taken; those that are free now come after them.
    taken: usize,
    is_resident: bool,
    /// Seconds until the node takes requests at all, free slots aside.
    opens_in: f64,
    /// One request more than the slots may be sent, to see whether it runs in parallel.
    wants_probe: bool,
    rates: Rates,
    trust: (f64, f64),
    /// Other requests on the node, including those that this plan placed there.
    others: f64,
    /// What they make of `rates`.
    stretch: (f64, f64),
    /// Prompt tokens that the node is expected to have cached, by the last [`Forecast::set_cached`] or
    /// [`Forecast::seek`] that came here.
    pub(crate) cached: f64,
    pub(crate) is_in_host: bool,
    /// The same before `trust` is applied.
    pub(crate) remembered: f64,
    in_slots_since: u64,
    /// The slot that will be free first, and the seconds until then.
    soonest: (usize, f64),
}

impl Place {
    fn of(host: &HostOutlook, first: usize, now: Time) -> Self {
        Self {
            node: host.node,
            first,
            count: host.count,
            taken: host.taken,
            is_resident: host.is_resident,
            opens_in: host.opening.seconds(now),
            wants_probe: host.probes_from <= now.as_secs_f64(),
            rates: host.rates,
            trust: host.trust,
            others: host.running,
            stretch: (1.0, 1.0),
            cached: 0.0,
            is_in_host: false,
            remembered: 0.0,
            in_slots_since: host.in_slots_since,
            soonest: (first, f64::INFINITY),
        }
    }

    /// Seconds until a slot is free here.
    pub(crate) fn wait(&self) -> f64 {
        self.soonest.1.max(self.opens_in)
    }

    /// Whether a request placed here starts at once.
    pub(crate) fn starts_at_once(&self) -> bool {
        self.is_resident && self.opens_in == 0.0 && (self.soonest.1 == 0.0 || self.wants_probe)
    }

    /// Called after every change of its slots, its wait or what runs there.
    fn settle(&mut self, slots: &[f64]) {
        // No slot is free sooner than now.
        let free = (self.taken < self.count).then_some((self.taken, 0.0));
        let slots = &slots[self.first..self.first + self.taken];
        let soonest = || slots.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let found = free.or_else(soonest);
        self.soonest = found.map_or((self.first, f64::INFINITY), |(slot, wait)| (self.first + slot, wait));
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

    /// Sets how much the node has cached of the request that is placed next.
    fn recall(&mut self, trail: &Trail<'_>) {
        let (remembered, used) = trail.on(self.node);
        self.remembered = remembered;
        self.is_in_host = used > 0 && used < self.in_slots_since;
        self.cached = remembered * if self.is_in_host { self.trust.1 } else { self.trust.0 };
    }
}

/// Where a request is served best.
#[derive(Copy, Clone, Debug)]
pub(crate) struct BestPlaces {
    /// The place that costs least, penalties included; `None` if the request may go nowhere.
    pub(crate) best: Option<(usize, f64)>,
    /// The place with the least total, penalties aside.
    pub(crate) cheapest: Option<usize>,
}

/// A request that looks for a place.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Seeker<'a, P> {
    pub(crate) work: Work,
    pub(crate) trail: &'a Trail<'a>,
    /// Only the seconds until its first token count.
    pub(crate) is_urgent: bool,
    /// Seconds to add for a node; `None` if it must not go there.
    pub(crate) penalty: P,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Forecast {
    /// In the order of node ids; loads in progress come last.
    pub(crate) places: Vec<Place>,
    /// How many places are not loads in progress.
    hosts: usize,
    /// Seconds until each taken slot is free; the slots of one place are next to each other. What stands at the others
    /// means nothing: a node may have very many slots.
    slots: Vec<f64>,
    slot_count: usize,
    /// The waits of the places and their indexes, in order; empty until a second request looks for a place.
    order: Vec<(f64, usize)>,
    has_sought: bool,
    /// Seconds a token where that is least; nothing that is planned makes a place faster than this.
    least_token: f64,
    /// Places where a request would start at once.
    starts: usize,
}

impl Forecast {
    /// Starts from the model's slots as they are now.
    pub(crate) fn begin(&mut self, hosts: &Hosts, now: Time) {
        self.slot_count = 0;
        self.add_slots(hosts.slots.len());
        hosts.waits(now, &mut self.slots);
        self.order.clear();
        self.has_sought = false;
        self.places.clear();
        self.places.extend(hosts.hosts.iter().map(|host| Place::of(host, host.first, now)));
        self.hosts = self.places.len();
        (self.least_token, self.starts) = (f64::INFINITY, 0);
        for place in &mut self.places {
            place.settle(&self.slots);
            self.least_token = self.least_token.min(place.rates.token);
            self.starts += usize::from(place.starts_at_once());
        }
    }

    /// Adds a node that will have the model in memory in `ready` seconds.
    pub(crate) fn add_load(&mut self, host: &HostOutlook, ready: f64, now: Time) {
        let first = self.slot_count;
        self.add_slots(host.count);
        self.slots[first..first + host.count].fill(ready.max(TAKEN_SECONDS));
        let mut place = Place { taken: host.count, ..Place::of(host, first, now) };
        place.settle(&self.slots);
        self.least_token = self.least_token.min(place.rates.token);
        self.places.push(place);
        self.order.clear();
    }

    fn add_slots(&mut self, count: usize) {
        self.slot_count += count;
        if self.slots.len() < self.slot_count {
            self.slots.resize(self.slot_count, 0.0);
        }
    }

    /// Changes a place, and keeps what depends on it in step.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Place, &mut [f64])) {
        let place = &mut self.places[index];
        let (before, started) = (place.wait(), place.starts_at_once());
        change(place, &mut self.slots);
        place.settle(&self.slots);
        let after = place.wait();
        self.starts = self.starts + usize::from(place.starts_at_once()) - usize::from(started);
        if before == after || self.order.is_empty() {
            return;
        }
        let rank = |wait: f64| move |other: &(f64, usize)| other.0.total_cmp(&wait).then(other.1.cmp(&index)).is_lt();
        let (from, to) = (self.order.partition_point(rank(before)), self.order.partition_point(rank(after)));
        if to > from {
            self.order[from..to].rotate_left(1);
            self.order[to - 1] = (after, index);
        } else {
            self.order[to..=from].rotate_right(1);
            self.order[to] = (after, index);
        }
    }

    /// Marks the first slot of a place as taken for this long from now.
    pub(crate) fn occupy(&mut self, place: usize, seconds: f64) {
        self.change(place, |place, slots| {
            // A request that takes over a slot adds no stream. It is counted all the same: a node with many requests
            // planned is going to be full, and its streams slow.
            place.others += 1.0;
            slots[place.soonest.0] = seconds.max(TAKEN_SECONDS);
            place.taken = (place.taken + 1).min(place.count);
        });
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
        self.change(place, |place, _| {
            place.opens_in = node.opens_in(now);
            place.wants_probe = instance.wants_probe(now.as_secs_f64());
            place.in_slots_since = memory.map_or(0, |memory| memory.in_slots_since(place.node));
        });
    }

    /// Whether a request could start anywhere at once.
    pub(crate) fn has_start(&self) -> bool {
        self.starts > 0
    }

    /// Whether a request that starts here takes the only slot in which one could start at once.
    pub(crate) fn is_last_start(&self, place: usize) -> bool {
        let place = &self.places[place];
        self.starts == 1 && place.taken + 1 == place.count && !place.wants_probe
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.slot_count
    }

    /// Sets for every place how much it has cached of a request.
    pub(crate) fn set_cached(&mut self, trail: &Trail<'_>) {
        self.places.iter_mut().for_each(|place| place.recall(trail));
    }

    /// Finds the best place for a request.
    pub(crate) fn seek<P: Fn(NodeId) -> Option<f64>>(&mut self, seeker: Seeker<'_, P>) -> BestPlaces {
        // Sorting does not pay for one request.
        if self.has_sought && self.order.is_empty() {
            let waits = self.places.iter().enumerate().map(|(index, place)| (place.wait(), index));
            self.order.extend(waits);
            self.order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        }
        self.has_sought = true;
        let mut search = PlaceSearch::new(seeker);
        let decode = search.seeker.work.output * self.least_token;
        // Those that have read most of the prompt are good ones, too.
        let (few, common) = search.seeker.trail.few();
        for node in few {
            if let Some(index) = self.place_of(node) {
                search.consider(index, &mut self.places[index], search.seeker.work.prompt);
            }
        }
        if self.order.is_empty() {
            // The place that is free first is a good one, which rules out most of the others.
            let waits = self.places.iter().enumerate().map(|(index, place)| (index, place.wait()));
            let first = waits.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index);
            if let Some(first) = first {
                search.consider(first, &mut self.places[first], common);
            }
            for (index, place) in self.places.iter_mut().enumerate() {
                if Some(index) != first && !search.is_over(place.wait(), 0.0, decode) {
                    search.consider(index, place, common);
                }
            }
        }
        for (wait, index) in &self.order {
            if search.is_over(*wait, 0.0, decode) {
                break;
            }
            search.consider(*index, &mut self.places[*index], common);
        }
        search.found()
    }

    fn place_of(&self, node: NodeId) -> Option<usize> {
        let (hosts, loads) = self.places.split_at(self.hosts);
        let loaded = || loads.iter().position(|place| place.node == node).map(|index| self.hosts + index);
        hosts.binary_search_by_key(&node, |place| place.node).ok().or_else(loaded)
    }

    /// How many requests of this size the taken slots can serve within this time.
    pub(crate) fn served_within(&self, seconds: f64, work: Work) -> usize {
        let mut served = 0_usize;
        for place in &self.places {
            let taken = self.slots[place.first..place.first + place.taken].iter().copied();
            // One that nothing runs in is still out of use until the node opens.
            let closed = std::iter::repeat_n(0.0, if place.opens_in > 0.0 { place.count - place.taken } else { 0 });
            for wait in taken.chain(closed).map(|wait| wait.max(place.opens_in)) {
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

/// A search for the best place. Of equal ones the first counts.
struct PlaceSearch<'a, P> {
    seeker: Seeker<'a, P>,
    best: (f64, usize),
    cheapest: (f64, usize),
}

impl<'a, P: Fn(NodeId) -> Option<f64>> PlaceSearch<'a, P> {
    const NOTHING: (f64, usize) = (f64::INFINITY, usize::MAX);

    fn new(seeker: Seeker<'a, P>) -> Self {
        Self { seeker, best: Self::NOTHING, cheapest: Self::NOTHING }
    }

    /// Whether no place can be better that has this wait or a longer one, and takes at least so long to read the
    /// prompt and to write the answer.
    fn is_over(&self, wait: f64, prefill: f64, decode: f64) -> bool {
        let first_token = wait + prefill;
        let total = first_token + decode;
        let least = if self.seeker.is_urgent { first_token } else { total };
        total > self.cheapest.0 && least > self.best.0
    }

    /// Weighs a place that has at most `cached` tokens of the prompt.
    fn consider(&mut self, index: usize, place: &mut Place, cached: f64) {
        let Some(penalty) = (self.seeker.penalty)(place.node) else { return };
        let Work { prompt, output } = self.seeker.work;
        let (prefill, decode) = place.rates.service(prompt - cached, output, place.stretch);
        if self.is_over(place.wait(), prefill, decode) {
            return;
        }
        place.recall(self.seeker.trail);
        let (total, first_token) = place.cost(self.seeker.work);
        let counted = penalty + if self.seeker.is_urgent { first_token } else { total };
        // A place without a slot would never be free.
        let better = |new: f64, old: (f64, usize)| match (new, index) {
            new if new.0 < f64::INFINITY && new < old => new,
            _ => old,
        };
        self.cheapest = better(total, self.cheapest);
        self.best = better(counted, self.best);
    }

    fn found(&self) -> BestPlaces {
        let place = |(seconds, index): (f64, usize)| (index < usize::MAX).then_some((index, seconds));
        BestPlaces { best: place(self.best), cheapest: place(self.cheapest).map(|(index, _)| index) }
    }
}
