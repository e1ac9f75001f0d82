//! Does a stream end in time, whatever its node and its client do?
//!
//! The server asks a body for more only while the client takes what it got, so a body cannot watch its own deadline. A
//! task beside it does: at the deadline, or when the request is stopped, it ends the stream where it stands. The slot is
//! free from then on, and the client finds the reason whenever it reads on.
use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_rt::task::JoinHandle;
use bytes::Bytes;
use futures_util::Stream;
use tokio_util::sync::CancellationToken;

use super::metered::{Due, MeteredBody};

/// A stream that ends in time whether it is read or not. Dropping it cancels the request.
pub struct WatchedBody {
    shared: Rc<RefCell<Shared>>,
    watch: JoinHandle<()>,
}

struct Shared {
    body: MeteredBody,
    /// Who waits for the next event, if anybody does.
    reader: Option<Waker>,
}

impl std::fmt::Debug for WatchedBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WatchedBody").finish_non_exhaustive()
    }
}

impl WatchedBody {
    /// Ends `body` after `left`, once its request is stopped, or once `stop` is cancelled.
    pub(super) fn new(body: MeteredBody, left: Duration, stop: CancellationToken) -> Self {
        let stopped = body.stop_token();
        let shared = Rc::new(RefCell::new(Shared { body, reader: None }));
        // Not a strong reference, so that the request is cancelled as soon as the server drops the body.
        let watched = Rc::downgrade(&shared);
        let watch = actix_rt::spawn(async move {
            let due = tokio::select! {
                () = stopped.cancelled() => Due::Stopped,
                () = stop.cancelled() => Due::ShuttingDown,
                () = tokio::time::sleep(left) => Due::TooLong,
            };
            if let Some(shared) = watched.upgrade() {
                let mut shared = shared.borrow_mut();
                shared.body.end(due);
                if let Some(reader) = shared.reader.take() {
                    reader.wake();
                }
            }
        });
        Self { shared, watch }
    }
}

impl Stream for WatchedBody {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = self.shared.borrow_mut();
        let polled = Pin::new(&mut shared.body).poll_next(cx);
        shared.reader = polled.is_pending().then(|| cx.waker().clone());
        polled
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
