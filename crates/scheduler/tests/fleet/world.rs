//! How does one run proceed? Traffic, machines, and the policy that binds one to the other, in virtual time.

mod nodes;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use scheduler::{Arrival, Decision, Event, Failure, NodeSpec, Outcome, QueueLimits, RequestId, Scheduler};

use crate::{
    gateways::{Gateways, LINK_SECONDS, Word},
    machine::{Kind, Machine},
    routers::Router,
    traffic::Ask,
};

/// A router takes a node out after this many unanswered probes in a row.
const PROBES_TO_NOTICE: u32 = 2;
/// Far enough away that no request is refused for waiting.
const FAR: Duration = Duration::from_secs(1_000_000);
const UNBOUNDED: QueueLimits = QueueLimits { max_queued: 1_000_000, max_queued_per_user: 1_000_000 };
const GB: f64 = 1e9;

/// The policy that decides.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Policy {
    /// Bound at arrival to the node with the fewest outstanding requests.
    Lor,
    /// Bound at arrival: loaded and a free slot, else a free slot, else the least busy.
    LoadedFree,
    /// Bound at arrival: of two random nodes the one where latency times requests in progress is smaller.
    TwoChoices,
    /// Bound at arrival: the node that was sent most of the prompt before, unless the load is uneven.
    CacheAware,
    /// The scheduler of the gateway.
    Core,
    /// The same without information about prefixes.
    Forgetful,
    /// The same, told in advance how long each answer will be and how fast each node is: about the best possible.
    Oracle,
}

impl Policy {
    fn is_ours(self) -> bool {
        matches!(self, Self::Core | Self::Forgetful | Self::Oracle)
    }
}

/// What happens to one node in the middle of the run.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Trouble {
    None,
    /// Node 2 hangs for 600 s and answers no probe. What runs there hangs until it is back.
    Death,
    /// Node 1 runs at a tenth of its speed for 600 s.
    Grey,
}

pub struct Fleet {
    pub kinds: Vec<Kind>,
    /// The models' sizes in GB.
    pub sizes: Vec<f64>,
    /// Whether runners save to the host's memory what is pushed out of their slots.
    pub has_host_cache: bool,
}

/// How a request of the trace went.
#[derive(Copy, Clone, Default, Debug)]
pub struct Job {
    sent_to: Option<usize>,
    /// Arrival in seconds.
    pub at: f64,
    /// Whether it ended in an error.
    pub has_failed: bool,
    pub first: Option<f64>,
    pub done: Option<f64>,
}

#[derive(Copy, Clone, PartialEq)]
enum Happening {
    Arrival(usize),
    /// The machine has something to report, unless its version has changed since.
    Wake(usize, u64),
    Poll,
    /// The gateway looks at its streams.
    Watch,
    Probe,
    Health(usize, f64),
    /// What was said on a link arrives.
    Said(usize),
}

pub struct World<'a> {
    asks: &'a [Ask],
    policy: Policy,
    scheduler: Scheduler,
    machines: Vec<Machine>,
    pub jobs: Vec<Job>,
    pub sizes: Vec<f64>,
    router: Router,
    /// Requests waiting in the gateway, by model.
    waiting: Vec<usize>,
    /// For models that requests waited for: slot-seconds free, and slot-seconds in all.
    pub idle: f64,
    pub slot_seconds: f64,
    /// Times in microseconds, with an index into `happenings`.
    agenda: BinaryHeap<Reverse<(u64, usize)>>,
    happenings: Vec<Happening>,
    now: f64,
    over: usize,
    /// By job: the requests that follow its end.
    followers: Vec<Vec<usize>>,
    /// Unanswered probes in a row, by node.
    silences: Vec<u32>,
    inbox: VecDeque<Event>,
    is_telling: bool,
    gateways: Gateways,
    /// On their way, or taken out.
    words: Vec<Option<Word>>,
    /// Attempts that were broken off, of which their followers do not know yet.
    leaving: usize,
}

fn name(model: usize) -> Arc<str> {
    format!("model-{model}:latest").into()
}

impl<'a> World<'a> {
    /// Clients connect to `gateways`, of which the first one decides.
    pub fn new(fleet: &Fleet, asks: &'a [Ask], policy: Policy, trouble: Trouble, gateways: Gateways) -> Self {
        let spec = |(number, kind): (usize, &Kind)| NodeSpec {
            name: format!("node-{number}"),
            slots: Some(kind.slots as u32),
            vram_bytes: Some((kind.vram * GB) as u64),
        };
        let mut world = Self {
            asks,
            policy,
            scheduler: Scheduler::new(UNBOUNDED, fleet.kinds.iter().enumerate().map(spec).collect()),
            machines: fleet.kinds.iter().map(|kind| Machine::new(*kind, &fleet.sizes, fleet.has_host_cache)).collect(),
            jobs: vec![Job::default(); asks.len()],
            sizes: fleet.sizes.clone(),
            router: Router::new(policy, fleet.kinds.len()),
            waiting: vec![0; fleet.sizes.len()],
            idle: 0.0,
            slot_seconds: 0.0,
            agenda: BinaryHeap::new(),
            happenings: Vec::new(),
            now: 0.0,
            over: 0,
            followers: vec![Vec::new(); asks.len()],
            silences: vec![0; fleet.kinds.len()],
            inbox: VecDeque::new(),
            is_telling: false,
            gateways,
            words: Vec::new(),
            leaving: 0,
        };
        if policy == Policy::Oracle {
            world.scheduler.recall(nodes::truth(&fleet.kinds), Duration::ZERO);
        }
        world.list();
        world.plan_trouble(trouble);
        world.plan(0.0, Happening::Probe);
        world.plan(0.0, Happening::Poll);
        if policy.is_ours() {
            world.plan(0.5, Happening::Watch);
        }
        for (job, ask) in asks.iter().enumerate() {
            match ask.after {
                Some(before) => world.followers[before].push(job),
                None => world.plan(ask.at, Happening::Arrival(job)),
            }
        }
        world
    }

    fn plan(&mut self, at: f64, happening: Happening) {
        self.agenda.push(Reverse(((at * 1e6).round() as u64, self.happenings.len())));
        self.happenings.push(happening);
    }

    pub fn run(mut self) -> Self {
        while self.over < self.jobs.len() {
            let Reverse((micros, _)) = self.agenda.peek().expect("polls never end");
            let next = *micros as f64 / 1e6;
            let due = self.scheduler.next_deadline().map(|due| due.as_secs_f64().max(self.now));
            if let Some(due) = due.filter(|due| *due < next) {
                self.now = due + 1e-6;
                self.tell(Event::Tick);
            } else if let Some(Reverse((_, index))) = self.agenda.pop() {
                self.now = self.now.max(next);
                self.happen(self.happenings[index]);
            }
            assert!(self.now < 100_000.0 && self.happenings.len() < 40_000_000, "the run does not end");
        }
        self
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(job) => self.arrive(job),
            Happening::Wake(node, version) if self.machines[node].version == version => self.touch(node, |_, _| ()),
            Happening::Wake(..) => {}
            Happening::Poll => self.poll(),
            Happening::Watch => self.watch(),
            Happening::Probe => self.probe(),
            Happening::Health(node, health) => self.touch(node, |machine, _| machine.health = health),
            Happening::Said(word) => match self.words[word].take() {
                Some(Word::Happened(event)) => self.heard(event),
                Some(Word::Decided(decision)) => {
                    self.leaving -= usize::from(matches!(decision, Decision::Abandon { .. }));
                    self.obey(decision);
                }
                // Unless the attempt was broken off meanwhile.
                Some(Word::Began(job)) if self.jobs[job].sent_to.is_some() => self.begin(job),
                Some(Word::Began(_)) | None => {}
            },
        }
    }

    fn follows(&self, job: usize) -> bool {
        self.gateways.follows(self.asks[job].user)
    }

    fn say(&mut self, word: Word) {
        self.plan(self.now + LINK_SECONDS, Happening::Said(self.words.len()));
        self.words.push(Some(word));
    }

    /// Something happened to a request at its gateway.
    fn notice(&mut self, job: usize, event: Event) {
        if self.follows(job) { self.say(Word::Happened(event)) } else { self.tell(event) }
    }

    /// The leader hears what happened at a follower.
    fn heard(&mut self, event: Event) {
        if let Event::FirstByte { id } = event {
            if !self.scheduler.is_running(id) {
                return;
            }
            self.say(Word::Began(id.0 as usize));
        }
        self.tell(event);
    }

    /// The client has its first byte.
    fn begin(&mut self, job: usize) {
        self.jobs[job].first.get_or_insert(self.now);
    }

    fn arrive(&mut self, job: usize) {
        self.jobs[job].at = self.now;
        if !self.policy.is_ours() {
            let node = self.bind(job);
            return self.send(job, node);
        }
        let ask = &self.asks[job];
        self.waiting[ask.model] += 1;
        let arrival = Arrival {
            id: RequestId(job as u128),
            user: format!("user-{}", ask.user).into(),
            weight: 1.0,
            membership: None,
            model: name(ask.model),
            prompt_tokens: ask.prompt as u64,
            max_output: None,
            known_output: (self.policy == Policy::Oracle).then_some(ask.output as u64),
            prefixes: if self.policy == Policy::Forgetful { Arc::default() } else { ask.prefixes.clone() },
            route: Default::default(),
            is_stream: true,
            deadline: FAR,
        };
        self.notice(job, Event::Arrived(arrival));
    }

    /// The node that one of the simple routers chooses.
    fn bind(&mut self, job: usize) -> usize {
        let model = self.asks[job].model;
        let fits = |node: &usize| self.sizes[model] <= self.machines[*node].kind.vram;
        let is_known_dead = |node: usize| self.is_silent(node) && self.silences[node] >= PROBES_TO_NOTICE;
        let nodes: Vec<usize> = (0..self.machines.len()).filter(fits).filter(|node| !is_known_dead(*node)).collect();
        self.router.choose(&self.machines, &nodes, job, &self.asks[job])
    }

    fn tell(&mut self, event: Event) {
        if !self.policy.is_ours() {
            return;
        }
        self.inbox.push_back(event);
        if std::mem::replace(&mut self.is_telling, true) {
            return;
        }
        // One after the other: the consequences of a decision are reported after the remaining decisions.
        while let Some(event) = self.inbox.pop_front() {
            for decision in self.scheduler.handle(event, Duration::from_secs_f64(self.now)) {
                match decision {
                    Decision::Dispatch { id, .. } | Decision::Abandon { id } | Decision::Refuse { id, .. }
                        if self.follows(id.0 as usize) =>
                    {
                        self.leaving += usize::from(matches!(decision, Decision::Abandon { .. }));
                        self.say(Word::Decided(decision));
                    }
                    decision => self.obey(decision),
                }
            }
        }
        self.is_telling = false;
    }

    fn obey(&mut self, decision: Decision) {
        match decision {
            Decision::Dispatch { id, node, .. } => self.send(id.0 as usize, node.0),
            Decision::Abandon { id } => self.abandon(id.0 as usize),
            Decision::Load { node, model, .. } => {
                let model = self.model(&model);
                self.touch(node.0, |machine, asks| machine.preload(model, asks));
            }
            Decision::Unload { node, model } => {
                let number = self.model(&model);
                self.touch(node.0, |machine, _| machine.unload(number));
                self.inbox.push_back(Event::Unloaded { node, model, result: Ok(()) });
            }
            Decision::Refuse { id, .. } => self.fail(id.0 as usize),
        }
    }

    fn model(&self, listed: &str) -> usize {
        (0..self.sizes.len()).find(|model| *name(*model) == *listed).expect("a model of the fleet")
    }

    /// The gateway broke the attempt off: before the first byte it sends the request again, after it the client is told.
    fn abandon(&mut self, job: usize) {
        if self.jobs[job].done.is_some() {
            // It ended while this was on its way.
            return;
        }
        let node = self.jobs[job].sent_to.take().expect("it runs");
        self.waiting[self.asks[job].model] += usize::from(self.jobs[job].first.is_none());
        self.touch(node, |machine, asks| machine.cancel(job, asks));
        if self.jobs[job].first.is_some() {
            let left = Event::Left { id: RequestId(job as u128), outcome: Outcome::Failed(Failure::Silent) };
            if self.follows(job) {
                self.say(Word::Happened(left))
            } else {
                self.inbox.push_back(left)
            }
            self.fail(job);
        }
    }

    fn fail(&mut self, job: usize) {
        self.jobs[job].has_failed = true;
        self.end(job);
    }

    fn end(&mut self, job: usize) {
        self.over += 1;
        for follower in std::mem::take(&mut self.followers[job]) {
            self.plan(self.now + self.asks[follower].think, Happening::Arrival(follower));
        }
    }

    fn send(&mut self, job: usize, node: usize) {
        self.jobs[job].sent_to = Some(node);
        if self.policy.is_ours() {
            self.waiting[self.asks[job].model] -= 1;
        }
        self.touch(node, |machine, asks| machine.accept(job, asks));
        let machine = &self.machines[node];
        let is_within = machine.outstanding_of(self.asks[job].model) <= machine.kind.slots + self.leaving;
        assert!(!self.policy.is_ours() || is_within, "the core sends no more than a node has slots");
    }
}
