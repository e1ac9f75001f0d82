//! Is no slot left free while a request could use it (P1), and are slots that nobody configured learned (P2)?

use super::{
    fleet::{Ask, Fleet, Setup},
    random::Dice,
    run::*,
    *,
};
use crate::{
    model::ModelId,
    node::{Node, speed::Rates},
    request::Request,
};

/// The most seconds that a request would take in a free slot: the requests before it may be planned to go there as
/// well.
fn seconds(scheduler: &Scheduler, node: &Node, request: &Request, others: f64) -> f64 {
    let Some(instance) = node.instance(request.model) else { return 0.0 };
    let rates = Rates::of(node, instance, scheduler.guess);
    let (prefill, decode) =
        rates.service(request.prompt, scheduler.models.expected_output(request), rates.stretch(others));
    prefill + decode
}

/// The most requests that the taken slots of a model can begin within this time.
fn absorbed(scheduler: &Scheduler, model: ModelId, within: f64, now: Time) -> usize {
    let mut count = 0;
    for node in scheduler.fleet.iter().filter(|node| node.is_open()) {
        let Some(instance) = node.instance(model).filter(|instance| instance.is_serving()) else { continue };
        let least = scheduler.requests.values().filter(|request| request.model == model).map(|request| {
            let rates = Rates::of(node, instance, scheduler.guess);
            let (prefill, decode) = rates.service(0.0, scheduler.models.expected_output(request), rates.stretch(0.0));
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

const MINUTES: u64 = 15;

/// The most in flight, and the number learned in the end, on a node with `slots` real slots that always has more to do.
fn learn(slots: usize, seed: u64) -> (usize, usize) {
    let setup = Setup { is_configured: false, ..Setup::new(5, slots, &[0]) };
    let mut fleet = Fleet::new(QueueLimits::default(), &[setup], &[0], 1);
    let (mut dice, mut most) = (Dice::new(seed), 0);
    for _ in 0..MINUTES * 600 {
        while fleet.waiting_of(0) < 3 {
            let (prompt, output) = (100 + dice.below(1500), 20 + dice.below(400));
            fleet.ask(Ask { user: 0, weight: 1.0, model: 0, prompt, output });
        }
        fleet.step();
        most = most.max(fleet.machines[0].running_of(0));
    }
    (most, fleet.scheduler.nodes()[0].slots as usize)
}

#[test]
fn learned_slots_reach_the_true_ones_and_never_pass_them_by_more_than_a_probe() {
    for slots in [1, 2, 3, 4, 6] {
        for seed in [1, 2, 3] {
            let (most, learned) = learn(slots, seed);
            assert!(most <= slots + 1, "{most} at a time on {slots} slots, seed {seed}");
            assert_eq!(learned, slots, "seed {seed}");
        }
    }
}
