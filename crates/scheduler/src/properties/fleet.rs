//! An obedient fleet in virtual time: nodes with real slots and speeds that load and unload, answer probes, and queue
//! what exceeds their slots as Ollama does. It moves in steps of a tenth of a second and in whole tokens, so that equal
//! runs are equal to the bit.

mod living;

use super::*;

pub(crate) const TICK: Duration = Duration::from_millis(100);
const TICKS_A_SECOND: u64 = 10;
/// The size of every model here, on disk and in memory.
pub(crate) const BYTES: u64 = 5_000_000_000;
/// The load time that the scheduler expects before it has seen a load.
const LOAD_TICKS: u64 = 78;
/// How many times faster a prompt is read than an answer is written.
pub(crate) const READING: u64 = 25;
pub(crate) const PATIENT: Time = Duration::from_secs(1_000_000);

/// A request that a node works on.
struct Job {
    id: RequestId,
    to_read: u64,
    written: u64,
    has_begun: bool,
    ticks: u64,
}

/// A node as it really is.
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    /// Tokens a stream writes in a tick.
    pub(crate) tokens: u64,
    /// Prompt tokens it reads in the time in which it writes one.
    pub(crate) reading: u64,
    pub(crate) slots: usize,
    pub(crate) resident: BTreeSet<usize>,
    loading: Option<(usize, u64)>,
    unloaded: Vec<usize>,
    /// By model, in the order of arrival; as many as there are slots are worked on.
    jobs: BTreeMap<usize, Vec<Job>>,
    /// It answers nothing until then.
    dead_until: Time,
    /// It does nothing until then, but its connections stand.
    pub(crate) frozen_until: Time,
    /// Tokens written since the start.
    pub(crate) written: u64,
}

/// A client's request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) user: usize,
    pub(crate) weight: f64,
    pub(crate) model: usize,
    pub(crate) prompt: u64,
    pub(crate) output: u64,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) at: Time,
    /// How many requests of the same user waited before it.
    pub(crate) ahead: usize,
    pub(crate) sent_at: Option<Time>,
    /// When its first token came.
    pub(crate) began_at: Option<Time>,
    /// The node it runs on.
    pub(crate) node: Option<NodeId>,
    /// The node it ran on last.
    pub(crate) served_by: Option<NodeId>,
    pub(crate) ended_at: Option<Time>,
    pub(crate) refused: Option<RefusalReason>,
}

impl Asked {
    pub(crate) fn waits(&self) -> bool {
        self.node.is_none() && self.ended_at.is_none()
    }
}

/// The nodes, the requests, and the scheduler under test.
pub(crate) struct Fleet {
    pub(crate) scheduler: Scheduler,
    pub(crate) machines: Vec<Machine>,
    pub(crate) now: Time,
    ticks: u64,
    pub(crate) asked: BTreeMap<RequestId, Asked>,
    pub(crate) log: Vec<(Time, Decision)>,
}

fn name(model: usize) -> String {
    format!("m{model}:latest")
}

fn model_of(listed: &str) -> usize {
    let digits = listed.strip_prefix('m').and_then(|rest| rest.split(':').next());
    digits.and_then(|digits| digits.parse().ok()).expect("a model of the fleet")
}

/// How a node is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) tokens: u64,
    pub(crate) slots: usize,
    /// Whether the gateway is told the number of slots.
    pub(crate) is_configured: bool,
    /// How many models fit in its memory at a time.
    pub(crate) room: Option<u64>,
    pub(crate) resident: Vec<usize>,
}

impl Setup {
    pub(crate) fn new(tokens: u64, slots: usize, resident: &[usize]) -> Self {
        Self { tokens, slots, is_configured: true, room: None, resident: resident.to_vec() }
    }
}

impl Fleet {
    /// Creates nodes whose ids are their places in `order`, all with `models` models on disk.
    pub(crate) fn new(settings: QueueLimits, setups: &[Setup], ids: &[usize], models: usize) -> Self {
        let idle = NodeSpec { name: "idle".into(), slots: Some(4), vram_bytes: None };
        let mut specs = vec![idle; ids.iter().max().map_or(0, |most| most + 1)];
        for (setup, id) in setups.iter().zip(ids) {
            let slots = setup.is_configured.then_some(setup.slots as u32);
            specs[*id] = NodeSpec { name: "gpu".into(), slots, vram_bytes: setup.room.map(|room| room * BYTES) };
        }
        let machine = |(setup, id): (&Setup, &usize)| Machine {
            id: NodeId(*id),
            tokens: setup.tokens,
            reading: READING,
            slots: setup.slots,
            resident: setup.resident.iter().copied().collect(),
            loading: None,
            unloaded: Vec::new(),
            jobs: BTreeMap::new(),
            dead_until: Time::ZERO,
            frozen_until: Time::ZERO,
            written: 0,
        };
        let mut fleet = Self {
            scheduler: Scheduler::new(settings, specs),
            machines: setups.iter().zip(ids).map(machine).collect(),
            now: Time::ZERO,
            ticks: 0,
            asked: BTreeMap::new(),
            log: Vec::new(),
        };
        let listing = |model| Model {
            name: name(model),
            size_bytes: BYTES,
            digest: String::new(),
            modified_unix: 0,
            family: "llama".into(),
            weights: String::new(),
        };
        for machine in 0..setups.len() {
            let node = fleet.machines[machine].id;
            fleet.hear(Event::Answered { node });
            fleet.hear(Event::Listed { node, models: (0..models).map(listing).collect() });
            fleet.say_residents(machine);
        }
        fleet
    }

    /// Teaches the scheduler how fast the nodes are and how long answers are on average.
    pub(crate) fn teach(&mut self, output: f64) {
        for machine in &self.machines {
            let seconds = TICK.as_secs_f64() / machine.tokens as f64;
            self.scheduler.fleet[machine.id].speed.observe(seconds, 0.0, 1.0);
        }
        for model in 0.. {
            let Some(id) = self.scheduler.models.find(&name(model)) else { break };
            self.scheduler.models.get_mut(id).output = crate::model::AnswerLength::new(output);
        }
    }

    pub(crate) fn ask(&mut self, ask: Ask) -> RequestId {
        let id = RequestId(self.asked.len() as u128 + 1);
        let ahead = self.waiting_of(ask.user);
        let arrival = Arrival {
            id,
            user: format!("u{}", ask.user).as_str().into(),
            weight: ask.weight,
            membership: None,
            model: name(ask.model).as_str().into(),
            prompt_tokens: ask.prompt,
            max_output: Some(ask.output),
            known_output: None,
            prefixes: Arc::default(),
            route: Default::default(),
            is_stream: true,
            deadline: PATIENT,
        };
        let asked = Asked {
            ask,
            at: self.now,
            ahead,
            sent_at: None,
            began_at: None,
            node: None,
            served_by: None,
            ended_at: None,
            refused: None,
        };
        self.asked.insert(id, asked);
        self.hear(Event::Arrived(arrival));
        id
    }

    pub(crate) fn waiting_of(&self, user: usize) -> usize {
        self.scheduler.queue.waiting_of(&format!("u{user}"))
    }

    fn machine(&mut self, node: NodeId) -> &mut Machine {
        self.machines.iter_mut().find(|machine| machine.id == node).expect("a node that does something")
    }

    /// Tells the scheduler about an event and carries out its decisions.
    fn hear(&mut self, event: Event) {
        let now = self.now;
        let decisions = self.scheduler.handle(event, now);
        self.log.extend(decisions.iter().map(|decision| (now, decision.clone())));
        for decision in decisions {
            match decision {
                Decision::Dispatch { id, node, .. } => {
                    let asked = self.asked.get_mut(&id).expect("it was asked for");
                    assert!(asked.waits());
                    (asked.node, asked.served_by) = (Some(node), Some(node));
                    asked.sent_at = asked.sent_at.or(Some(now));
                    let (model, to_read) = (asked.ask.model, asked.ask.prompt);
                    let job = Job { id, to_read, written: 0, has_begun: false, ticks: 0 };
                    self.machine(node).jobs.entry(model).or_default().push(job);
                }
                Decision::Refuse { id, refusal } => {
                    let asked = self.asked.get_mut(&id).expect("it was asked for");
                    assert!(asked.waits());
                    (asked.refused, asked.ended_at) = (Some(refusal.reason), Some(now));
                }
                Decision::Abandon { id } => {
                    if self.take_job(id).is_some_and(|job| job.has_begun) {
                        self.end(id, Outcome::Failed(Failure::Silent));
                    }
                }
                Decision::Load { node, model, .. } => {
                    let machine = self.machine(node);
                    assert!(machine.loading.is_none(), "one load at a time");
                    machine.loading = Some((model_of(&model), LOAD_TICKS));
                }
                Decision::Unload { node, model } => {
                    let (machine, model) = (self.machine(node), model_of(&model));
                    assert!(machine.jobs.get(&model).is_none_or(Vec::is_empty), "unloaded under a request");
                    machine.resident.remove(&model);
                    machine.unloaded.push(model);
                }
            }
        }
    }

    fn take_job(&mut self, id: RequestId) -> Option<Job> {
        let asked = self.asked.get_mut(&id)?;
        let (node, model) = (asked.node.take()?, asked.ask.model);
        let jobs = self.machine(node).jobs.get_mut(&model)?;
        let place = jobs.iter().position(|job| job.id == id)?;
        Some(jobs.remove(place))
    }

    fn end(&mut self, id: RequestId, outcome: Outcome) {
        if let Some(asked) = self.asked.get_mut(&id) {
            assert!(asked.ended_at.replace(self.now).is_none(), "ended twice");
        }
        self.hear(Event::Left { id, outcome });
    }

    /// A request that runs on a node fails there.
    pub(crate) fn fail(&mut self, id: RequestId, failure: Failure) {
        match self.take_job(id) {
            Some(job) if job.has_begun => self.end(id, Outcome::Failed(failure)),
            Some(_) => self.hear(Event::Failed { id, failure }),
            None => {}
        }
    }
}

impl Machine {
    pub(crate) fn running(&self) -> Vec<RequestId> {
        self.jobs.values().flatten().map(|job| job.id).collect()
    }

    pub(crate) fn running_of(&self, model: usize) -> usize {
        self.jobs.get(&model).map_or(0, Vec::len)
    }
}
