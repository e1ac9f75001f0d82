//! How is an answer made, token by token, and where does a fault cut it off?

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::ask::{Answer, Piece, Reason};
use crate::clock;
use crate::dialect::{Dialect, End, Timings, Usage};
use crate::engine::SlotHold;
use crate::error::ApiError;
use crate::fault::{Break, Fault};
use crate::ledger::Visit;
use crate::pace::Pace;
use crate::text::{WORD, count_tokens};

/// Ollama silently aborts an answer when a piece is repeated more often than this.
const MOST_REPEATS: u32 = 30;

/// The body stops in the middle, and the connection with it.
#[derive(Debug)]
pub(crate) struct Died;

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated node died")
    }
}

impl std::error::Error for Died {}

/// One answer on its way out. It holds its slot until the last chunk is handed over or it is dropped.
pub(crate) struct Generation {
    pub(crate) dialect: Box<dyn Dialect>,
    pieces: std::vec::IntoIter<Piece>,
    reason: Reason,
    pace: Pace,
    slot: Option<SlotHold>,
    visit: Visit,
    fault: Option<Fault>,
    broken: Option<(usize, Break)>,
    guard: Option<RepeatGuard>,
    timings: Timings,
    usage: Usage,
    /// Chunks that are written and not yet sent.
    written: VecDeque<Bytes>,
    sent: usize,
    ended: bool,
    over: bool,
}

/// What a generation needs to start.
pub(crate) struct Start {
    pub(crate) dialect: Box<dyn Dialect>,
    pub(crate) answer: Answer,
    pub(crate) prompt_tokens: u64,
    /// Prompt tokens that the node still had cached from earlier prompts.
    pub(crate) cached_tokens: u64,
    pub(crate) guard: Option<RepeatGuard>,
    pub(crate) pace: Pace,
    pub(crate) slot: SlotHold,
    pub(crate) visit: Visit,
    pub(crate) fault: Option<Fault>,
    pub(crate) started: Instant,
    pub(crate) load: Duration,
}

impl Generation {
    pub(crate) fn new(start: Start) -> Self {
        let mut pieces = start.answer.pieces;
        if let Some(Fault::OneChunk { bytes, .. }) = start.fault {
            pieces = vec![Piece::Text(WORD.chars().cycle().take(bytes).collect())];
        }
        Self {
            dialect: start.dialect,
            pieces: pieces.into_iter(),
            reason: start.answer.reason,
            pace: start.pace,
            slot: Some(start.slot),
            visit: start.visit,
            broken: start.fault.as_ref().and_then(Fault::in_stream),
            fault: start.fault,
            guard: start.guard,
            timings: Timings::new(start.started, start.load),
            usage: Usage { prompt: start.prompt_tokens, cached: start.cached_tokens, completion: 0 },
            written: VecDeque::new(),
            sent: 0,
            ended: false,
            over: false,
        }
    }

    /// Reads the prompt. Nothing is sent before this is done.
    pub(crate) async fn prefill(&mut self) {
        let began = clock::now();
        self.pace.prefill(self.usage.prompt - self.usage.cached).await;
        self.timings.prefill = clock::now() - began;
        self.timings.decoding_since = clock::now();
        self.dialect.prompt_read(&self.usage);
        if self.fault == Some(Fault::HangBeforeHead) {
            self.visit.fault();
            pending::<()>().await;
        }
    }

    /// Whether the head goes out before there is a chunk, since a fault keeps the first one back.
    pub(crate) fn breaks_at_once(&self) -> bool {
        matches!(self.broken, Some((0, Break::Hang | Break::Die)))
    }

    /// The next chunk of the streamed answer.
    pub(crate) async fn next_chunk(&mut self) -> Option<Result<Bytes, Died>> {
        while !self.over {
            if self.written.is_empty() && !self.ended && !self.breaks_here() {
                self.write().await;
                continue;
            }
            if self.breaks_here() {
                match self.break_stream().await {
                    Broken::Mended => continue,
                    Broken::Chunk(chunk) => return chunk,
                }
            }
            let chunk = self.written.pop_front()?;
            self.sent += 1;
            if self.ended && self.written.is_empty() {
                self.close();
            }
            return Some(Ok(self.claimed(chunk)));
        }
        None
    }

    /// The whole answer as one body.
    ///
    /// # Errors
    /// 500 under [`Fault::ErrorAfter`].
    pub(crate) async fn whole(mut self) -> Result<Whole, ApiError> {
        let mut pieces = Vec::new();
        while let Some(piece) = self.next_piece().await {
            pieces.push(piece);
        }
        let how = self.broken.map(|(_, how)| how);
        if how.is_some() || self.fault.as_ref().is_some_and(Fault::distorts) {
            self.visit.fault();
        }
        let stopped = how == Some(Break::End) || self.is_repeating();
        let end = self.end((!stopped).then_some(self.reason));
        let body = self.dialect.whole(&pieces, &end);
        match how {
            Some(Break::Hang) => pending().await,
            Some(Break::Pause(pause)) => tokio::time::sleep(pause).await,
            Some(Break::Error) => return Err(ApiError::runner_stopped()),
            Some(Break::Garbage) => return Ok(Whole { body: "this is not json".into(), dies: false }),
            Some(Break::Die | Break::End) | None => {}
        }
        self.close();
        Ok(Whole { body: self.claimed(body.into()), dies: how == Some(Break::Die) })
    }

    /// Makes and writes one piece, or ends the answer.
    async fn write(&mut self) {
        if let Some(piece) = self.next_piece().await {
            self.dialect.piece(&piece, &mut self.written);
        } else if self.is_repeating() {
            self.close();
        } else {
            let end = self.end(Some(self.reason));
            if self.fault.as_ref().is_some_and(Fault::distorts) {
                self.visit.fault();
            }
            self.dialect.end(&end, &mut self.written);
            self.ended = true;
        }
    }

    async fn next_piece(&mut self) -> Option<Piece> {
        let piece = self.pieces.as_slice().first()?;
        let tokens = match (piece, &self.fault) {
            (Piece::Text(text), Some(Fault::OneChunk { .. })) => count_tokens(text),
            _ => piece.tokens(),
        };
        for _ in 0..tokens {
            self.pace.token().await;
        }
        self.usage.completion += tokens;
        self.visit.add_generated(tokens);
        let piece = self.pieces.next()?;
        if let Some(guard) = &mut self.guard {
            guard.see(&piece);
        }
        (!self.is_repeating()).then_some(piece)
    }

    fn is_repeating(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.repeats > MOST_REPEATS)
    }

    fn end(&self, reason: Option<Reason>) -> End {
        let reported = reason.is_some() && !self.fault.as_ref().is_some_and(Fault::hides_usage);
        End { reason, usage: reported.then_some(self.usage), timings: self.timings.clone() }
    }

    /// The chunk with the token counts that a fault claims.
    fn claimed(&self, chunk: Bytes) -> Bytes {
        let claim = self.fault.as_ref().and_then(Fault::usage_claim);
        claim.map_or(chunk.clone(), |claim| claim.write(&chunk))
    }

    /// Whether the fault strikes before the next chunk: in its place, or before the last one at the latest.
    fn breaks_here(&self) -> bool {
        let is_last = self.ended && self.written.len() <= 1;
        self.broken.is_some_and(|(chunks, _)| chunks <= self.sent || is_last)
    }

    async fn break_stream(&mut self) -> Broken {
        let Some((_, how)) = self.broken.take() else { return Broken::Mended };
        self.visit.fault();
        match how {
            Break::Hang => pending().await,
            Break::Pause(pause) => {
                tokio::time::sleep(pause).await;
                Broken::Mended
            }
            Break::Garbage => Broken::Chunk(Some(Ok(self.dialect.garbage()))),
            Break::Die => {
                // The chunks before the break are sent while this yields.
                yield_now().await;
                self.close();
                Broken::Chunk(Some(Err(Died)))
            }
            Break::Error => {
                self.close();
                Broken::Chunk(self.dialect.error().map(Ok))
            }
            Break::End => {
                self.close();
                Broken::Chunk(None)
            }
        }
    }

    /// Gives the slot back with the last chunk, so that a client that has it finds the slot free.
    fn close(&mut self) {
        self.over = true;
        self.slot = None;
        self.visit.complete();
    }
}

/// How a stream continues after its fault.
enum Broken {
    /// As if nothing had happened.
    Mended,
    /// With this chunk, or not at all.
    Chunk(Option<Result<Bytes, Died>>),
}

/// Ollama's guard against models that repeat themselves.
#[derive(Debug, Default)]
pub(crate) struct RepeatGuard {
    last: String,
    repeats: u32,
}

impl RepeatGuard {
    fn see(&mut self, piece: &Piece) {
        let (Piece::Text(text) | Piece::Thinking(text)) = piece else { return };
        if text.trim() == self.last {
            self.repeats += 1;
        } else {
            self.last = text.trim().to_owned();
            self.repeats = 0;
        }
    }
}

/// A complete JSON body.
pub(crate) struct Whole {
    pub(crate) body: Bytes,
    /// Whether the connection is to break half-way through it.
    pub(crate) dies: bool,
}
