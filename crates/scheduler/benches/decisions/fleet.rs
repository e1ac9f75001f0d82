//! A fleet in virtual time whose nodes are full, and a queue that stays as long as it is: whenever a request ends,
//! another one comes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::{Decision, Event, Loaded, Model, NodeId, NodeSpec, Outcome, QueueLimits, RequestId, Scheduler};

use crate::traffic::{Ask, Traffic, name};

const GB: u64 = 1_000_000_000;
const SIZES: [u64; 10] = [5, 2, 9, 5, 20, 4, 8, 3, 13, 1];
const MEMORY: [u64; 4] = [24, 24, 16, 12];
const SLOTS: [usize; 4] = [4, 4, 4, 2];
/// Tokens a second of a 5 GB model that runs alone.
const SPEEDS: [f64; 4] = [120.0, 100.0, 70.0, 40.0];
/// How much each other stream slows a stream down.
const SLOWDOWN: f64 = 0.25;
/// Virtual seconds before anything is measured.
const WARM_UP: f64 = 60.0;
/// Measured virtual seconds, and events at least.
const SECONDS: f64 = 20.0;
const LEAST_EVENTS: usize = 100_000;
const MEMORY_REPORTED: f64 = 2.0;
const DISK_REPORTED: f64 = 30.0;
const PROBED: f64 = 5.0;
const WATCHED: f64 = 1.0;

/// How large a row of the benchmark is.
#[derive(Copy, Clone)]
pub struct Scale {
    pub nodes: usize,
    pub models: usize,
    pub users: usize,
    pub queued: usize,
}

#[derive(Clone)]
enum Happening {
    FirstByte(RequestId),
    Watch(RequestId),
    End(RequestId),
    Done(Event),
    Memory(usize),
    Disk(usize),
    Probe(usize),
    Count,
}

/// Slots of models in memory that requests wait for, summed over the seconds of a run.
#[derive(Copy, Clone, Default)]
pub struct Warm {
    pub all: usize,
    /// Free.
    pub idle: usize,
    /// Free on a node that is making room for another model or loading it, and so drains some of its models.
    pub draining: usize,
}

struct Running {
    node: usize,
    model: usize,
    began: f64,
    tokens: f64,
    token_seconds: f64,
}

/// What a node really has in memory, and what runs there by model.
#[derive(Default)]
struct Machine {
    resident: BTreeSet<usize>,
    running: BTreeMap<usize, usize>,
}

pub struct Fleet {
    pub scheduler: Scheduler,
    scale: Scale,
    traffic: Traffic,
    disk: Arc<[Model]>,
    machines: Vec<Machine>,
    now: f64,
    agenda: BinaryHeap<Reverse<(u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    running: BTreeMap<RequestId, Running>,
    /// Requests in the queue, by id: their model and the tokens of prompt and answer.
    waiting: BTreeMap<RequestId, (usize, f64, f64)>,
    next: u64,
    times: Vec<(&'static str, u64)>,
    is_measured: bool,
    warm: Warm,
    digest: u64,
}

/// The measured part of a run.
pub struct Run {
    /// Each event's kind and time in nanoseconds.
    pub times: Vec<(&'static str, u64)>,
    pub queued: usize,
    pub running: usize,
    pub warm: Warm,
    /// Depends on every decision.
    pub digest: u64,
    pub fleet: Fleet,
}

impl Run {
    pub fn of(scale: Scale) -> Self {
        let mut fleet = Fleet::new(scale);
        while fleet.scheduler.queued() < scale.queued {
            fleet.arrive();
        }
        fleet.go_on(WARM_UP, 0);
        fleet.is_measured = true;
        fleet.warm = Warm::default();
        fleet.go_on(WARM_UP + SECONDS, LEAST_EVENTS);
        fleet.is_measured = false;
        Self {
            times: std::mem::take(&mut fleet.times),
            queued: fleet.scheduler.queued(),
            running: fleet.scheduler.in_flight(),
            warm: fleet.warm,
            digest: fleet.digest,
            fleet,
        }
    }
}

fn index(name: &str) -> usize {
    name.trim_start_matches("model-").trim_end_matches(":latest").parse().unwrap()
}

fn size(model: usize) -> u64 {
    SIZES[model % SIZES.len()] * GB
}

impl Fleet {
    fn new(scale: Scale) -> Self {
        let limits = QueueLimits { max_queued: 1_000_000, max_queued_per_user: 1_000_000 };
        let spec = |node: usize| NodeSpec {
            name: format!("node-{node}"),
            slots: Some(SLOTS[node % 4] as u32),
            vram_bytes: Some(MEMORY[node % 4] * GB),
        };
        let model = |model: usize| Model {
            name: name(model),
            size_bytes: size(model),
            digest: String::new(),
            modified_unix: model as i64,
            family: "llama".into(),
            weights: String::new(),
        };
        let mut fleet = Self {
            scheduler: Scheduler::new(limits, (0..scale.nodes).map(spec).collect()),
            scale,
            traffic: Traffic::new(scale.models, scale.users),
            disk: (0..scale.models).map(model).collect(),
            machines: (0..scale.nodes).map(|_| Machine::default()).collect(),
            now: 1.0,
            agenda: BinaryHeap::new(),
            happenings: Vec::new(),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            times: Vec::new(),
            is_measured: false,
            warm: Warm::default(),
            digest: 0xCBF2_9CE4_8422_2325,
        };
        for node in 0..scale.nodes {
            fleet.fill(node);
            fleet.hear("probe", Event::Answered { node: NodeId(node) });
            fleet.hear("disk", fleet.disk(node));
            fleet.hear("memory", fleet.memory(node));
            // Reports of different nodes do not come all at once.
            let lag = node as f64 / scale.nodes as f64;
            fleet.plan(MEMORY_REPORTED * lag, Happening::Memory(node));
            fleet.plan(DISK_REPORTED * lag, Happening::Disk(node));
            fleet.plan(PROBED * lag, Happening::Probe(node));
        }
        fleet.plan(WATCHED, Happening::Count);
        fleet
    }

    pub fn nodes(&self) -> usize {
        self.scale.nodes
    }

    /// Loads models by popularity until no more fit.
    fn fill(&mut self, node: usize) {
        let mut free = MEMORY[node % 4] * GB;
        for _ in 0..20 {
            let model = self.traffic.popular();
            if size(model) <= free && self.machines[node].resident.insert(model) {
                free -= size(model);
            }
        }
    }

    /// What the node reports of its memory.
    pub fn memory(&self, node: usize) -> Event {
        let loaded = |model: &usize| Loaded { name: name(*model), vram_bytes: size(*model), context_length: None };
        Event::Resident { node: NodeId(node), loaded: self.machines[node].resident.iter().map(loaded).collect() }
    }

    /// What the node reports of its disk. The gateway sends an unchanged report as the same allocation.
    pub fn disk(&self, node: usize) -> Event {
        Event::Listed { node: NodeId(node), models: self.disk.clone() }
    }

    fn plan(&mut self, seconds: f64, happening: Happening) {
        self.agenda.push(Reverse((((self.now + seconds) * 1e6) as u64, self.happenings.len())));
        self.happenings.push(Some(happening));
    }

    fn go_on(&mut self, until: f64, least: usize) {
        while self.now < until || self.times.len() < least {
            let Some(Reverse((micros, _))) = self.agenda.peek().copied() else { return };
            let next = micros as f64 / 1e6;
            let due = self.scheduler.next_deadline().map_or(f64::INFINITY, |due| due.as_secs_f64().max(self.now));
            if due < next {
                self.now = due + 1e-6;
                self.hear("tick", Event::Tick);
            } else if let Some(Reverse((_, index))) = self.agenda.pop() {
                self.now = self.now.max(next);
                if let Some(happening) = self.happenings[index].take() {
                    self.happen(happening);
                }
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::FirstByte(id) => {
                self.hear("first byte", Event::FirstByte { id });
            }
            Happening::Watch(id) => self.watch(id),
            Happening::End(id) => self.end(id),
            Happening::Done(event) => {
                match &event {
                    Event::Loaded { node, model, .. } => {
                        self.machines[node.0].resident.insert(index(model));
                    }
                    Event::Unloaded { node, model, .. } => {
                        self.machines[node.0].resident.remove(&index(model));
                    }
                    _ => {}
                }
                self.hear("load", event);
            }
            Happening::Memory(node) => {
                self.hear("memory", self.memory(node));
                self.plan(MEMORY_REPORTED, Happening::Memory(node));
            }
            Happening::Disk(node) => {
                self.hear("disk", self.disk(node));
                self.plan(DISK_REPORTED, Happening::Disk(node));
            }
            Happening::Probe(node) => {
                self.hear("probe", Event::Answered { node: NodeId(node) });
                self.plan(PROBED, Happening::Probe(node));
            }
            Happening::Count => {
                self.count_idle();
                self.plan(WATCHED, Happening::Count);
            }
        }
    }

    fn watch(&mut self, id: RequestId) {
        let Some(running) = self.running.get(&id) else { return };
        let tokens = ((self.now - running.began) / running.token_seconds).max(0.0);
        if tokens >= 1.0 {
            self.hear("progress", Event::Progress { id, tokens: tokens as u64 });
        }
        self.plan(WATCHED, Happening::Watch(id));
    }

    fn end(&mut self, id: RequestId) {
        let Some(running) = self.running.remove(&id) else { return };
        *self.machines[running.node].running.entry(running.model).or_default() -= 1;
        self.hear("progress", Event::Progress { id, tokens: running.tokens as u64 });
        self.hear("end", Event::Left { id, outcome: Outcome::Completed });
        self.arrive();
    }

    fn arrive(&mut self) {
        self.next += 1;
        let id = RequestId(u128::from(self.next));
        let Ask { model, prompt, output, arrival } = self.traffic.ask(id);
        self.waiting.insert(id, (model, prompt as f64, output as f64));
        self.hear("arrival", Event::Arrived(arrival));
    }

    /// Tells the scheduler, carries out its decisions, and returns the nanoseconds it took.
    pub fn hear(&mut self, kind: &'static str, event: Event) -> u64 {
        let now = Duration::from_secs_f64(self.now);
        let began = Instant::now();
        let decisions = self.scheduler.handle(event, now);
        let took = began.elapsed().as_nanos() as u64;
        if self.is_measured {
            self.times.push((kind, took));
        }
        for decision in decisions {
            self.note(&decision);
            match decision {
                Decision::Dispatch { id, node, .. } => self.send(id, node.0),
                Decision::Load { node, model, .. } => {
                    let seconds = 1.5 + size(index(&model)) as f64 / GB as f64;
                    self.plan(seconds, Happening::Done(Event::Loaded { node, model, result: Ok(()) }));
                }
                Decision::Unload { node, model } => {
                    self.plan(0.1, Happening::Done(Event::Unloaded { node, model, result: Ok(()) }));
                }
                Decision::Refuse { .. } | Decision::Abandon { .. } => panic!("nothing fails here: {decision:?}"),
            }
        }
        took
    }

    /// FNV-1a.
    fn note(&mut self, decision: &Decision) {
        for byte in format!("{decision:?}{}", self.now).bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn send(&mut self, id: RequestId, node: usize) {
        let Some((model, prompt, tokens)) = self.waiting.remove(&id) else { return };
        let machine = &mut self.machines[node];
        let others = machine.running.values().sum::<usize>() as f64;
        *machine.running.entry(model).or_default() += 1;
        let alone = size(model) as f64 / (5 * GB) as f64 / SPEEDS[node % 4];
        let token_seconds = alone * (1.0 + SLOWDOWN * others);
        let prefill = prompt * alone / 25.0 * (1.0 + 0.5 * others);
        self.plan(prefill, Happening::FirstByte(id));
        self.plan(prefill + WATCHED, Happening::Watch(id));
        self.plan(prefill + tokens * token_seconds, Happening::End(id));
        let began = self.now + prefill;
        self.running.insert(id, Running { node, model, began, tokens, token_seconds });
    }

    /// Counts the slots of the models that requests wait for, and how many of them are free.
    fn count_idle(&mut self) {
        for (model, waiting) in self.scheduler.queued_by_model() {
            let model = index(&model);
            let (mut idle, mut draining) = (0, 0);
            for (node, machine) in self.machines.iter().enumerate().filter(|(_, it)| it.resident.contains(&model)) {
                let taken = machine.running.get(&model).copied().unwrap_or(0);
                let free = SLOTS[node % 4].saturating_sub(taken);
                let makes_room = free > 0 && self.scheduler.nodes_from(NodeId(node), 1)[0].loading.is_some();
                self.warm.all += SLOTS[node % 4];
                *(if makes_room { &mut draining } else { &mut idle }) += free;
            }
            // What nobody could use is not idle.
            let idle = waiting.min(idle);
            self.warm.idle += idle;
            self.warm.draining += draining.min(waiting - idle);
        }
    }
}
