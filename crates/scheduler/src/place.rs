//! What would a request cost at one node? A place is a node as a plan sees it, with what the plan has placed there.

use crate::{
    explain::{Alternative, Kind},
    hosts::HostOutlook,
    ids::{NodeId, Time},
    node::speed::{Rates, Work},
    prefix::Trail,
};

/// A node that has the model in memory, or will once a load has ended.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// How many of its slots are taken; those that are free now come after them.
    pub(crate) taken: usize,
    /// Whether it is known when these will be free.
    pub(crate) has_ends: bool,
    is_resident: bool,
    /// Seconds until the node takes requests at all, free slots aside.
    pub(crate) opens_in: f64,
    /// One request more than the slots may be sent, to see whether it runs in parallel.
    pub(crate) wants_probe: bool,
    pub(crate) rates: Rates,
    trust: (f64, f64),
    /// Other requests on the node, including those that this plan placed there.
    pub(crate) others: f64,
    /// What they make of `rates`.
    pub(crate) stretch: (f64, f64),
    /// Prompt tokens that the node is expected to have cached of the request that was recalled last.
    pub(crate) cached: f64,
    pub(crate) is_in_host: bool,
    /// The same before `trust` is applied.
    pub(crate) remembered: f64,
    pub(crate) in_slots_since: u64,
    /// The look at a request, counted by the forecast, that set the three above.
    pub(crate) look: u64,
    /// The slot that will be free first, and the seconds until then.
    pub(crate) soonest: (usize, f64),
}

impl Place {
    pub(crate) fn of(host: &HostOutlook, first: usize, now: Time) -> Self {
        Self {
            node: host.node,
            first,
            count: host.count,
            taken: host.taken,
            has_ends: host.has_ends,
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
            look: 0,
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
    pub(crate) fn settle(&mut self, slots: &[f64]) {
        debug_assert!(self.has_ends || self.taken < self.count, "this plan needs a thorough look: {self:?}");
        // No slot is free sooner than now.
        let free = (self.taken < self.count).then_some((self.taken, 0.0));
        let slots = &slots[self.first..self.first + self.taken];
        let soonest = || slots.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let found = free.or_else(soonest);
        self.soonest = found.map_or((self.first, f64::INFINITY), |(slot, wait)| (self.first + slot, wait));
        self.stretch = self.stretch_after(self.wait());
    }

    pub(crate) fn service(&self, work: Work, stretch: (f64, f64)) -> (f64, f64) {
        self.rates.service(work.prompt - self.cached, work.output, stretch)
    }

    /// How much others slow down a request that begins after this wait. If it waits, one of them has left by then.
    pub(crate) fn stretch_after(&self, wait: f64) -> (f64, f64) {
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

    /// Sets how much the node has cached of the request that this look is at.
    pub(crate) fn recall(&mut self, trail: &Trail<'_>, look: u64) {
        self.look = look;
        let (remembered, used) = trail.on(self.node);
        self.remembered = remembered;
        self.is_in_host = used > 0 && used < self.in_slots_since;
        self.cached = remembered * if self.is_in_host { self.trust.1 } else { self.trust.0 };
    }
}
