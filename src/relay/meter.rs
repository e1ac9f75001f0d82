//! What did a request cost, and is that settled exactly once? The account that goes along with it.
//!
//! A [`Meter`] is made once a request is understood, reserves in [`Meter::admit`], and ends in [`Meter::finish`], or in
//! `drop` when the client left: then the reservation is settled, the usage row handed in, the metrics and the one log
//! line written. There is no other way out, but for the death of the process: for that case the meter notes how far the
//! request is, when it comes a step further and about once a second.
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::work::{Spent, Work};
use crate::clock::Clock;
use crate::dispatch::{LoadCost, Ticket};
use crate::fleet::NodeEndpoint;
use crate::metrics::{Ended, Metrics};
use crate::store::{Access, Reason, Receipt, Reserved, RowPermit, Status, StorageFull, TokensFrom, UsageRow};
use crate::trace::{Attribute, Closing, Trace};
use limits::{Exceeded, Moment, Need};
use protocol::{AnswerProgress, ClaimBounds, Endpoint, StreamLimit, Tally, TallySource, Usage};
use scheduler::Failure;

/// The status of a client that left, in metrics and logs: no status reaches it.
const CLIENT_LEFT: u16 = 499;

/// How often a running request notes how far it is.
const NOTE: Duration = Duration::from_secs(1);

/// What is known of a request before it is admitted.
#[derive(Debug)]
pub struct Admission {
    /// UUIDv7, the answer's `x-request-id`.
    pub request_id: Uuid,
    /// Whose, and with which key.
    pub access: Access,
    /// Where its row will go.
    pub permit: RowPermit,
    /// The route's template.
    pub endpoint: &'static str,
    /// As the client spelled it.
    pub model: String,
    /// As a node lists it, for metrics.
    pub listed_model: Arc<str>,
    /// Whether it streams.
    pub stream: bool,
    /// When it came in.
    pub received: Moment,
    /// What a node may claim that it took.
    pub claim_bounds: ClaimBounds,
    /// Its trace, if there is one.
    pub trace: Option<Trace>,
}

/// Makes meters.
#[derive(Clone, Debug)]
pub struct Meters {
    /// The clock that every meter reads.
    pub clock: Clock,
    /// Where ends are counted.
    pub metrics: Arc<Metrics>,
}

impl Meters {
    /// Begins the account of a request.
    pub fn start(&self, admission: Admission) -> Meter {
        self.metrics.entered(admission.endpoint, &admission.listed_model);
        let open = Open {
            admission,
            reserved: None,
            admitted: None,
            node: None,
            attempts: 0,
            queued: Duration::ZERO,
            waiting_since: None,
            first_byte: None,
            is_running: false,
            work: Work::default(),
            forwarding: Duration::ZERO,
            progress: AnswerProgress::default(),
            load_cost: Arc::default(),
            node_load: None,
            noted: Duration::ZERO,
            reason: Reason::default(),
        };
        Meter { meters: self.clone(), open: Some(open) }
    }
}

/// The account of one running request.
#[derive(Debug)]
pub struct Meter {
    meters: Meters,
    /// `None` once settled.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    admission: Admission,
    reserved: Option<Reserved>,
    /// That the admission is safe, of a stream.
    admitted: Option<Receipt>,
    node: Option<Arc<NodeEndpoint>>,
    attempts: u32,
    queued: Duration,
    /// Uptime since which it waits for a slot.
    waiting_since: Option<Duration>,
    first_byte: Option<Duration>,
    /// A node has it now.
    is_running: bool,
    work: Work,
    /// Our own work on the answer.
    forwarding: Duration,
    progress: AnswerProgress,
    /// The gateway's loads that this request caused.
    load_cost: Arc<LoadCost>,
    /// What a node did so of its own accord.
    node_load: Option<Duration>,
    /// Uptime of the last note.
    noted: Duration,
    /// Why it ends as it does.
    reason: Reason,
}

impl Meter {
    /// Reserves what the request needs under its user's limits; the output cap to send to the node, if there is one.
    ///
    /// # Errors
    /// [`Exceeded`] when a limit stands in the way.
    pub fn admit(&mut self, need: Need) -> Result<Option<u64>, Exceeded> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let reserved = open.admission.access.admit(need, open.admission.received)?;
        let output_cap = reserved.allowance.output.filter(|_| reserved.allowance.is_cap);
        open.reserved = Some(reserved);
        if open.admission.stream {
            let now = self.meters.clock.now();
            open.noted = now.uptime;
            open.admitted = Some(open.admission.permit.note_at_once(open.row(Status::Interrupted, now)));
        } else {
            // Of a plain answer nothing is seen before its row is safe.
            self.note();
        }
        Ok(output_cap)
    }

    /// It goes to the queue.
    pub(super) fn joins(&mut self, ticket: &Ticket, endpoint: Endpoint) {
        let Some(open) = &mut self.open else { return };
        open.load_cost = ticket.load_cost();
        open.work = Work::on(endpoint, open.admission.stream);
    }

    /// It waits for a slot from now on.
    pub(super) fn waits(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.waiting_since = Some(self.meters.clock.uptime());
    }

    /// Waits until the admission of a stream is safe, so that whatever a client has seen counts also after a crash. It is,
    /// long before a node answers.
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
        open.node = Some(node.clone());
        open.attempts = attempt;
        open.queued += waited;
        open.is_running = true;
        open.work.begin(now);
        self.meters.metrics.waited(&open.admission.listed_model, waited);
        self.note();
    }

    /// The attempt on the node failed, before the request did or with it.
    pub(super) fn attempt_failed(&mut self, failure: Failure) {
        self.attempt_ended(failure.label());
        let Some(open) = &mut self.open else { return };
        open.work.fail(failure, self.meters.clock.uptime());
    }

    /// The attempt on the node ended, before the request did or with it.
    fn attempt_ended(&mut self, outcome: &str) {
        let Some(open) = &mut self.open else { return };
        if let (Some(node), Some(since), true) = (&open.node, open.work.since(), open.is_running) {
            open.is_running = false;
            let now = self.meters.clock.uptime();
            self.meters.metrics.attempt(&node.name, outcome, now.saturating_sub(since));
            if let Some(trace) = &mut open.admission.trace {
                trace.answered(outcome, now);
            }
        }
    }

    /// What the node that has it now is told of its trace.
    pub(super) fn trace_headers(&self) -> Option<(String, Option<String>)> {
        self.open.as_ref()?.admission.trace.as_ref()?.headers()
    }

    /// We worked on the answer for so long.
    pub(super) fn forwarded(&mut self, spent: Duration) {
        let Some(open) = &mut self.open else { return };
        open.forwarding += spent;
    }

    /// The node's first byte came at this uptime, and it is what the client gets.
    pub(super) fn first_byte(&mut self, at: Duration) {
        let Some(open) = &mut self.open else { return };
        let after = at.saturating_sub(open.admission.received.uptime);
        open.first_byte = Some(after);
        open.work.first_byte(at);
        self.meters.metrics.first_token(&open.admission.listed_model, after);
        self.note();
    }

    /// How far the answer has come.
    pub(super) fn progress(&mut self, progress: AnswerProgress) {
        let Some(open) = &mut self.open else { return };
        let now = self.meters.clock.uptime();
        if progress.token_chunks > open.progress.token_chunks {
            open.work.token(now);
        }
        if open.progress.usage.and_then(|usage| usage.load).is_none() {
            open.take_load(progress.usage);
        }
        open.progress = progress;
        if now.saturating_sub(open.noted) >= NOTE {
            self.note();
        }
    }

    /// Takes note of the row that the request would leave if the gateway died now.
    fn note(&mut self) {
        let Some(open) = &mut self.open else { return };
        let now = self.meters.clock.now();
        open.noted = now.uptime;
        open.admission.permit.note(open.row(Status::Interrupted, now));
    }

    /// Waiting so far, over all attempts.
    pub(super) fn queued(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |open| open.queued)
    }

    /// What a stream may be long, where a limit holds that a node might ignore.
    pub(super) fn stream_limit(&self) -> StreamLimit {
        let open = self.open.as_ref();
        let output = open.and_then(|open| open.reserved.as_ref()?.allowance.output);
        StreamLimit { output, prompt: self.claim_bounds().prompt_estimate }
    }

    /// What a node may claim that the request took.
    pub(super) fn claim_bounds(&self) -> ClaimBounds {
        self.open.as_ref().map(Open::claim_bounds).unwrap_or_default()
    }

    /// Set when the request's key is revoked.
    pub(super) fn revoked(&self) -> CancellationToken {
        self.open.as_ref().map_or_else(CancellationToken::new, |open| open.admission.access.revoked())
    }

    /// When the request came in, on the monotonic clock.
    pub(super) fn received(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |open| open.admission.received.uptime)
    }

    /// Says what the row is to give as the reason of its end.
    pub fn because(&mut self, reason: Reason) {
        if let Some(open) = &mut self.open {
            open.reason = reason;
        }
    }

    /// Settles, once; `None` where that is done, and where nobody waits for the row. `code` is the status that the client
    /// saw.
    pub fn finish(&mut self, status: Status, code: u16) -> Option<Receipt> {
        // Of an attempt that failed this has been said before.
        self.attempt_ended(match status {
            Status::Completed => "ok",
            Status::Refused => "client_error",
            Status::UpstreamError => "garbled",
            Status::Cancelled | Status::Deadline | Status::Interrupted => "cancelled",
        });
        let open = self.open.take()?;
        let now = self.meters.clock.now();
        let row = UsageRow { http_status: Some(code), ..open.row(status, now) };
        self.count(&open, &row, status, code);
        // What a node refuses has cost it something, and counts.
        let is_refusal = status == Status::Refused && open.node.is_none();
        let Admission { access, permit, trace, .. } = open.admission;
        match open.reserved {
            Some(reserved) if is_refusal => access.cancel(reserved, now),
            Some(reserved) => access.settle(reserved, row.prompt_tokens.saturating_add(row.completion_tokens), now),
            None => {}
        }
        let trace_id = trace.as_ref().map(Trace::id);
        if let Some(trace) = trace {
            if let Some(since) = open.waiting_since {
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

    /// Waits until the row is safe, and counts how long the end of the answer is held back for it.
    pub(super) fn kept(&self, receipt: Receipt) -> impl Future<Output = Result<(), StorageFull>> + use<> {
        let meters = self.meters.clone();
        async move {
            let asked = meters.clock.uptime();
            let kept = receipt.kept().await;
            meters.metrics.overhead("record", meters.clock.uptime().saturating_sub(asked));
            kept
        }
    }

    fn count(&self, open: &Open, row: &UsageRow, status: Status, code: u16) {
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
        let metrics = &self.meters.metrics;
        metrics.left(ended.route);
        metrics.ended(ended);
        metrics.tokens(ended.model, prompt_tokens, completion_tokens);
        metrics.user_ended(open.admission.access.user().as_str(), code, prompt_tokens, completion_tokens);
        if open.first_byte.is_some() {
            metrics.overhead("forward", open.forwarding);
        }
        if let Some(node) = open.node.as_ref().filter(|_| open.tally(status).is_corrected) {
            metrics.claim_corrected(&node.name);
        }
        if let (Status::Completed, Some(first), true) = (status, open.first_byte, open.admission.stream) {
            metrics.decoded(ended.model, completion_tokens, duration.saturating_sub(first));
        }
    }
}

// A handler may be dropped at any await, when its client leaves.
impl Drop for Meter {
    fn drop(&mut self) {
        self.because(Reason::new(Some("client_cancelled"), None));
        self.finish(Status::Cancelled, CLIENT_LEFT);
    }
}

impl Open {
    /// The row of the request if it ended now.
    fn row(&self, status: Status, now: Moment) -> UsageRow {
        let admission = &self.admission;
        let Tally { prompt, completion, source, .. } = self.tally(status);
        let Spent { prefill, decode } = self.work.spent(now.uptime, self.progress.usage.unwrap_or_default());
        let loads = self.load_cost.so_far(now.uptime).into_iter().chain(self.node_load);
        UsageRow {
            request_id: admission.request_id,
            user: admission.access.user().shared(),
            key: admission.access.key_id().cloned(),
            created_at_ms: admission.received.unix_ms,
            day: admission.received.day(),
            model: admission.model.clone(),
            endpoint: admission.endpoint.into(),
            node: self.node.as_ref().map(|node| node.name.to_string()),
            stream: admission.stream,
            status: status.as_str().into(),
            prompt_tokens: prompt,
            completion_tokens: completion,
            tokens_from: tokens_from(source).as_str().into(),
            attempts: self.attempts,
            queue_ms: millis(self.queued),
            time_to_first_token_ms: self.first_byte.map(millis),
            duration_ms: millis(now.uptime.saturating_sub(admission.received.uptime)),
            load_ms: loads.reduce(|a, b| a + b).map(millis),
            prefill_ms: prefill.map(millis),
            decode_ms: decode.map(millis),
            reason: self.reason.clone(),
            http_status: None,
            requests: 1,
        }
    }

    /// The node may have loaded the model by itself, as the gateway did not know that it was no longer in memory.
    fn take_load(&mut self, usage: Option<Usage>) {
        let reported = usage.and_then(|usage| usage.load);
        if let (Some(reported), Some(node), Some(since)) = (reported, &self.node, self.work.since()) {
            self.node_load = node.loads.charge(since, reported);
        }
    }

    /// What the node may claim, with the cap that it was sent.
    fn claim_bounds(&self) -> ClaimBounds {
        let bounds = self.admission.claim_bounds;
        let cap = self.reserved.as_ref().and_then(|reserved| reserved.allowance.output);
        ClaimBounds { max_output: cap.or(bounds.max_output), ..bounds }
    }

    /// The node's own numbers within what is possible, else ours: the answer as it passed, and an estimate for a prompt that
    /// was begun. A client that leaves a running request pays for its prompt; one that got no answer through no fault of
    /// its own does not.
    fn tally(&self, status: Status) -> Tally {
        let is_reported =
            self.progress.usage.is_some_and(|usage| usage.prompt_tokens.is_some() || usage.completion_tokens.is_some());
        let is_begun = self.first_byte.is_some() || (status == Status::Cancelled && self.node.is_some());
        if is_reported || is_begun {
            return self.claim_bounds().tally(&self.progress);
        }
        Tally { prompt: 0, completion: 0, source: TallySource::Counted, is_corrected: false }
    }
}

fn tokens_from(source: TallySource) -> TokensFrom {
    match source {
        TallySource::Reported => TokensFrom::Reported,
        TallySource::Counted => TokensFrom::Counted,
        TallySource::Estimated => TokensFrom::Estimated,
    }
}

fn outcome(status: Status, code: u16) -> &'static str {
    match (status, code) {
        (Status::Completed, _) => "ok",
        (Status::Cancelled, _) => "client_cancelled",
        (Status::Deadline, _) => "timeout",
        (Status::Refused, 429) => "rate_limited",
        (Status::Refused, 400..=498) => "client_error",
        (Status::Refused, _) => "overloaded",
        (Status::UpstreamError | Status::Interrupted, _) => "upstream_error",
    }
}

fn closing(row: &UsageRow, code: u16, status: Status) -> Closing<'_> {
    let text = |text: &str| Attribute::Text(text.to_owned());
    let is_failure = matches!(status, Status::UpstreamError | Status::Deadline | Status::Interrupted) || code >= 500;
    let attributes = vec![
        ("gen_ai.request.model", text(&row.model)),
        ("gen_ai.usage.input_tokens", Attribute::Number(row.prompt_tokens)),
        ("gen_ai.usage.output_tokens", Attribute::Number(row.completion_tokens)),
        ("gateway.request_id", text(&row.request_id.to_string())),
        ("gateway.user", text(&row.user)),
        ("gateway.status", text(&row.status)),
        ("gateway.attempts", Attribute::Number(row.attempts.into())),
        ("gateway.stream", Attribute::Flag(row.stream)),
    ];
    Closing { route: &row.endpoint, code, is_failure, attributes }
}

fn log(row: &UsageRow, code: u16, trace_id: Option<&str>) {
    tracing::info!(
        request_id = %row.request_id,
        trace_id,
        user = %row.user,
        endpoint = %row.endpoint,
        model = %row.model,
        node = row.node.as_deref().unwrap_or("-"),
        stream = row.stream,
        status = %row.status,
        code,
        error = row.reason.code.as_deref(),
        limit = row.reason.limit.as_deref(),
        attempts = row.attempts,
        prompt_tokens = row.prompt_tokens,
        completion_tokens = row.completion_tokens,
        queue_ms = row.queue_ms,
        time_to_first_token_ms = row.time_to_first_token_ms,
        duration_ms = row.duration_ms,
        "request ended"
    );
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
