//! What do the nodes that have a model in memory look like to its next plan? Kept from one plan to the next: an event
//! touches few nodes, and only those are looked at again.
//!
//! When taken slots will be free matters only to a request that may have to wait, or to several that compete. A node may
//! run very many requests, so that is left out where one request finds room enough ([`Look::Brief`]).

use crate::{
    fleet::Fleet,
    ids::{NodeId, Time},
    instance::Instance,
    model::ModelId,
    node::{
        Node, NodeOpening,
        speed::{Ends, Rates},
    },
    prefix::PrefixMemory,
    running::Running,
};

/// The least time for which a taken slot counts as taken, so that it is never mistaken for a free one.
pub(crate) const TAKEN_SECONDS: f64 = 1e-3;

/// When a slot is expected to be free.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) struct SlotEnd {
    /// The expected end of what runs there, in seconds.
    end: f64,
    /// However late it is, it is expected to take at least this many seconds more.
    least: f64,
}

impl SlotEnd {
    const FREE: Self = Self { end: f64::NEG_INFINITY, least: 0.0 };

    fn of(ends: &Ends, running: &Running) -> Self {
        let (end, least) = ends.of(running);
        Self { end, least: least.max(TAKEN_SECONDS) }
    }

    /// Seconds until it is free.
    fn left(self, now: f64) -> f64 {
        (self.end - now).max(self.least)
    }
}

/// What the next plan needs to know.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Look {
    /// Only one request waits: of a node with more than one free slot, nobody asks when the others will be free.
    Brief,
    /// When every slot will be free.
    Thorough,
}

/// A node that has the model in memory.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) struct HostOutlook {
    pub(crate) node: NodeId,
    /// The changes of the node up to which this holds.
    changes: u64,
    /// Its slots among all of the model's.
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// How many of them are taken; the others come after these.
    pub(crate) taken: usize,
    /// Whether it is known when these will be free.
    pub(crate) has_ends: bool,
    pub(crate) is_resident: bool,
    pub(crate) opening: NodeOpening,
    /// From when on one request more than the slots may be sent, in seconds.
    pub(crate) probes_from: f64,
    pub(crate) rates: Rates,
    /// Nobody has measured the node, so `rates` rest on a guess.
    is_guessed: bool,
    /// How much of the prompt expected in slots and in the host's memory is really found there, as shares.
    pub(crate) trust: (f64, f64),
    /// Requests on the node.
    pub(crate) running: f64,
    /// Prompts used before then are in the host's memory only.
    pub(crate) in_slots_since: u64,
}

impl HostOutlook {
    pub(crate) fn of(node: &Node, id: NodeId, instance: &Instance, guess: f64) -> Self {
        let count = instance.slot_count();
        Self {
            node: id,
            changes: 0,
            first: 0,
            count,
            taken: count.min(instance.running.len()),
            has_ends: true,
            is_resident: instance.resident_since.is_some(),
            opening: node.opening(),
            probes_from: instance.probes_from(),
            rates: Rates::of(node, instance, guess),
            is_guessed: node.speed.alone().is_none(),
            trust: (instance.cache.slot_trust.0, instance.cache.host_trust.0),
            running: f64::from(node.in_flight()),
            in_slots_since: 0,
        }
    }
}

/// The nodes that have one model in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Hosts {
    /// In the order of node ids.
    pub(crate) hosts: Vec<HostOutlook>,
    /// The slots of one host are next to each other, the taken ones first.
    pub(crate) slots: Vec<SlotEnd>,
    guess: f64,
}

impl Hosts {
    /// Brings it up to date. The fleet's index must have been settled.
    pub(crate) fn refresh(
        &mut self,
        fleet: &Fleet,
        model: ModelId,
        memory: Option<&PrefixMemory>,
        guess: f64,
        look: Look,
    ) {
        let nodes = &fleet.of(model).hosts;
        let is_same = self.hosts.len() == nodes.len() && self.hosts.iter().zip(nodes).all(|(it, id)| it.node == *id);
        let view = View { fleet, model, memory, guess, look };
        let is_whole = is_same && (0..nodes.len()).all(|index| self.renew(index, &view));
        if !is_whole {
            self.hosts.clear();
            self.slots.clear();
            nodes.iter().for_each(|id| self.add(*id, &view));
        }
        self.guess = guess;
    }

    /// Looks at a node again if something about it has changed; false if it has another number of slots now.
    fn renew(&mut self, index: usize, view: &View<'_>) -> bool {
        let host = self.hosts[index];
        let is_same = host.changes == view.fleet.changes(host.node) && (!host.is_guessed || self.guess == view.guess);
        if is_same && (host.has_ends || !view.needs_ends(&host)) {
            return true;
        }
        let Some(new) = view.look_at(host.node).filter(|new| new.count == host.count) else { return false };
        self.hosts[index] = HostOutlook { first: host.first, ..new };
        let slots = &mut self.slots[host.first..host.first + host.count];
        view.fill(&mut slots[..new.taken], &new);
        // A node may have very many slots, so only those are looked at that are taken, or were.
        slots[new.taken..host.taken.max(new.taken)].fill(SlotEnd::FREE);
        true
    }

    fn add(&mut self, id: NodeId, view: &View<'_>) {
        let Some(host) = view.look_at(id) else { return };
        let first = self.slots.len();
        self.slots.resize(first + host.count, SlotEnd::FREE);
        view.fill(&mut self.slots[first..first + host.taken], &host);
        self.hosts.push(HostOutlook { first, ..host });
    }
}

/// What is looked at, and how.
struct View<'a> {
    fleet: &'a Fleet,
    model: ModelId,
    memory: Option<&'a PrefixMemory>,
    guess: f64,
    look: Look,
}

impl View<'_> {
    fn needs_ends(&self, host: &HostOutlook) -> bool {
        self.look == Look::Thorough || host.taken + 1 >= host.count
    }

    fn look_at(&self, id: NodeId) -> Option<HostOutlook> {
        let node = &self.fleet[id];
        let host = HostOutlook::of(node, id, node.instance(self.model)?, self.guess);
        let in_slots_since = self.memory.map_or(0, |memory| memory.in_slots_since(id));
        let has_ends = self.needs_ends(&host);
        Some(HostOutlook { changes: self.fleet.changes(id), in_slots_since, has_ends, ..host })
    }

    /// Sets when the taken slots are expected to be free, if that is needed.
    fn fill(&self, taken: &mut [SlotEnd], host: &HostOutlook) {
        let node = &self.fleet[host.node];
        let Some(instance) = node.instance(self.model).filter(|_| host.has_ends) else { return };
        let ends = node.ends(instance, self.guess);
        for (slot, running) in taken.iter_mut().zip(&instance.running) {
            *slot = SlotEnd::of(&ends, running);
        }
    }
}

impl Hosts {
    /// Asserts that nothing that was kept is out of date.
    pub(crate) fn check(&self, fleet: &Fleet, model: ModelId, memory: Option<&PrefixMemory>) {
        let mut fresh = Self::default();
        fresh.refresh(fleet, model, memory, self.guess, Look::Thorough);
        for (host, fresh_host) in self.hosts.iter().zip(&mut fresh.hosts).filter(|(host, _)| !host.has_ends) {
            fresh_host.has_ends = false;
            let taken = host.first..host.first + host.taken;
            fresh.slots[taken.clone()].copy_from_slice(&self.slots[taken]);
        }
        debug_assert!(*self == fresh, "{self:?} is kept, and should be {fresh:?}");
    }

    /// Sets the seconds until each taken slot is free, at this time, where that is known; the others stay as they are.
    pub(crate) fn waits(&self, now: Time, into: &mut [f64]) {
        let now = now.as_secs_f64();
        for HostOutlook { first, taken, .. } in self.hosts.iter().filter(|host| host.has_ends) {
            let taken = *first..first + taken;
            let slots = into[taken.clone()].iter_mut().zip(&self.slots[taken]);
            slots.for_each(|(wait, slot)| *wait = slot.left(now));
        }
    }
}
