//! Which models are in memory, who uses them, and which one must leave to make room?

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::{self, FOREVER};
use crate::model::SimModel;
use crate::options::LoadOptions;
use crate::slots::Slots;

/// A model in memory. Requests for other names of the same weights use it as well.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) id: u64,
    pub(crate) model: SimModel,
    pub(crate) options: LoadOptions,
    pub(crate) slots: Slots,
    /// Requests that run on it or wait for one of its slots.
    pub(crate) users: usize,
    pub(crate) keep_alive: Duration,
    /// Changes only when the last user leaves.
    pub(crate) expires_at: OffsetDateTime,
}

impl Runner {
    /// Starts the time for which an idle model stays.
    pub(crate) fn start_idle_time(&mut self) {
        let keep_alive = self.keep_alive.min(FOREVER);
        self.expires_at = clock::wall().saturating_add(keep_alive.try_into().unwrap_or(time::Duration::MAX));
    }
}

/// All models in memory, and counters of loads and unloads.
#[derive(Debug, Default)]
pub(crate) struct Runners {
    /// By weights, because copies of a model and models derived from it share its runner. Sorted, because the idle one
    /// with the lowest key is evicted first.
    pub(crate) loaded: BTreeMap<String, Runner>,
    pub(crate) pending_loads: usize,
    pub(crate) loads: u64,
    pub(crate) evictions: u64,
    pub(crate) reloads: u64,
    next_id: u64,
}

/// Whether a model can be loaded now.
pub(crate) enum Room {
    Fits,
    /// Not before the runner with this id is idle.
    WaitFor(u64),
}

impl Runners {
    pub(crate) fn drop_expired(&mut self) {
        let now = clock::wall();
        self.loaded.retain(|_, runner| runner.users > 0 || runner.expires_at > now);
    }

    /// The runner of this model, if it has the options that a request needs.
    pub(crate) fn usable(&mut self, model: &SimModel, options: &LoadOptions) -> Option<&mut Runner> {
        self.loaded.get_mut(&model.weights()).filter(|runner| !runner.options.differ_for(options))
    }

    /// Loads a model with its first user.
    pub(crate) fn insert(
        &mut self,
        model: &SimModel,
        options: LoadOptions,
        slots: Slots,
        keep_alive: Duration,
    ) -> &Runner {
        self.loads += 1;
        self.next_id += 1;
        let mut runner = Runner {
            id: self.next_id,
            model: model.clone(),
            options,
            slots,
            users: 1,
            keep_alive,
            expires_at: clock::wall(),
        };
        runner.start_idle_time();
        let key = model.weights();
        self.loaded.insert(key.clone(), runner);
        &self.loaded[&key]
    }

    /// Ends one use of the runner with this id.
    pub(crate) fn leave(&mut self, id: u64) {
        let Some(runner) = self.loaded.values_mut().find(|runner| runner.id == id) else { return };
        debug_assert!(runner.users > 0, "nobody leaves a runner twice");
        runner.users -= 1;
        if runner.users == 0 {
            runner.start_idle_time();
        }
    }

    /// Unloads a model for a reload. If it is in use, the id of the runner to wait for.
    pub(crate) fn unload_for_reload(&mut self, model: &SimModel) -> Option<u64> {
        let key = model.weights();
        let runner = self.loaded.get(&key)?;
        if runner.users > 0 {
            return Some(runner.id);
        }
        self.loaded.remove(&key);
        self.reloads += 1;
        None
    }

    /// Unloads idle models, lowest key first, until `needed` bytes fit. If none is idle, waits for the lowest key.
    pub(crate) fn make_room(&mut self, needed: u64, memory: u64) -> Room {
        loop {
            let used: u64 = self.loaded.values().map(|runner| runner.model.size_bytes).sum();
            // A model that is too large is loaded if it is alone; the rest of it stays in main memory.
            let Some(lowest) = self.loaded.values().next() else { return Room::Fits };
            if used.saturating_add(needed) <= memory {
                return Room::Fits;
            }
            let Some((key, _)) = self.loaded.iter().find(|(_, runner)| runner.users == 0) else {
                return Room::WaitFor(lowest.id);
            };
            let key = key.clone();
            self.loaded.remove(&key);
            self.evictions += 1;
        }
    }
}
