//! A scheduler that is fed random events, and a record of them kept outside it.

mod checks;

use super::*;

pub(crate) const NODES: usize = 3;
/// `None`: the last node's slots are learned.
pub(crate) const SLOTS: [Option<u32>; NODES] = [Some(1), Some(2), None];
pub(crate) const MODELS: [&str; 3] = ["a", "b:7b", "c"];
pub(crate) const LISTED: [&str; 3] = ["a:latest", "b:7b", "c:latest"];
/// Two of three fit into a node's memory at a time.
pub(crate) const BYTES: [u64; 3] = [4_000_000_000, 5_000_000_000, 6_000_000_000];
pub(crate) const VRAM: u64 = 10_000_000_000;
pub(crate) const USERS: [&str; 3] = ["ann", "bob", "eve"];
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
pub(crate) const SETTINGS: QueueLimits = QueueLimits { max_queued: 12, max_queued_per_user: 6 };

/// A step of a random run. Requests are picked from the live ones, errands from those in progress.
#[derive(Clone, Debug)]
pub(crate) enum Move {
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
    Reconfigure(Option<u32>),
    Wait(u64),
}

pub(crate) fn step() -> impl Strategy<Value = Move> {
    prop_oneof![
        12 => (0..3usize, 0..3usize, 1..200_000u64, 1..4000u64)
            .prop_map(|(user, model, patience, prompt)| Move::Arrive { user, model, patience, prompt }),
        4 => any::<usize>().prop_map(Move::FirstByte),
        4 => (any::<usize>(), 1..500u64).prop_map(|(pick, tokens)| Move::Progress(pick, tokens)),
        6 => any::<usize>().prop_map(Move::Complete),
        2 => any::<usize>().prop_map(Move::Cancel),
        3 => (any::<usize>(), 0..9usize).prop_map(|(pick, failure)| Move::Fail(pick, failure)),
        1 => (any::<usize>(), 0..9usize).prop_map(|(pick, failure)| Move::BreakOff(pick, failure)),
        4 => (0..NODES).prop_map(Move::Answer),
        1 => (0..NODES).prop_map(Move::Silence),
        1 => (0..NODES, 1..8u8).prop_map(|(node, mask)| Move::List(node, mask)),
        2 => (0..NODES).prop_map(Move::Reside),
        8 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(pick, is_good)| Move::Errand(pick, is_good)),
        1 => (0..NODES, any::<bool>()).prop_map(|(node, on)| Move::Drain(node, on)),
        1 => prop::option::of(1..4u32).prop_map(Move::Reconfigure),
        5 => (1..8000u64).prop_map(Move::Wait),
    ]
}

/// What is known outside the scheduler of a live request.
pub(crate) struct Known {
    pub(crate) user: usize,
    pub(crate) model: usize,
    pub(crate) deadline: Time,
    pub(crate) node: Option<usize>,
    pub(crate) has_first_byte: bool,
    /// Broken off after its first byte.
    pub(crate) is_abandoned: bool,
    attempts: u32,
    /// Failed attempts that may say nothing about the request.
    excused: u32,
}

impl Known {
    /// What another scheduler is told of it.
    pub(crate) fn taken_over(&self, attempts: u32) -> Self {
        Self { attempts, excused: attempts, is_abandoned: false, ..*self }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Errand {
    Load(usize, usize),
    Unload(usize, usize),
}

/// A scheduler, and a record of it kept outside.
pub(crate) struct Run {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Time,
    pub(crate) known: BTreeMap<RequestId, Known>,
    ended: BTreeSet<RequestId>,
    pub(crate) slots: [Option<u32>; NODES],
    errands: Vec<Errand>,
    /// What is in the nodes' memory.
    pub(crate) memory: [BTreeSet<usize>; NODES],
    pub(crate) arrived: u128,
    pub(crate) log: Vec<Decision>,
    /// Which group a user's next request comes in under.
    pub(crate) group_of: fn(user: usize, arrived: u128) -> Option<Membership>,
    /// The digest under which a model is listed next.
    pub(crate) digest_of: fn(model: usize, arrived: u128) -> &'static str,
}

pub(crate) fn listing(model: usize) -> Model {
    Model {
        name: LISTED[model].into(),
        size_bytes: BYTES[model],
        digest: String::new(),
        modified_unix: 0,
        family: "llama".into(),
        weights: String::new(),
    }
}

pub(crate) fn index_of(listed: &str) -> usize {
    LISTED.iter().position(|name| *name == listed).expect("a model of the fleet")
}

fn spec(slots: Option<u32>) -> NodeSpec {
    NodeSpec { name: "gpu".into(), slots, vram_bytes: Some(VRAM) }
}

impl Run {
    pub(crate) fn new() -> Self {
        let mut run = Self {
            scheduler: Scheduler::new(SETTINGS, SLOTS.into_iter().map(spec).collect()),
            now: Duration::ZERO,
            known: BTreeMap::new(),
            ended: BTreeSet::new(),
            slots: SLOTS,
            errands: Vec::new(),
            memory: Default::default(),
            arrived: 0,
            log: Vec::new(),
            group_of: |_, _| None,
            digest_of: |_, _| "",
        };
        for node in 0..NODES {
            run.step(&Move::Answer(node));
            run.step(&Move::List(node, 7));
        }
        run
    }

    pub(crate) fn pick(&self, pick: usize) -> RequestId {
        let ids: Vec<_> = self.known.keys().collect();
        // Sometimes pick a request that is over or never existed.
        ids.get(pick % (ids.len() + 1)).map_or(RequestId(pick as u128 % (self.arrived + 1)), |id| **id)
    }

    pub(crate) fn event(&mut self, step: &Move) -> Event {
        match *step {
            Move::Arrive { user, model, patience, prompt } => self.arrival(user, model, patience, prompt),
            Move::FirstByte(pick) => Event::FirstByte { id: self.pick(pick) },
            Move::Progress(pick, tokens) => Event::Progress { id: self.pick(pick), tokens },
            Move::Complete(pick) => Event::Left { id: self.pick(pick), outcome: Outcome::Completed },
            Move::Cancel(pick) => Event::Left { id: self.pick(pick), outcome: Outcome::Cancelled },
            Move::Fail(pick, failure) => Event::Failed { id: self.pick(pick), failure: FAILURES[failure] },
            Move::BreakOff(pick, failure) => {
                Event::Left { id: self.pick(pick), outcome: Outcome::Failed(FAILURES[failure]) }
            }
            Move::Answer(node) => Event::Answered { node: NodeId(node) },
            Move::Silence(node) => Event::Silent { node: NodeId(node), error: "silent".into() },
            Move::List(node, mask) => {
                let has = |model: &usize| mask & (1 << model) != 0;
                let digest = |model| (self.digest_of)(model, self.arrived).to_owned();
                let listing = |model| Model { digest: digest(model), ..listing(model) };
                Event::Listed { node: NodeId(node), models: (0..3).filter(has).map(listing).collect() }
            }
            Move::Reside(node) => {
                let loaded = |model: &usize| Loaded {
                    name: LISTED[*model].into(),
                    vram_bytes: BYTES[*model],
                    context_length: None,
                };
                Event::Resident { node: NodeId(node), loaded: self.memory[node].iter().map(loaded).collect() }
            }
            Move::Errand(pick, is_good) => self.errand(pick, is_good),
            Move::Drain(node, on) => Event::Drain { node: NodeId(node), on },
            Move::Reconfigure(slots) => {
                self.slots[NODES - 1] = slots;
                Event::NodeChanged { node: NodeId(NODES - 1), spec: spec(slots) }
            }
            Move::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                Event::Tick
            }
        }
    }

    fn arrival(&mut self, user: usize, model: usize, patience: u64, prompt: u64) -> Event {
        self.arrived += 1;
        let id = RequestId(self.arrived);
        let deadline = self.now + Duration::from_millis(patience);
        let known = Known {
            user,
            model,
            deadline,
            node: None,
            has_first_byte: false,
            is_abandoned: false,
            attempts: 0,
            excused: 0,
        };
        self.known.insert(id, known);
        Event::Arrived(Arrival {
            id,
            user: USERS[user].into(),
            weight: 1.0 + user as f64,
            membership: (self.group_of)(user, self.arrived),
            model: MODELS[model].into(),
            prompt_tokens: prompt,
            max_output: prompt.is_multiple_of(2).then_some(prompt),
            known_output: None,
            prefixes: Arc::new([Prefix { digest: prompt % 5, tokens: prompt as u32 / 2 }]),
            route: Default::default(),
            is_stream: !prompt.is_multiple_of(7),
            deadline,
        })
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
                    let same = self.same(node, unloaded);
                    self.memory[node].retain(|model| !same.contains(model));
                }
                Event::Unloaded { node: NodeId(node), model: model(unloaded), result }
            }
        }
    }

    pub(crate) fn step(&mut self, step: &Move) {
        let event = self.event(step);
        self.hear(event);
    }

    pub(crate) fn hear(&mut self, event: Event) {
        self.account_for(&event);
        let is_tick = event == Event::Tick;
        let decisions = self.scheduler.handle(event, self.now);
        for decision in &decisions {
            self.account(decision);
            self.check_slots_after(decision);
        }
        if is_tick {
            let mut waiting = self.known.values().filter(|known| known.node.is_none());
            assert!(waiting.all(|known| known.deadline > self.now), "waits beyond its deadline");
        }
        self.log.extend(decisions);
    }

    pub(crate) fn account_for(&mut self, event: &Event) {
        match event {
            Event::Left { id, .. } if self.known.remove(id).is_some() => {
                assert!(self.ended.insert(*id));
            }
            Event::Failed { id, failure } => {
                if let Some(known) = self.known.get_mut(id) {
                    known.node = None;
                    known.excused += u32::from(failure.is_excused());
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

    pub(crate) fn running(&self, node: usize, model: usize) -> BTreeSet<RequestId> {
        let is_there = |known: &Known| known.node == Some(node) && known.model == model;
        self.known.iter().filter(|(_, known)| is_there(known)).map(|(id, _)| *id).collect()
    }

    /// The models that have the same weights as this one on a node.
    pub(crate) fn same(&self, node: usize, model: usize) -> Vec<usize> {
        let id = |model: usize| self.scheduler.models.find(LISTED[model]);
        let node = &self.scheduler.fleet[NodeId(node)];
        let is_same =
            |other: &usize| *other == model || id(*other).zip(id(model)).is_some_and(|(a, b)| node.are_same(a, b));
        (0..LISTED.len()).filter(is_same).collect()
    }
}
