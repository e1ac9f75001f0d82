//! In which ways can a node fail, halt or lie, and which failure comes next?

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::watch;

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
    /// Nothing more comes after this many chunks, and the connection stays open.
    HangAfter(usize),
    /// After this many chunks nothing comes for this time; then the rest of the answer follows.
    PauseAfter(usize, Duration),
    /// The connection closes without the body's terminator after this many chunks; 0 means right after the head.
    DieAfter(usize),
    /// The first chunk is not JSON; the true answer follows.
    Garbage,
    /// After this many chunks comes one that is not JSON; the rest of the answer follows.
    GarbageAfter(usize),
    /// The answer is this many times slower. An infinitely fast node is taken to make 1000 tokens per second.
    Slow(f64),
    /// This status with the server's own error body, in the route's dialect.
    Status(u16),
    /// An error in the stream, as Ollama reports it: NDJSON an `error` line and a clean end; SSE a chunk with
    /// `"model":""` (OpenAI) or nothing (Responses, Messages), and an end without the terminal marker. Other servers
    /// send an `error` event.
    ErrorAfter(usize),
    /// A clean end without the terminal marker after this many chunks.
    EndAfter(usize),
    /// A full answer that reports no token counts.
    NoUsage,
    /// A full answer that reports false token counts.
    Usage(UsageClaim),
    /// The text of the answer comes in one chunk of `bytes` bytes, and has a quarter as many tokens.
    OneChunk {
        /// The length of the text.
        bytes: usize,
        /// Whether the answer reports its token counts.
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

    /// The fault for the request with this body, which has just arrived. A poisonous body does not use up the faults
    /// planned for the next requests.
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

    /// Whether the answer does not report its token counts.
    pub(crate) fn hides_usage(&self) -> bool {
        matches!(self, Fault::NoUsage | Fault::OneChunk { reports_usage: false, .. })
    }

    /// The false token counts that the answer reports, if it does.
    pub(crate) fn usage_claim(&self) -> Option<&UsageClaim> {
        if let Fault::Usage(claim) = self { Some(claim) } else { None }
    }

    /// Whether the answer is complete, but not as it should be.
    pub(crate) fn distorts(&self) -> bool {
        matches!(self, Fault::NoUsage | Fault::Usage(_) | Fault::OneChunk { .. })
    }
}

/// The switches that halt parts of a node.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// The whole process is stopped: nothing is read, loaded, made or answered.
    pub(crate) frozen: Switch,
    /// Only generation and embedding are halted.
    pub(crate) silent: Switch,
    /// `/api/version`, `/api/tags` and `/api/ps` do not answer.
    pub(crate) probes_frozen: Switch,
}

/// A switch that can be waited for.
#[derive(Debug, Default)]
pub(crate) struct Switch(watch::Sender<bool>);

impl Switch {
    pub(crate) fn set(&self, on: bool) {
        self.0.send_replace(on);
    }

    /// Waits while it is on.
    pub(crate) async fn until_off(&self) {
        if *self.0.borrow() {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = self.0.subscribe().wait_for(|on| !on).await;
        }
    }
}

impl Pauses {
    /// Waits while no token can be made.
    pub(crate) async fn until_generating(&self) {
        self.frozen.until_off().await;
        self.silent.until_off().await;
    }
}

/// The names that routes use for the prompt's tokens.
const PROMPT_NAMES: [&str; 4] = ["prompt_tokens", "input_tokens", "prompt_eval_count", "prompt_n"];
/// The names that routes use for the answer's tokens.
const COMPLETION_NAMES: [&str; 4] = ["completion_tokens", "output_tokens", "eval_count", "predicted_n"];
/// By how much the count under the second name differs.
const DIFFERENCE: u64 = 1000;

/// What an answer says about its token counts instead of the truth.
#[derive(Clone, Debug, PartialEq)]
pub enum UsageClaim {
    /// These values, whether they are numbers or not.
    Counts {
        /// Reported as the prompt's tokens.
        prompt: Value,
        /// Reported as the answer's tokens.
        completion: Value,
    },
    /// Nothing about the prompt.
    WithoutPrompt,
    /// Nothing about the answer.
    WithoutCompletion,
    /// The true counts, and counts that are 1000 higher under the names of another dialect.
    Doubled,
}

impl UsageClaim {
    /// Writes the claim into one chunk of an answer: a JSON body, a line of NDJSON or an event of SSE.
    pub(crate) fn write(&self, chunk: &Bytes) -> Bytes {
        let Ok(text) = std::str::from_utf8(chunk) else { return chunk.clone() };
        let lines = text.split('\n').map(|line| {
            let (mark, data) = line.split_at(if line.starts_with("data: ") { "data: ".len() } else { 0 });
            match serde_json::from_str::<Value>(data) {
                Ok(mut value) => {
                    self.edit(&mut value);
                    format!("{mark}{value}")
                }
                Err(_) => line.to_owned(),
            }
        });
        Bytes::from(lines.collect::<Vec<_>>().join("\n"))
    }

    fn edit(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(|value| self.edit(value));
                self.edit_counts(fields, &PROMPT_NAMES);
                self.edit_counts(fields, &COMPLETION_NAMES);
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.edit(value)),
            _ => {}
        }
    }

    fn edit_counts(&self, fields: &mut Map<String, Value>, names: &[&str; 4]) {
        let is_prompt = names == &PROMPT_NAMES;
        for name in names {
            let Some(count) = fields.get(*name).and_then(Value::as_u64) else { continue };
            match self {
                UsageClaim::Counts { prompt, completion } => {
                    let claimed = if is_prompt { prompt } else { completion };
                    fields.insert((*name).to_owned(), claimed.clone());
                }
                UsageClaim::WithoutPrompt if is_prompt => drop(fields.remove(*name)),
                UsageClaim::WithoutCompletion if !is_prompt => drop(fields.remove(*name)),
                UsageClaim::Doubled => {
                    let other = if *name == names[1] { names[0] } else { names[1] };
                    fields.insert(other.to_owned(), Value::from(count + DIFFERENCE));
                    return;
                }
                UsageClaim::WithoutPrompt | UsageClaim::WithoutCompletion => {}
            }
        }
    }
}
