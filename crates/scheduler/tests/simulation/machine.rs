//! What does a simulated node have in memory, and how long does a load take?

use std::time::Duration;

use scheduler::Loaded;

pub const MODELS: [(&str, u64); 4] = [("chat:8b", 5), ("code:7b", 5), ("tiny:1b", 2), ("large:14b", 9)];
pub const GB: u64 = 1_000_000_000;

/// A simulated node: what it has in memory, and whether it is up.
pub struct Machine {
    pub slots: u32,
    pub vram: u64,
    /// Seconds of work done in one second.
    pub speed: f64,
    pub is_alive: bool,
    /// Models and how many requests each runs, longest unused first.
    pub memory: Vec<(usize, u32)>,
    pub loads: usize,
    pub served: usize,
}

impl Machine {
    pub fn new(slots: u32, vram: u64, speed: f64) -> Self {
        Self { slots, vram, speed, is_alive: true, memory: Vec::new(), loads: 0, served: 0 }
    }

    /// Takes a request; returns how long a load delays it on a node that nobody loads models for.
    pub fn start(&mut self, model: usize) -> Duration {
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
    pub fn load(&mut self, model: usize) -> Duration {
        let size = MODELS[model].1;
        assert!(self.used() + size <= self.vram, "the scheduler makes room first");
        self.loads += 1;
        Duration::from_secs(1 + size)
    }

    pub fn unload(&mut self, model: usize) {
        assert!(self.memory.contains(&(model, 0)), "only what is there and idle is unloaded");
        self.memory.retain(|(loaded, _)| *loaded != model);
    }

    pub fn finish(&mut self, model: usize) {
        if let Some((_, running)) = self.memory.iter_mut().find(|(loaded, _)| *loaded == model) {
            *running = running.saturating_sub(1);
        }
    }

    pub fn used(&self) -> u64 {
        self.memory.iter().map(|(model, _)| MODELS[*model].1).sum()
    }

    pub fn resident(&self) -> Vec<Loaded> {
        let loaded = |(model, _): &(usize, u32)| Loaded {
            name: MODELS[*model].0.into(),
            vram_bytes: MODELS[*model].1 * GB,
            context_length: None,
        };
        self.memory.iter().map(loaded).collect()
    }
}
