//! Which models are loaded, who holds a slot, and who waits? Ollama's scheduler with its weaknesses: one loader that
//! serves one request at a time, and an unbounded queue behind the slots of a loaded model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::clock;
use crate::config::{SimConfig, SimModel};
use crate::disk::Disk;
use crate::error::ApiError;
use crate::ledger::SimStats;
use crate::options::LoadOptions;
use crate::seat::Lease;

/// What Ollama makes of a negative `keep_alive`.
pub(crate) const FOREVER: Duration = Duration::from_secs(292 * 365 * 24 * 3600);

/// The loaded models of a node and the queues for them.
#[derive(Debug)]
pub(crate) struct Engine {
    config: SimConfig,
    disk: Disk,
    state: Mutex<State>,
    /// One load at a time, in order of arrival.
    loader: Arc<Semaphore>,
    /// Woken whenever a model becomes idle or leaves.
    changed: Notify,
    /// Requests that hold a slot of any model.
    active: AtomicUsize,
    /// How many times slower than configured it is now, as the bits of an `f64`.
    slowness: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    loaded: BTreeMap<String, Runner>,
    pending_loads: usize,
    next_id: u64,
    loads: u64,
    evictions: u64,
    reloads: u64,
}

#[derive(Debug)]
struct Runner {
    id: u64,
    model: SimModel,
    options: LoadOptions,
    slots: Arc<Semaphore>,
    /// Requests that run on it or wait for one of its slots.
    users: usize,
    keep_alive: Duration,
    /// Frozen while in use.
    expires_at: OffsetDateTime,
}

impl Runner {
    fn rest(&mut self) {
        let keep_alive = self.keep_alive.min(FOREVER);
        self.expires_at = clock::wall().saturating_add(keep_alive.try_into().unwrap_or(time::Duration::MAX));
    }
}

/// A loaded model as `/api/ps` lists it.
pub(crate) struct LoadedModel {
    pub(crate) model: SimModel,
    pub(crate) context_length: u64,
    pub(crate) expires_at: OffsetDateTime,
}

impl Engine {
    pub(crate) fn new(config: SimConfig) -> Self {
        Self {
            disk: Disk::new(config.models.clone()),
            config,
            state: Mutex::new(State::default()),
            loader: Arc::new(Semaphore::new(1)),
            changed: Notify::new(),
            active: AtomicUsize::new(0),
            slowness: AtomicU64::new(1.0_f64.to_bits()),
        }
    }

    pub(crate) fn config(&self) -> &SimConfig {
        &self.config
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The loaded models, longest remaining first.
    pub(crate) fn loaded(&self) -> Vec<LoadedModel> {
        let state = self.lock();
        let mut loaded: Vec<_> = (state.loaded.values())
            .map(|runner| LoadedModel {
                model: runner.model.clone(),
                context_length: runner.options.context_length(),
                expires_at: runner.expires_at,
            })
            .collect();
        loaded.sort_by_key(|runner| std::cmp::Reverse(runner.expires_at));
        loaded
    }

    /// Adds what is known of loads to what is known of requests.
    pub(crate) fn complete(&self, requests: SimStats) -> SimStats {
        let state = self.lock();
        let loaded = state.loaded.keys().cloned().collect();
        let State { loads, evictions, reloads, .. } = *state;
        SimStats { loaded, loads, evictions, reloads, ..requests }
    }

    /// Forgets all models, as the end of the process does.
    pub(crate) fn clear(&self) {
        self.lock().loaded.clear();
        self.changed.notify_waiters();
    }

    /// Has in memory what a warm node has from the start.
    pub(crate) fn warm_up(self: &Arc<Self>) {
        let models = self.config.models.iter().filter(|_| self.config.is_warm);
        let mut room = self.config.vram_bytes;
        for model in models {
            if let Some(left) = room.checked_sub(model.size_bytes) {
                room = left;
                drop(self.insert(model, None, LoadOptions::default()));
            }
        }
        self.lock().loads = 0;
    }

    /// The speed at which the node decodes one stream that would make `solo` tokens per second alone.
    pub(crate) fn shared_speed(&self, solo: f64) -> f64 {
        let others = self.active.load(Ordering::Relaxed).saturating_sub(1) as f64;
        let slowness = f64::from_bits(self.slowness.load(Ordering::Relaxed));
        solo / (1.0 + self.config.batch_slowdown * others) / slowness
    }

    pub(crate) fn slow_down(&self, factor: f64) {
        self.slowness.store(factor.max(f64::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
    }

    /// Whether a request finds its model in memory, with the options it needs.
    pub(crate) fn has(&self, model: &SimModel, options: &LoadOptions) -> bool {
        self.lock().loaded.get(&model.name).is_some_and(|runner| !runner.options.differ_for(options))
    }

    /// A hold on the model, loaded first if need be: also one that is loaded with other options. Dropping the future gives up the place in the queue and aborts
    /// the load.
    ///
    /// # Errors
    /// 503 when `max_queue` requests wait for a load already.
    pub(crate) async fn hold(
        self: &Arc<Self>,
        model: &SimModel,
        keep_alive: Option<Duration>,
        options: &LoadOptions,
    ) -> Result<Lease, ApiError> {
        if let Some(lease) = self.hold_loaded(model, keep_alive, options) {
            return Ok(lease);
        }
        let _turn = self.wait_for_loader().await?;
        // The request before this one may have loaded the same model.
        if let Some(lease) = self.hold_loaded(model, keep_alive, options) {
            return Ok(lease);
        }
        self.drop_outdated(model).await;
        self.make_room(model).await;
        let load_time = self.config.load_time(model);
        if !load_time.is_zero() {
            tokio::time::sleep(load_time).await;
        }
        Ok(self.insert(model, keep_alive, options.clone()))
    }

    /// `keep_alive: 0` without a prompt: leaves once it is idle.
    pub(crate) fn unload(&self, model: &SimModel) {
        if let Some(runner) = self.lock().loaded.get_mut(&model.name) {
            runner.keep_alive = Duration::ZERO;
            runner.rest();
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
    ) -> Option<Lease> {
        let mut state = self.lock();
        let runner = state.loaded.get_mut(&model.name).filter(|runner| !runner.options.differ_for(options))?;
        runner.users += 1;
        runner.keep_alive = keep_alive.unwrap_or(runner.keep_alive);
        Some(self.lease(runner))
    }

    /// Unloads the model itself, whose options are not those that are needed, once it is idle; until then it accepts
    /// requests that can do with them.
    async fn drop_outdated(&self, model: &SimModel) {
        loop {
            let outdated = self.lock().drop_outdated(&model.name);
            match outdated {
                None => return,
                Some(id) => self.idle_or_gone(id).await,
            }
        }
    }

    /// Evicts idle models, lowest name first, until the model fits. If none is idle it waits for the one with the
    /// lowest name, which still accepts requests meanwhile.
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
            // Registered before looking, so that no change between the look and the wait is missed.
            changed.as_mut().enable();
            if !self.lock().loaded.values().any(|runner| runner.id == id && runner.users > 0) {
                return;
            }
            changed.await;
        }
    }

    fn insert(self: &Arc<Self>, model: &SimModel, keep_alive: Option<Duration>, options: LoadOptions) -> Lease {
        let mut state = self.lock();
        state.loads += 1;
        state.next_id += 1;
        let slots = if model.can("embedding") { 1 } else { self.config.slots.max(1) };
        let mut runner = Runner {
            id: state.next_id,
            model: model.clone(),
            options,
            slots: Arc::new(Semaphore::new(slots)),
            users: 1,
            keep_alive: keep_alive.unwrap_or(self.config.keep_alive),
            expires_at: clock::wall(),
        };
        runner.rest();
        let lease = self.lease(&runner);
        state.loaded.insert(model.name.clone(), runner);
        lease
    }

    fn lease(self: &Arc<Self>, runner: &Runner) -> Lease {
        Lease::new(Arc::clone(self), runner.model.name.clone(), runner.id, Arc::clone(&runner.slots))
    }

    /// Ends one use of the runner with this name and id.
    pub(crate) fn leave(&self, name: &str, id: u64) {
        let mut state = self.lock();
        if let Some(runner) = state.loaded.get_mut(name).filter(|runner| runner.id == id) {
            runner.users -= 1;
            if runner.users == 0 {
                runner.rest();
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Counts a slot that was taken.
    pub(crate) fn begin_stream(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a slot that was given back.
    pub(crate) fn end_stream(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// The state, after idle models whose time has come have left.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("no code panics while it holds the engine");
        let now = clock::wall();
        state.loaded.retain(|_, runner| runner.users > 0 || runner.expires_at > now);
        state
    }
}

impl State {
    /// Unloads a model for a reload; the runner to wait for, if it is in use.
    fn drop_outdated(&mut self, name: &str) -> Option<u64> {
        let runner = self.loaded.get(name)?;
        if runner.users > 0 {
            return Some(runner.id);
        }
        self.loaded.remove(name);
        self.reloads += 1;
        None
    }

    /// Unloads idle models until so many bytes fit.
    fn make_room(&mut self, needed: u64, vram: u64) -> Room {
        loop {
            let used: u64 = self.loaded.values().map(|runner| runner.model.size_bytes).sum();
            // Alone, even a model that is too large is loaded: the rest of it stays in main memory.
            let Some(lowest) = self.loaded.values().next() else { return Room::Fits };
            if used.saturating_add(needed) <= vram {
                return Room::Fits;
            }
            let Some(idle) = self.loaded.values().find(|runner| runner.users == 0) else {
                return Room::WaitFor(lowest.id);
            };
            let name = idle.model.name.clone();
            self.loaded.remove(&name);
            self.evictions += 1;
        }
    }
}

/// Whether a model can be loaded now.
enum Room {
    Fits,
    /// Not before the runner with this id is idle.
    WaitFor(u64),
}

/// A place in the queue for the loader.
struct PendingLoad<'a>(&'a Engine);

impl<'a> PendingLoad<'a> {
    fn enter(engine: &'a Engine) -> Result<Self, ApiError> {
        let mut state = engine.lock();
        if state.pending_loads >= engine.config.max_queue {
            return Err(ApiError::busy());
        }
        state.pending_loads += 1;
        Ok(Self(engine))
    }
}

impl Drop for PendingLoad<'_> {
    fn drop(&mut self) {
        self.0.lock().pending_loads -= 1;
    }
}
