//! What holds in random runs?

use std::cell::Cell;

use proptest::test_runner::TestRunner;

use super::{run::*, *};
use crate::model::ModelId;

/// A new share that replaces the old one, now and then.
fn reach() -> impl Strategy<Value = Option<Reach>> {
    let gateways: Arc<[Arc<str>]> = ["one", "two"].map(Arc::from).into();
    let share = any::<u64>().prop_map(move |turn| Share::new("one".into(), gateways.clone(), turn));
    let reach = prop_oneof![
        1 => Just(Reach::Whole),
        1 => Just(Reach::Nothing),
        4 => prop::collection::vec(share, 1..3).prop_map(|shares| Reach::Within(shares.into())),
    ];
    prop::option::weighted(0.1, reach)
}

/// When the oldest request that waits for each model arrived.
fn oldest_waiting(scheduler: &Scheduler) -> BTreeMap<ModelId, Time> {
    let mut oldest = BTreeMap::new();
    for request in scheduler.requests.values().filter(|request| request.attempt.is_none()) {
        let arrived = oldest.entry(request.model).or_insert(request.arrived);
        *arrived = request.arrived.min(*arrived);
    }
    oldest
}

fn check_share(run: &Run, decision: &Decision) {
    let Reach::Within(shares) = run.scheduler.reach() else {
        let is_frozen = *run.scheduler.reach() == Reach::Nothing;
        assert!(!is_frozen || !matches!(decision, Decision::Dispatch { .. } | Decision::Unload { .. }), "{decision:?}");
        return;
    };
    match decision {
        Decision::Dispatch { id, node, .. } => {
            // It may have ended in the same step.
            let Some(Known { model, .. }) = run.known.get(id) else { return };
            if let Some(slots) = run.slots[node.0] {
                let most = shares.iter().map(|share| share.slots("gpu", slots)).min().unwrap();
                assert!(run.running(node.0, *model).len() <= most as usize, "{decision:?} beyond {most}");
            }
        }
        Decision::Unload { .. } => assert!(shares.iter().all(|share| share.loads_on("gpu")), "{decision:?}"),
        _ => {}
    }
}

/// Ends every request, and checks that nothing of any is left.
fn run_out(run: &mut Run) {
    for _ in 0..=run.arrived {
        run.known.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| {
            let position = run.known.keys().position(|known| *known == id);
            if let Some(position) = position {
                run.step(&Move::Complete(position));
            }
        });
    }
    run.check_conservation();
    assert_eq!((run.scheduler.queued(), run.scheduler.in_flight()), (0, 0));
    assert!(run.scheduler.requests.is_empty());
    assert_eq!(run.scheduler.costly_retries, 0);
    assert_eq!(run.scheduler.queue.next_deadline(), None);
    assert_eq!(run.scheduler.queue.models().count(), 0);
    assert!(run.scheduler.nodes().iter().all(|node| node.in_flight == 0));
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn slots_bounds_and_the_number_of_requests_hold_after_every_step(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check_occupancy();
            run.check_conservation();
            run.check_work_conservation();
        }
    }

    #[test]
    fn nothing_is_sent_or_loaded_beyond_a_share(
        steps in prop::collection::vec((reach(), step()), 1..200),
    ) {
        let mut run = Run::new();
        for (reach, step) in &steps {
            run.log.clear();
            if let Some(reach) = reach {
                run.hear(Event::Shared { reach: reach.clone() });
            }
            run.step(step);
            for decision in &run.log {
                check_share(&run, decision);
            }
            run.check_occupancy();
            run.check_conservation();
        }
    }

    #[test]
    fn every_request_ends_once_and_leaves_nothing_behind(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check_occupancy();
        }
        run_out(&mut run);
    }

    #[test]
    fn the_same_holds_for_users_who_go_from_group_to_group(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new();
        run.group_of = |user, arrived| {
            let group = (user as u128 + arrived / 9) % 3;
            let membership = Membership { group: format!("g{group}").into(), weight: 1.0 + (arrived % 2) as f64 };
            (group > 0).then_some(membership)
        };
        for step in &steps {
            run.step(step);
            run.check_occupancy();
            run.check_conservation();
            run.check_work_conservation();
        }
        run_out(&mut run);
    }

    #[test]
    fn a_clone_that_hears_the_same_events_makes_the_same_decisions(
        steps in prop::collection::vec(step(), 1..200),
        at in any::<prop::sample::Index>(),
    ) {
        let mut run = Run::new();
        let (before, after) = steps.split_at(at.index(steps.len()));
        before.iter().for_each(|step| run.step(step));
        let mut snapshot = run.scheduler.clone();
        let mut replayed = Vec::new();
        run.log.clear();
        for step in after {
            let event = run.event(step);
            run.account_for(&event);
            replayed.extend(snapshot.handle(event.clone(), run.now));
            let decisions = run.scheduler.handle(event, run.now);
            decisions.iter().for_each(|decision| run.account(decision));
            run.log.extend(decisions);
        }
        prop_assert_eq!(run.log, replayed);
    }

    #[test]
    fn after_a_tick_the_next_one_is_due_later(steps in prop::collection::vec(step(), 1..200)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.step(&Move::Wait(0));
            prop_assert!(run.scheduler.next_deadline().is_none_or(|due| due > run.now));
        }
    }
}

proptest! {
    // The 235th case of this seed met a load that outlived the request it was for.
    #![proptest_config(config(300))]

    /// A model is not unloaded and loaded again and again: 30 s lie between two loads of it on a node, unless the
    /// request that the room is made for, or another one for the same model, has waited that long by then, or nobody
    /// uses the model.
    #[test]
    fn memory_is_not_thrashed(steps in prop::collection::vec(step(), 1..400)) {
        let mut run = Run::new();
        let mut loads: BTreeMap<(usize, usize), Time> = BTreeMap::new();
        for step in &steps {
            let before = oldest_waiting(&run.scheduler);
            let seen = run.log.len();
            run.step(step);
            for decision in run.log[seen..].iter().cloned() {
                let Decision::Unload { node, model } = decision else { continue };
                let victim = index_of(&model);
                let loaded = loads.get(&(node.0, victim)).copied();
                let was_young = loaded.is_some_and(|at| run.now - at < Duration::from_secs(30));
                let load = run.scheduler.fleet[node].load().expect("only a load unloads");
                // A request whose attempt fails in this step waits only after it.
                let after = oldest_waiting(&run.scheduler);
                let mut oldest = [&before, &after].into_iter().filter_map(|oldest| oldest.get(&load.model));
                let is_impatient = oldest.any(|arrived| run.now - *arrived >= Duration::from_secs(30));
                let is_unused = !run.known.values().any(|known| known.model == victim && known.node.is_none());
                prop_assert!(!was_young || is_impatient || is_unused, "{model} went after {:?}", loaded.map(|at| run.now - at));
            }
            if let Move::Errand(..) = step {
                for node in 0..NODES {
                    for model in &run.memory[node] {
                        loads.entry((node, *model)).or_insert(run.now);
                    }
                    loads.retain(|(at, model), _| *at != node || run.memory[node].contains(model));
                }
            }
        }
    }
}

#[test]
fn a_node_nobody_measured_is_taken_to_be_fast() {
    assert_eq!(Run::new().scheduler.guess, FIRST_GUESS);
}

/// The run must meet both kinds of requests that a silent node leaves behind, and lose none.
#[test]
fn what_a_silent_node_had_begun_ends_and_what_it_had_not_goes_on() {
    let (moved, ended) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(config(100));
    let steps = prop::collection::vec(step(), 50..200);
    let outcome = runner.run(&steps, |steps| {
        let mut run = Run::new();
        for node in 0..NODES {
            run.step(&Move::Reside(node));
        }
        for step in &steps {
            run.step(step);
            // The nodes send nothing for a minute.
            if matches!(step, Move::Wait(milliseconds) if milliseconds % 4 == 0) {
                let seen = run.log.len();
                let begun: BTreeSet<_> =
                    run.known.iter().filter(|(_, it)| it.has_first_byte).map(|(id, _)| *id).collect();
                (0..60).for_each(|_| run.step(&Move::Wait(1000)));
                for decision in &run.log[seen..] {
                    let Decision::Abandon { id } = decision else { continue };
                    let count = if begun.contains(id) { &ended } else { &moved };
                    count.set(count.get() + 1);
                }
                let is_running = |id: &RequestId| run.known.get(id).is_none_or(|known| known.node.is_some());
                prop_assert!(begun.iter().all(is_running), "begun, and back in the queue");
                run.check_occupancy();
            }
        }
        for id in run.known.iter().filter(|(_, it)| it.is_abandoned).map(|(id, _)| *id).collect::<Vec<_>>() {
            let outcome = Outcome::Failed(Failure::Silent);
            run.hear(Event::Left { id, outcome });
        }
        prop_assert!(run.known.values().all(|known| !known.is_abandoned));
        run.check_conservation();
        Ok(())
    });
    outcome.unwrap();
    assert!(moved.get() > 20 && ended.get() > 20, "{moved:?} {ended:?}");
}

/// Random numbers from a seed, by xorshift64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}
