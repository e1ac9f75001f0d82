//! What holds under any interleaving of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, test_runner::RngSeed};

use super::{estimate::FIRST_GUESS, model::ModelId, *};

const NODES: usize = 3;
/// The last one's are learned.
const SLOTS: [Option<u32>; NODES] = [Some(1), Some(2), None];
const MODELS: [&str; 3] = ["a", "b:7b", "c"];
const LISTED: [&str; 3] = ["a:latest", "b:7b", "c:latest"];
/// Two of three fit into a node's memory at a time.
const BYTES: [u64; 3] = [4_000_000_000, 5_000_000_000, 6_000_000_000];
const VRAM: u64 = 10_000_000_000;
const USERS: [&str; 3] = ["ann", "bob", "eve"];
const FAILURES: [Failure; 9] = [
    Failure::Unreachable,
    Failure::Reset,
    Failure::Crashed,
    Failure::TimedOut,
    Failure::Garbled,
    Failure::Busy,
    Failure::Missing,
    Failure::Denied,
    Failure::Silent,
];
const SETTINGS: Settings = Settings { max_queued: 12, max_queued_per_user: 6 };

/// A step of a random run. Requests are picked among the live ones, errands among those under way.
#[derive(Clone, Debug)]
enum Step {
    Arrive { user: usize, model: usize, patience: u64, prompt: u64 },
    FirstByte(usize),
    Progress(usize, u64),
    Complete(usize),
    Cancel(usize),
    Fail(usize, usize),
    BreakOff(usize, usize),
    Answer(usize),
    Silence(usize),
    List(usize, u8),
    Reside(usize),
    Errand(usize, bool),
    Drain(usize, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3usize, 0..3usize, 1..200_000u64, 1..4000u64)
            .prop_map(|(user, model, patience, prompt)| Step::Arrive { user, model, patience, prompt }),
        4 => any::<usize>().prop_map(Step::FirstByte),
        4 => (any::<usize>(), 1..500u64).prop_map(|(pick, tokens)| Step::Progress(pick, tokens)),
        6 => any::<usize>().prop_map(Step::Complete),
        2 => any::<usize>().prop_map(Step::Cancel),
        3 => (any::<usize>(), 0..9usize).prop_map(|(pick, failure)| Step::Fail(pick, failure)),
        1 => (any::<usize>(), 0..9usize).prop_map(|(pick, failure)| Step::BreakOff(pick, failure)),
        4 => (0..NODES).prop_map(Step::Answer),
        1 => (0..NODES).prop_map(Step::Silence),
        1 => (0..NODES, 1..8u8).prop_map(|(node, mask)| Step::List(node, mask)),
        2 => (0..NODES).prop_map(Step::Reside),
        8 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(pick, is_good)| Step::Errand(pick, is_good)),
        1 => (0..NODES, any::<bool>()).prop_map(|(node, on)| Step::Drain(node, on)),
        5 => (1..8000u64).prop_map(Step::Wait),
    ]
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        cases,
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    }
}

/// What the outside knows of a live request.
struct Known {
    model: usize,
    node: Option<usize>,
    has_first_byte: bool,
    attempts: u32,
}

#[derive(Clone, PartialEq, Debug)]
enum Errand {
    Load(usize, usize),
    Unload(usize, usize),
}

/// A scheduler, and an account of it kept from the outside.
struct Run {
    scheduler: Scheduler,
    now: Time,
    known: BTreeMap<RequestId, Known>,
    ended: BTreeSet<RequestId>,
    errands: Vec<Errand>,
    /// What is in the nodes' memory.
    memory: [BTreeSet<usize>; NODES],
    arrived: u64,
    log: Vec<Decision>,
}

fn listing(model: usize) -> Model {
    Model {
        name: LISTED[model].into(),
        size_bytes: BYTES[model],
        digest: String::new(),
        modified_unix: 0,
        family: "llama".into(),
    }
}

fn index_of(listed: &str) -> usize {
    LISTED.iter().position(|name| *name == listed).expect("a model of the fleet")
}

impl Run {
    fn new() -> Self {
        let spec = |slots: &Option<u32>| NodeSpec { name: "gpu".into(), slots: *slots, vram_bytes: Some(VRAM) };
        let mut run = Self {
            scheduler: Scheduler::new(SETTINGS, SLOTS.iter().map(spec).collect()),
            now: Duration::ZERO,
            known: BTreeMap::new(),
            ended: BTreeSet::new(),
            errands: Vec::new(),
            memory: Default::default(),
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
            Step::Arrive { user, model, patience, prompt } => {
                self.arrived += 1;
                let id = RequestId(self.arrived);
                self.known.insert(id, Known { model, node: None, has_first_byte: false, attempts: 0 });
                Event::Arrived(Arrival {
                    id,
                    user: USERS[user].into(),
                    weight: 1.0 + user as f64,
                    model: MODELS[model].into(),
                    prompt_tokens: prompt,
                    max_output: prompt.is_multiple_of(2).then_some(prompt),
                    session: Some(prompt % 5),
                    is_stream: !prompt.is_multiple_of(7),
                    deadline: self.now + Duration::from_millis(patience),
                })
            }
            Step::FirstByte(pick) => Event::FirstByte { id: self.pick(pick) },
            Step::Progress(pick, tokens) => Event::Progress { id: self.pick(pick), tokens },
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
                Event::Listed { node: NodeId(node), models: (0..3).filter(has).map(listing).collect() }
            }
            Step::Reside(node) => {
                let loaded = |model: &usize| Loaded {
                    name: LISTED[*model].into(),
                    vram_bytes: BYTES[*model],
                    context_length: None,
                };
                Event::Resident { node: NodeId(node), loaded: self.memory[node].iter().map(loaded).collect() }
            }
            Step::Errand(pick, is_good) => self.errand(pick, is_good),
            Step::Drain(node, on) => Event::Drain { node: NodeId(node), on },
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                Event::Tick
            }
        }
    }

    fn errand(&mut self, pick: usize, is_good: bool) -> Event {
        if self.errands.is_empty() {
            return Event::Tick;
        }
        let result = if is_good { Ok(()) } else { Err(FAILURES[pick % FAILURES.len()]) };
        let model = |model: usize| -> Arc<str> { LISTED[model].into() };
        match self.errands.remove(pick % self.errands.len()) {
            Errand::Load(node, loaded) => {
                if is_good {
                    self.memory[node].insert(loaded);
                }
                Event::Loaded { node: NodeId(node), model: model(loaded), result }
            }
            Errand::Unload(node, unloaded) => {
                if is_good {
                    self.memory[node].remove(&unloaded);
                }
                Event::Unloaded { node: NodeId(node), model: model(unloaded), result }
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
                let leaving = Errand::Unload(node.0, known.model);
                assert!(!self.errands.contains(&leaving), "sent to a model that is being unloaded");
            }
            Decision::Refuse { id, refusal } => {
                assert!(self.known.remove(id).is_some_and(|known| known.node.is_none()));
                assert!(self.ended.insert(*id));
                assert!(refusal.retry_after >= Duration::from_secs(1));
                assert!(refusal.retry_after <= Duration::from_secs(120));
            }
            Decision::Abandon { id } => {
                let known = self.known.get_mut(id).expect("only live requests are broken off");
                assert!(known.node.is_some());
                if !known.has_first_byte {
                    known.node = None;
                }
            }
            Decision::Load { node, model } => {
                let errand = Errand::Load(node.0, index_of(model));
                let loads = |errand: &&Errand| matches!(errand, Errand::Load(at, _) if *at == node.0);
                assert_eq!(self.errands.iter().filter(loads).count(), 0, "one load at a time on a node");
                self.errands.push(errand);
            }
            Decision::Unload { node, model } => {
                let model = index_of(model);
                assert_eq!(self.running(node.0, model), 0, "only what is idle is unloaded");
                self.errands.push(Errand::Unload(node.0, model));
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
            for (model, count) in counts.clone().enumerate() {
                // What ran beside others when the number of slots was lowered goes on.
                let learned = || self.scheduler.nodes[node].instance(ModelId(model)).map_or(0, |it| it.slot_count());
                assert!(SLOTS[node].is_none_or(|slots| count <= slots as usize), "over-commitment on {node}");
                assert!(SLOTS[node].is_some() || count <= learned() + 32);
            }
            assert_eq!(view.in_flight as usize, counts.sum::<usize>());
        }
    }

    /// What waits beside a free slot expects to be served no later than it would be there.
    fn check_work_conservation(&mut self) {
        self.step(&Step::Wait(0));
        let waiting = self.scheduler.requests.values().filter(|request| request.attempt.is_none());
        for request in waiting.filter(|request| request.last_failure().is_none()) {
            for node in self.scheduler.nodes.iter().filter(|node| node.is_open() && node.opens_in(self.now) == 0.0) {
                let Some(instance) = node.instance(request.model) else { continue };
                let is_there = instance.listing.is_some() && instance.resident_since.is_some() && !instance.is_leaving;
                if is_there && instance.running.len() < instance.slot_count() {
                    // At most, as those before it may have been planned to go there as well.
                    let others = f64::from(node.in_flight()) + self.scheduler.queued() as f64;
                    let guess = super::node::fastest(self.scheduler.nodes.iter());
                    let (prefill, decode) = self.scheduler.service(node, instance, request, others, guess);
                    let planned = request.waits_for.expect("it was planned").total();
                    assert!(planned <= prefill + decode + 1e-6, "waits {planned} s beside a slot that is free");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(config(200))]

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
        prop_assert_eq!(run.scheduler.queue.models().count(), 0);
        prop_assert!(run.scheduler.nodes().iter().all(|node| node.in_flight == 0));
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
            run.step(&Step::Wait(0));
            prop_assert!(run.scheduler.next_deadline().is_none_or(|due| due > run.now));
        }
    }

    /// A model does not go and come again and again: between two loads of it on a node lie 30 s, or whoever asked had
    /// waited so long, or nobody had use for it.
    #[test]
    fn memory_is_not_thrashed(steps in prop::collection::vec(step(), 1..400)) {
        let mut run = Run::new();
        let mut loads: BTreeMap<(usize, usize), Time> = BTreeMap::new();
        for step in &steps {
            let asked: BTreeMap<usize, Time> = run.scheduler.requests.values()
                .filter(|request| request.attempt.is_none())
                .map(|request| (request.model.0, request.arrived))
                .fold(BTreeMap::new(), |mut oldest, (model, arrived)| {
                    let known = oldest.entry(model).or_insert(arrived);
                    *known = arrived.min(*known);
                    oldest
                });
            let seen = run.log.len();
            run.step(step);
            for decision in run.log[seen..].iter().cloned() {
                let Decision::Unload { node, model } = decision else { continue };
                let victim = index_of(&model);
                let loaded = loads.get(&(node.0, victim)).copied();
                let was_young = loaded.is_some_and(|at| run.now - at < Duration::from_secs(30));
                let is_impatient = asked.values().any(|arrived| run.now - *arrived >= Duration::from_secs(30));
                let is_unused = !run.known.values().any(|known| known.model == victim && known.node.is_none());
                prop_assert!(!was_young || is_impatient || is_unused, "{model} went after {:?}", loaded.map(|at| run.now - at));
            }
            if let Step::Errand(..) = step {
                for node in 0..NODES {
                    for model in &run.memory[node] {
                        loads.entry((node, *model)).or_insert(run.now);
                    }
                    loads.retain(|(at, model), _| *at != node || run.memory[node].contains(model));
                }
            }
        }
    }

    /// Of two users who always have something waiting, neither gets more work done than the other by more than twice the
    /// dearest request, over any time.
    #[test]
    fn two_backlogged_users_are_served_by_their_weights(
        ends in prop::collection::vec(any::<usize>(), 1..300),
        prompts in prop::collection::vec((1..8000u64, 1..1000u64), 5..20),
        weight in 1..4u32,
    ) {
        let settings = Settings { max_queued: 10_000, max_queued_per_user: 10_000 };
        let spec = NodeSpec { name: "gpu".into(), slots: Some(3), vram_bytes: None };
        let mut scheduler = Scheduler::new(settings, vec![spec]);
        let node = NodeId(0);
        scheduler.handle(Event::Answered { node }, Duration::ZERO);
        let model = Model { size_bytes: 5_000_000_000, ..listing(0) };
        scheduler.handle(Event::Listed { node, models: vec![model] }, Duration::ZERO);
        let loaded = vec![Loaded { name: LISTED[0].into(), vram_bytes: 5_000_000_000, context_length: None }];
        scheduler.handle(Event::Resident { node, loaded }, Duration::ZERO);
        let weights = [1.0, f64::from(weight)];
        let cost = |id: u64| {
            let (prompt, output) = prompts[(id % 1000) as usize % prompts.len()];
            (prompt as f64 / 25.0 + output as f64) / 100.0
        };
        let dearest = (0..20).map(cost).fold(0.0, f64::max);
        let mut running = BTreeSet::new();
        let mut served = [0.0_f64; 2];
        let mut hear = |decisions: Vec<Decision>, running: &mut BTreeSet<u64>| {
            for decision in decisions {
                let Decision::Dispatch { id, .. } = decision else { continue };
                running.insert(id.0);
                let user = usize::from(id.0 >= 1000);
                served[user] += cost(id.0) / weights[user];
            }
            served[0] - served[1]
        };
        for user in 0..2_u64 {
            for index in 0..400 {
                let (prompt_tokens, output) = prompts[index as usize % prompts.len()];
                let decisions = scheduler.handle(Event::Arrived(Arrival {
                    id: RequestId(user * 1000 + index),
                    user: USERS[user as usize].into(),
                    weight: weights[user as usize],
                    model: MODELS[0].into(),
                    prompt_tokens,
                    max_output: Some(output),
                    session: None,
                    is_stream: true,
                    deadline: Duration::from_secs(1_000_000),
                }), Duration::ZERO);
                hear(decisions, &mut running);
            }
        }
        let mut now = Duration::ZERO;
        let mut leads = Vec::new();
        for end in ends {
            let Some(id) = running.iter().nth(end % running.len()).copied() else { break };
            running.remove(&id);
            now += Duration::from_secs(end as u64 % 30);
            let output = prompts[(id % 1000) as usize % prompts.len()].1;
            scheduler.handle(Event::Progress { id: RequestId(id), tokens: output }, now);
            let decisions = scheduler.handle(Event::Left { id: RequestId(id), outcome: Outcome::Completed }, now);
            leads.push(hear(decisions, &mut running));
        }
        let widest = leads.iter().copied().fold(f64::MIN, f64::max) - leads.iter().copied().fold(f64::MAX, f64::min);
        prop_assert!(leads.is_empty() || widest <= 2.0 * dearest * 3.0 + 1e-9, "the lead moved by {widest}, {dearest}");
    }

    /// What is in no use for anybody changes nothing: a node that lists nothing, and other numbers for the nodes.
    #[test]
    fn a_node_that_cannot_serve_changes_no_decision(steps in prop::collection::vec(step(), 1..200)) {
        let mut run = Run::new();
        let mut with_more = run.scheduler.clone();
        let spec = NodeSpec { name: "idle".into(), slots: Some(4), vram_bytes: None };
        with_more.handle(Event::NodeJoined { node: NodeId(NODES), spec }, Duration::ZERO);
        with_more.handle(Event::Answered { node: NodeId(NODES) }, Duration::ZERO);
        run.log.clear();
        let mut others = Vec::new();
        for step in &steps {
            let event = run.event(step);
            run.account_for(&event);
            others.extend(with_more.handle(event.clone(), run.now));
            let decisions = run.scheduler.handle(event, run.now);
            decisions.iter().for_each(|decision| run.account(decision));
            run.log.extend(decisions);
        }
        prop_assert_eq!(run.log, others);
    }
}

#[test]
fn a_node_nobody_measured_is_taken_to_be_fast() {
    assert_eq!(super::node::fastest(Run::new().scheduler.nodes.iter()), FIRST_GUESS);
}
