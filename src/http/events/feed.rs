//! Who makes the events? One task, for all who listen, and for nobody while nobody does.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web::Bytes;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::listener::Listener;
use super::picture::Picture;
use super::shapes::{ChangeRecord, event};
use crate::fleet::FleetContext;
use crate::relay::Meters;

/// Between two ticks.
const TICK: Duration = Duration::from_secs(1);
/// How long changes are gathered before they are told: what breaks seldom comes alone.
const GATHER: Duration = Duration::from_millis(20);
/// How far whoever listens may fall behind, in events.
const LAG: usize = 32;
/// Who may listen at a time.
const LISTENERS: usize = 32;

/// Makes events and hands them to all who listen.
#[derive(Debug)]
pub struct EventFeed {
    picture: Picture,
    sender: broadcast::Sender<Bytes>,
    places: Arc<Semaphore>,
    /// The last change that was sent. Held while changes are sent and while somebody comes, so that nobody misses one or
    /// hears of it twice.
    sent: Mutex<u64>,
    ticks: AtomicU64,
    arrived: Notify,
    draining: CancellationToken,
}

impl EventFeed {
    /// A feed of this fleet and of these open requests. `draining` ends whoever listens.
    pub fn new(fleet: FleetContext, meters: Meters, draining: CancellationToken) -> Self {
        Self {
            picture: Picture { fleet, meters },
            sender: broadcast::Sender::new(LAG),
            places: Arc::new(Semaphore::new(LISTENERS)),
            sent: Mutex::default(),
            ticks: AtomicU64::new(0),
            arrived: Notify::new(),
            draining,
        }
    }

    /// Somebody comes to listen; `None` while as many listen as may.
    pub(in crate::http) async fn listen(&self) -> Option<Listener> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let sight = self.picture.look().await;
        let (events, last) = {
            let mut sent = self.lock();
            if self.sender.receiver_count() == 0 {
                *sent = self.picture.fleet.changes.last_id();
            }
            (self.sender.subscribe(), *sent)
        };
        self.arrived.notify_one();
        let snapshot = self.picture.snapshot(sight, self.ticks.load(Ordering::Relaxed), last);
        let first = format!("retry: 2000\n{}", event("snapshot", Some(last), &snapshot));
        Some(Listener::new(first.into(), events, self.draining.clone(), place))
    }

    /// Makes events for as long as somebody listens, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while self.sender.receiver_count() == 0 {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.arrived.notified() => ticks.reset(),
                }
            }
            let sent = *self.lock();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.send_tick().await,
                () = self.changed(sent) => self.send_changes(),
            }
        }
    }

    async fn changed(&self, sent: u64) {
        self.picture.fleet.changes.changed(sent).await;
        tokio::time::sleep(GATHER).await;
    }

    async fn send_tick(&self) {
        let sight = self.picture.look().await;
        let live = self.picture.live(sight, self.ticks.fetch_add(1, Ordering::Relaxed) + 1);
        // Whoever listened may have left by now.
        let _ = self.sender.send(event("tick", None, &live).into());
    }

    fn send_changes(&self) {
        let mut sent = self.lock();
        let mut text = String::new();
        for told in self.picture.fleet.changes.after(*sent) {
            *sent = told.id;
            text.push_str(&event("change", Some(told.id), &ChangeRecord::from(told)));
        }
        if !text.is_empty() {
            let _ = self.sender.send(text.into());
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
