//! A simulated cluster for tests, in virtual time: gateways whose clocks drift, the network between them, the database
//! that they share, and nodes that count what is in flight. Everything random comes from one seed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use scheduler::{
    Arrival, Decision, Event, Failure, Loaded, Model, NodeId, NodeSpec, Outcome, QueueLimits, RequestId, Scheduler,
};

use crate::{Candidate, Coordinator, Effect, FirstByte, Frame, LeaseNews, Others, Peer, Role, Stance};

mod clients;
mod dice;
mod network;

use dice::Dice;

pub(crate) const STEP: Duration = Duration::from_millis(50);
pub(crate) const NODES: [(&str, u32); 3] = [("gpu-1", 1), ("gpu-2", 2), ("gpu-3", 4)];
const MODELS: [&str; 2] = ["m:latest", "n:latest"];
const LEASE: Duration = Duration::from_secs(5);
/// The holder counts less, from before it asked: clocks drift.
const TRUSTED: Duration = Duration::from_secs(4);
/// Every answer is this short that begins where the database cannot be reached. See the exceptions of promise 1.
const SHORT: Duration = Duration::from_secs(12);
/// A gateway is gone that the database has not heard for this long.
const GONE: Duration = Duration::from_secs(60);
/// Only a gateway that has heard from the database at least this often all the while can tell.
const LONGEST_GAP: Duration = Duration::from_secs(10);
const LINK_PATIENCE: Duration = Duration::from_millis(1500);
const HEARTBEAT: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, PartialEq, Debug)]
enum At {
    Queue,
    Node { node: usize, attempt: u32, begins: Duration, has_asked: bool },
    Streaming { node: usize, ends: Duration },
}

struct Client {
    model: usize,
    at: At,
    /// How long its answer takes.
    answer: Duration,
}

struct Row {
    stance: Stance,
    link: Option<Arc<str>>,
    at: Duration,
    /// Since `at`.
    busy: Duration,
    since: Duration,
    has_left: bool,
}

pub(crate) struct Gateway {
    /// `None` while its process does not run.
    pub(crate) coordinator: Option<Coordinator>,
    clients: BTreeMap<RequestId, Client>,
    row: Option<Row>,
    /// Its clock runs this much per mille of the true time.
    rate: u32,
    pub(crate) paused_until: Duration,
    pub(crate) cut_until: Duration,
    /// When it next looks into the database.
    pub(crate) beat_at: Duration,
    tick_at: Duration,
    pub(crate) has_link: bool,
    pub(crate) is_retiring: bool,
    /// When it last began a long answer.
    long_at: Duration,
}

/// A connection from a follower to a leader; `sent[0]` goes up, `sent[1]` comes down.
struct Link {
    ends: [usize; 2],
    sent: [VecDeque<(Duration, Frame)>; 2],
    heard: [Duration; 2],
    beat_at: [Duration; 2],
    /// The end that still has to learn that the connection was closed.
    closed_for: Option<usize>,
}

struct Lease {
    holder: usize,
    epoch: u64,
    until: Duration,
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now: Duration,
    pub(crate) gateways: Vec<Gateway>,
    links: Vec<Link>,
    lease: Option<Lease>,
    epochs: BTreeMap<u64, usize>,
    pub(crate) is_database_up: bool,
    /// Pairs that cannot reach each other, until then.
    pub(crate) parted: BTreeMap<(usize, usize), Duration>,
    asked: u128,
    pub(crate) ended: BTreeSet<RequestId>,
    pub(crate) granted: Vec<(Duration, RequestId)>,
    /// When each request arrived, and where.
    pub(crate) arrived: BTreeMap<RequestId, (Duration, usize)>,
    pub(crate) users: BTreeMap<RequestId, Arc<str>>,
    /// How often what happened.
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

fn name(gateway: usize) -> Arc<str> {
    format!("gateway-{gateway}").into()
}

fn number(name: &str) -> usize {
    name.rsplit('-').next().and_then(|number| number.parse().ok()).expect("a gateway's name")
}

fn fleet() -> Scheduler {
    let spec = |(name, slots): &(&str, u32)| NodeSpec { name: (*name).into(), slots: Some(*slots), vram_bytes: None };
    let mut scheduler = Scheduler::new(QueueLimits::default(), NODES.iter().map(spec).collect());
    let model = |name: &&str| Model {
        name: (*name).into(),
        size_bytes: 1_000_000_000,
        digest: String::new(),
        modified_unix: 0,
        family: String::new(),
        weights: String::new(),
    };
    let loaded = |name: &&str| Loaded { name: (*name).into(), vram_bytes: 1, context_length: None };
    for node in (0..NODES.len()).map(NodeId) {
        scheduler.handle(Event::Answered { node }, Duration::ZERO);
        scheduler.handle(Event::Listed { node, models: MODELS.iter().map(model).collect() }, Duration::ZERO);
        scheduler.handle(Event::Resident { node, loaded: MODELS.iter().map(loaded).collect() }, Duration::ZERO);
    }
    scheduler
}

impl World {
    pub(crate) const START: Duration = Duration::from_secs(100);

    pub(crate) fn new(seed: u64, gateways: usize) -> Self {
        let mut dice = Dice::new(seed);
        let gateway = |dice: &mut Dice| Gateway {
            coordinator: None,
            clients: BTreeMap::new(),
            row: None,
            rate: 900 + dice.below(200) as u32,
            paused_until: Duration::ZERO,
            cut_until: Duration::ZERO,
            beat_at: Duration::ZERO,
            tick_at: Duration::ZERO,
            has_link: true,
            is_retiring: false,
            long_at: Duration::ZERO,
        };
        let gateways = (0..gateways).map(|_| gateway(&mut dice)).collect();
        Self {
            dice,
            now: Self::START,
            gateways,
            links: Vec::new(),
            lease: None,
            epochs: BTreeMap::new(),
            is_database_up: true,
            parted: BTreeMap::new(),
            asked: 0,
            ended: BTreeSet::new(),
            granted: Vec::new(),
            arrived: BTreeMap::new(),
            users: BTreeMap::new(),
            faults: BTreeMap::new(),
        }
    }

    // What may happen.

    pub(crate) fn start(&mut self, gateway: usize) {
        let now = self.clock(gateway);
        let it = &mut self.gateways[gateway];
        if it.coordinator.is_none() {
            let link = it.has_link.then(|| format!("http://{}", name(gateway)).into());
            let mut coordinator = Coordinator::new(name(gateway), fleet(), link, false);
            coordinator.begin(now);
            it.coordinator = Some(coordinator);
        }
    }

    /// The process dies. Its connections are closed, to nodes and to gateways.
    pub(crate) fn kill(&mut self, gateway: usize) {
        let it = &mut self.gateways[gateway];
        (it.coordinator, it.is_retiring) = (None, false);
        (it.paused_until, it.cut_until) = (Duration::ZERO, Duration::ZERO);
        let lost = std::mem::take(&mut it.clients).into_keys();
        self.ended.extend(lost);
        for link in &mut self.links {
            if let Some(end) = link.ends.iter().position(|end| *end == gateway) {
                link.closed_for = Some(1 - end);
            }
        }
    }

    /// The process ends in order: nothing runs there any more, and it tells the database.
    pub(crate) fn leave(&mut self, gateway: usize) {
        if self.is_running(gateway) && self.gateways[gateway].clients.is_empty() && self.reaches_database(gateway) {
            self.gateways[gateway].row.iter_mut().for_each(|row| row.has_left = true);
            self.kill(gateway);
        }
    }

    pub(crate) fn ask(&mut self, gateway: usize, user: &str, model: usize, answer: Duration) -> Option<RequestId> {
        if !self.is_running(gateway) {
            return None;
        }
        self.asked += 1;
        let id = RequestId(self.asked);
        self.users.insert(id, user.into());
        self.arrived.insert(id, (self.now, gateway));
        let arrival = Arrival {
            id,
            user: user.into(),
            weight: 1.0,
            membership: None,
            model: MODELS[model].into(),
            prompt_tokens: 10,
            max_output: None,
            known_output: Some(answer.as_millis() as u64 / 100),
            prefixes: Arc::default(),
            route: Default::default(),
            is_stream: true,
            deadline: self.clock(gateway) + Duration::from_secs(120),
        };
        self.gateways[gateway].clients.insert(id, Client { model, at: At::Queue, answer });
        self.hear(gateway, Event::Arrived(arrival));
        Some(id)
    }

    /// A client leaves, or an attempt fails before its first byte.
    pub(crate) fn disturb(&mut self, gateway: usize, which: usize) {
        let clients = &self.gateways[gateway].clients;
        let Some((id, client)) = clients.iter().nth(which % clients.len().max(1)) else { return };
        let (id, at) = (*id, client.at);
        match at {
            At::Node { has_asked: false, .. } if which.is_multiple_of(2) => {
                self.place(gateway, id, At::Queue);
                self.hear(gateway, Event::Failed { id, failure: Failure::Busy });
            }
            _ => self.end(gateway, id, Outcome::Cancelled),
        }
    }

    /// Whether a long answer has begun there that the database does not know of yet. If the gateway falls silent at that
    /// moment, nobody can tell how long to wait for it.
    pub(crate) fn has_untold(&self, gateway: usize) -> bool {
        let it = &self.gateways[gateway];
        it.row.as_ref().is_none_or(|row| row.at < it.long_at)
    }

    pub(crate) fn live(&self) -> Vec<usize> {
        (0..self.gateways.len()).filter(|gateway| self.is_running(*gateway)).collect()
    }

    pub(crate) fn leaders(&self) -> Vec<usize> {
        let leads = |gateway: &usize| matches!(self.role(*gateway), Some(Role::Leading { .. }));
        (0..self.gateways.len()).filter(leads).collect()
    }

    pub(crate) fn role(&self, gateway: usize) -> Option<&Role> {
        Some(self.gateways[gateway].coordinator.as_ref()?.member.role())
    }

    pub(crate) fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Hands the lease over and stops leading, as on SIGTERM.
    pub(crate) fn retire(&mut self, gateway: usize) {
        if self.reaches_database(gateway) && self.lease.as_ref().is_some_and(|lease| lease.holder == gateway) {
            self.lease.iter_mut().for_each(|lease| lease.until = self.now);
        }
        self.gateways[gateway].is_retiring = true;
        self.with(gateway, |coordinator, now| coordinator.member.retire(now));
    }

    /// Probes that find every node well.
    pub(crate) fn probe(&mut self) {
        for gateway in self.live() {
            (0..NODES.len()).for_each(|node| self.hear(gateway, Event::Answered { node: NodeId(node) }));
        }
    }

    pub(crate) fn clients_of(&self, gateway: usize) -> usize {
        self.gateways[gateway].clients.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gateways.iter().all(|gateway| gateway.clients.is_empty())
    }

    pub(crate) fn in_flight(&self) -> usize {
        (0..self.gateways.len()).map(|gateway| self.in_flight_of(gateway)).sum()
    }

    pub(crate) fn in_flight_of(&self, gateway: usize) -> usize {
        self.gateways[gateway].clients.values().filter(|client| client.at != At::Queue).count()
    }

    /// For whoever looks for the cause of a failure.
    pub(crate) fn describe(&self) -> String {
        let of = |gateway: &Gateway| {
            let Some(coordinator) = &gateway.coordinator else { return "down".to_owned() };
            let (member, clients) = (&coordinator.member, gateway.clients.len());
            let knows = gateway.clients.keys().filter(|id| member.scheduler().knows(**id)).count();
            let (role, reach) = (member.role(), member.scheduler().reach());
            format!(
                "{role:?} {clients} clients, {knows} known, {reach:?}, {:?}, missing {:?}",
                member.scheduler().nodes().iter().map(|node| (node.state, node.in_flight)).collect::<Vec<_>>(),
                member.missing()
            )
        };
        self.gateways.iter().map(of).collect::<Vec<_>>().join("; ")
    }

    // How time passes.

    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    pub(crate) fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        self.parted.retain(|_, until| *until > now);
        self.deliver();
        for gateway in 0..self.gateways.len() {
            if self.is_running(gateway) {
                self.beat(gateway);
                self.link(gateway);
                self.serve(gateway);
                self.with(gateway, |coordinator, now| coordinator.member.tick(now));
                if self.gateways[gateway].tick_at <= now {
                    self.gateways[gateway].tick_at = now + Duration::from_secs(1);
                    self.progress(gateway);
                    self.hear(gateway, Event::Tick);
                }
            }
        }
    }

    fn is_running(&self, gateway: usize) -> bool {
        let it = &self.gateways[gateway];
        it.coordinator.is_some() && it.paused_until <= self.now
    }

    fn clock(&self, gateway: usize) -> Duration {
        self.now * self.gateways[gateway].rate / 1000 + Duration::from_secs(gateway as u64 * 1000)
    }

    fn reaches_database(&self, gateway: usize) -> bool {
        self.is_database_up && self.gateways[gateway].cut_until <= self.now
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        !self.parted.contains_key(&(a.min(b), a.max(b)))
    }

    fn with(&mut self, gateway: usize, act: impl FnOnce(&mut Coordinator, Duration) -> Vec<Effect>) {
        let now = self.clock(gateway);
        let Some(coordinator) = &mut self.gateways[gateway].coordinator else { return };
        let effects = act(coordinator, now);
        effects.into_iter().for_each(|effect| self.carry_out(gateway, effect));
    }

    fn hear(&mut self, gateway: usize, event: Event) {
        self.with(gateway, |coordinator, now| coordinator.member.handle(event, now));
    }

    // What a gateway's shell does.
}
