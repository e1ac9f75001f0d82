//! What is known of a running request, and what usage row would it leave if it ended now?
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::open_requests::OpenRequest;
use super::work::{NodeWork, Spent};
use crate::dispatch::LoadCost;
use crate::fleet::NodeEndpoint;
use crate::metrics::{Pulse, Pulses};
use crate::store::{Access, Reason, Receipt, Reserved, RowPermit, Status, TokensFrom, UsageRow};
use crate::trace::Trace;
use limits::Moment;
use protocol::{AnswerProgress, ClaimBounds, Tally, TallySource, Usage};
use scheduler::Pace;

/// The most tokens of a plain answer without a cap that a client who leaves is charged.
const MOST_UNSEEN: u64 = 32_768;

/// What is known of a request before it is admitted.
#[derive(Debug)]
pub struct Admission {
    /// UUIDv7, the answer's `x-request-id`.
    pub request_id: Uuid,
    /// The user, and the key that was used.
    pub access: Access,
    /// The reserved place for its usage row.
    pub permit: RowPermit,
    /// The route's template.
    pub endpoint: &'static str,
    /// As the client spelled it.
    pub model: String,
    /// As a node lists it, for metrics.
    pub listed_model: Arc<str>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// When it came in.
    pub received: Moment,
    /// How many tokens a node may claim for it.
    pub claim_bounds: ClaimBounds,
    /// Its trace, if there is one.
    pub trace: Option<Trace>,
}

/// The account of a request that has not ended.
#[derive(Debug)]
pub(super) struct OpenAccount {
    pub(super) admission: Admission,
    pub(super) reserved: Option<Reserved>,
    /// What operators see of it, from its admission on.
    pub(super) shown: Option<Arc<OpenRequest>>,
    /// Resolves once a stream's admission is safely stored.
    pub(super) admitted: Option<Receipt>,
    pub(super) node: Option<Arc<NodeEndpoint>>,
    /// What the node that has it counts.
    pub(super) pulse: Arc<Pulse>,
    /// Tokens of its answers that were counted there.
    pub(super) pulsed: u64,
    pub(super) attempts: u32,
    pub(super) queued: Duration,
    /// Since when it has been waiting for a slot, as an uptime.
    pub(super) waiting_since: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    /// Whether a node is working on it now.
    pub(super) is_running: bool,
    pub(super) work: NodeWork,
    /// For a plain answer: how fast the node that is working on it is at least.
    pub(super) pace: Option<Pace>,
    /// The gateway's own time spent on the answer.
    pub(super) forwarding: Duration,
    pub(super) progress: AnswerProgress,
    /// The gateway's loads that this request caused.
    pub(super) load_cost: Arc<LoadCost>,
    /// A load that a node did by itself for it.
    pub(super) node_load: Option<Duration>,
    /// When the row was last noted, as an uptime.
    pub(super) noted: Duration,
    /// The reason for its end.
    pub(super) reason: Reason,
}

impl OpenAccount {
    /// The account of a request that has just been parsed.
    pub(super) fn new(admission: Admission) -> Self {
        Self {
            admission,
            reserved: None,
            shown: None,
            admitted: None,
            node: None,
            pulse: Arc::default(),
            pulsed: 0,
            attempts: 0,
            queued: Duration::ZERO,
            waiting_since: None,
            first_byte: None,
            is_running: false,
            work: NodeWork::default(),
            pace: None,
            forwarding: Duration::ZERO,
            progress: AnswerProgress::default(),
            load_cost: Arc::default(),
            node_load: None,
            noted: Duration::ZERO,
            reason: Reason::default(),
        }
    }

    /// The usage row that the request would leave if it ended now.
    pub(super) fn row(&self, status: Status, now: Moment) -> UsageRow {
        let admission = &self.admission;
        let Tally { prompt, completion, source, .. } = self.tally(status, now.uptime);
        let Spent { prefill, decode } = self.work.spent(now.uptime, self.progress.usage.unwrap_or_default());
        let loads = self.load_cost.so_far(now.uptime).into_iter().chain(self.node_load);
        UsageRow {
            request_id: admission.request_id,
            user: admission.access.usage_id().clone(),
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
            group: self.group(),
        }
    }

    /// The group that it was admitted under; before that, the user's.
    fn group(&self) -> Option<Arc<str>> {
        let group = match &self.reserved {
            Some(reserved) => reserved.group().cloned(),
            None => self.admission.access.group(),
        };
        group.map(|group| group.usage_id().clone())
    }

    /// Counts tokens for the plots.
    pub(super) fn count_tokens(&mut self, pulses: &Pulses, tokens: u64) {
        self.pulsed += tokens;
        self.pulse.tokens(tokens);
        pulses.all().tokens(tokens);
    }

    /// Updates what operators see of the request, once it is shown.
    pub(super) fn show_that(&self, tell: impl FnOnce(&OpenRequest)) {
        if let Some(shown) = &self.shown {
            tell(shown);
        }
    }

    /// Makes the request visible to operators.
    pub(super) fn show(&self) -> Arc<OpenRequest> {
        let Admission { request_id, access, model, endpoint, stream, received, .. } = &self.admission;
        let who = (*request_id, access.user().shared(), access.key_id().cloned());
        Arc::new(OpenRequest::new(who, (model.clone(), endpoint, *stream), *received, &access.revoked()))
    }

    /// The node may have loaded the model by itself, if the gateway did not know that it had left memory.
    pub(super) fn take_load(&mut self, usage: Option<Usage>) {
        let reported = usage.and_then(|usage| usage.load);
        if let (Some(reported), Some(node), Some(since)) = (reported, &self.node, self.work.since()) {
            self.node_load = node.loads.charge(since, reported);
        }
    }

    /// How many tokens the node may claim, given the cap that it was sent.
    pub(super) fn claim_bounds(&self) -> ClaimBounds {
        let bounds = self.admission.claim_bounds;
        let cap = self.reserved.as_ref().and_then(|reserved| reserved.allowance.output);
        ClaimBounds { max_output: cap.or(bounds.max_output), ..bounds }
    }

    /// The node's own numbers within their bounds. Failing that, ours: the answer as it passed, and an estimate for a
    /// prompt that was begun. A client that leaves a running request pays for its prompt; one that got no answer
    /// through no fault of its own does not.
    pub(super) fn tally(&self, status: Status, now: Duration) -> Tally {
        let is_reported =
            self.progress.usage.is_some_and(|usage| usage.prompt_tokens.is_some() || usage.completion_tokens.is_some());
        let is_begun = self.first_byte.is_some() || (status == Status::Cancelled && self.node.is_some());
        if is_reported || is_begun {
            let tally = self.claim_bounds().tally(&self.progress);
            let written = if is_reported || status != Status::Cancelled { 0 } else { self.written_unseen(now) };
            return Tally { completion: tally.completion.max(written), ..tally };
        }
        Tally { prompt: 0, completion: 0, source: TallySource::Counted, is_corrected: false }
    }

    /// Estimated tokens that a node has written of a plain answer whose client did not wait for it. Otherwise, whoever
    /// leaves just before the end would get the slot for free.
    fn written_unseen(&self, now: Duration) -> u64 {
        let bounds = self.claim_bounds();
        let (Some(pace), Some(since), false) = (self.pace, self.work.since(), bounds.embeds) else { return 0 };
        let written = pace.tokens_after(now.saturating_sub(since).as_secs_f64());
        written.min(bounds.max_output.unwrap_or(MOST_UNSEEN))
    }
}

fn tokens_from(source: TallySource) -> TokensFrom {
    match source {
        TallySource::Reported => TokensFrom::Reported,
        TallySource::Counted => TokensFrom::Counted,
        TallySource::Estimated => TokensFrom::Estimated,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
