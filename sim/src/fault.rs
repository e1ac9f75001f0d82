//! In which ways can a node fail, and which failure comes next?

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::claim::UsageClaim;

/// One way to fail a generation or embedding request.
///
/// A `usize` counts body chunks: lines of NDJSON, events of SSE. If the answer has fewer, the fault strikes just
/// before its last chunk. Where the answer is one JSON body (not streamed, or embeddings) the counts do not apply:
/// `HangAfter` hangs before the head, `PauseAfter` pauses there, `DieAfter` aborts half-way through the body, `Garbage`
/// is a body that is not JSON, `ErrorAfter` is Ollama's 500, and `EndAfter` leaves out the end reason and the counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The connection is accepted and closed without an answer.
    Refuse,
    /// The request takes its slot, and nothing is ever sent.
    HangBeforeHead,
    /// Nothing more comes after so many chunks, and the connection stays open.
    HangAfter(usize),
    /// Nothing comes for so long after so many chunks; the rest of the answer follows.
    PauseAfter(usize, Duration),
    /// The connection closes without the body's terminator after so many chunks; 0 is right after the head.
    DieAfter(usize),
    /// The first chunk is not JSON; the true answer follows.
    Garbage,
    /// A chunk that is not JSON after so many chunks; the rest of the answer follows.
    GarbageAfter(usize),
    /// The answer comes so many times slower. An infinitely fast node is taken to make 1000 tokens per second.
    Slow(f64),
    /// This status with the server's own error body, in the route's dialect.
    Status(u16),
    /// An error in the stream, as Ollama reports it: NDJSON an `error` line and a clean end; SSE a chunk with
    /// `"model":""` (OpenAI) or nothing (Responses, Messages), and an end without the terminal marker. Other servers
    /// send an `error` event.
    ErrorAfter(usize),
    /// A clean end without the terminal marker after so many chunks.
    EndAfter(usize),
    /// A full answer that reports no token counts.
    NoUsage,
    /// A full answer that reports other token counts than the true ones.
    Usage(UsageClaim),
    /// The text of the answer comes in one chunk of so many bytes, a quarter as many tokens.
    OneChunk {
        /// The length of the text.
        bytes: usize,
        /// Whether the answer tells the token counts.
        reports_usage: bool,
    },
    /// 307 to this URL.
    Redirect(String),
}

/// The faults that wait for the next requests.
#[derive(Debug, Default)]
pub(crate) struct FaultPlan {
    inner: Mutex<PlannedFaults>,
}

#[derive(Debug, Default)]
struct PlannedFaults {
    poisons: Vec<(String, Fault)>,
    next: VecDeque<Fault>,
    standing: Option<Fault>,
}

impl FaultPlan {
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.lock().standing = fault;
    }

    pub(crate) fn push(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().next.extend(faults);
    }

    pub(crate) fn poison(&self, marker: &str, fault: Fault) {
        self.lock().poisons.push((marker.to_owned(), fault));
    }

    /// The fault of the request with this body, which has just arrived. A poisonous body leaves the faults planned for
    /// the next requests to those.
    pub(crate) fn take(&self, body: &[u8]) -> Option<Fault> {
        let mut planned = self.lock();
        if !planned.poisons.is_empty() {
            let body = String::from_utf8_lossy(body);
            if let Some((_, fault)) = planned.poisons.iter().find(|(marker, _)| body.contains(marker)) {
                return Some(fault.clone());
            }
        }
        planned.next.pop_front().or_else(|| planned.standing.clone())
    }

    fn lock(&self) -> MutexGuard<'_, PlannedFaults> {
        self.inner.lock().expect("no code panics while it holds the fault plan")
    }
}

/// What happens at a point of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Break {
    Hang,
    Pause(Duration),
    Die,
    Garbage,
    Error,
    End,
}

impl Fault {
    /// For the faults that strike inside an answer: after how many chunks, and how.
    pub(crate) fn in_stream(&self) -> Option<(usize, Break)> {
        match *self {
            Fault::HangAfter(chunks) => Some((chunks, Break::Hang)),
            Fault::PauseAfter(chunks, pause) => Some((chunks, Break::Pause(pause))),
            Fault::DieAfter(chunks) => Some((chunks, Break::Die)),
            Fault::Garbage => Some((0, Break::Garbage)),
            Fault::GarbageAfter(chunks) => Some((chunks, Break::Garbage)),
            Fault::ErrorAfter(chunks) => Some((chunks, Break::Error)),
            Fault::EndAfter(chunks) => Some((chunks, Break::End)),
            _ => None,
        }
    }

    /// Whether the answer keeps its token counts to itself.
    pub(crate) fn hides_usage(&self) -> bool {
        matches!(self, Fault::NoUsage | Fault::OneChunk { reports_usage: false, .. })
    }

    /// What the answer says its token counts are.
    pub(crate) fn usage_claim(&self) -> Option<&UsageClaim> {
        if let Fault::Usage(claim) = self { Some(claim) } else { None }
    }

    /// Whether the answer is complete, but not as it should be.
    pub(crate) fn distorts(&self) -> bool {
        matches!(self, Fault::NoUsage | Fault::Usage(_) | Fault::OneChunk { .. })
    }
}
