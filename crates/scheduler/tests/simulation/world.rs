//! What happens in a run, and what does the scheduler make of it? The fleet loads models as told, works at different speeds,
//! and dies.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use scheduler::{
    Arrival, Decision, Event, Failure, Model, NodeId, NodeSpec, Outcome, QueueLimits, RequestId, Scheduler, Time,
};

use crate::machine::{GB, MODELS, Machine};

/// Tokens a second that a node of speed one writes.
const TOKENS_PER_WORK: f64 = 50.0;
const LISTED: Duration = Duration::from_secs(10);
pub const PROBED: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A run with more events than this is stuck.
const MOST_STEPS: usize = 1_000_000;

/// A request as the simulation knows it.
pub struct Job {
    pub user: usize,
    pub model: usize,
    /// Seconds at speed one.
    pub work: f64,
    pub arrived: Time,
    /// When the client hangs up if the request has not ended.
    pub patience: Option<Time>,
    pub running: Option<(usize, u32)>,
    pub has_begun: bool,
    pub waited: Option<Duration>,
    pub ends: Vec<End>,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum End {
    Done,
    Cancelled,
    Refused,
    BrokenOff,
}

#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub enum Happening {
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

pub struct World {
    pub scheduler: Scheduler,
    pub machines: Vec<Machine>,
    pub jobs: Vec<Job>,
    agenda: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    planned: u64,
    now: Time,
    last_arrival: Time,
    /// When each attempt was sent, and to which node.
    pub sent: Vec<(Time, usize)>,
}

impl World {
    pub fn new(settings: QueueLimits, machines: Vec<Machine>, jobs: Vec<Job>) -> Self {
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

    pub fn plan(&mut self, time: Time, happening: Happening) {
        self.planned += 1;
        self.agenda.push(Reverse((time, self.planned, happening)));
    }

    pub fn run(mut self) -> Self {
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

    pub fn check_nothing_lost(&self) {
        assert!(self.jobs.iter().all(|job| job.ends.len() == 1), "each request ends exactly once");
        assert_eq!((self.scheduler.queued(), self.scheduler.in_flight()), (0, 0));
        assert!(self.scheduler.nodes().iter().all(|node| node.in_flight == 0));
    }

    pub fn ended(&self, end: End) -> usize {
        self.jobs.iter().filter(|job| job.ends == [end]).count()
    }

    pub fn loads(&self) -> usize {
        self.machines.iter().map(|machine| machine.loads).sum()
    }
}

fn index_of(listed: &str) -> usize {
    MODELS.iter().position(|(name, _)| *name == listed).expect("a model of the fleet")
}

fn user_name(user: usize) -> Arc<str> {
    format!("user-{user}").into()
}
