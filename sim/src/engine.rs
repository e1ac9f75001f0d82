//! Who may use a model now, and who waits? Ollama's scheduler with its weaknesses: one loader that serves one request
//! at a time, and an unbounded queue behind the slots of a loaded model.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::config::SimConfig;
use crate::error::ApiError;
use crate::fault::Pauses;
use crate::ledger::SimStats;
use crate::model::{Disk, SimModel};
use crate::options::LoadOptions;
use crate::runners::{Room, Runner, Runners};
use crate::slots::{Slot, Slots};

/// The loaded models of a node and the queues for them.
#[derive(Debug)]
pub(crate) struct Engine {
    config: SimConfig,
    disk: Disk,
    runners: Mutex<Runners>,
    /// One load at a time, in order of arrival.
    loader: Arc<Semaphore>,
    /// Woken whenever a model becomes idle or leaves.
    changed: Notify,
    /// Requests that hold a slot of any model.
    active: AtomicUsize,
    /// How many times slower than configured the node is now, as the bits of an `f64`.
    slowness: AtomicU64,
    pauses: Pauses,
}

/// A loaded model as `/api/ps` lists it.
pub(crate) struct LoadedModel {
    pub(crate) model: SimModel,
    /// Bytes of it in GPU memory.
    pub(crate) gpu_bytes: u64,
    pub(crate) context_length: u64,
    pub(crate) expires_at: OffsetDateTime,
}

impl Engine {
    pub(crate) fn new(config: SimConfig) -> Self {
        Self {
            disk: Disk::new(config.models.clone()),
            config,
            runners: Mutex::new(Runners::default()),
            loader: Arc::new(Semaphore::new(1)),
            changed: Notify::new(),
            active: AtomicUsize::new(0),
            slowness: AtomicU64::new(1.0_f64.to_bits()),
            pauses: Pauses::default(),
        }
    }

    pub(crate) fn config(&self) -> &SimConfig {
        &self.config
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    /// The loaded models; the one that expires last comes first.
    pub(crate) fn loaded(&self) -> Vec<LoadedModel> {
        let runners = self.lock();
        let mut loaded: Vec<_> = (runners.loaded.values())
            .map(|runner| LoadedModel {
                model: runner.model.clone(),
                gpu_bytes: self.config.gpu_bytes(&runner.model),
                context_length: runner.options.context_length(),
                expires_at: runner.expires_at,
            })
            .collect();
        loaded.sort_by_key(|loaded| std::cmp::Reverse(loaded.expires_at));
        loaded
    }

    /// Fills in the counters of loads beside those of requests.
    pub(crate) fn with_load_counts(&self, requests: SimStats) -> SimStats {
        let runners = self.lock();
        let mut loaded: Vec<_> = runners.loaded.values().map(|runner| runner.model.name.clone()).collect();
        loaded.sort_unstable();
        let Runners { loads, evictions, reloads, .. } = *runners;
        SimStats { loaded, loads, evictions, reloads, ..requests }
    }

    /// Forgets all models, as the end of the process does.
    pub(crate) fn clear(&self) {
        self.lock().loaded.clear();
        self.changed.notify_waiters();
    }

    /// Loads what a warm node has in memory from the start.
    pub(crate) fn warm_up(self: &Arc<Self>) {
        let models = self.config.models.iter().filter(|_| self.config.is_warm);
        let mut room = self.config.vram_bytes;
        for model in models {
            if self.has(model, &LoadOptions::default()) {
                continue;
            }
            if let Some(left) = room.checked_sub(model.size_bytes) {
                room = left;
                drop(self.insert(model, None, LoadOptions::default()));
            }
        }
        self.lock().loads = 0;
    }

    /// Tokens per second of a stream now, if it had `solo` alone.
    pub(crate) fn shared_speed(&self, solo: f64) -> f64 {
        let others = self.active.load(Ordering::Relaxed).saturating_sub(1) as f64;
        let slowness = f64::from_bits(self.slowness.load(Ordering::Relaxed));
        solo / (1.0 + self.config.batch_slowdown * others) / slowness
    }

    /// Requests that hold a slot now.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn slow_down(&self, factor: f64) {
        self.slowness.store(factor.max(f64::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
    }

    /// Whether a request finds its model in memory, with the options it needs.
    pub(crate) fn has(&self, model: &SimModel, options: &LoadOptions) -> bool {
        self.lock().usable(model, options).is_some()
    }

    /// Keeps the model in memory for a request. A model that is not loaded, or loaded with other options, is loaded
    /// first. Dropping the future gives up the place in the queue and aborts the load.
    ///
    /// # Errors
    /// 503 when `max_queue` requests already wait for a load.
    pub(crate) async fn hold(
        self: &Arc<Self>,
        model: &SimModel,
        keep_alive: Option<Duration>,
        options: &LoadOptions,
    ) -> Result<ModelHold, ApiError> {
        if let Some(hold) = self.hold_loaded(model, keep_alive, options) {
            return Ok(hold);
        }
        let _turn = self.wait_for_loader().await?;
        // The request ahead may have loaded the same model.
        if let Some(hold) = self.hold_loaded(model, keep_alive, options) {
            return Ok(hold);
        }
        self.unload_for_reload(model).await;
        self.make_room(model).await;
        let load_time = self.config.load_time(model);
        if !load_time.is_zero() {
            tokio::time::sleep(load_time).await;
        }
        self.pauses.frozen.until_off().await;
        Ok(self.insert(model, keep_alive, options.clone()))
    }

    /// Unloads the model as soon as it is idle, as `keep_alive: 0` without a prompt asks for.
    pub(crate) fn unload(&self, model: &SimModel) {
        if let Some(runner) = self.lock().loaded.get_mut(&model.weights()) {
            runner.keep_alive = Duration::ZERO;
            runner.start_idle_time();
        }
        self.changed.notify_waiters();
    }

    async fn wait_for_loader(self: &Arc<Self>) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Ok(turn) = Arc::clone(&self.loader).try_acquire_owned() {
            return Ok(turn);
        }
        let _pending = PendingLoad::enter(self)?;
        let turn = Arc::clone(&self.loader).acquire_owned().await;
        Ok(turn.expect("the loader's semaphore is never closed"))
    }

    fn hold_loaded(
        self: &Arc<Self>,
        model: &SimModel,
        keep_alive: Option<Duration>,
        options: &LoadOptions,
    ) -> Option<ModelHold> {
        let mut runners = self.lock();
        let runner = runners.usable(model, options)?;
        runner.users += 1;
        runner.keep_alive = keep_alive.unwrap_or(runner.keep_alive);
        Some(self.hold_on(runner))
    }

    /// Unloads the model once it is idle. Until then it still accepts requests that its options suit.
    async fn unload_for_reload(&self, model: &SimModel) {
        loop {
            let in_use = self.lock().unload_for_reload(model);
            match in_use {
                None => return,
                Some(id) => self.idle_or_gone(id).await,
            }
        }
    }

    /// Evicts idle models until the model fits. The one it waits for still accepts requests meanwhile.
    async fn make_room(&self, model: &SimModel) {
        loop {
            let room = self.lock().make_room(model.size_bytes, self.config.vram_bytes);
            match room {
                Room::Fits => return,
                Room::WaitFor(id) => self.idle_or_gone(id).await,
            }
        }
    }

    async fn idle_or_gone(&self, id: u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before checking, so that no change in between is missed.
            changed.as_mut().enable();
            if !self.lock().loaded.values().any(|runner| runner.id == id && runner.users > 0) {
                return;
            }
            changed.await;
        }
    }

    fn insert(self: &Arc<Self>, model: &SimModel, keep_alive: Option<Duration>, options: LoadOptions) -> ModelHold {
        let slots = if model.can("embedding") { 1 } else { self.config.slots.max(1) };
        let slots = Slots::new(slots, self.config.queue_jitter);
        let keep_alive = keep_alive.unwrap_or(self.config.keep_alive);
        let mut runners = self.lock();
        self.hold_on(runners.insert(model, options, slots, keep_alive))
    }

    fn hold_on(self: &Arc<Self>, runner: &Runner) -> ModelHold {
        ModelHold { engine: Arc::clone(self), runner: runner.id, slots: runner.slots.clone() }
    }

    /// The models in memory, after removing those whose time is up.
    fn lock(&self) -> MutexGuard<'_, Runners> {
        let mut runners = self.runners.lock().expect("no code panics while it holds the runners");
        runners.drop_expired();
        runners
    }
}

/// Keeps a loaded model from being evicted. Ends on drop, so that a client that hangs up frees the model at once.
#[derive(Debug)]
pub(crate) struct ModelHold {
    engine: Arc<Engine>,
    /// The runner's id.
    runner: u64,
    slots: Slots,
}

impl ModelHold {
    /// Waits for one of the model's slots.
    pub(crate) async fn slot(self) -> SlotHold {
        let slot = self.slots.take().await;
        self.engine.active.fetch_add(1, Ordering::Relaxed);
        SlotHold { _slot: slot, model: self }
    }
}

impl Drop for ModelHold {
    fn drop(&mut self) {
        self.engine.lock().leave(self.runner);
        self.engine.changed.notify_waiters();
    }
}

/// A slot of a loaded model, free again on drop.
#[derive(Debug)]
pub(crate) struct SlotHold {
    _slot: Slot,
    model: ModelHold,
}

impl Drop for SlotHold {
    fn drop(&mut self) {
        self.model.engine.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place in the queue for the loader.
struct PendingLoad<'a>(&'a Engine);

impl<'a> PendingLoad<'a> {
    fn enter(engine: &'a Engine) -> Result<Self, ApiError> {
        let mut runners = engine.lock();
        if runners.pending_loads >= engine.config.max_queue {
            return Err(ApiError::busy());
        }
        runners.pending_loads += 1;
        Ok(Self(engine))
    }
}

impl Drop for PendingLoad<'_> {
    fn drop(&mut self) {
        self.0.lock().pending_loads -= 1;
    }
}
