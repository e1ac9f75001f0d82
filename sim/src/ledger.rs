//! What has the node seen and done? The log of requests and the counters behind [`SimStats`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderValue;
use bytes::Bytes;

use crate::clock;

/// How many requests the log keeps.
const LOG_LIMIT: usize = 10_000;

/// What became of a request so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered in full yet.
    Running,
    /// Answered in full, possibly with an error that was the request's own fault.
    Completed,
    /// The client left before the end.
    Cancelled,
    /// A planned [`Fault`](crate::Fault) struck it.
    Faulted,
}

/// A request as it arrived, and what became of it. Probes are not logged: `/`, `/api/version`, `/api/tags`, `/api/ps`,
/// `/api/status`, and the pages of servers other than Ollama.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The path without the query.
    pub path: String,
    /// All headers in order of arrival, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as received.
    pub body: Bytes,
    /// The `x-request-id` header.
    pub request_id: Option<String>,
    /// Tokens made so far, thinking included.
    pub tokens_generated: u64,
    /// Tokens of the prompt; 0 until it is parsed.
    pub prompt_tokens: u64,
    /// Whether its model was in memory with the options it needs when it arrived, so that it waited for no load; `None`
    /// until the node has looked.
    pub found_loaded: Option<bool>,
    /// When it arrived.
    pub arrived: Instant,
    /// When it ended, however it ended.
    pub ended: Option<Instant>,
    /// What became of it.
    pub outcome: Outcome,
}

impl SeenRequest {
    pub(crate) fn new(request: &HttpRequest, body: Bytes) -> Self {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = request.headers().iter();
        Self {
            path: request.path().to_owned(),
            headers: headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
            body,
            request_id: request.headers().get("x-request-id").map(text),
            tokens_generated: 0,
            prompt_tokens: 0,
            found_loaded: None,
            arrived: clock::now().into_std(),
            ended: None,
            outcome: Outcome::Running,
        }
    }
}

/// A snapshot of the node's counters. Only generation and embedding requests are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Requests at the node now, waiting or running.
    pub in_flight: usize,
    /// The highest `in_flight` so far.
    pub peak_in_flight: usize,
    /// Requests that are waiting for a load or a slot; `in_flight` includes them.
    pub queued: usize,
    /// Requests answered in full.
    pub completed: u64,
    /// Requests whose client left before the end.
    pub cancelled: u64,
    /// Completed loads.
    pub loads: u64,
    /// Models unloaded to make room for another.
    pub evictions: u64,
    /// Models unloaded because a request needed the same one with other options.
    pub reloads: u64,
    /// Names of the loaded models, in order.
    pub loaded: Vec<String>,
}

/// The log and the request counters of a node.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    inner: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    log: VecDeque<SeenRequest>,
    forgotten: u64,
    in_flight: usize,
    peak_in_flight: usize,
    queued: usize,
    completed: u64,
    cancelled: u64,
}

impl Ledger {
    pub(crate) fn requests(&self) -> Vec<SeenRequest> {
        self.lock().log.iter().cloned().collect()
    }

    /// The request counters; the engine fills in the rest.
    pub(crate) fn stats(&self) -> SimStats {
        let book = self.lock();
        SimStats {
            in_flight: book.in_flight,
            peak_in_flight: book.peak_in_flight,
            queued: book.queued,
            completed: book.completed,
            cancelled: book.cancelled,
            ..SimStats::default()
        }
    }

    /// Logs a request that is answered at once.
    pub(crate) fn note(&self, mut seen: SeenRequest) {
        seen.outcome = Outcome::Completed;
        seen.ended = Some(seen.arrived);
        self.lock().push(seen);
    }

    /// Logs a generation or embedding request, which the visit follows to its end.
    pub(crate) fn enter(self: &Arc<Self>, seen: SeenRequest) -> Visit {
        let mut book = self.lock();
        book.in_flight += 1;
        book.peak_in_flight = book.peak_in_flight.max(book.in_flight);
        let number = book.push(seen);
        drop(book);
        Visit { ledger: Arc::clone(self), number, queued: false, ended: false }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.inner.lock().expect("no code panics while it holds the ledger")
    }
}

impl Book {
    fn push(&mut self, seen: SeenRequest) -> u64 {
        if self.log.len() == LOG_LIMIT {
            self.log.pop_front();
            self.forgotten += 1;
        }
        self.log.push_back(seen);
        self.forgotten + self.log.len() as u64 - 1
    }

    fn entry(&mut self, number: u64) -> Option<&mut SeenRequest> {
        let index = number.checked_sub(self.forgotten)?;
        self.log.get_mut(usize::try_from(index).ok()?)
    }
}

/// One request at the node. If it is dropped before its end, it counts as cancelled: that is how a client that hangs up
/// looks from inside a handler.
#[derive(Debug)]
pub(crate) struct Visit {
    ledger: Arc<Ledger>,
    number: u64,
    queued: bool,
    ended: bool,
}

impl Visit {
    pub(crate) fn set_queued(&mut self, queued: bool) {
        if self.queued == queued {
            return;
        }
        self.queued = queued;
        let mut book = self.ledger.lock();
        if queued {
            book.queued += 1;
        } else {
            book.queued -= 1;
        }
    }

    pub(crate) fn set_prompt_tokens(&self, tokens: u64) {
        if let Some(seen) = self.ledger.lock().entry(self.number) {
            seen.prompt_tokens = tokens;
        }
    }

    pub(crate) fn set_found_loaded(&self, found: bool) {
        if let Some(seen) = self.ledger.lock().entry(self.number) {
            seen.found_loaded = Some(found);
        }
    }

    pub(crate) fn add_generated(&self, tokens: u64) {
        if let Some(seen) = self.ledger.lock().entry(self.number) {
            seen.tokens_generated += tokens;
        }
    }

    /// The request was answered in full.
    pub(crate) fn complete(&mut self) {
        if self.end(Outcome::Completed) {
            self.ledger.lock().completed += 1;
        }
    }

    /// The request was answered with an error that was its own fault.
    pub(crate) fn reject(&mut self) {
        self.end(Outcome::Completed);
    }

    /// Marks the request as struck by a fault; it is in flight until it ends or its client leaves.
    pub(crate) fn fault(&self) {
        if let Some(seen) = self.ledger.lock().entry(self.number) {
            seen.outcome = Outcome::Faulted;
        }
    }

    /// Ends the visit unless it has ended before. Returns whether it ended now without a fault: a fault stays the
    /// outcome, no matter who hung up first.
    fn end(&mut self, outcome: Outcome) -> bool {
        if self.ended {
            return false;
        }
        self.ended = true;
        self.set_queued(false);
        let mut book = self.ledger.lock();
        book.in_flight -= 1;
        if let Some(seen) = book.entry(self.number) {
            seen.ended = Some(clock::now().into_std());
        }
        match book.entry(self.number) {
            Some(seen) if seen.outcome == Outcome::Faulted => false,
            Some(seen) => {
                seen.outcome = outcome;
                true
            }
            None => true,
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.end(Outcome::Cancelled) {
            self.ledger.lock().cancelled += 1;
        }
    }
}
