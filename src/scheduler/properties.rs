//! What holds under any interleaving of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;

const NODES: usize = 3;
const SLOTS: [u32; NODES] = [1, 2, 3];
const MODELS: [&str; 3] = ["a", "b:7b", "c"];
const LISTED: [&str; 3] = ["a:latest", "b:7b", "c"];
const USERS: [&str; 3] = ["ann", "bob", "eve"];
const FAILURES: [Failure; 8] = [
    Failure::Unreachable,
    Failure::Reset,
    Failure::Crashed,
    Failure::TimedOut,
    Failure::Garbled,
    Failure::Busy,
    Failure::Missing,
    Failure::Denied,
];
const SETTINGS: Settings = Settings { max_queued: 12, max_queued_per_user: 6 };

/// A step of a random run. Requests are picked among the live ones.
#[derive(Clone, Debug)]
enum Step {
    Arrive { user: usize, model: usize, patience: u64 },
    FirstByte(usize),
    Complete(usize),
    Cancel(usize),
    Fail(usize, usize),
    BreakOff(usize, usize),
    Answer(usize),
    Silence(usize),
    List(usize, u8),
    Reside(usize, usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3usize, 0..3usize, 1..60_000u64)
            .prop_map(|(user, model, patience)| Step::Arrive { user, model, patience }),
        3 => any::<usize>().prop_map(Step::FirstByte),
        6 => any::<usize>().prop_map(Step::Complete),
        2 => any::<usize>().prop_map(Step::Cancel),
        3 => (any::<usize>(), 0..8usize).prop_map(|(pick, failure)| Step::Fail(pick, failure)),
        1 => (any::<usize>(), 0..8usize).prop_map(|(pick, failure)| Step::BreakOff(pick, failure)),
        4 => (0..NODES).prop_map(Step::Answer),
        1 => (0..NODES).prop_map(Step::Silence),
        1 => (0..NODES, 1..8u8).prop_map(|(node, mask)| Step::List(node, mask)),
        1 => (0..NODES, 0..3usize).prop_map(|(node, model)| Step::Reside(node, model)),
        2 => (1..3000u64).prop_map(Step::Wait),
    ]
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(7), failure_persistence: None, cases, ..ProptestConfig::default() }
}

/// What the outside knows of a live request.
struct Known {
    model: usize,
    node: Option<usize>,
    has_first_byte: bool,
    attempts: u32,
}

/// A scheduler, and an account of it kept from the outside.
struct Run {
    scheduler: Scheduler,
    now: Time,
    known: BTreeMap<RequestId, Known>,
    ended: BTreeSet<RequestId>,
    arrived: u64,
    log: Vec<Decision>,
}

impl Run {
    fn new() -> Self {
        let spec = |slots: &u32| NodeSpec { name: "gpu".into(), slots: *slots, vram_bytes: Some(10) };
        let mut run = Self {
            scheduler: Scheduler::new(SETTINGS, SLOTS.iter().map(spec).collect()),
            now: Duration::ZERO,
            known: BTreeMap::new(),
            ended: BTreeSet::new(),
            arrived: 0,
            log: Vec::new(),
        };
        for node in 0..NODES {
            run.step(&Step::Answer(node));
            run.step(&Step::List(node, 7));
        }
        run
    }

    fn pick(&self, pick: usize) -> RequestId {
        let ids: Vec<_> = self.known.keys().collect();
        // Now and then one that is over or never was.
        ids.get(pick % (ids.len() + 1)).map_or(RequestId(pick as u64 % (self.arrived + 1)), |id| **id)
    }

    fn event(&mut self, step: &Step) -> Event {
        match *step {
            Step::Arrive { user, model, patience } => {
                self.arrived += 1;
                let id = RequestId(self.arrived);
                self.known.insert(id, Known { model, node: None, has_first_byte: false, attempts: 0 });
                let deadline = self.now + Duration::from_millis(patience);
                Event::Arrived { id, user: USERS[user].into(), model: MODELS[model].into(), deadline }
            }
            Step::FirstByte(pick) => Event::FirstByte { id: self.pick(pick) },
            Step::Complete(pick) => Event::Left { id: self.pick(pick), outcome: Outcome::Completed },
            Step::Cancel(pick) => Event::Left { id: self.pick(pick), outcome: Outcome::Cancelled },
            Step::Fail(pick, failure) => Event::Failed { id: self.pick(pick), failure: FAILURES[failure] },
            Step::BreakOff(pick, failure) => {
                Event::Left { id: self.pick(pick), outcome: Outcome::Failed(FAILURES[failure]) }
            }
            Step::Answer(node) => Event::Answered { node: NodeId(node) },
            Step::Silence(node) => Event::Silent { node: NodeId(node), error: "silent".into() },
            Step::List(node, mask) => {
                let has = |model: &usize| mask & (1 << model) != 0;
                let list = |model: usize| Model {
                    name: LISTED[model].into(),
                    size_bytes: 4 * (model as u64 + 1),
                    digest: String::new(),
                    modified_unix: 0,
                };
                let models = (0..3).filter(has).map(list).collect();
                Event::Listed { node: NodeId(node), models }
            }
            Step::Reside(node, model) => {
                let loaded = vec![Loaded { name: LISTED[model].into(), vram_bytes: 4 }];
                Event::Resident { node: NodeId(node), loaded }
            }
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                Event::Tick
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let event = self.event(step);
        self.account_for(&event);
        let decisions = self.scheduler.handle(event, self.now);
        for decision in &decisions {
            self.account(decision);
        }
        self.log.extend(decisions);
    }

    fn account_for(&mut self, event: &Event) {
        match event {
            Event::Left { id, .. } if self.known.remove(id).is_some() => {
                assert!(self.ended.insert(*id));
            }
            Event::Failed { id, .. } => {
                if let Some(known) = self.known.get_mut(id) {
                    known.node = None;
                }
            }
            Event::FirstByte { id } => {
                if let Some(known) = self.known.get_mut(id).filter(|known| known.node.is_some()) {
                    known.has_first_byte = true;
                }
            }
            _ => {}
        }
    }

    fn account(&mut self, decision: &Decision) {
        match decision {
            Decision::Dispatch { id, node, attempt } => {
                let known = self.known.get_mut(id).expect("only live requests are dispatched");
                assert!(known.node.is_none() && !known.has_first_byte);
                known.attempts += 1;
                assert!(*attempt == known.attempts && *attempt <= 3);
                known.node = Some(node.0);
            }
            Decision::Refuse { id, refusal } => {
                assert!(self.known.remove(id).is_some_and(|known| known.node.is_none()));
                assert!(self.ended.insert(*id));
                assert!(refusal.retry_after >= Duration::from_secs(1));
                assert!(refusal.retry_after <= Duration::from_secs(120));
            }
        }
    }

    fn check_conservation(&self) {
        assert_eq!(self.known.len() + self.ended.len(), self.arrived as usize);
        let running = self.known.values().filter(|known| known.node.is_some()).count();
        assert_eq!(self.scheduler.in_flight(), running);
        assert_eq!(self.scheduler.queued(), self.known.len() - running);
        assert_eq!(self.scheduler.queued_by_model().values().sum::<usize>(), self.scheduler.queued());
        let fresh = self.known.values().filter(|known| known.attempts == 0).count();
        assert!(fresh <= SETTINGS.max_queued);
        let costly = self.scheduler.requests.values().filter(|request| request.is_costly_retry());
        assert_eq!(costly.count(), self.scheduler.costly_retries);
    }

    fn running(&self, node: usize, model: usize) -> usize {
        let is_there = |known: &&Known| known.node == Some(node) && known.model == model;
        self.known.values().filter(is_there).count()
    }

    fn check_slots(&self) {
        for (node, view) in self.scheduler.nodes().iter().enumerate() {
            let counts = (0..3).map(|model| self.running(node, model));
            assert!(counts.clone().all(|count| count <= SLOTS[node] as usize));
            assert_eq!(view.in_flight as usize, counts.sum::<usize>());
        }
    }

    /// No request that was never tried waits while a node could take it.
    fn check_work_conservation(&mut self) {
        self.step(&Step::Wait(0));
        for known in self.known.values().filter(|known| known.node.is_none() && known.attempts == 0) {
            let listed = LISTED[known.model];
            // All have the same memory, so none is a last resort.
            for node in self.scheduler.nodes.iter().filter(|node| node.is_live()) {
                let has_model = node.models().any(|model| model.name == listed);
                assert!(!has_model || !node.has_free_slot(listed, self.now), "{listed} waits beside a free slot");
            }
        }
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn slots_bounds_and_the_number_of_requests_hold_after_every_step(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check_slots();
            run.check_conservation();
            run.check_work_conservation();
        }
    }

    #[test]
    fn every_request_ends_once_and_leaves_nothing_behind(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.step(step));
        for _ in 0..=run.arrived {
            run.known.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| {
                let position = run.known.keys().position(|known| *known == id);
                if let Some(position) = position {
                    run.step(&Step::Complete(position));
                }
            });
        }
        run.check_conservation();
        prop_assert_eq!((run.scheduler.queued(), run.scheduler.in_flight()), (0, 0));
        prop_assert!(run.scheduler.requests.is_empty());
        prop_assert_eq!(run.scheduler.costly_retries, 0);
        prop_assert_eq!(run.scheduler.queue.next_deadline(), None);
        prop_assert!(run.scheduler.queue.classes().is_empty());
        prop_assert!(run.scheduler.nodes().iter().all(|node| node.in_flight == 0));
    }

    #[test]
    fn the_same_events_make_the_same_decisions(steps in prop::collection::vec(step(), 1..200)) {
        let (mut first, mut second) = (Run::new(), Run::new());
        steps.iter().for_each(|step| first.step(step));
        steps.iter().for_each(|step| second.step(step));
        prop_assert_eq!(first.log, second.log);
    }

    #[test]
    fn after_a_tick_the_next_one_is_due_later(steps in prop::collection::vec(step(), 1..200)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.step(&Step::Wait(0));
            prop_assert!(run.scheduler.next_deadline().is_none_or(|due| due > run.now));
        }
    }

    #[test]
    fn two_backlogged_users_are_served_alike(
        ends in prop::collection::vec(any::<usize>(), 1..150),
        models in prop::collection::vec(0..2usize, 2..4),
        head_start in 1..20u64,
    ) {
        let settings = Settings { max_queued: 10_000, max_queued_per_user: 10_000 };
        let mut scheduler = Scheduler::new(settings, vec![NodeSpec { name: "gpu".into(), slots: 3, vram_bytes: None }]);
        let mut running = BTreeSet::new();
        let mut counts = [0_i64; 2];
        let mut serve = |running: &mut BTreeSet<u64>, decisions: Vec<Decision>| {
            for decision in decisions {
                if let Decision::Dispatch { id, .. } = decision {
                    running.insert(id.0);
                    counts[usize::from(id.0 >= 1000)] += 1;
                }
            }
            counts[0] - counts[1]
        };
        let node = NodeId(0);
        scheduler.handle(Event::Answered { node }, Duration::ZERO);
        let listed = |name: &&str| Model { name: (*name).into(), size_bytes: 1, digest: String::new(), modified_unix: 0 };
        scheduler.handle(Event::Listed { node, models: LISTED.iter().map(listed).collect() }, Duration::ZERO);
        let arrive = |scheduler: &mut Scheduler, user: usize, count: u64| -> Vec<Decision> {
            (0..count).flat_map(|index| scheduler.handle(Event::Arrived {
                id: RequestId(user as u64 * 1000 + index),
                user: USERS[user].into(),
                // Both users ask for the same models in the same order.
                model: MODELS[models[index as usize % models.len()]].into(),
                deadline: Duration::from_secs(1),
            }, Duration::ZERO)).collect()
        };
        // The first one takes all the slots before the other comes.
        let decisions = arrive(&mut scheduler, 0, 300 + head_start);
        serve(&mut running, decisions);
        let decisions = arrive(&mut scheduler, 1, 300);
        let start = serve(&mut running, decisions);
        let mut widest = (0, 0);
        for end in ends {
            let Some(id) = running.iter().nth(end % running.len()).copied() else { break };
            running.remove(&id);
            let decisions = scheduler.handle(Event::Left { id: RequestId(id), outcome: Outcome::Completed }, Duration::ZERO);
            let lead = serve(&mut running, decisions) - start;
            widest = (widest.0.min(lead), widest.1.max(lead));
        }
        prop_assert!(widest.1 - widest.0 <= 1, "the lead moved within {widest:?}");
    }
}
