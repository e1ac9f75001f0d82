//! What do the nodes of a run report, and what does the gateway see of them?

use std::sync::Arc;

use scheduler::{Event, Learned, Loaded, Model, NodeId, Outcome, RequestId};
use serde_json::json;

use super::{GB, Happening, Trouble, World, name};
use crate::{
    machine::{Kind, Machine, Note},
    traffic::Ask,
};

const POLLED_SECONDS: f64 = 2.0;
const WATCHED_SECONDS: f64 = 1.0;
const PROBED_SECONDS: f64 = 5.0;

impl World<'_> {
    pub(super) fn plan_trouble(&mut self, trouble: Trouble) {
        let half = self.asks.last().map_or(0.0, |ask| ask.at) / 2.0;
        let (node, health) = match trouble {
            Trouble::None => return,
            Trouble::Death => (2, 0.0),
            Trouble::Grey => (1, 0.1),
        };
        self.plan(half, Happening::Health(node, health));
        self.plan(half + 600.0, Happening::Health(node, 1.0));
    }

    pub(super) fn list(&mut self) {
        let model = |(model, size): (usize, &f64)| Model {
            name: name(model).to_string(),
            size_bytes: (size * GB) as u64,
            digest: String::new(),
            modified_unix: 0,
            family: "llama".into(),
            weights: String::new(),
        };
        let models: Arc<[Model]> = self.sizes.iter().enumerate().map(model).collect();
        for node in (0..self.machines.len()).map(NodeId) {
            self.tell(Event::Listed { node, models: models.clone() });
        }
    }

    /// Brings a machine up to date, changes it, and handles what it reports.
    pub(super) fn touch(&mut self, node: usize, act: impl FnOnce(&mut Machine, &[Ask])) {
        let machine = &mut self.machines[node];
        machine.advance(self.now, self.asks);
        act(machine, self.asks);
        machine.version += 1;
        let (notes, wake) = (machine.take_notes(), Happening::Wake(node, machine.version));
        if let Some(seconds) = machine.next_change() {
            // A little late rather than a hair too early.
            self.plan(self.now + seconds + 2e-6, wake);
        }
        notes.into_iter().for_each(|note| self.hear(node, note));
    }

    fn hear(&mut self, node: usize, note: Note) {
        match note {
            Note::FirstByte(job) => {
                // A follower asks its leader first.
                if !self.follows(job) {
                    self.begin(job);
                }
                self.notice(job, Event::FirstByte { id: RequestId(job as u128) });
            }
            Note::Loaded(model) => {
                self.tell(Event::Loaded { node: NodeId(node), model: name(model), result: Ok(()) });
            }
            Note::Done(job) => {
                self.begin(job);
                self.jobs[job].done = Some(self.now);
                let ask = &self.asks[job];
                self.router.done(node, self.now - self.jobs[job].at, ask);
                self.end(job);
                let id = RequestId(job as u128);
                self.notice(job, Event::Progress { id, tokens: self.asks[job].output as u64 });
                self.notice(job, Event::Left { id, outcome: Outcome::Completed });
            }
        }
    }

    pub(super) fn poll(&mut self) {
        for node in 0..self.machines.len() {
            if !self.is_silent(node) {
                let size = |model: usize| (self.sizes[model] * GB) as u64;
                let loaded = |model: usize| Loaded {
                    name: name(model).to_string(),
                    vram_bytes: size(model),
                    context_length: None,
                };
                let loaded = self.machines[node].resident().map(loaded).collect();
                self.tell(Event::Resident { node: NodeId(node), loaded });
            }
        }
        self.plan(self.now + POLLED_SECONDS, Happening::Poll);
    }

    pub(super) fn is_silent(&self, node: usize) -> bool {
        self.machines[node].health == 0.0
    }

    pub(super) fn probe(&mut self) {
        for node in 0..self.machines.len() {
            if self.is_silent(node) {
                self.silences[node] += 1;
                self.tell(Event::Silent { node: NodeId(node), error: "no answer".into() });
            } else {
                self.silences[node] = 0;
                self.tell(Event::Answered { node: NodeId(node) });
            }
        }
        self.plan(self.now + PROBED_SECONDS, Happening::Probe);
    }

    /// What the gateway sees of its streams, once a second.
    pub(super) fn watch(&mut self) {
        self.count_idle();
        for node in 0..self.machines.len() {
            self.touch(node, |_, _| ());
            for (job, tokens) in self.machines[node].progress() {
                self.notice(job, Event::Progress { id: RequestId(job as u128), tokens });
            }
        }
        self.plan(self.now + WATCHED_SECONDS, Happening::Watch);
    }

    fn count_idle(&mut self) {
        for (model, waiting) in self.waiting.iter().enumerate().filter(|(_, waiting)| **waiting > 0) {
            let hosts = self.machines.iter().filter(|machine| machine.has_loaded(model));
            let slots = hosts.map(|machine| (machine.kind.slots, machine.outstanding_of(model)));
            let (all, free) =
                slots.fold((0, 0), |(all, free), (slots, taken)| (all + slots, free + slots.saturating_sub(taken)));
            self.slot_seconds += all as f64 * WATCHED_SECONDS;
            self.idle += free.min(*waiting) as f64 * WATCHED_SECONDS;
        }
    }

    /// How many of the prompts' tokens were cached, as a share.
    pub fn hit_share(&self) -> f64 {
        let sum = |of: fn(&Machine) -> f64| self.machines.iter().map(of).sum::<f64>();
        1.0 - sum(|machine| machine.read_tokens) / sum(|machine| machine.prompt_tokens).max(1.0)
    }

    pub fn loads(&self) -> usize {
        self.machines.iter().map(|machine| machine.loads).sum()
    }
}

/// The nodes' real properties, in the form of learned ones.
pub(super) fn truth(kinds: &[Kind]) -> Learned {
    let node = |(number, kind): (usize, &Kind)| {
        let known = json!({
            "speed": {"alone": 1.0 / kind.speed, "slowdown": kind.slowdown},
            "load_time": {"fixed": 1.5, "seconds_per_byte": 1.0 / (kind.bandwidth * GB), "samples": 100},
            "most_resident": 0, "pushes_out": false, "models": {},
        });
        (format!("node-{number}"), known)
    };
    let nodes: serde_json::Map<_, _> = kinds.iter().enumerate().map(node).collect();
    serde_json::from_value(json!({"nodes": nodes})).expect("as the scheduler keeps it")
}
