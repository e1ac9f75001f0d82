//! What did a request cost, and is that settled exactly once? The account that goes along with each request.
//!
//! A [`Meter`] is made once a request is parsed. It reserves tokens in [`Meter::admit`], and ends in [`Meter::finish`],
//! or in `drop` if the client left. The end settles the reservation, hands in the usage row, and writes the metrics and
//! the one log line. There is no other way out, except for the death of the process. For that case the meter notes how
//! far the request is, at each step and about once a second.
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::account::{Admission, OpenAccount};
use super::ending::{closing, log, outcome};
use super::open_requests::{OpenRequest, OpenRequests, Stopped};
use super::work::NodeWork;
use crate::clock::Clock;
use crate::dispatch::Ticket;
use crate::fleet::NodeEndpoint;
use crate::metrics::{Ended, Metrics};
use crate::store::{Over, Reason, Receipt, Status, StorageFull, UsageRow};
use crate::trace::Trace;
use limits::Need;
use protocol::{AnswerProgress, ClaimBounds, Endpoint, StreamLimit};
use scheduler::{Failure, Pace};

/// The status of a client that left, in metrics and logs; the client itself receives none.
const CLIENT_LEFT: u16 = 499;

/// How often a running request notes its progress.
const NOTE: Duration = Duration::from_secs(1);

/// Makes meters.
#[derive(Clone, Debug)]
pub struct Meters {
    /// The clock that every meter reads.
    pub clock: Clock,
    /// Where the ends of requests are counted.
    pub metrics: Arc<Metrics>,
    /// Where requests are shown while they are open.
    pub requests: Arc<OpenRequests>,
}

impl Meters {
    /// Opens the account of a request.
    pub fn start(&self, admission: Admission) -> Meter {
        self.metrics.entered(admission.endpoint, &admission.listed_model);
        Meter { meters: self.clone(), open: Some(Box::new(OpenAccount::new(admission))) }
    }
}

/// The account of one running request.
#[derive(Debug)]
pub struct Meter {
    meters: Meters,
    /// `None` once settled.
    open: Option<Box<OpenAccount>>,
}

impl Meter {
    /// Reserves what the request needs under its user's limits; returns the output cap to send to the node, if there is
    /// one.
    ///
    /// # Errors
    /// [`Over`] if the request does not fit a limit.
    pub fn admit(&mut self, need: Need) -> Result<Option<u64>, Over> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let reserved = open.admission.access.admit(need, open.admission.received)?;
        let output_cap = reserved.allowance.output.filter(|_| reserved.allowance.is_cap);
        open.reserved = Some(reserved);
        let shown = open.show();
        self.meters.requests.enter(shown.clone());
        open.shown = Some(shown);
        if open.admission.stream {
            let now = self.meters.clock.now();
            open.noted = now.uptime;
            open.admitted = Some(open.admission.permit.note_at_once(open.row(Status::Interrupted, now)));
        } else {
            // A plain answer shows nothing before its row is safe.
            self.note();
        }
        Ok(output_cap)
    }

    /// The request joins the queue.
    pub(super) fn joins(&mut self, ticket: &Ticket, endpoint: Endpoint) {
        let Some(open) = &mut self.open else { return };
        open.load_cost = ticket.load_cost();
        open.work = NodeWork::on(endpoint, open.admission.stream);
    }

    /// From now on it waits for a slot.
    pub(super) fn waits(&mut self) {
        let Some(open) = &mut self.open else { return };
        let now = self.meters.clock.uptime();
        open.waiting_since = Some(now);
        open.show_that(|shown| shown.waits(now));
    }

    /// Waits until a stream's admission is safely stored, so that anything a client has seen counts even after a crash.
    /// It usually is, long before a node answers.
    pub(super) async fn admitted(&mut self) -> Result<(), StorageFull> {
        match self.open.as_mut().and_then(|open| open.admitted.take()) {
            Some(receipt) => receipt.kept().await,
            None => Ok(()),
        }
    }

    /// A slot was granted.
    pub(super) fn granted(&mut self, node: &Arc<NodeEndpoint>, attempt: u32) {
        let Some(open) = &mut self.open else { return };
        let now = self.meters.clock.uptime();
        let since = open.waiting_since.take().unwrap_or(now);
        let waited = now.saturating_sub(since);
        if let Some(trace) = &mut open.admission.trace {
            trace.waited(since, now, true);
            trace.ask(node.name.clone(), attempt, now);
        }
        open.pulse = self.meters.metrics.pulses().of(&node.name);
        open.node = Some(node.clone());
        open.attempts = attempt;
        open.queued += waited;
        open.is_running = true;
        open.work.begin(now);
        open.show_that(|shown| shown.runs(node.name.clone(), attempt, now));
        self.meters.metrics.waited(&open.admission.listed_model, waited);
        self.note();
    }

    /// How fast the node is expected to be; a plain answer shows nothing else until it is complete.
    pub(super) fn paced(&mut self, pace: Option<Pace>) {
        let Some(open) = &mut self.open else { return };
        open.pace = pace;
    }

    /// The attempt on the node failed; the request may go on.
    pub(super) fn attempt_failed(&mut self, failure: Failure) {
        self.attempt_ended(failure.label());
        let Some(open) = &mut self.open else { return };
        open.work.fail(failure, self.meters.clock.uptime());
        open.pace = None;
    }

    /// The attempt on the node ended; the request may go on.
    fn attempt_ended(&mut self, outcome: &str) {
        let Some(open) = &mut self.open else { return };
        if let (Some(node), Some(since), true) = (&open.node, open.work.since(), open.is_running) {
            open.is_running = false;
            let now = self.meters.clock.uptime();
            self.meters.metrics.attempt(&node.name, outcome, now.saturating_sub(since));
            open.pulse.ended(!matches!(outcome, "ok" | "client_error" | "cancelled"));
            if let Some(trace) = &mut open.admission.trace {
                trace.answered(outcome, now);
            }
        }
    }

    /// The trace headers for the node that is working on it.
    pub(super) fn trace_headers(&self) -> Option<(String, Option<String>)> {
        self.open.as_ref()?.admission.trace.as_ref()?.headers()
    }

    /// The gateway spent this time on the answer.
    pub(super) fn forwarded(&mut self, spent: Duration) {
        let Some(open) = &mut self.open else { return };
        open.forwarding += spent;
    }

    /// At this uptime the node's first byte came that the client gets.
    pub(super) fn first_byte(&mut self, at: Duration) {
        let Some(open) = &mut self.open else { return };
        let after = at.saturating_sub(open.admission.received.uptime);
        open.first_byte = Some(after);
        let asked = open.work.since().unwrap_or(at);
        open.pulse.first_token(at.saturating_sub(asked));
        self.meters.metrics.pulses().all().first_token(after);
        open.work.first_byte(at);
        open.show_that(OpenRequest::begins);
        let is_stream = open.admission.stream;
        self.meters.metrics.first_token(&open.admission.listed_model, after);
        // A plain answer is complete by then, and its row follows at once.
        if is_stream {
            self.note();
        }
    }

    /// Records how far the answer has come.
    pub(super) fn progress(&mut self, progress: AnswerProgress) {
        let Some(open) = &mut self.open else { return };
        let now = self.meters.clock.uptime();
        if progress.token_chunks > open.progress.token_chunks {
            open.work.token(now);
            let more = progress.token_chunks - open.progress.token_chunks;
            open.count_tokens(self.meters.metrics.pulses(), more);
        }
        if open.progress.usage.and_then(|usage| usage.load).is_none() {
            open.take_load(progress.usage);
        }
        open.show_that(|shown| shown.progress(progress.token_chunks));
        open.progress = progress;
        if now.saturating_sub(open.noted) >= NOTE {
            self.note();
        }
    }

    /// Notes the row that the request would leave if the gateway died now.
    fn note(&mut self) {
        let Some(open) = &mut self.open else { return };
        let now = self.meters.clock.now();
        open.noted = now.uptime;
        open.admission.permit.note(open.row(Status::Interrupted, now));
    }

    /// Time spent waiting so far, over all attempts.
    pub(super) fn queued(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |open| open.queued)
    }

    /// How long a stream may get, in case a limit applies that the node might ignore.
    pub(super) fn stream_limit(&self) -> StreamLimit {
        let open = self.open.as_ref();
        let output = open.and_then(|open| open.reserved.as_ref()?.allowance.output);
        StreamLimit { output, prompt: self.claim_bounds().prompt_estimate }
    }

    /// How many tokens a node may claim for the request.
    pub(super) fn claim_bounds(&self) -> ClaimBounds {
        self.open.as_ref().map(|open| open.claim_bounds()).unwrap_or_default()
    }

    /// Cancelled when the request must end: somebody stopped it, or its key was revoked.
    pub(super) fn stop_token(&self) -> CancellationToken {
        let Some(open) = &self.open else { return CancellationToken::new() };
        open.shown.as_ref().map_or_else(|| open.admission.access.revoked(), |shown| shown.stop_token())
    }

    /// Who stopped it, if anybody did.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.open.as_ref()?.shown.as_ref()?.stopped()
    }

    /// When the request arrived, as an uptime.
    pub(super) fn received(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |open| open.admission.received.uptime)
    }

    /// Sets the reason that the row gives for the request's end.
    pub fn because(&mut self, reason: Reason) {
        if let Some(open) = &mut self.open {
            open.reason = reason;
        }
    }

    /// Settles, once. Returns `None` if that was done before, or if nobody waits for the row. `code` is the status that
    /// the client saw.
    pub fn finish(&mut self, status: Status, code: u16) -> Option<Receipt> {
        // A failed attempt has been recorded before.
        self.attempt_ended(match status {
            Status::Completed => "ok",
            Status::Refused => "client_error",
            Status::UpstreamError => "garbled",
            Status::Cancelled | Status::Deadline | Status::Interrupted => "cancelled",
        });
        let mut open = self.open.take()?;
        open.show_that(|shown| self.meters.requests.leave(shown.request_id));
        let now = self.meters.clock.now();
        let row = UsageRow { http_status: Some(code), ..open.row(status, now) };
        // Of an answer that is not streamed, all of them.
        open.count_tokens(self.meters.metrics.pulses(), row.completion_tokens.saturating_sub(open.pulsed));
        self.count(&open, &row, status, code);
        // A request that a node rejects has cost that node something, so it counts.
        let is_refusal = status == Status::Refused && open.node.is_none();
        let OpenAccount { admission: Admission { access, permit, trace, .. }, reserved, waiting_since, .. } = *open;
        match reserved {
            Some(reserved) if is_refusal => access.cancel(reserved, now),
            Some(reserved) => access.settle(reserved, row.prompt_tokens.saturating_add(row.completion_tokens), now),
            None => {}
        }
        let trace_id = trace.as_ref().map(Trace::id);
        if let Some(trace) = trace {
            if let Some(since) = waiting_since {
                trace.waited(since, now.uptime, false);
            }
            trace.finish(closing(&row, code, status));
        }
        if is_refusal {
            if permit.refuse(&row) {
                log(&row, code, trace_id.as_deref());
            }
            return None;
        }
        log(&row, code, trace_id.as_deref());
        Some(permit.record(row))
    }

    /// Waits until the row is safe, and measures how long that holds back the end of the answer.
    pub(super) fn kept(&self, receipt: Receipt) -> impl Future<Output = Result<(), StorageFull>> + use<> {
        let meters = self.meters.clone();
        async move {
            let asked = meters.clock.uptime();
            let kept = receipt.kept().await;
            meters.metrics.overhead("record", meters.clock.uptime().saturating_sub(asked));
            kept
        }
    }

    fn count(&self, open: &OpenAccount, row: &UsageRow, status: Status, code: u16) {
        let duration = Duration::from_millis(row.duration_ms);
        let ended = Ended {
            route: open.admission.endpoint,
            model: &open.admission.listed_model,
            stream: open.admission.stream,
            code,
            outcome: outcome(status, code),
            duration,
        };
        let (prompt_tokens, completion_tokens) = (row.prompt_tokens, row.completion_tokens);
        // A stream that breaks has sent 200, and a refusal for want of a node or of room has not.
        let has_failed =
            code >= 500 || matches!(status, Status::UpstreamError | Status::Deadline | Status::Interrupted);
        self.meters.metrics.pulses().all().ended(has_failed);
        let metrics = &self.meters.metrics;
        metrics.left(ended.route);
        metrics.ended(ended);
        metrics.tokens(ended.model, prompt_tokens, completion_tokens);
        metrics.user_ended(open.admission.access.user().as_str(), code, prompt_tokens, completion_tokens);
        if open.first_byte.is_some() {
            metrics.overhead("forward", open.forwarding);
        }
        if let Some(node) = open.node.as_ref().filter(|_| open.tally(status, self.meters.clock.uptime()).is_corrected) {
            metrics.claim_corrected(&node.name);
        }
        if let (Status::Completed, Some(first), true) = (status, open.first_byte, open.admission.stream) {
            metrics.decoded(ended.model, completion_tokens, duration.saturating_sub(first));
        }
    }
}

// A handler may be dropped at any await, if its client leaves.
impl Drop for Meter {
    fn drop(&mut self) {
        self.because(Reason::new(Some("client_cancelled"), None));
        self.finish(Status::Cancelled, CLIENT_LEFT);
    }
}
