//! When will each slot of a model be free, and how long would a request take there? A plan has one forecast for its
//! model: it starts from what is so now, and places the requests that are planned.
//!
//! Every request goes to the place where it costs least. What it costs anywhere is at least the wait there, so the
//! places are searched in the order of their waits, and only until the wait alone is longer than the best total.

use crate::{
    hosts::{HostOutlook, Hosts, TAKEN_SECONDS},
    ids::{NodeId, Time},
    instance::Instance,
    node::{Node, speed::Work},
    place::Place,
    place_search::{BestPlaces, PlaceSearch, Seeker},
    prefix::{PrefixMemory, Trail},
};

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
    /// Counts looks at requests, from 1 on. What a place has cached of a request is recalled once for a look.
    looks: u64,
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
        let mut place = Place::of(host, first, now);
        place.taken = host.count;
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
            place.look = 0;
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
        self.looks += 1;
        self.complete_cached(|| trail.clone());
    }

    /// The same for the request that was looked at last, at the places where that was not necessary so far.
    pub(crate) fn complete_cached<'a>(&mut self, trail: impl Fn() -> Trail<'a>) {
        let look = self.looks;
        if self.places.iter().any(|place| place.look != look) {
            let trail = trail();
            self.places.iter_mut().filter(|place| place.look != look).for_each(|place| place.recall(&trail, look));
        }
        if cfg!(debug_assertions) {
            self.check_cached(&trail());
        }
    }

    /// Asserts that what was recalled is so for this request.
    fn check_cached(&self, trail: &Trail<'_>) {
        let cached = |place: &Place| (place.cached, place.remembered, place.is_in_host);
        for place in &self.places {
            let mut again = *place;
            again.recall(trail, place.look);
            debug_assert_eq!(cached(place), cached(&again), "{place:?} has recalled another request");
        }
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
        self.looks += 1;
        let mut search = PlaceSearch::new(seeker, self.looks);
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
            debug_assert!(place.has_ends, "this plan needs a thorough look: {place:?}");
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
