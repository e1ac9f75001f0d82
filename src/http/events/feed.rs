//! Who makes the events? One task, for all who listen, and for nobody while nobody does. One who listens reads what has been
//! made for all, and is let go once it falls behind.
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::broadcast::{self, Receiver, error::RecvError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::picture::Picture;
use super::shapes::{ChangeRecord, EndRecord, event};
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

/// How long nothing may come before a comment shows that the connection stands.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The events from now on.
#[derive(Debug)]
pub(in crate::http) struct Listener {
    first: Option<Bytes>,
    events: Receiver<Bytes>,
    draining: CancellationToken,
    has_ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    pub(super) fn new(
        first: Bytes,
        events: Receiver<Bytes>,
        draining: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { first: Some(first), events, draining, has_ended: false, _place: place }
    }

    /// As a body, to its end.
    pub(in crate::http) fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + 'static {
        stream::unfold(self, |mut listener| async move { Some((Ok(listener.next().await?), listener)) })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let ended = tokio::select! {
            biased;
            () = self.draining.cancelled() => "server_shutting_down",
            event = self.events.recv() => match event {
                Ok(bytes) => return Some(bytes),
                Err(RecvError::Lagged(_)) => "too_slow",
                Err(RecvError::Closed) => "server_shutting_down",
            },
            () = tokio::time::sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b": keep-alive\n\n")),
        };
        self.has_ended = true;
        Some(event("end", None, &EndRecord { reason: ended }).into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use tokio::sync::Semaphore;

    use super::*;

    fn listener(events: Receiver<Bytes>, draining: &CancellationToken) -> (Listener, Arc<Semaphore>) {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        (Listener::new("first".into(), events, draining.clone(), place), places)
    }

    async fn all(listener: Listener) -> Vec<String> {
        let text = |event: Result<Bytes, Infallible>| String::from_utf8(event.unwrap().to_vec()).unwrap();
        listener.stream().map(text).collect().await
    }

    #[actix_rt::test]
    async fn whoever_falls_behind_hears_so_and_is_let_go() {
        let (sender, events) = broadcast::channel(2);
        let (listener, places) = listener(events, &CancellationToken::new());
        for number in 0..3 {
            sender.send(format!("{number}").into()).unwrap();
        }
        let heard = all(listener).await;
        assert_eq!(heard, ["first", "event: end\ndata: {\"reason\":\"too_slow\"}\n\n"]);
        assert_eq!((sender.receiver_count(), places.available_permits()), (0, 1));
    }

    #[actix_rt::test]
    async fn a_gateway_that_drains_lets_everybody_go() {
        let (sender, events) = broadcast::channel(2);
        let draining = CancellationToken::new();
        let (listener, _places) = listener(events, &draining);
        sender.send("tick".into()).unwrap();
        draining.cancel();
        let heard = all(listener).await;
        assert_eq!(heard, ["first", "event: end\ndata: {\"reason\":\"server_shutting_down\"}\n\n"]);
    }
}
