//! How is an answer spoken, token by token, and where does a fault cut it off?

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::ask::{Answer, Piece, Reason};
use crate::clock;
use crate::dialect::{Dialect, End, Timings, Usage};
use crate::engine::{Engine, SlotHold};
use crate::error::ApiError;
use crate::fault::{Break, Fault};
use crate::ledger::Visit;

/// The speed an infinitely fast node is taken to have under [`Fault::Slow`].
const SLOWED_INFINITE_SPEED: f64 = 1000.0;
/// Prompt tokens are read so many times faster than answer tokens are made.
const PREFILL_SPEEDUP: f64 = 25.0;
/// A stream whose reader was slow catches up at most so much.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The body stops in the middle, and the connection with it.
#[derive(Debug)]
pub(crate) struct Died;

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated node died")
    }
}

impl std::error::Error for Died {}

/// The pace of one stream.
pub(crate) struct Pace {
    engine: Arc<Engine>,
    /// Tokens per second when alone.
    solo: f64,
    due: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(engine: &Arc<Engine>, solo: f64, fault: Option<&Fault>) -> Self {
        let solo = match fault {
            Some(Fault::Slow(factor)) => {
                let full = if solo.is_infinite() { SLOWED_INFINITE_SPEED } else { solo };
                full / factor.max(f64::MIN_POSITIVE)
            }
            _ => solo,
        };
        Self { engine: Arc::clone(engine), solo, due: None }
    }

    /// Waits as long as reading the prompt takes.
    pub(crate) async fn prefill(&mut self, tokens: u64) {
        self.spend(tokens as f64 / PREFILL_SPEEDUP).await;
    }

    /// Waits as long as making one token takes.
    async fn token(&mut self) {
        self.spend(1.0).await;
    }

    async fn spend(&mut self, tokens: f64) {
        if self.solo.is_infinite() {
            return yield_now().await;
        }
        let seconds = tokens / self.engine.shared_speed(self.solo);
        let now = clock::now();
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let due = self.due.unwrap_or(now).max(earliest)
            + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(u32::MAX.into()));
        self.due = Some(due);
        if due > now { tokio::time::sleep_until(due).await } else { yield_now().await }
    }
}

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
    timings: Timings,
    prompt_tokens: u64,
    made: u64,
    spoken: VecDeque<Bytes>,
    sent: usize,
    ended: bool,
    over: bool,
}

/// What a generation starts from.
pub(crate) struct Start {
    pub(crate) dialect: Box<dyn Dialect>,
    pub(crate) answer: Answer,
    pub(crate) prompt_tokens: u64,
    pub(crate) pace: Pace,
    pub(crate) slot: SlotHold,
    pub(crate) visit: Visit,
    pub(crate) fault: Option<Fault>,
    pub(crate) started: Instant,
    pub(crate) load: Duration,
}

impl Generation {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            dialect: start.dialect,
            pieces: start.answer.pieces.into_iter(),
            reason: start.answer.reason,
            pace: start.pace,
            slot: Some(start.slot),
            visit: start.visit,
            broken: start.fault.as_ref().and_then(Fault::in_stream),
            fault: start.fault,
            timings: Timings::new(start.started, start.load),
            prompt_tokens: start.prompt_tokens,
            made: 0,
            spoken: VecDeque::new(),
            sent: 0,
            ended: false,
            over: false,
        }
    }

    /// Reads the prompt. Nothing is sent before this is done.
    pub(crate) async fn prefill(&mut self) {
        let began = clock::now();
        self.pace.prefill(self.prompt_tokens).await;
        self.timings.prefill = clock::now() - began;
        self.timings.decoding_since = clock::now();
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
            if self.spoken.is_empty() && !self.ended && !self.breaks_here() {
                self.speak().await;
                continue;
            }
            if self.breaks_here() {
                return self.break_stream().await;
            }
            let chunk = self.spoken.pop_front()?;
            self.sent += 1;
            if self.ended && self.spoken.is_empty() {
                self.close();
            }
            return Some(Ok(chunk));
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
        let reason = self.reason;
        let how = self.broken.map(|(_, how)| how);
        if how.is_some() || self.fault == Some(Fault::NoUsage) {
            self.visit.fault();
        }
        let end = self.end(if how == Some(Break::End) { None } else { Some(reason) });
        let body = self.dialect.whole(&pieces, &end);
        match how {
            Some(Break::Hang) => pending().await,
            Some(Break::Error) => return Err(ApiError::runner_stopped()),
            Some(Break::Garbage) => return Ok(Whole { body: "this is not json".to_owned(), dies: false }),
            Some(Break::Die) | Some(Break::End) | None => {}
        }
        self.close();
        Ok(Whole { body, dies: how == Some(Break::Die) })
    }

    /// Makes one piece, or ends the answer.
    async fn speak(&mut self) {
        if let Some(piece) = self.next_piece().await {
            self.dialect.piece(&piece, &mut self.spoken);
        } else {
            let end = self.end(Some(self.reason));
            if self.fault == Some(Fault::NoUsage) {
                self.visit.fault();
            }
            self.dialect.end(&end, &mut self.spoken);
            self.ended = true;
        }
    }

    async fn next_piece(&mut self) -> Option<Piece> {
        let tokens = self.pieces.as_slice().first()?.tokens();
        for _ in 0..tokens {
            self.pace.token().await;
        }
        self.made += tokens;
        self.visit.add_generated(tokens);
        self.pieces.next()
    }

    fn end(&self, reason: Option<Reason>) -> End {
        let usage = Usage { prompt: self.prompt_tokens, completion: self.made };
        let reported = reason.is_some() && self.fault != Some(Fault::NoUsage);
        End { reason, usage: reported.then_some(usage), timings: self.timings.clone() }
    }

    /// Whether the fault strikes before the next chunk: in its place, or before the last one at the latest.
    fn breaks_here(&self) -> bool {
        let is_last = self.ended && self.spoken.len() <= 1;
        self.broken.is_some_and(|(chunks, _)| chunks <= self.sent || is_last)
    }

    async fn break_stream(&mut self) -> Option<Result<Bytes, Died>> {
        let (_, how) = self.broken.take()?;
        self.visit.fault();
        match how {
            Break::Hang => pending().await,
            Break::Garbage => Some(Ok(self.dialect.garbage())),
            Break::Die => {
                // The chunks before leave for the client while this yields.
                yield_now().await;
                self.close();
                Some(Err(Died))
            }
            Break::Error => {
                self.close();
                self.dialect.error().map(Ok)
            }
            Break::End => {
                self.close();
                None
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

/// A complete JSON body.
pub(crate) struct Whole {
    pub(crate) body: String,
    /// Whether the connection is to break half-way through it.
    pub(crate) dies: bool,
}
