//! One who listens: what has been made for all, as fast as it is read. Whoever falls behind is let go.
use std::convert::Infallible;
use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::shapes::{EndRecord, event};

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
    use tokio::sync::{Semaphore, broadcast};

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
