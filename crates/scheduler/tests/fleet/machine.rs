//! A node that behaves as Ollama does: FIFO slots, one loader, its own eviction, and its runners' caches. Running
//! streams share the compute.

use std::collections::{BTreeMap, VecDeque};

use crate::cache::{self, Host, Slot, State};
use crate::traffic::Ask;

/// A node's fixed properties.
#[derive(Copy, Clone)]
pub struct Kind {
    pub speed: f64,
    pub vram: f64,
    pub slots: usize,
    pub bandwidth: f64,
    pub slowdown: f64,
}

/// What a node reports about a request.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Note {
    FirstByte(usize),
    Done(usize),
    /// A model that the gateway asked for is loaded.
    Loaded(usize),
}

struct Runner {
    slots: Vec<Slot>,
    host: Host,
    queue: VecDeque<usize>,
    is_expiring: bool,
}

struct Stream {
    job: usize,
    model: usize,
    slot: usize,
    prefill_left: f64,
    has_begun: bool,
    delivered: f64,
    output: f64,
}

pub struct Machine {
    pub kind: Kind,
    sizes: Vec<f64>,
    has_host_cache: bool,
    runners: BTreeMap<usize, Runner>,
    pending: VecDeque<Pending>,
    loading: Option<(usize, f64)>,
    streams: Vec<Stream>,
    now: f64,
    /// 1 for a healthy node, 0.1 for a grey one, 0 for a dead one.
    pub health: f64,
    /// Wake-ups of an older version are ignored.
    pub version: u64,
    pub loads: usize,
    /// Prompt tokens of the requests that were begun.
    pub prompt_tokens: f64,
    /// How many of them had to be read, because they were in no cache.
    pub read_tokens: f64,
    notes: Vec<Note>,
}

/// A request that came while its model was not in memory; without a job it is the gateway's own request to load.
#[derive(Copy, Clone)]
struct Pending {
    model: usize,
    job: Option<usize>,
}

impl Machine {
    pub fn new(kind: Kind, sizes: &[f64], has_host_cache: bool) -> Self {
        Self {
            kind,
            sizes: sizes.to_vec(),
            has_host_cache,
            runners: BTreeMap::new(),
            pending: VecDeque::new(),
            loading: None,
            streams: Vec::new(),
            now: 0.0,
            health: 1.0,
            version: 0,
            loads: 0,
            prompt_tokens: 0.0,
            read_tokens: 0.0,
            notes: Vec::new(),
        }
    }

    /// An empty request: it loads the model, or finds it loaded.
    pub fn preload(&mut self, model: usize, asks: &[Ask]) {
        self.pending.push_back(Pending { model, job: None });
        self.serve_pending(asks);
    }

    /// `keep_alive: 0`: the model is unloaded once it is idle.
    pub fn unload(&mut self, model: usize) {
        if self.is_idle(model) {
            self.runners.remove(&model);
        } else if let Some(runner) = self.runners.get_mut(&model) {
            runner.is_expiring = true;
        }
    }

    /// The client is gone: Ollama frees the slot.
    pub fn cancel(&mut self, job: usize, asks: &[Ask]) {
        self.pending.retain(|pending| pending.job != Some(job));
        self.runners.values_mut().for_each(|runner| runner.queue.retain(|other| *other != job));
        if let Some(index) = self.streams.iter().position(|stream| stream.job == job) {
            let model = self.streams[index].model;
            self.finish(index);
            self.start(model, asks);
        }
        self.serve_pending(asks);
    }

    /// The tokens so far of the streams that have begun.
    pub fn progress(&self) -> Vec<(usize, u64)> {
        let begun = self.streams.iter().filter(|stream| stream.has_begun && self.health > 0.0);
        begun.map(|stream| (stream.job, stream.delivered as u64)).collect()
    }

    pub fn resident(&self) -> impl Iterator<Item = usize> {
        self.runners.keys().copied()
    }

    pub fn has_loaded(&self, model: usize) -> bool {
        self.runners.contains_key(&model)
    }

    /// Requests for the model that run or wait here.
    pub fn outstanding_of(&self, model: usize) -> usize {
        let waiting = self.pending.iter().filter(|pending| pending.model == model && pending.job.is_some()).count();
        let queued = self.runners.get(&model).map_or(0, |runner| runner.queue.len());
        waiting + queued + self.streams.iter().filter(|stream| stream.model == model).count()
    }

    /// Requests that run or wait here.
    pub fn outstanding(&self) -> usize {
        let queued = self.runners.values().map(|runner| runner.queue.len());
        let waiting = self.pending.iter().filter(|pending| pending.job.is_some()).count();
        queued.sum::<usize>() + waiting + self.streams.len()
    }

    pub fn accept(&mut self, job: usize, asks: &[Ask]) {
        let model = asks[job].model;
        if let Some(runner) = self.runners.get_mut(&model) {
            runner.queue.push_back(job);
            self.start(model, asks);
        } else {
            self.pending.push_back(Pending { model, job: Some(job) });
            self.serve_pending(asks);
        }
    }

    fn is_idle(&self, model: usize) -> bool {
        self.runners
            .get(&model)
            .is_some_and(|runner| runner.queue.is_empty() && runner.slots.iter().all(|slot| !slot.is_busy))
    }

    fn used(&self) -> f64 {
        self.runners.keys().map(|model| self.sizes[*model]).sum()
    }

    /// Ollama serves requests whose model was not loaded strictly one after the other: the first in line blocks those
    /// behind it, even if their models are loaded by now.
    fn serve_pending(&mut self, asks: &[Ask]) {
        while let (None, Some(Pending { model, job })) = (self.loading, self.pending.front().copied()) {
            if let Some(runner) = self.runners.get_mut(&model) {
                self.pending.pop_front();
                match job {
                    Some(job) => {
                        runner.queue.push_back(job);
                        self.start(model, asks);
                    }
                    None => self.notes.push(Note::Loaded(model)),
                }
            } else if !self.load(model) {
                return;
            }
        }
    }

    /// Makes room and begins to load; false while something must end first.
    fn load(&mut self, model: usize) -> bool {
        while self.used() + self.sizes[model] > self.kind.vram && !self.runners.is_empty() {
            // Ollama waits for the runner it has marked, even if another one is idle by now.
            if self.runners.values().any(|runner| runner.is_expiring) {
                return false;
            }
            let victim = self.runners.keys().copied().find(|model| self.is_idle(*model));
            let Some(victim) = victim else {
                if let Some((_, first)) = self.runners.iter_mut().next() {
                    first.is_expiring = true;
                }
                return false;
            };
            self.runners.remove(&victim);
        }
        self.loads += 1;
        self.loading = Some((model, 1.5 + self.sizes[model] / self.kind.bandwidth));
        true
    }

    fn start(&mut self, model: usize, asks: &[Ask]) {
        let now = self.now;
        while let Some(runner) = self.runners.get_mut(&model) {
            let Some(&job) = runner.queue.front() else { break };
            let ask = &asks[job];
            let size = self.sizes[model];
            let Some(hit) = cache::take(&mut runner.slots, &mut runner.host, asks, job, size, now) else { break };
            runner.queue.pop_front();
            self.prompt_tokens += ask.prompt;
            self.read_tokens += ask.prompt - hit.cached;
            let reading = 25.0 * self.kind.speed * 5.0 / size;
            self.streams.push(Stream {
                job,
                model,
                slot: hit.slot,
                prefill_left: (ask.prompt - hit.cached + hit.restore * reading).max(1.0),
                has_begun: false,
                delivered: 0.0,
                output: ask.output,
            });
        }
    }

    fn finish(&mut self, index: usize) {
        let stream = self.streams.remove(index);
        if let Some(runner) = self.runners.get_mut(&stream.model) {
            let last = stream.has_begun.then_some(State { job: stream.job, answer: stream.delivered });
            runner.slots[stream.slot].free(last, self.now);
            if runner.is_expiring && self.is_idle(stream.model) {
                self.runners.remove(&stream.model);
            }
        }
    }

    /// Tokens a second that a stream gets now.
    fn rate(&self, stream: &Stream) -> f64 {
        let others = self.streams.len() as f64 - 1.0;
        let speed = self.kind.speed * 5.0 / self.sizes[stream.model] * self.health;
        if stream.has_begun { speed / (1.0 + self.kind.slowdown * others) } else { 25.0 * speed / (1.0 + 0.5 * others) }
    }

    /// Seconds until something happens here without an event from outside.
    pub fn next_change(&self) -> Option<f64> {
        if self.health == 0.0 {
            return None;
        }
        let left =
            |stream: &Stream| if stream.has_begun { stream.output - stream.delivered } else { stream.prefill_left };
        let streams = self.streams.iter().map(|stream| (left(stream) / self.rate(stream)).max(0.0));
        streams.chain(self.loading.map(|(_, left)| left.max(0.0))).min_by(f64::total_cmp)
    }

    /// Advances the time and carries out what is due by then.
    pub fn advance(&mut self, now: f64, asks: &[Ask]) {
        let passed = now - self.now;
        self.now = now;
        if self.health == 0.0 {
            return;
        }
        let rates: Vec<f64> = self.streams.iter().map(|stream| self.rate(stream)).collect();
        for (stream, rate) in self.streams.iter_mut().zip(rates) {
            if stream.has_begun {
                stream.delivered += rate * passed;
            } else {
                stream.prefill_left -= rate * passed;
            }
        }
        if let Some((_, left)) = &mut self.loading {
            *left -= passed;
        }
        self.settle(asks);
    }

    fn settle(&mut self, asks: &[Ask]) {
        const EPSILON: f64 = 1e-6;
        if let Some((model, _)) = self.loading.filter(|(_, left)| *left <= EPSILON) {
            self.loading = None;
            let slots = (0..self.kind.slots).map(|_| Slot::new()).collect();
            let (host, queue) = (Host::new(self.has_host_cache), VecDeque::new());
            self.runners.insert(model, Runner { slots, host, queue, is_expiring: false });
            self.serve_pending(asks);
        }
        for stream in &mut self.streams {
            if !stream.has_begun && stream.prefill_left <= EPSILON {
                stream.has_begun = true;
                self.notes.push(Note::FirstByte(stream.job));
            }
        }
        while let Some(index) =
            self.streams.iter().position(|stream| stream.has_begun && stream.delivered >= stream.output - EPSILON)
        {
            let Stream { job, model, .. } = self.streams[index];
            self.notes.push(Note::Done(job));
            self.finish(index);
            self.start(model, asks);
            self.serve_pending(asks);
        }
    }

    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }
}
