//! How long does a decision take? G9 of the design: a p99 under 50 us with 64 nodes, 1,000 users and 10,000 queued
//! requests.
//!
//! `cargo bench -p scheduler`. A long run over a full fleet; each event is timed separately, in the order in which a
//! gateway would receive it. Prints p50, p99 and the maximum for each kind of event in microseconds, and how long the
//! lock would be held.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on may panic, and reads clocks"
)]
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::{
    Arrival, Decision, Event, Loaded, Model, NodeId, NodeSpec, Outcome, Prefix, QueueLimits, RequestId, Scheduler,
};

const GB: u64 = 1_000_000_000;
const SIZES: [u64; 10] = [5, 2, 9, 5, 20, 4, 8, 3, 13, 1];
const STEPS: usize = 60_000;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// Each index about half as likely as the one before.
    fn popular(&mut self, count: usize) -> usize {
        let pick = self.below(1 << count);
        (count - 1 - (pick.max(1).ilog2() as usize)).min(count - 1)
    }
}

struct Bench {
    scheduler: Scheduler,
    users: usize,
    now: Duration,
    running: VecDeque<RequestId>,
    errands: VecDeque<Event>,
    next: u64,
    times: BTreeMap<&'static str, Vec<u64>>,
}

fn name(model: usize) -> Arc<str> {
    format!("model-{model}:latest").into()
}

impl Bench {
    fn new(nodes: usize, users: usize) -> Self {
        let settings = QueueLimits { max_queued: 1_000_000, max_queued_per_user: 1_000_000 };
        let spec = |index: usize| NodeSpec {
            name: format!("node-{index}"),
            slots: Some([4, 4, 4, 2][index % 4]),
            vram_bytes: Some([24, 24, 16, 12][index % 4] * GB),
        };
        let mut bench = Self {
            scheduler: Scheduler::new(settings, (0..nodes).map(spec).collect()),
            users,
            now: Duration::from_secs(1),
            running: VecDeque::new(),
            errands: VecDeque::new(),
            next: 0,
            times: BTreeMap::new(),
        };
        let model = |model: usize| Model {
            name: name(model).to_string(),
            size_bytes: SIZES[model] * GB,
            digest: String::new(),
            modified_unix: 0,
            family: "llama".into(),
        };
        for node in (0..nodes).map(NodeId) {
            bench.hear("probe", Event::Answered { node });
            bench.hear("listing", Event::Listed { node, models: (0..SIZES.len()).map(model).collect() });
            let loaded = |model: usize| Loaded {
                name: name(model).to_string(),
                vram_bytes: SIZES[model] * GB,
                context_length: None,
            };
            bench.hear("residency", Event::Resident { node, loaded: vec![loaded(node.0 % 4), loaded(5)] });
        }
        bench
    }

    fn hear(&mut self, kind: &'static str, event: Event) {
        let began = Instant::now();
        let decisions = self.scheduler.handle(event, self.now);
        let took = began.elapsed();
        self.times.entry(kind).or_default().push(took.as_nanos() as u64);
        for decision in decisions {
            match decision {
                Decision::Dispatch { id, .. } => self.running.push_back(id),
                Decision::Load { node, model, .. } => {
                    self.errands.push_back(Event::Loaded { node, model, result: Ok(()) })
                }
                Decision::Unload { node, model } => {
                    self.errands.push_back(Event::Unloaded { node, model, result: Ok(()) })
                }
                Decision::Refuse { .. } | Decision::Abandon { .. } => {}
            }
        }
    }

    fn arrive(&mut self, random: &mut Random) {
        self.next += 1;
        let arrival = Arrival {
            id: RequestId(u128::from(self.next)),
            user: format!("user-{}", random.below(self.users)).into(),
            weight: 1.0,
            model: name(random.popular(SIZES.len())),
            prompt_tokens: 20 + random.below(2000) as u64,
            max_output: None,
            known_output: None,
            prefixes: Arc::new([Prefix { digest: random.below(5000) as u64, tokens: 20 }]),
            route: Default::default(),
            is_stream: true,
            deadline: Duration::from_secs(1_000_000),
        };
        self.hear("arrival", Event::Arrived(arrival));
    }

    /// One request ends, another arrives, and the events that a gateway receives meanwhile.
    fn step(&mut self, random: &mut Random) {
        self.now += Duration::from_millis(10);
        if let Some(errand) = self.errands.pop_front() {
            self.hear("load", errand);
        }
        if self.now.as_millis().is_multiple_of(1000) {
            self.hear("tick", Event::Tick);
        }
        for _ in 0..4 {
            if let Some(id) = self.running.get(random.below(self.running.len().max(1))).copied() {
                self.hear("progress", Event::Progress { id, tokens: 10 + random.below(300) as u64 });
            }
        }
        if !self.running.is_empty() {
            let index = random.below(self.running.len());
            let id = self.running.remove(index).unwrap();
            self.hear("first byte", Event::FirstByte { id });
            self.hear("end", Event::Left { id, outcome: Outcome::Completed });
        }
        self.arrive(random);
    }

    fn report(&mut self, title: &str) {
        println!("\n{title}: {} queued, {} running", self.scheduler.queued(), self.scheduler.in_flight());
        println!("{:<12} {:>8} {:>9} {:>9} {:>9} {:>9}", "event", "count", "p50 us", "p99 us", "p99.9 us", "max us");
        let mut all = Vec::new();
        for (kind, times) in &mut self.times {
            all.extend_from_slice(times);
            print(kind, times);
        }
        print("all", &mut all);
    }
}

fn print(kind: &str, times: &mut [u64]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    println!("{kind:<12} {:>8} {:>9.1} {:>9.1} {:>9.1} {:>9.1}", times.len(), at(0.5), at(0.99), at(0.999), at(1.0));
}

fn run(title: &str, nodes: usize, users: usize, queued: usize) {
    let mut random = Random(9);
    let mut bench = Bench::new(nodes, users);
    while bench.scheduler.queued() < queued {
        bench.arrive(&mut random);
    }
    bench.times.clear();
    for _ in 0..STEPS {
        bench.step(&mut random);
    }
    bench.report(title);
}

fn main() {
    run("8 nodes, 20 users, nothing waits at first", 8, 20, 0);
    run("64 nodes, 1,000 users, 10,000 queued (G9)", 64, 1000, 10_000);
}
