//! What did a request cost, and is that settled exactly once? The account that goes along with it.
//!
//! A [`Meter`] is made once a request is understood, reserves in [`Meter::admit`], and ends in [`Meter::finish`], or in
//! `drop` when the client left: then the reservation is settled, the usage row handed in, the metrics and the one log
//! line written. There is no other way out.
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::nodes::NodeEndpoint;
use crate::clock::Clock;
use crate::limits::{Exceeded, Moment, Need, Reservation};
use crate::metrics::{Ended, Metrics};
use crate::protocol::{Progress, Usage};
use crate::store::{Account, RowPermit, Status, TokensFrom, UsageRow};

/// The status of a client that left, in metrics and logs: no status reaches it.
const CLIENT_LEFT: u16 = 499;

/// What is known of a request before it is admitted.
#[derive(Debug)]
pub struct Admission {
    /// UUIDv7, the answer's `x-request-id`.
    pub request_id: Uuid,
    /// Whose.
    pub account: Arc<Account>,
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
    /// About how many tokens the prompt has, for rows that end without a number from the node.
    pub prompt_estimate: u64,
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
            reservation: None,
            node: None,
            attempts: 0,
            queued: Duration::ZERO,
            first_byte: None,
            running_since: None,
            forwarding: Duration::ZERO,
            usage: None,
            token_chunks: 0,
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
    reservation: Option<Reservation>,
    node: Option<Arc<str>>,
    attempts: u32,
    queued: Duration,
    first_byte: Option<Duration>,
    /// Uptime at which the node that has it now was given it.
    running_since: Option<Duration>,
    /// Our own work on the answer.
    forwarding: Duration,
    usage: Option<Usage>,
    token_chunks: u64,
}

impl Meter {
    /// Reserves what the request needs under its user's limits; the output cap to send to the node, if there is one.
    ///
    /// # Errors
    /// [`Exceeded`] when a limit stands in the way.
    pub fn admit(&mut self, need: Need) -> Result<Option<u64>, Exceeded> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let reservation = open.admission.account.admit(need, open.admission.received)?;
        let output_cap = reservation.output_cap;
        open.reservation = Some(reservation);
        Ok(output_cap)
    }

    /// A slot was granted after `waited`.
    pub(super) fn granted(&mut self, node: &NodeEndpoint, attempt: u32, waited: Duration) {
        let Some(open) = &mut self.open else { return };
        open.node = Some(node.name.clone());
        open.attempts = attempt;
        open.queued += waited;
        open.running_since = Some(self.meters.clock.uptime());
        self.meters.metrics.waited(&open.admission.listed_model, waited);
    }

    /// The attempt on the node ended, before the request did or with it.
    pub(super) fn attempt_ended(&mut self, outcome: &str) {
        let Some(open) = &mut self.open else { return };
        if let (Some(node), Some(since)) = (&open.node, open.running_since.take()) {
            let duration = self.meters.clock.uptime().saturating_sub(since);
            self.meters.metrics.attempt(node, outcome, duration);
        }
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
        self.meters.metrics.first_token(&open.admission.listed_model, after);
    }

    /// How far the answer has come.
    pub(super) fn progress(&mut self, progress: Progress) {
        let Some(open) = &mut self.open else { return };
        open.usage = progress.usage;
        open.token_chunks = progress.token_chunks;
    }

    /// What a plain answer reports.
    pub(super) fn reported(&mut self, usage: Usage) {
        self.progress(Progress { usage: Some(usage), token_chunks: 0, done: true });
    }

    /// Waiting so far, over all attempts.
    pub(super) fn queued(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |open| open.queued)
    }

    /// When the request came in, on the monotonic clock.
    pub(super) fn received(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |open| open.admission.received.uptime)
    }

    /// Settles. `code` is the status that the client saw.
    pub fn finish(mut self, status: Status, code: u16) {
        self.settle(status, code);
    }

    fn settle(&mut self, status: Status, code: u16) {
        // Of an attempt that failed this has been said before.
        self.attempt_ended(match status {
            Status::Completed => "ok",
            Status::Refused => "client_error",
            Status::UpstreamError => "garbled",
            Status::Cancelled | Status::Deadline | Status::Interrupted => "cancelled",
        });
        let Some(open) = self.open.take() else { return };
        let now = self.meters.clock.now();
        let duration = now.uptime.saturating_sub(open.admission.received.uptime);
        let (prompt_tokens, completion_tokens, tokens_from) = open.tokens(status);
        let ended = Ended {
            route: open.admission.endpoint,
            model: &open.admission.listed_model,
            stream: open.admission.stream,
            code,
            outcome: outcome(status, code),
            duration,
        };
        let metrics = &self.meters.metrics;
        metrics.left(ended.route);
        metrics.ended(ended);
        metrics.tokens(ended.model, prompt_tokens, completion_tokens);
        metrics.user_ended(open.admission.account.user().as_str(), code, prompt_tokens, completion_tokens);
        if open.first_byte.is_some() {
            metrics.overhead("forward", open.forwarding);
        }
        if let (Status::Completed, Some(first), true) = (status, open.first_byte, open.admission.stream) {
            metrics.decoded(ended.model, completion_tokens, duration.saturating_sub(first));
        }
        let Admission { account, permit, .. } = open.admission;
        let row = UsageRow {
            request_id: open.admission.request_id,
            user: account.user().shared(),
            created_at_ms: open.admission.received.unix_ms,
            day: open.admission.received.day(),
            model: open.admission.model,
            endpoint: open.admission.endpoint.into(),
            node: open.node.as_deref().map(str::to_owned),
            stream: open.admission.stream,
            status: status.as_str().into(),
            prompt_tokens,
            completion_tokens,
            tokens_from: tokens_from.as_str().into(),
            attempts: open.attempts,
            queue_ms: millis(open.queued),
            time_to_first_token_ms: open.first_byte.map(millis),
            duration_ms: millis(duration),
        };
        log(&row, code);
        match open.reservation {
            Some(reservation) if status == Status::Refused => account.cancel(reservation, now),
            Some(reservation) => account.settle(reservation, prompt_tokens + completion_tokens, now),
            None => {}
        }
        permit.record(row);
    }
}

// A handler may be dropped at any await, when its client leaves.
impl Drop for Meter {
    fn drop(&mut self) {
        self.settle(Status::Cancelled, CLIENT_LEFT);
    }
}

impl Open {
    /// The node's own numbers, else ours: chunks for the answer, and an estimate for a prompt that was begun. A client
    /// that leaves a running request pays for its prompt; one that got no answer through no fault of its own does not.
    fn tokens(&self, status: Status) -> (u64, u64, TokensFrom) {
        if let Some(Usage { prompt_tokens, completion_tokens }) = self.usage
            && (prompt_tokens.is_some() || completion_tokens.is_some())
        {
            return (prompt_tokens.unwrap_or(0), completion_tokens.unwrap_or(0), TokensFrom::Reported);
        }
        let begun = self.first_byte.is_some() || (status == Status::Cancelled && self.node.is_some());
        match (begun, self.token_chunks) {
            (false, _) => (0, 0, TokensFrom::Counted),
            (true, 0) => (self.admission.prompt_estimate, 0, TokensFrom::Estimated),
            (true, chunks) => (self.admission.prompt_estimate, chunks, TokensFrom::Counted),
        }
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

fn log(row: &UsageRow, code: u16) {
    tracing::info!(
        request_id = %row.request_id,
        user = %row.user,
        endpoint = %row.endpoint,
        model = %row.model,
        node = row.node.as_deref().unwrap_or("-"),
        stream = row.stream,
        status = %row.status,
        code,
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
