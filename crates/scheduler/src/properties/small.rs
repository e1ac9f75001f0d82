//! Does a small case hold in full (P13)? Two nodes with a slot for each model and room for one of two models, three
//! users, six requests; every event that may happen next is tried, up to a depth. Sequences that lead to the same
//! visible state are followed once.

use super::*;

const NODES: usize = 2;
const REQUESTS: [(&str, usize); 6] = [("ann", 0), ("bob", 1), ("eve", 0), ("ann", 1), ("bob", 0), ("eve", 1)];
const LISTED: [&str; 2] = ["a:latest", "b:latest"];
const BYTES: u64 = 5_000_000_000;
const MOST_ERRORS: u32 = 2;
const MOST_PAUSES: u32 = 2;

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Fate {
    Unborn,
    Waits,
    Runs { node: usize, has_begun: bool, is_abandoned: bool },
    Over,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Errand {
    Load(usize, usize),
    Unload(usize, usize),
}

/// What may happen.
#[derive(Copy, Clone, Debug)]
enum Move {
    Arrive,
    Begin(usize),
    Complete(usize),
    Cancel(usize),
    Fail(usize, Failure),
    Carry(usize, bool),
    GoDown(usize),
    ComeBack(usize),
    Pause,
}

#[derive(Clone)]
struct World {
    scheduler: Scheduler,
    now: Time,
    fates: [Fate; REQUESTS.len()],
    errands: Vec<Errand>,
    memory: [Option<usize>; NODES],
    is_down: [bool; NODES],
    errors: u32,
    pauses: u32,
}

impl World {
    fn new() -> Self {
        let spec = NodeSpec { name: "gpu".into(), slots: Some(1), vram_bytes: Some(BYTES) };
        let mut world = Self {
            scheduler: Scheduler::new(QueueLimits { max_queued: 6, max_queued_per_user: 2 }, vec![spec; NODES]),
            now: Time::ZERO,
            fates: [Fate::Unborn; REQUESTS.len()],
            errands: Vec::new(),
            memory: [Some(0), None],
            is_down: [false; NODES],
            errors: 0,
            pauses: 0,
        };
        let listing = |name: &str| Model {
            name: name.into(),
            size_bytes: BYTES,
            digest: String::new(),
            modified_unix: 0,
            family: "llama".into(),
            weights: String::new(),
        };
        for node in 0..NODES {
            world.hear(Event::Listed { node: NodeId(node), models: LISTED.into_iter().map(listing).collect() });
            world.look(node);
        }
        world
    }

    /// A node reports what it has in memory, and answers a probe.
    fn look(&mut self, node: usize) {
        let loaded = |model: usize| Loaded { name: LISTED[model].into(), vram_bytes: BYTES, context_length: None };
        let loaded = self.memory[node].into_iter().map(loaded).collect();
        self.hear(Event::Resident { node: NodeId(node), loaded });
        self.hear(Event::Answered { node: NodeId(node) });
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.fates.contains(&Fate::Unborn) {
            moves.push(Move::Arrive);
        }
        let may_err = self.errors < MOST_ERRORS;
        for (id, fate) in self.fates.iter().enumerate() {
            match fate {
                Fate::Waits => moves.push(Move::Cancel(id)),
                Fate::Runs { has_begun: true, .. } => {
                    moves.push(Move::Complete(id));
                    moves.extend(may_err.then_some(Move::Fail(id, Failure::Garbled)));
                }
                Fate::Runs { .. } => {
                    moves.extend([Move::Begin(id), Move::Cancel(id)]);
                    moves.extend(may_err.then_some(Move::Fail(id, Failure::Reset)));
                }
                Fate::Unborn | Fate::Over => {}
            }
        }
        for errand in 0..self.errands.len() {
            moves.push(Move::Carry(errand, true));
            moves.extend(may_err.then_some(Move::Carry(errand, false)));
        }
        for node in 0..NODES {
            if self.is_down[node] {
                moves.push(Move::ComeBack(node));
            } else if may_err {
                moves.push(Move::GoDown(node));
            }
        }
        if self.pauses < MOST_PAUSES {
            moves.push(Move::Pause);
        }
        moves
    }

    fn make(&mut self, made: Move) {
        match made {
            Move::Arrive => self.arrive(),
            Move::Begin(id) => {
                if let Fate::Runs { has_begun, .. } = &mut self.fates[id] {
                    *has_begun = true;
                }
                self.hear(Event::FirstByte { id: RequestId(id as u128) });
            }
            Move::Complete(id) => self.end(id, Outcome::Completed),
            Move::Cancel(id) => self.end(id, Outcome::Cancelled),
            Move::Fail(id, failure) => {
                self.errors += 1;
                match self.fates[id] {
                    Fate::Runs { has_begun: false, .. } => {
                        self.fates[id] = Fate::Waits;
                        self.hear(Event::Failed { id: RequestId(id as u128), failure });
                    }
                    _ => self.end(id, Outcome::Failed(failure)),
                }
            }
            Move::Carry(errand, is_good) => self.carry(errand, is_good),
            Move::GoDown(node) => {
                self.errors += 1;
                self.is_down[node] = true;
                for _ in 0..2 {
                    self.hear(Event::Silent { node: NodeId(node), error: "refused".into() });
                }
            }
            Move::ComeBack(node) => {
                self.is_down[node] = false;
                self.now += Duration::from_secs(2);
                self.look(node);
            }
            Move::Pause => {
                self.pauses += 1;
                self.now += Duration::from_secs(31);
                self.hear(Event::Tick);
            }
        }
    }

    fn arrive(&mut self) {
        let Some(id) = self.fates.iter().position(|fate| *fate == Fate::Unborn) else { return };
        self.fates[id] = Fate::Waits;
        let (user, model) = REQUESTS[id];
        self.hear(Event::Arrived(Arrival {
            id: RequestId(id as u128),
            user: user.into(),
            weight: 1.0,
            membership: None,
            model: LISTED[model].into(),
            prompt_tokens: 100 * (id as u64 + 1),
            max_output: None,
            known_output: None,
            prefixes: Arc::default(),
            route: Default::default(),
            is_stream: true,
            deadline: Duration::from_secs(100_000),
        }));
    }

    fn end(&mut self, id: usize, outcome: Outcome) {
        assert_ne!(self.fates[id], Fate::Over);
        self.fates[id] = Fate::Over;
        self.hear(Event::Left { id: RequestId(id as u128), outcome });
    }

    fn carry(&mut self, errand: usize, is_good: bool) {
        let result = if is_good { Ok(()) } else { Err(Failure::Crashed) };
        self.errors += u32::from(!is_good);
        match self.errands.remove(errand) {
            Errand::Load(node, model) => {
                if is_good {
                    self.memory[node] = Some(model);
                }
                self.hear(Event::Loaded { node: NodeId(node), model: LISTED[model].into(), result });
            }
            Errand::Unload(node, model) => {
                if is_good {
                    self.memory[node] = None;
                }
                self.hear(Event::Unloaded { node: NodeId(node), model: LISTED[model].into(), result });
            }
        }
    }

    fn hear(&mut self, event: Event) {
        for decision in self.scheduler.handle(event, self.now) {
            self.obey(decision);
        }
        for node in 0..NODES {
            let of_node = self.scheduler.fleet[NodeId(node)].instances();
            let mut listed: Vec<u64> = of_node.flat_map(|(_, it)| it.running.iter().map(|it| it.id.0 as u64)).collect();
            listed.sort();
            let mut running: Vec<u64> = (0..LISTED.len()).flat_map(|model| self.running(node, model)).collect();
            running.sort();
            assert_eq!(listed, running);
        }
    }

    fn obey(&mut self, decision: Decision) {
        let model_of = |listed: &str| LISTED.iter().position(|name| *name == listed).unwrap();
        match decision {
            Decision::Dispatch { id, node: NodeId(node), .. } => {
                let (id, (_, model)) = (id.0 as usize, REQUESTS[id.0 as usize]);
                assert_eq!(self.fates[id], Fate::Waits);
                assert!(self.running(node, model).is_empty(), "one slot");
                assert_eq!(self.memory[node], Some(model), "not in memory");
                assert!(!self.errands.contains(&Errand::Unload(node, model)) && !self.is_down[node]);
                self.fates[id] = Fate::Runs { node, has_begun: false, is_abandoned: false };
            }
            Decision::Refuse { id, .. } => {
                assert_eq!(self.fates[id.0 as usize], Fate::Waits);
                self.fates[id.0 as usize] = Fate::Over;
            }
            Decision::Abandon { id } => match &mut self.fates[id.0 as usize] {
                Fate::Runs { has_begun: true, is_abandoned, .. } => {
                    assert!(!std::mem::replace(is_abandoned, true), "broken off twice");
                }
                fate @ Fate::Runs { .. } => *fate = Fate::Waits,
                fate => panic!("broken off: {fate:?}"),
            },
            Decision::Load { node: NodeId(node), model, .. } => {
                assert_eq!(self.memory[node], None, "no room");
                let is_busy = |errand: &Errand| matches!(errand, Errand::Load(at, _) if *at == node);
                assert!(!self.errands.iter().any(is_busy), "one load at a time");
                self.errands.push(Errand::Load(node, model_of(&model)));
            }
            Decision::Unload { node: NodeId(node), model } => {
                let model = model_of(&model);
                assert!(self.running(node, model).is_empty(), "only what is idle is unloaded");
                self.errands.push(Errand::Unload(node, model));
            }
        }
    }

    fn running(&self, node: usize, model: usize) -> Vec<u64> {
        let is_there = |fate: &Fate| matches!(fate, Fate::Runs { node: at, .. } if *at == node);
        let ids = (0..REQUESTS.len()).filter(|id| REQUESTS[*id].1 == model && is_there(&self.fates[*id]));
        ids.map(|id| id as u64).collect()
    }

    /// The visible state: two worlds with the same one are taken to be the same.
    fn sight(&self) -> String {
        let nodes = self.scheduler.fleet.iter().map(|node| (node.state(), node.load()));
        let nodes: Vec<_> = nodes.collect();
        let waiting: Vec<_> = self.scheduler.waiting(6, self.now).into_iter().map(|it| (it.id.0, it.waited)).collect();
        format!(
            "{:?}{:?}{:?}{:?}{nodes:?}{waiting:?}{}{}",
            self.fates, self.errands, self.memory, self.now, self.errors, self.pauses
        )
    }

    /// Lets everything go well from now on; true if a request still does not end.
    fn is_stuck(&self) -> bool {
        let mut world = self.clone();
        for _ in 0..400 {
            if world.fates.iter().all(|fate| matches!(fate, Fate::Unborn | Fate::Over)) {
                return false;
            }
            while !world.errands.is_empty() {
                world.carry(0, true);
            }
            for id in 0..REQUESTS.len() {
                if let Fate::Runs { has_begun: false, .. } = world.fates[id] {
                    world.make(Move::Begin(id));
                }
                if let Fate::Runs { .. } = world.fates[id] {
                    world.end(id, Outcome::Completed);
                }
            }
            world.now += Duration::from_secs(1);
            for node in 0..NODES {
                world.is_down[node] = false;
                world.look(node);
            }
            world.hear(Event::Tick);
        }
        true
    }
}

/// Follows every sequence of `depth` events from a world; returns how many visible states it met.
fn follow(root: World, depth: usize) -> usize {
    let mut seen = BTreeSet::new();
    let mut worlds = vec![root];
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in worlds {
            for made in world.moves() {
                let mut after = world.clone();
                after.make(made);
                if seen.insert(after.sight()) {
                    next.push(after);
                }
            }
        }
        worlds = next;
    }
    // Every other world leads to one of these.
    worlds.iter().for_each(|world| assert!(!world.is_stuck(), "{}", world.sight()));
    seen.len()
}

#[test]
fn whatever_happens_first_in_a_small_fleet_nothing_is_lost_stuck_or_doubled() {
    assert!(follow(World::new(), 7) > 5_000);
}

#[test]
fn whatever_happens_to_six_requests_in_a_small_fleet_nothing_is_lost_stuck_or_doubled() {
    let mut world = World::new();
    (0..REQUESTS.len()).for_each(|_| world.arrive());
    assert!(follow(world, 6) > 10_000);
}
