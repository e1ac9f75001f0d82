//! Is no slot left free while a request could use it (P1)?

use super::{run::*, *};
use crate::{forecast::Rates, model::ModelId, node::Node, request::Request};

/// The most seconds that a request would take in a free slot: the requests before it may be planned to go there as
/// well.
fn seconds(scheduler: &Scheduler, node: &Node, request: &Request, others: f64) -> f64 {
    let Some(instance) = node.instance(request.model) else { return 0.0 };
    let rates = Rates::of(node, instance, scheduler.guess);
    let (prefill, decode) = rates.service(request.prompt, scheduler.expected_output(request), rates.stretch(others));
    prefill + decode
}

/// The most requests that the taken slots of a model can begin within this time.
fn absorbed(scheduler: &Scheduler, model: ModelId, within: f64, now: Time) -> usize {
    let mut count = 0;
    for node in scheduler.fleet.iter().filter(|node| node.is_open()) {
        let Some(instance) = node.instance(model).filter(|instance| instance.is_serving()) else { continue };
        let least = scheduler.requests.values().filter(|request| request.model == model).map(|request| {
            let rates = Rates::of(node, instance, scheduler.guess);
            let (prefill, decode) = rates.service(0.0, scheduler.expected_output(request), rates.stretch(0.0));
            prefill + decode
        });
        let least = least.fold(f64::INFINITY, f64::min);
        for running in &instance.running {
            let left = node.seconds_left(instance, running, now.as_secs_f64(), scheduler.guess);
            count += if left < within { 1 + ((within - left) / least) as usize } else { 0 };
        }
        if node.opens_in(now) > 0.0 {
            count += instance.slot_count() * (1 + (within / least) as usize);
        }
    }
    let loading = scheduler.fleet.of(model).loading.len();
    count + loading * 1000
}

impl Run {
    /// A request that waits beside a free slot expects to be served no later elsewhere, and the slots in use can absorb
    /// all who wait.
    pub(crate) fn check_work_conservation(&mut self) {
        self.step(&Move::Wait(0));
        let scheduler = &self.scheduler;
        let waiting = scheduler.requests.values().filter(|request| request.attempt.is_none());
        // A request may avoid a node that has failed it or its user.
        for request in waiting.filter(|request| request.avoids_no_node()) {
            for node in scheduler.fleet.iter().filter(|node| node.is_open() && node.opens_in(self.now) == 0.0) {
                let Some(instance) = node.instance(request.model).filter(|instance| instance.is_serving()) else {
                    continue;
                };
                let slots = scheduler.fleet.of(request.model).hosts.iter();
                let slots = slots.filter_map(|node| scheduler.fleet[*node].instance(request.model));
                let slots = slots.map(|instance| instance.slot_count()).sum();
                let is_capped = scheduler.queue.has_its_share(request.lane, request.model, slots, self.now);
                if instance.running.len() >= instance.slot_count() || is_capped {
                    continue;
                }
                let most = seconds(scheduler, node, request, f64::from(node.in_flight()) + scheduler.queued() as f64);
                let planned = request.waits_for.map(|planned| planned.total());
                let planned = planned.expect("beside a free slot everybody is looked at in so short a queue");
                assert!(planned <= most + 1e-6, "waits {planned} s beside a slot that is free");
                let served = absorbed(scheduler, request.model, most, self.now);
                let count = scheduler.queue.waiting_for(request.model);
                assert!(count <= served, "{count} wait beside a free slot, and {served} can be served elsewhere");
            }
        }
    }
}
