//! The body of a stream: passes a node's events on as they come, and accounts for itself at its end.
//!
//! States: passing (the node still talks) → closing (the terminal frame has passed; the connection is read to its end, so
//! that it can be used again) → ended. A failure goes straight to the end, with an error frame in place of the terminal
//! one; the HTTP body itself ends properly. The slot is free and the row handed in as soon as the terminal frame is here.
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use awc::ClientResponse;
use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::dispatcher::Ticket;
use super::meter::Meter;
use super::upstream::{AttemptError, cut_short};
use crate::clock::Clock;
use crate::protocol::{ErrorObject, StreamEditor, StreamFault};
use crate::scheduler::{Failure, Outcome};
use crate::store::Status;

/// How often an idle stream looks at its deadlines; they are exact to this.
const WATCH: Duration = Duration::from_secs(1);

/// A stream whose first events are here.
pub(super) struct OpenStream {
    pub(super) response: ClientResponse,
    pub(super) editor: StreamEditor,
    /// What the client gets first.
    pub(super) first: Vec<u8>,
}

/// How long a stream may be silent, and how long it may last.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) clock: Clock,
    pub(super) gap: Duration,
    /// Uptime by which it must have ended.
    pub(super) until: Duration,
    /// The gateway stops, and the grace period is over.
    pub(super) stop: CancellationToken,
}

/// The stream of a running request. Dropping it cancels the request: the node's connection closes, the slot is free.
pub struct MeteredBody {
    response: Option<ClientResponse>,
    editor: StreamEditor,
    first: Vec<u8>,
    ticket: Ticket,
    meter: Option<Meter>,
    patience: Patience,
    heard: Duration,
    watch: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for MeteredBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MeteredBody").finish_non_exhaustive()
    }
}

impl MeteredBody {
    pub(super) fn new(stream: OpenStream, ticket: Ticket, mut meter: Meter, patience: Patience) -> Self {
        meter.progress(stream.editor.progress());
        let mut body = Self {
            response: Some(stream.response),
            editor: stream.editor,
            first: stream.first,
            ticket,
            meter: Some(meter),
            heard: patience.clock.uptime(),
            patience,
            watch: Box::pin(tokio::time::sleep(WATCH)),
        };
        body.settle_if_done();
        body
    }

    fn settle_if_done(&mut self) {
        if self.editor.progress().done
            && let Some(meter) = self.meter.take()
        {
            self.ticket.leave(Outcome::Completed);
            meter.finish(Status::Completed, 200);
        }
    }

    /// Looks at what the node sends next, or at the deadlines while it sends nothing.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let Some(response) = &mut self.response else { return Poll::Ready(Step::Ended) };
        let closing = self.meter.is_none();
        Poll::Ready(match Pin::new(response).poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) if !closing => self.take(chunk),
            Poll::Ready(Some(Ok(_))) => Step::Passed(Vec::new()),
            Poll::Ready(_) if closing => Step::Ended,
            Poll::Ready(Some(Err(error))) => Step::Failed(Vec::new(), Ending::Node(cut_short(&error))),
            Poll::Ready(None) => {
                let detail = "the stream ended without its terminal frame".to_owned();
                Step::Failed(Vec::new(), Ending::node(Failure::Garbled, detail))
            }
            Poll::Pending => {
                ready!(self.watch.as_mut().poll(cx));
                self.watch = Box::pin(tokio::time::sleep(WATCH));
                match self.overdue() {
                    // A connection that stays open behind the terminal frame is not worth waiting for.
                    _ if closing => Step::Ended,
                    Some(ending) => Step::Failed(Vec::new(), ending),
                    None => Step::Passed(Vec::new()),
                }
            }
        })
    }

    /// Takes a part of the node's stream.
    fn take(&mut self, chunk: Bytes) -> Step {
        self.heard = self.patience.clock.uptime();
        let mut out = Vec::with_capacity(chunk.len() + 64);
        let pushed = self.editor.push(chunk, &mut out);
        let spent = self.patience.clock.uptime().saturating_sub(self.heard);
        if let Some(meter) = &mut self.meter {
            meter.forwarded(spent);
            meter.progress(self.editor.progress());
        }
        self.settle_if_done();
        match pushed {
            Ok(()) => Step::Passed(out),
            Err(StreamFault::Garbled(detail)) => Step::Failed(out, Ending::node(Failure::Garbled, detail)),
            Err(StreamFault::Node(detail)) => Step::Failed(out, Ending::node(Failure::Crashed, detail)),
        }
    }

    fn overdue(&self) -> Option<Ending> {
        let now = self.patience.clock.uptime();
        if self.patience.stop.is_cancelled() {
            return Some(Ending::Stopped);
        }
        if now >= self.patience.until {
            return Some(Ending::TooLong);
        }
        let silent = now.saturating_sub(self.heard) >= self.patience.gap;
        silent.then(|| Ending::node(Failure::TimedOut, format!("silent for {} s", self.patience.gap.as_secs())))
    }

    /// Ends the stream before its time; the frame that says so to the client.
    fn fail(&mut self, ending: Ending) -> String {
        self.response = None;
        let (status, outcome, error) = ending.verdict();
        if let Some(mut meter) = self.meter.take() {
            if let Ending::Node(AttemptError { failure, detail }) = &ending {
                meter.attempt_ended(failure.label());
                tracing::warn!(?failure, detail, "a node's stream broke after its first byte");
            }
            self.ticket.leave(outcome);
            meter.finish(status, 200);
        }
        self.editor.error_frame(&error)
    }
}

/// What became of one look at the node.
enum Step {
    /// Events for the client, perhaps none.
    Passed(Vec<u8>),
    /// Events for the client, and then an error frame.
    Failed(Vec<u8>, Ending),
    /// Nothing more comes.
    Ended,
}

/// Why a stream ends without the terminal frame.
enum Ending {
    Node(AttemptError),
    TooLong,
    Stopped,
}

impl Ending {
    fn node(failure: Failure, detail: String) -> Self {
        Self::Node(AttemptError::new(failure, detail))
    }

    fn verdict(&self) -> (Status, Outcome, ErrorObject<'static>) {
        let (status, outcome, message, code) = match self {
            Self::Node(error) => (
                Status::UpstreamError,
                Outcome::Failed(error.failure),
                "The node failed in the middle of the answer, which is incomplete. Please send the request again.",
                "upstream_error",
            ),
            Self::TooLong => (
                Status::Deadline,
                Outcome::Cancelled,
                "The answer took longer than this service allows and is incomplete.",
                "timeout",
            ),
            Self::Stopped => (
                Status::Interrupted,
                Outcome::Cancelled,
                "The service is shutting down; the answer is incomplete. Please send the request again.",
                "server_shutting_down",
            ),
        };
        (status, outcome, ErrorObject { message, kind: "server_error", param: None, code: Some(code) })
    }
}

impl Stream for MeteredBody {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first).into())));
        }
        loop {
            match ready!(self.poll_step(cx)) {
                Step::Passed(out) if out.is_empty() => {}
                Step::Passed(out) => return Poll::Ready(Some(Ok(out.into()))),
                Step::Failed(mut out, ending) => {
                    out.extend_from_slice(self.fail(ending).as_bytes());
                    return Poll::Ready(Some(Ok(out.into())));
                }
                Step::Ended => {
                    self.response = None;
                    return Poll::Ready(None);
                }
            }
        }
    }
}
