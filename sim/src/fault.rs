//! In which ways can a node fail, and which failure comes next?

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// One way to fail a generation or embedding request.
///
/// A `usize` counts body chunks: lines of NDJSON, events of SSE. If the answer has fewer, the fault strikes just
/// before its last chunk. Where the answer is one JSON body (not streamed, or embeddings) the counts do not apply:
/// `HangAfter` hangs before the head, `DieAfter` aborts half-way through the body, `Garbage` is a body that is not
/// JSON, `ErrorAfter` is Ollama's 500, and `EndAfter` leaves out the end reason and the counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The connection is accepted and closed without an answer.
    Refuse,
    /// The request takes its slot, and nothing is ever sent.
    HangBeforeHead,
    /// Nothing more comes after so many chunks, and the connection stays open.
    HangAfter(usize),
    /// The connection closes without the body's terminator after so many chunks; 0 is right after the head.
    DieAfter(usize),
    /// The first chunk is not JSON; the true answer follows.
    Garbage,
    /// A chunk that is not JSON after so many chunks; the rest of the answer follows.
    GarbageAfter(usize),
    /// The answer comes so many times slower. An infinitely fast node is taken to make 1000 tokens per second.
    Slow(f64),
    /// This status with Ollama's own error body, in the route's dialect.
    Status(u16),
    /// An error in the stream, as Ollama reports it: NDJSON an `error` line and a clean end; SSE a chunk with
    /// `"model":""` (OpenAI) or nothing (Responses, Messages), and an end without the terminal marker.
    ErrorAfter(usize),
    /// A clean end without the terminal marker after so many chunks.
    EndAfter(usize),
    /// A full answer that reports no token counts.
    NoUsage,
    /// 307 to this URL.
    Redirect(String),
}

/// The faults that wait for the next requests.
#[derive(Debug, Default)]
pub(crate) struct FaultPlan {
    inner: Mutex<Planned>,
}

#[derive(Debug, Default)]
struct Planned {
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

    /// The fault of the request that has just arrived.
    pub(crate) fn take(&self) -> Option<Fault> {
        let mut planned = self.lock();
        planned.next.pop_front().or_else(|| planned.standing.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Planned> {
        self.inner.lock().expect("no code panics while it holds the fault plan")
    }
}

/// What happens at a point of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Break {
    Hang,
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
            Fault::DieAfter(chunks) => Some((chunks, Break::Die)),
            Fault::Garbage => Some((0, Break::Garbage)),
            Fault::GarbageAfter(chunks) => Some((chunks, Break::Garbage)),
            Fault::ErrorAfter(chunks) => Some((chunks, Break::Error)),
            Fault::EndAfter(chunks) => Some((chunks, Break::End)),
            _ => None,
        }
    }
}
