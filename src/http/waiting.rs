//! The answer to a streamed request that waits long: 200 and heartbeats, until the node's stream begins.
//!
//! The status line is held back for `relay.commit_seconds`, so that a refusal in that time keeps its status and SDKs
//! retry. Later errors come in the stream. A heartbeat is not the first byte: another node may still be tried.
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_rt::task::JoinHandle;
use actix_web::web::Bytes;
use futures_util::Stream;
use tokio::time::Sleep;

use super::error::ApiError;
use crate::relay::{Answer, CarryError, Content, WatchedBody};
use protocol::{Dialect, Endpoint, ErrorObject, StreamEditor, message_of};

/// A request on its way to a node.
pub(super) type Carrying = Pin<Box<dyn Future<Output = Result<Answer, CarryError>>>>;

/// A request on its way as a task of its own, because nobody asks a body for more while its client does not read: the
/// slot would be granted, and no node asked. Dropping it cancels the request.
struct Underway(JoinHandle<Result<Answer, CarryError>>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream whose status line was sent before a node began to answer.
pub(super) struct WaitingBody {
    endpoint: Endpoint,
    request_id: String,
    model: String,
    state: State,
    interval: Duration,
    next: Pin<Box<Sleep>>,
}

enum State {
    Waiting(Underway),
    Streaming(Box<WatchedBody>),
    Ended,
}

impl WaitingBody {
    /// Waits for `carrying`, with a heartbeat every `interval`.
    pub(super) fn new(
        endpoint: Endpoint,
        request_id: String,
        model: String,
        carrying: Carrying,
        interval: Duration,
    ) -> Self {
        // The first heartbeat goes out at once, and the status line with it.
        let next = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { endpoint, request_id, model, state: State::Waiting(Underway(actix_rt::spawn(carrying))), interval, next }
    }

    /// A heartbeat that every client of the dialect ignores; `None` for Ollama's, which has no such frame.
    fn keep_alive(&self) -> Option<&'static str> {
        match self.endpoint.dialect() {
            Dialect::OpenAi => Some(": keep-alive\n"),
            Dialect::Anthropic => Some("event: ping\ndata: {\"type\":\"ping\"}\n\n"),
            Dialect::Ollama => None,
        }
    }

    fn error_frame(&self, error: &ErrorObject<'_>) -> String {
        StreamEditor::new(self.endpoint, &self.request_id, false).error_frame(error)
    }

    /// Ends the wait: the stream follows, or the returned frame says why there is none.
    fn arrived(&mut self, result: Result<Answer, CarryError>) -> Option<String> {
        self.state = State::Ended;
        match result {
            Ok(Answer { content: Content::Stream(stream), .. }) => {
                self.state = State::Streaming(stream);
                None
            }
            // A stream was asked for, so an answer that is none is the node's refusal.
            Ok(Answer { content: Content::Plain { body, .. }, .. }) => {
                let message = message_of(&body).unwrap_or_else(|| "The node refused the request.".to_owned());
                let error = ErrorObject { message: &message, kind: "invalid_request_error", param: None, code: None };
                Some(self.error_frame(&error))
            }
            Err(CarryError { mut meter, why }) => {
                let (error, status) = ApiError::not_carried(&why, &self.model);
                meter.because(error.reason());
                // The client has seen 200 by now, whatever the error says.
                meter.finish(status, 200);
                Some(self.error_frame(&error.object()))
            }
        }
    }
}

impl Stream for WaitingBody {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Streaming(stream) => return Pin::new(stream.as_mut()).poll_next(cx),
                State::Waiting(carrying) => match Pin::new(&mut carrying.0).poll(cx) {
                    Poll::Ready(Ok(result)) => {
                        if let Some(frame) = self.arrived(result) {
                            return Poll::Ready(Some(Ok(frame.into())));
                        }
                    }
                    Poll::Ready(Err(_)) => {
                        self.state = State::Ended;
                        let error = ApiError::internal("The request failed inside the gateway.");
                        return Poll::Ready(Some(Ok(self.error_frame(&error.object()).into())));
                    }
                    Poll::Pending => {
                        ready!(self.next.as_mut().poll(cx));
                        let interval = self.interval;
                        self.next = Box::pin(tokio::time::sleep(interval));
                        if let Some(keep_alive) = self.keep_alive() {
                            return Poll::Ready(Some(Ok(Bytes::from_static(keep_alive.as_bytes()))));
                        }
                    }
                },
            }
        }
    }
}
