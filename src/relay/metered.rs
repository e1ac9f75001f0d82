//! How does a stream reach the client? Passes a node's events on as they come, and settles its account at the end.
//!
//! States: passing (the node is still sending) → holding (the terminal frame has come and is held back until the usage
//! row is safe) → closing (the terminal frame has passed; the connection is read to its end, so that it can be reused)
//! → ended. A failure leads straight to the end, with an error frame in place of the terminal one; the HTTP body itself
//! ends properly. The slot is freed and the row handed in as soon as the terminal frame has come.
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::case::Case;
use super::meter::Meter;
use super::open_requests::Stopped;
use crate::clock::Clock;
use crate::dispatch::{Interruption, Ticket};
use crate::fleet::{Asked, AttemptError, Evidence, NodeAnswer, Verdict, cut_short, judge};
use crate::store::{Reason, Status, StorageFull};
use protocol::{ClaimBounds, Endpoint, ErrorObject, StreamEditor, StreamFault};
use scheduler::{Blame, Failure, NodeId, Outcome};

/// How often an idle stream checks its deadlines, which are only as precise as this.
const WATCH: Duration = Duration::from_secs(1);

const UNRECORDED: ErrorObject<'_> = ErrorObject {
    message: "The answer is complete but could not be accounted for, so its end is held back. Please try again in 5s.",
    kind: "server_error",
    param: None,
    code: Some("storage_unavailable"),
};

/// A stream whose first events have come.
pub(super) struct OpenStream {
    pub(super) response: NodeAnswer,
    pub(super) editor: StreamEditor,
    /// The first bytes for the client.
    pub(super) first: Vec<u8>,
}

/// How long a stream may be silent.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) clock: Clock,
    pub(super) gap: Duration,
}

/// A stream's request, and the node it comes from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: NodeId,
    pub(super) case: Case,
    pub(super) model: Arc<str>,
    pub(super) endpoint: Endpoint,
    pub(super) is_ollama: bool,
}

/// The stream of a running request. Dropping it cancels the request: the connection to the node is closed and the slot
/// freed.
pub(super) struct MeteredBody {
    response: Option<NodeAnswer>,
    editor: StreamEditor,
    /// What the client gets before anything else.
    first: Vec<u8>,
    ticket: Ticket,
    source: Source,
    meter: Option<Meter>,
    claim_bounds: ClaimBounds,
    held: Option<Held>,
    patience: Patience,
    heard: Duration,
    /// When the scheduler was last told about the progress.
    told: Duration,
    watch: Pin<Box<Sleep>>,
}

/// The end of an answer, held back until its row is stored.
struct Held {
    terminal: Vec<u8>,
    kept: Pin<Box<dyn Future<Output = Result<(), StorageFull>>>>,
}

impl std::fmt::Debug for MeteredBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MeteredBody").finish_non_exhaustive()
    }
}

impl MeteredBody {
    pub(super) fn new(
        stream: OpenStream,
        ticket: Ticket,
        mut meter: Meter,
        patience: Patience,
        source: Source,
    ) -> Self {
        meter.progress(stream.editor.progress());
        let now = patience.clock.uptime();
        let mut body = Self {
            response: Some(stream.response),
            editor: stream.editor,
            first: stream.first,
            ticket,
            source,
            claim_bounds: meter.claim_bounds(),
            meter: Some(meter),
            held: None,
            heard: now,
            told: now,
            patience,
            watch: Box::pin(tokio::time::sleep(WATCH)),
        };
        if body.tokens() > 1 {
            // What came together with the first token was written before it, and must not count as written since.
            body.ticket.progress(body.tokens());
        }
        let mut first = std::mem::take(&mut body.first);
        body.settle_if_done(&mut first);
        body.first = first;
        body
    }

    /// Tokens of the answer so far: as the node reports them, within their bounds, or else as counted.
    fn tokens(&self) -> u64 {
        self.claim_bounds.tally(&self.editor.progress()).completion
    }

    /// About once a second: the scheduler learns speeds from this, and takes a node without tokens for dead.
    fn tell_progress(&mut self) {
        if self.meter.is_some() && self.heard >= self.told + WATCH {
            self.told = self.heard;
            self.ticket.progress(self.tokens());
        }
    }

    /// Settles at the terminal frame, which is held back until the row is stored; `out` is what was just pushed.
    fn settle_if_done(&mut self, out: &mut Vec<u8>) {
        if self.editor.progress().done
            && let Some(mut meter) = self.meter.take()
        {
            self.ticket.leave(Outcome::Completed, Some(self.tokens()), self.editor.progress().usage);
            self.source.case.answered();
            if self.editor.is_cut() {
                // Closes the connection, so that the node stops.
                self.response = None;
            }
            if let Some(receipt) = meter.finish(Status::Completed, 200) {
                let terminal = self.editor.split_terminal(out);
                self.held = Some(Held { terminal, kept: Box::pin(meter.kept(receipt)) });
            }
        }
    }

    /// The terminal frame once the row is stored, or an error frame if it could not be.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Vec<u8>> {
        let Some(held) = &mut self.held else { return Poll::Ready(Vec::new()) };
        let kept = ready!(held.kept.as_mut().poll(cx));
        let terminal = self.held.take().map(|held| held.terminal).unwrap_or_default();
        Poll::Ready(match kept {
            Ok(()) => terminal,
            Err(_) => {
                self.response = None;
                self.editor.error_frame(&UNRECORDED).into_bytes()
            }
        })
    }

    /// Takes what the node sends next, or checks the deadlines while it sends nothing.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Polled> {
        let Some(response) = &mut self.response else { return Poll::Ready(Polled::Ended) };
        let closing = self.meter.is_none();
        if !closing
            && let Poll::Ready(Interruption::Abandoned | Interruption::Refused(_)) = self.ticket.poll_interrupted(cx)
        {
            let detail = "no token for far longer than expected".to_owned();
            return Poll::Ready(Polled::Failed(Vec::new(), Ending::node(Failure::Silent, detail)));
        }
        Poll::Ready(match Pin::new(response).poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) if !closing => self.take(chunk),
            Poll::Ready(Some(Ok(_))) => Polled::Passed(Vec::new()),
            Poll::Ready(_) if closing => Polled::Ended,
            Poll::Ready(Some(Err(error))) => Polled::Failed(Vec::new(), Ending::Node(cut_short(&error))),
            Poll::Ready(None) => {
                let mut out = Vec::new();
                if self.editor.end(&mut out) {
                    // The node broke off because the model repeated itself.
                    self.response = None;
                    self.settle_if_done(&mut out);
                    return Poll::Ready(Polled::Passed(out));
                }
                let detail = "the stream ended without its terminal frame".to_owned();
                Polled::Failed(Vec::new(), Ending::node(Failure::Garbled, detail))
            }
            Poll::Pending => {
                ready!(self.watch.as_mut().poll(cx));
                self.watch = Box::pin(tokio::time::sleep(WATCH));
                match self.overdue() {
                    // If the connection stays open after the terminal frame, it is not worth waiting for.
                    _ if closing => Polled::Ended,
                    Some(ending) => Polled::Failed(Vec::new(), ending),
                    None => Polled::Passed(Vec::new()),
                }
            }
        })
    }

    /// Takes a part of the node's stream.
    fn take(&mut self, chunk: Bytes) -> Polled {
        self.heard = self.patience.clock.uptime();
        let mut out = Vec::with_capacity(chunk.len() + 64);
        let pushed = self.editor.push(chunk, &mut out);
        let spent = self.patience.clock.uptime().saturating_sub(self.heard);
        if let Some(meter) = &mut self.meter {
            meter.forwarded(spent);
            meter.progress(self.editor.progress());
        }
        self.tell_progress();
        self.settle_if_done(&mut out);
        match pushed {
            Ok(()) => Polled::Passed(out),
            Err(StreamFault::Garbled(detail)) => Polled::Failed(out, Ending::node(Failure::Garbled, detail)),
            Err(StreamFault::Node(detail)) => Polled::Failed(out, self.reported(detail)),
        }
    }

    /// The node reports an error in the stream; the request may be at fault.
    fn reported(&self, detail: String) -> Ending {
        let Source { model, endpoint, is_ollama, .. } = &self.source;
        let asked = Asked { dialect: endpoint.dialect(), model, is_ollama: *is_ollama };
        match judge(asked, Evidence::Message(&detail)) {
            Verdict::Request { .. } => Ending::Mistaken(detail),
            Verdict::Attempt(failure) => Ending::node(failure, detail),
        }
    }

    fn overdue(&self) -> Option<Ending> {
        let now = self.patience.clock.uptime();
        let silent = now.saturating_sub(self.heard) >= self.patience.gap;
        silent.then(|| Ending::node(Failure::TimedOut, format!("silent for {} s", self.patience.gap.as_secs())))
    }

    /// Cancelled when the request must end: somebody stopped it, or its key was revoked.
    pub(super) fn stop_token(&self) -> CancellationToken {
        self.meter.as_ref().map(Meter::stop_token).unwrap_or_default()
    }

    /// Ends the stream where it stands, read or not; the error frame follows what the client has not read yet.
    pub(super) fn end(&mut self, due: Due) {
        let Some(meter) = &self.meter else {
            // Everything is settled, and the rest of the connection is not worth waiting for.
            self.response = None;
            return;
        };
        let ending = match due {
            Due::Stopped => meter.stopped().map_or(Ending::Revoked, |stopped| Ending::StoppedBy(stopped.message())),
            Due::ShuttingDown => Ending::Stopped,
            Due::TooLong => Ending::TooLong,
        };
        let frame = self.fail(ending);
        self.first.extend_from_slice(frame.as_bytes());
    }

    /// Ends the stream early; returns the frame that tells the client.
    fn fail(&mut self, ending: Ending) -> String {
        self.response = None;
        let (status, outcome, error) = ending.verdict();
        if let Some(mut meter) = self.meter.take() {
            if let Ending::Node(AttemptError { failure, detail }) = &ending {
                meter.attempt_failed(*failure);
                if failure.blame() == Blame::Undecided {
                    self.source.case.failed(self.source.id, self.patience.clock.uptime());
                }
                tracing::warn!(?failure, detail, "a node's stream broke after its first byte");
            }
            self.ticket.leave(outcome, Some(self.tokens()), None);
            meter.because(Reason::of_code(error.code));
            meter.finish(status, 200);
        }
        self.editor.error_frame(&error)
    }
}

/// Why a stream must end, whatever its node and its client do.
pub(super) enum Due {
    Stopped,
    ShuttingDown,
    TooLong,
}

/// The result of one look at the node.
enum Polled {
    /// Events for the client, possibly none.
    Passed(Vec<u8>),
    /// Events for the client, followed by an error frame.
    Failed(Vec<u8>, Ending),
    /// Nothing more comes.
    Ended,
}

/// Why a stream ends without its terminal frame.
enum Ending {
    Node(AttemptError),
    /// The node says that the request is at fault.
    Mistaken(String),
    TooLong,
    Stopped,
    Revoked,
    /// Somebody stopped it, with this message.
    StoppedBy(String),
}

impl Ending {
    fn node(failure: Failure, detail: String) -> Self {
        Self::Node(AttemptError::new(failure, detail))
    }

    fn verdict(&self) -> (Status, Outcome, ErrorObject<'_>) {
        let kind = match self {
            Self::Revoked => "authentication_error",
            Self::StoppedBy(_) => "permission_error",
            Self::Mistaken(_) => "invalid_request_error",
            _ => "server_error",
        };
        let (status, outcome, message, code) = match self {
            Self::Node(error) => (
                Status::UpstreamError,
                Outcome::Failed(error.failure),
                "The node failed in the middle of the answer, which is incomplete. Please send the request again.",
                "upstream_error",
            ),
            Self::Mistaken(message) => (Status::UpstreamError, Outcome::Rejected, message.as_str(), "invalid_request"),
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
            Self::StoppedBy(message) => (Status::Cancelled, Outcome::Cancelled, message.as_str(), Stopped::CODE),
            Self::Revoked => (
                Status::Cancelled,
                Outcome::Cancelled,
                "The API key of this request was revoked; the answer is incomplete.",
                "invalid_api_key",
            ),
        };
        (status, outcome, ErrorObject { message, kind, param: None, code: Some(code) })
    }
}

impl Stream for MeteredBody {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ticket.is_taking(true);
        let polled = self.poll_frames(cx);
        // Until it is polled again, the client is not reading.
        self.ticket.is_taking(!matches!(polled, Poll::Ready(Some(_))));
        polled
    }
}

impl MeteredBody {
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first).into())));
        }
        loop {
            let terminal = ready!(self.poll_held(cx));
            if !terminal.is_empty() {
                return Poll::Ready(Some(Ok(terminal.into())));
            }
            match ready!(self.poll_step(cx)) {
                Polled::Passed(out) if out.is_empty() => {}
                Polled::Passed(out) => return Poll::Ready(Some(Ok(out.into()))),
                Polled::Failed(mut out, ending) => {
                    out.extend_from_slice(self.fail(ending).as_bytes());
                    return Poll::Ready(Some(Ok(out.into())));
                }
                Polled::Ended => {
                    self.response = None;
                    return Poll::Ready(None);
                }
            }
        }
    }
}
