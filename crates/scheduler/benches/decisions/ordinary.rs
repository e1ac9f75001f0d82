//! What do the decisions about an ordinary request cost, which finds a free slot at once? A few clients in a closed loop
//! on one node with many slots, and nobody waits.
//!
//! Its instructions are counted with
//! `valgrind --tool=callgrind --toggle-collect='*Scheduler>::handle' <the benchmark> --bench "64 clients"`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::{
    Arrival, Decision, Event, Loaded, Model, NodeId, NodeSpec, Outcome, Prefix, QueueLimits, RequestId, Scheduler,
};

use crate::Verdict;

/// Slots of the node: more than there are clients.
const SLOTS: u32 = 1024;
const REQUESTS: u128 = 20_000;
/// Requests before anything is measured.
const WARM_UP: u128 = 2000;
/// How long an answer takes, and the part of it in which it is written.
const SERVED: Duration = Duration::from_millis(40);
const WRITING: Duration = Duration::from_millis(30);
const TOKENS: u64 = 20;

/// One way to ask.
pub struct Row {
    pub title: &'static str,
    clients: usize,
    is_stream: bool,
    /// The most that all events of one request together may take, in microseconds.
    gate: f64,
}

pub const ROWS: [Row; 4] = [
    Row { title: "ordinary requests, 1 client", clients: 1, is_stream: false, gate: 3.0 },
    Row { title: "ordinary streams, 1 client", clients: 1, is_stream: true, gate: 3.0 },
    Row { title: "ordinary requests, 64 clients", clients: 64, is_stream: false, gate: 3.0 },
    Row { title: "ordinary streams, 64 clients", clients: 64, is_stream: true, gate: 3.0 },
];

/// Time passes in steps, so that all clients together ask evenly.
struct World {
    scheduler: Scheduler,
    prompt: Arc<[Prefix]>,
    users: Vec<Arc<str>>,
    model: Arc<str>,
    now: Duration,
    step: Duration,
    is_stream: bool,
    running: VecDeque<RequestId>,
}

impl World {
    fn new(row: &Row) -> Self {
        let spec = NodeSpec { name: "node".into(), slots: Some(SLOTS), vram_bytes: None };
        let model = Model {
            name: "llama3.2:1b".into(),
            size_bytes: 1_300_000_000,
            digest: "d".into(),
            modified_unix: 0,
            family: "llama".into(),
            weights: "w".into(),
        };
        let loaded = Loaded { name: model.name.clone(), vram_bytes: model.size_bytes, context_length: None };
        let digests = [1, 2, 3].into_iter().map(|digest| Prefix { digest, tokens: 10 * digest as u32 });
        let mut world = Self {
            scheduler: Scheduler::new(QueueLimits { max_queued: 1000, max_queued_per_user: 1000 }, vec![spec]),
            prompt: digests.collect(),
            users: (0..row.clients).map(|user| format!("user-{user}").into()).collect(),
            model: model.name.as_str().into(),
            now: Duration::from_secs(1),
            step: SERVED / row.clients as u32,
            is_stream: row.is_stream,
            running: VecDeque::new(),
        };
        let node = NodeId(0);
        for event in [
            Event::Answered { node },
            Event::Listed { node, models: [model].into() },
            Event::Resident { node, loaded: vec![loaded] },
        ] {
            world.scheduler.handle(event, world.now);
        }
        world
    }

    fn arrival(&self, number: u128) -> Arrival {
        Arrival {
            id: RequestId(number),
            user: self.users[number as usize % self.users.len()].clone(),
            weight: 1.0,
            membership: None,
            model: self.model.clone(),
            prompt_tokens: 40,
            max_output: Some(TOKENS),
            known_output: None,
            prefixes: self.prompt.clone(),
            route: Default::default(),
            is_stream: self.is_stream,
            deadline: self.now + Duration::from_secs(60),
        }
    }

    /// One step: the oldest request ends, and its client sends another one. Returns the time of their events.
    fn step(&mut self, number: u128) -> Duration {
        self.now += self.step / 2;
        if self.scheduler.next_deadline().is_some_and(|due| due <= self.now) {
            self.scheduler.handle(Event::Tick, self.now);
        }
        let began = Instant::now();
        let reading = self.running.iter().rev().nth(self.users.len() / 4).copied();
        if let Some(id) = reading.filter(|_| self.is_stream) {
            self.scheduler.handle(Event::FirstByte { id }, self.now);
        }
        self.now += self.step / 2;
        if self.running.len() == self.users.len()
            && let Some(ended) = self.running.pop_front()
        {
            self.end(ended);
        }
        let decisions = self.scheduler.handle(Event::Arrived(self.arrival(number)), self.now);
        let took = began.elapsed();
        let is_served = matches!(decisions[..], [Decision::Dispatch { node: NodeId(0), attempt: 1, .. }]);
        assert!(is_served, "not at once: {decisions:?}");
        self.running.push_back(RequestId(number));
        took
    }

    /// What a gateway reports of an answer that has come to its end.
    fn end(&mut self, id: RequestId) {
        let (time, writing) = (SERVED - Duration::from_millis(1), Some(WRITING));
        for event in [
            Event::Worked { id, time, writing },
            Event::Progress { id, tokens: TOKENS },
            Event::Left { id, outcome: Outcome::Completed },
        ] {
            self.scheduler.handle(event, self.now);
        }
    }
}

pub fn measure(row: &Row, runs: usize, verdict: &mut Verdict) {
    let mean = |_| {
        let mut world = World::new(row);
        (0..WARM_UP).for_each(|number| _ = world.step(number));
        let took: Duration = (WARM_UP..WARM_UP + REQUESTS).map(|number| world.step(number)).sum();
        took.as_secs_f64() * 1e6 / REQUESTS as f64
    };
    let least = (0..runs).map(mean).fold(f64::INFINITY, f64::min);
    println!("\n{}", row.title);
    verdict.check("all events of a request, mean", least, row.gate, " us");
}
