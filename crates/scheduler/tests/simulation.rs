//! Does the scheduler serve a small fleet well in virtual time? Seeded, without a clock, and the same on every run.
//!
//! The fleet loads models as told, works at different speeds, and dies. The scheduler sees only what a gateway would
//! see: probes, listings, and how requests end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use scheduler::{
    Arrival, Decision, Event, Failure, Loaded, Model, NodeId, NodeSpec, NodeState, Outcome, QueueLimits, RequestId,
    Scheduler, Time,
};

const MODELS: [(&str, u64); 4] = [("chat:8b", 5), ("code:7b", 5), ("tiny:1b", 2), ("large:14b", 9)];
/// Tokens a second that a node of speed one writes.
const TOKENS_PER_WORK: f64 = 50.0;
const GB: u64 = 1_000_000_000;
const LISTED: Duration = Duration::from_secs(10);
const PROBED: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A run with more events than this is stuck.
const MOST_STEPS: usize = 1_000_000;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Between 0 and 1, never 0.
    fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed with this mean.
    fn about(&mut self, mean_seconds: f64) -> Duration {
        Duration::from_secs_f64(-self.fraction().ln() * mean_seconds)
    }
}

/// A simulated node: what it has in memory, and whether it is up.
struct Machine {
    slots: u32,
    vram: u64,
    /// Seconds of work done in one second.
    speed: f64,
    is_alive: bool,
    /// Models and how many requests each runs, longest unused first.
    memory: Vec<(usize, u32)>,
    loads: usize,
    served: usize,
}

impl Machine {
    fn new(slots: u32, vram: u64, speed: f64) -> Self {
        Self { slots, vram, speed, is_alive: true, memory: Vec::new(), loads: 0, served: 0 }
    }

    /// Takes a request; returns how long a load delays it on a node that nobody loads models for.
    fn start(&mut self, model: usize) -> Duration {
        if let Some(index) = self.memory.iter().position(|(loaded, _)| *loaded == model) {
            let (_, running) = self.memory.remove(index);
            self.memory.push((model, running + 1));
            return Duration::ZERO;
        }
        let size = MODELS[model].1;
        // Idle models are evicted, longest unused first; busy ones spill over.
        while self.used() + size > self.vram {
            let Some(victim) = self.memory.iter().position(|(_, running)| *running == 0) else { break };
            self.memory.remove(victim);
        }
        self.memory.push((model, 1));
        self.loads += 1;
        Duration::from_secs(1 + size)
    }

    /// Loads a model that must fit; returns how long that takes.
    fn load(&mut self, model: usize) -> Duration {
        let size = MODELS[model].1;
        assert!(self.used() + size <= self.vram, "the scheduler makes room first");
        self.loads += 1;
        Duration::from_secs(1 + size)
    }

    fn unload(&mut self, model: usize) {
        assert!(self.memory.contains(&(model, 0)), "only what is there and idle is unloaded");
        self.memory.retain(|(loaded, _)| *loaded != model);
    }

    fn finish(&mut self, model: usize) {
        if let Some((_, running)) = self.memory.iter_mut().find(|(loaded, _)| *loaded == model) {
            *running = running.saturating_sub(1);
        }
    }

    fn used(&self) -> u64 {
        self.memory.iter().map(|(model, _)| MODELS[*model].1).sum()
    }

    fn resident(&self) -> Vec<Loaded> {
        let loaded = |(model, _): &(usize, u32)| Loaded {
            name: MODELS[*model].0.into(),
            vram_bytes: MODELS[*model].1 * GB,
            context_length: None,
        };
        self.memory.iter().map(loaded).collect()
    }
}

/// A request as the simulation knows it.
struct Job {
    user: usize,
    model: usize,
    /// Seconds at speed one.
    work: f64,
    arrived: Time,
    /// When the client hangs up if the request has not ended.
    patience: Option<Time>,
    running: Option<(usize, u32)>,
    has_begun: bool,
    waited: Option<Duration>,
    ends: Vec<End>,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum End {
    Done,
    Cancelled,
    Refused,
    BrokenOff,
}

#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
enum Happening {
    Arrival(usize),
    /// The request, and the attempt.
    FirstByte(usize, u32),
    Done(usize, u32),
    ConnectFailed(usize, u32),
    /// The node, and the model.
    Loaded(usize, usize),
    HangUp(usize),
    Probe(usize),
    List(usize),
    Death(usize),
    Return(usize),
}

struct World {
    scheduler: Scheduler,
    machines: Vec<Machine>,
    jobs: Vec<Job>,
    agenda: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    planned: u64,
    now: Time,
    last_arrival: Time,
    /// When each attempt was sent, and to which node.
    sent: Vec<(Time, usize)>,
}

impl World {
    fn new(settings: QueueLimits, machines: Vec<Machine>, jobs: Vec<Job>) -> Self {
        let spec = |machine: &Machine| NodeSpec {
            name: "gpu".into(),
            slots: Some(machine.slots),
            vram_bytes: Some(machine.vram * GB),
        };
        let mut world = Self {
            scheduler: Scheduler::new(settings, machines.iter().map(spec).collect()),
            agenda: BinaryHeap::new(),
            planned: 0,
            now: Duration::ZERO,
            last_arrival: jobs.iter().map(|job| job.arrived).max().unwrap_or_default(),
            sent: Vec::new(),
            machines,
            jobs,
        };
        for node in 0..world.machines.len() {
            world.plan(Duration::ZERO, Happening::List(node));
            world.plan(Duration::ZERO, Happening::Probe(node));
        }
        for job in 0..world.jobs.len() {
            world.plan(world.jobs[job].arrived, Happening::Arrival(job));
            if let Some(patience) = world.jobs[job].patience {
                world.plan(patience, Happening::HangUp(job));
            }
        }
        world
    }

    fn plan(&mut self, time: Time, happening: Happening) {
        self.planned += 1;
        self.agenda.push(Reverse((time, self.planned, happening)));
    }

    fn run(mut self) -> Self {
        for _ in 0..MOST_STEPS {
            let next = self.agenda.peek().map(|Reverse((time, ..))| *time);
            let due = self.scheduler.next_deadline().filter(|due| next.is_none_or(|next| *due < next));
            if let Some(due) = due {
                self.now = self.now.max(due);
                self.tell(Event::Tick);
            } else if let Some(Reverse((time, _, happening))) = self.agenda.pop() {
                self.now = time;
                self.happen(happening);
            } else {
                return self;
            }
        }
        panic!("the simulation does not end");
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(job) => self.arrive(job),
            Happening::FirstByte(job, attempt) => {
                if self.is_running(job, attempt) {
                    self.jobs[job].has_begun = true;
                    self.tell(Event::FirstByte { id: RequestId(job as u128) });
                }
            }
            Happening::Done(job, attempt) => {
                if self.is_running(job, attempt) {
                    let tokens = (self.jobs[job].work * TOKENS_PER_WORK) as u64;
                    self.tell(Event::Progress { id: RequestId(job as u128), tokens });
                    self.end(job, End::Done, Outcome::Completed);
                }
            }
            Happening::ConnectFailed(job, attempt) => {
                if self.is_running(job, attempt) {
                    self.jobs[job].running = None;
                    self.tell(Event::Failed { id: RequestId(job as u128), failure: Failure::Unreachable });
                }
            }
            Happening::Loaded(node, model) => {
                let machine = &mut self.machines[node];
                let result = if machine.is_alive { Ok(()) } else { Err(Failure::Reset) };
                if machine.is_alive {
                    machine.memory.push((model, 0));
                }
                self.tell(Event::Loaded { node: NodeId(node), model: MODELS[model].0.into(), result });
            }
            Happening::HangUp(job) => {
                if self.jobs[job].ends.is_empty() {
                    self.end(job, End::Cancelled, Outcome::Cancelled);
                }
            }
            Happening::Probe(node) => self.probe(node),
            Happening::List(node) => self.list(node),
            Happening::Death(node) => self.die(node),
            Happening::Return(node) => self.machines[node].is_alive = true,
        }
    }

    fn arrive(&mut self, job: usize) {
        let Job { user, model, .. } = self.jobs[job];
        self.tell(Event::Arrived(Arrival {
            id: RequestId(job as u128),
            user: user_name(user),
            weight: 1.0,
            membership: None,
            model: MODELS[model].0.into(),
            prompt_tokens: 100,
            max_output: None,
            known_output: None,
            prefixes: Arc::default(),
            route: Default::default(),
            is_stream: true,
            deadline: self.now + Duration::from_secs(600),
        }));
    }

    fn probe(&mut self, node: usize) {
        let id = NodeId(node);
        if self.machines[node].is_alive {
            self.tell(Event::Resident { node: id, loaded: self.machines[node].resident() });
            self.tell(Event::Answered { node: id });
        } else {
            self.tell(Event::Silent { node: id, error: "no answer".into() });
        }
        self.again(PROBED, Happening::Probe(node));
    }

    fn list(&mut self, node: usize) {
        if self.machines[node].is_alive {
            let model = |(name, size): &(&str, u64)| Model {
                name: (*name).into(),
                size_bytes: *size * GB,
                digest: String::new(),
                modified_unix: 0,
                family: "llama".into(),
                weights: String::new(),
            };
            self.tell(Event::Listed { node: NodeId(node), models: MODELS.iter().map(model).collect() });
        }
        self.again(LISTED, Happening::List(node));
    }

    /// Repeats until every request has ended.
    fn again(&mut self, period: Duration, happening: Happening) {
        let is_over = self.now > self.last_arrival && self.jobs.iter().all(|job| !job.ends.is_empty());
        if !is_over {
            self.plan(self.now + period, happening);
        }
    }

    /// Breaks off what runs there. The gateway sees those streams end at once.
    fn die(&mut self, node: usize) {
        self.machines[node].is_alive = false;
        self.machines[node].memory.clear();
        let is_there = |job: &Job| job.running.is_some_and(|(running_on, _)| running_on == node);
        let victims: Vec<usize> = (0..self.jobs.len()).filter(|job| is_there(&self.jobs[*job])).collect();
        for job in victims {
            self.end(job, End::BrokenOff, Outcome::Failed(Failure::Reset));
        }
    }

    fn is_running(&self, job: usize, attempt: u32) -> bool {
        self.jobs[job].running.is_some_and(|(_, running)| running == attempt)
    }

    fn end(&mut self, job: usize, end: End, outcome: Outcome) {
        if let Some((node, _)) = self.jobs[job].running.take() {
            self.machines[node].finish(self.jobs[job].model);
        }
        self.jobs[job].ends.push(end);
        self.tell(Event::Left { id: RequestId(job as u128), outcome });
    }

    fn tell(&mut self, event: Event) {
        for decision in self.scheduler.handle(event, self.now) {
            match decision {
                Decision::Dispatch { id, node, attempt } => self.send(id.0 as usize, node.0, attempt),
                Decision::Refuse { id, .. } => {
                    let job = &mut self.jobs[id.0 as usize];
                    assert!(job.running.is_none());
                    job.ends.push(End::Refused);
                }
                Decision::Abandon { id } => self.abandon(id.0 as usize),
                Decision::Load { node, model, .. } => {
                    let model = index_of(&model);
                    let takes = self.machines[node.0].load(model);
                    self.plan(self.now + takes, Happening::Loaded(node.0, model));
                }
                Decision::Unload { node, model } => {
                    let result = if self.machines[node.0].is_alive { Ok(()) } else { Err(Failure::Unreachable) };
                    if result.is_ok() {
                        self.machines[node.0].unload(index_of(&model));
                    }
                    self.tell(Event::Unloaded { node, model, result });
                }
            }
        }
    }

    /// The scheduler broke the attempt off; if the answer had begun, the request is over.
    fn abandon(&mut self, job: usize) {
        let Some((node, _)) = self.jobs[job].running.take() else { return };
        self.machines[node].finish(self.jobs[job].model);
        if self.jobs[job].has_begun {
            self.end(job, End::BrokenOff, Outcome::Failed(Failure::Silent));
        }
    }

    fn send(&mut self, job: usize, node: usize, attempt: u32) {
        self.sent.push((self.now, node));
        let Job { model, work, arrived, .. } = self.jobs[job];
        assert!(self.jobs[job].ends.is_empty() && self.jobs[job].running.is_none());
        self.jobs[job].running = Some((node, attempt));
        let machine = &mut self.machines[node];
        if !machine.is_alive {
            return self.plan(self.now + CONNECT_TIMEOUT, Happening::ConnectFailed(job, attempt));
        }
        machine.served += 1;
        let held_up = machine.start(model);
        assert_eq!(held_up, Duration::ZERO, "sent only where the model is");
        // The time to read the prompt.
        let start = self.now + Duration::from_millis(50);
        let done = start + Duration::from_secs_f64(work / machine.speed);
        self.jobs[job].waited = Some(self.now - arrived);
        self.plan(start, Happening::FirstByte(job, attempt));
        self.plan(done, Happening::Done(job, attempt));
        self.check_slots(node, model);
    }

    fn check_slots(&self, node: usize, model: usize) {
        let is_there = |job: &&Job| job.model == model && job.running.is_some_and(|(on, _)| on == node);
        let running = self.jobs.iter().filter(is_there).count();
        assert!(running <= self.machines[node].slots as usize);
    }

    fn check_nothing_lost(&self) {
        assert!(self.jobs.iter().all(|job| job.ends.len() == 1), "each request ends exactly once");
        assert_eq!((self.scheduler.queued(), self.scheduler.in_flight()), (0, 0));
        assert!(self.scheduler.nodes().iter().all(|node| node.in_flight == 0));
    }

    fn ended(&self, end: End) -> usize {
        self.jobs.iter().filter(|job| job.ends == [end]).count()
    }

    fn loads(&self) -> usize {
        self.machines.iter().map(|machine| machine.loads).sum()
    }
}

fn index_of(listed: &str) -> usize {
    MODELS.iter().position(|(name, _)| *name == listed).expect("a model of the fleet")
}

fn user_name(user: usize) -> Arc<str> {
    format!("user-{user}").into()
}

/// 4, 2 and 1 slots; each node slower than the one before.
fn fleet() -> Vec<Machine> {
    vec![Machine::new(4, 24, 2.0), Machine::new(2, 16, 1.0), Machine::new(1, 10, 0.5)]
}

/// `count` requests at random times, from random users among `users`.
fn traffic(random: &mut Random, count: usize, rate: f64, users: std::ops::Range<usize>) -> Vec<Job> {
    let mut time = Duration::from_secs(1);
    let job = |_| {
        time += random.about(1.0 / rate);
        let user = users.start + random.below(users.len() as u64) as usize;
        // Each model is asked for half as often as the one before.
        let model = (random.below(15) + 1).leading_zeros() as usize - 60;
        let work = random.about(3.0).min(Duration::from_secs(20)).as_secs_f64();
        let patience = (random.below(20) == 0).then(|| time + random.about(10.0));
        Job {
            user,
            model,
            work,
            arrived: time,
            patience,
            running: None,
            has_begun: false,
            waited: None,
            ends: Vec::new(),
        }
    };
    (0..count).map(job).collect()
}

fn in_order(mut jobs: Vec<Job>) -> Vec<Job> {
    jobs.sort_by_key(|job| job.arrived);
    jobs
}

/// The wait that `percent` of these jobs do not exceed.
fn percentile<'a>(jobs: impl Iterator<Item = &'a Job>, percent: usize) -> Duration {
    let mut waits: Vec<Duration> = jobs.filter_map(|job| job.waited).collect();
    waits.sort();
    waits[(waits.len() - 1) * percent / 100]
}

#[test]
fn no_request_is_lost_through_deaths_returns_and_clients_that_hang_up() {
    for seed in 1..=3 {
        let mut world = World::new(QueueLimits::default(), fleet(), traffic(&mut Random(seed), 4000, 1.5, 0..20));
        for minute in [5, 15, 25] {
            let node = minute / 10;
            world.plan(Duration::from_secs(60 * minute as u64), Happening::Death(node));
            world.plan(Duration::from_secs(60 * minute as u64 + 200), Happening::Return(node));
        }
        let world = world.run();
        world.check_nothing_lost();
        let broken_off = world.ended(End::BrokenOff);
        assert!((1..=30).contains(&broken_off), "only what ran on a dying node breaks off: {broken_off}");
        assert!(world.ended(End::Cancelled) > 0);
        assert!(world.ended(End::Done) + world.ended(End::Cancelled) + broken_off == 4000, "nobody is refused");
        let states: Vec<_> = world.scheduler.nodes().iter().map(|node| (node.state, node.last_error.clone())).collect();
        assert!(states.iter().all(|(state, _)| *state == NodeState::Up), "{states:?}");
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let run = || World::new(QueueLimits::default(), fleet(), traffic(&mut Random(7), 1000, 2.0, 0..20)).run();
    assert_eq!(run().sent, run().sent);
}

#[test]
fn work_is_spread_by_relative_load() {
    // One model that every node can hold, and more work than the fleet can do.
    let mut jobs = traffic(&mut Random(4), 2000, 6.0, 0..20);
    jobs.iter_mut().for_each(|job| job.model = 2);
    let equal = vec![Machine::new(4, 24, 1.0), Machine::new(2, 24, 1.0), Machine::new(2, 24, 1.0)];
    let world = World::new(QueueLimits::default(), equal, jobs).run();
    world.check_nothing_lost();
    let served: Vec<usize> = world.machines.iter().map(|machine| machine.served).collect();
    let share = |node: usize| served[node] as f64 / served.iter().sum::<usize>() as f64;
    assert!((share(0) - 0.5).abs() < 0.05, "{served:?}");
    assert!((share(1) - 0.25).abs() < 0.05, "{served:?}");
}

#[test]
fn a_dead_node_gets_no_request_after_it_is_noticed_and_works_again_after_its_return() {
    let mut world = World::new(QueueLimits::default(), fleet(), traffic(&mut Random(5), 2000, 1.5, 0..20));
    let (death, back) = (Duration::from_secs(300), Duration::from_secs(600));
    world.plan(death, Happening::Death(0));
    world.plan(back, Happening::Return(0));
    let world = world.run();
    world.check_nothing_lost();
    let noticed = death + 2 * PROBED;
    let sent = |from: Time, to: Time| {
        let is_between = |sent: &&(Time, usize)| sent.1 == 0 && sent.0 > from && sent.0 < to;
        world.sent.iter().filter(is_between).count()
    };
    assert_eq!(sent(noticed, back), 0);
    assert!(sent(back, back + Duration::from_secs(60)) > 0);
}

#[test]
fn quiet_users_wait_little_while_one_user_floods() {
    let quiet = || traffic(&mut Random(60), 600, 2.0, 1..20);
    let alone = World::new(QueueLimits::default(), fleet(), quiet()).run();
    let mut jobs = quiet();
    jobs.extend(traffic(&mut Random(6), 4500, 15.0, 0..1));
    let flooded = World::new(QueueLimits::default(), fleet(), in_order(jobs)).run();
    flooded.check_nothing_lost();
    let is_quiet = |job: &&Job| job.user != 0 && job.patience.is_none();
    let (before, during) =
        (percentile(alone.jobs.iter().filter(is_quiet), 99), percentile(flooded.jobs.iter().filter(is_quiet), 99));
    // The flood's share of the queue is full of the model most in demand.
    let flood = percentile(flooded.jobs.iter().filter(|job| job.user == 0 && job.model == 0), 50);
    assert!(during < before + Duration::from_secs(5), "{during:?} instead of {before:?}");
    assert!(during * 3 < flood, "the quiet wait {during:?}, the flood {flood:?}");
    let refused: BTreeMap<usize, usize> =
        flooded.jobs.iter().filter(|job| job.ends == [End::Refused]).fold(BTreeMap::new(), |mut refused, job| {
            *refused.entry(job.user).or_default() += 1;
            refused
        });
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&0], "only the flood is refused: {refused:?}");
}

#[test]
fn loaded_models_are_used_far_more_often_than_by_chance() {
    let jobs = || traffic(&mut Random(8), 4000, 1.0, 0..20);
    let world = World::new(QueueLimits::default(), fleet(), jobs()).run();
    world.check_nothing_lost();
    // The same requests in order, each to any node.
    let (mut random, mut machines) = (Random(80), fleet());
    for job in jobs() {
        let node = random.below(3) as usize;
        machines[node].start(job.model);
        machines[node].finish(job.model);
    }
    let by_chance: usize = machines.iter().map(|machine| machine.loads).sum();
    assert!(world.loads() * 5 < by_chance, "{} loads, {by_chance} by chance", world.loads());
}
