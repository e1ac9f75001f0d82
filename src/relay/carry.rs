//! How does one request get through the relay? Slot, node, answer; then another node, while no byte has reached the
//! client.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, CarryError, Content, Served, WhyNot};
use super::case::{Case, Cases};
use super::job::Job;
use super::meter::Meter;
use super::metered::{MeteredBody, OpenStream, Patience, Source};
use super::settings::RelaySettings;
use super::watched::WatchedBody;
use crate::clock::Clock;
use crate::dispatch::{Dispatcher, Interruption, Ticket};
use crate::fleet::{
    Asked, AttemptError, Evidence, Fleet, FleetContext, Head, Maintenances, NodeEndpoint, Upstream, Verdict, judge,
    next_chunk, read_answer,
};
use crate::metrics::Metrics;
use crate::store::{Reason, Status, StorageFull};
use cluster::Foreseen;
use protocol::{AnswerProgress, StreamEditor, StreamFault, edit_answer};
use scheduler::{Blame, Failure, NodeId, Outcome, Refusal, RefusalReason};

/// What all requests share on their way to a node.
#[derive(Clone, Debug)]
pub struct Relay {
    settings: RelaySettings,
    dispatcher: Arc<Dispatcher>,
    nodes: Fleet,
    maintenances: Maintenances,
    clock: Clock,
    metrics: Arc<Metrics>,
    cases: Cases,
    /// Cancelled once the gateway is stopping and the grace period for running requests is over.
    stop: CancellationToken,
}

/// A node that has answered.
struct Reached {
    id: NodeId,
    node: Arc<NodeEndpoint>,
    attempt: u32,
    foreseen: Foreseen,
    reply: Reply,
}

enum Reply {
    Plain { status: u16, body: Bytes, progress: Option<AnswerProgress> },
    Stream(Box<OpenStream>),
}

/// How an attempt ended.
enum Tried {
    Reached(Reply),
    Failed(AttemptError),
    /// The core found the node silent. It has already queued the request again, or refuses it.
    BrokenOff(Option<Refusal>),
}

impl Relay {
    /// A relay to these nodes, which breaks off running requests when `stop` is cancelled.
    pub fn new(settings: RelaySettings, context: &FleetContext, stop: CancellationToken) -> Self {
        Self {
            settings,
            dispatcher: context.dispatcher.clone(),
            nodes: context.nodes.clone(),
            maintenances: context.maintenances.clone(),
            clock: context.clock,
            metrics: context.metrics.clone(),
            cases: Cases::default(),
            stop,
        }
    }

    /// The deadlines.
    pub fn settings(&self) -> &RelaySettings {
        &self.settings
    }

    /// Takes a request to a node and returns its answer.
    ///
    /// # Errors
    /// [`CarryError`] if no node gave a complete plain answer, or the first byte of a stream.
    pub async fn carry(&self, upstream: &Upstream, mut job: Job) -> Result<Answer, CarryError> {
        let until = job.meter.received() + self.settings.total();
        let now = self.clock.uptime();
        let left = until.saturating_sub(now);
        let case = self.cases.of(&job.user, job.endpoint, &job.body);
        if let Some(left) = case.indicted(&self.dispatcher, now) {
            return Err(self.give_up(job.meter, WhyNot::Indicted(left)));
        }
        let mut ticket = self.dispatcher.join(job.id, job.arrival(), self.settings.queue().min(left));
        job.meter.joins(&ticket, job.endpoint);
        let stopped = job.meter.stop_token();
        let result = tokio::select! {
            biased;
            // Checked first, so that a waiting request does not take the slot of one that is ended with it.
            () = self.stop.cancelled() => Err(WhyNot::Stopping),
            () = stopped.cancelled() => Err(job.meter.stopped().map_or(WhyNot::Revoked, WhyNot::Stopped)),
            result = self.attempts(upstream, &mut ticket, &mut job, &case) => result,
            () = tokio::time::sleep(left) => Err(WhyNot::TooLong),
        };
        match result {
            Ok(reached) => self.bring(reached, ticket, job, case, until).await,
            Err(why) => Err(self.give_up(job.meter, why)),
        }
    }

    fn give_up(&self, meter: Meter, why: WhyNot) -> CarryError {
        self.metrics.queue_rejected(why.label());
        CarryError { meter, why }
    }

    /// Brings the client what a node has answered, once the part of the record that must come before it is safe.
    async fn bring(
        &self,
        reached: Reached,
        ticket: Ticket,
        mut job: Job,
        case: Case,
        until: Duration,
    ) -> Result<Answer, CarryError> {
        let Reached { id, node, attempt, foreseen, reply } = reached;
        let queued = job.meter.queued();
        let expected = foreseen.expected.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e6)));
        let content = match reply {
            Reply::Plain { status, body, progress } => {
                let outcome = if progress.is_some() { Outcome::Completed } else { Outcome::Rejected };
                if outcome == Outcome::Completed {
                    case.answered();
                }
                let bounds = job.meter.claim_bounds();
                let tokens = progress.map(|progress| bounds.tally(&progress).completion);
                ticket.leave(outcome, tokens, progress.and_then(|progress| progress.usage));
                if close_plain(&mut job.meter, status, progress).await.is_err() {
                    return Err(self.give_up(job.meter, WhyNot::Unrecorded));
                }
                Content::Plain { status, body }
            }
            Reply::Stream(stream) => {
                if job.meter.admitted().await.is_err() {
                    return Err(self.give_up(job.meter, WhyNot::Unrecorded));
                }
                let gap = node.chunk_gap().unwrap_or(self.settings.chunk_gap());
                let patience = Patience { clock: self.clock, gap };
                let source = Source { id, case, model: job.model, endpoint: job.endpoint, is_ollama: node.is_ollama() };
                let body = MeteredBody::new(*stream, ticket, job.meter, patience, source);
                let left = until.saturating_sub(self.clock.uptime());
                Content::Stream(Box::new(WatchedBody::new(body, left, self.stop.clone())))
            }
        };
        let served = Served { node: node.name.clone(), queued, attempts: attempt, ahead: foreseen.ahead, expected };
        Ok(Answer { served, content })
    }

    /// Makes attempts until one produces something for the client, or the scheduler grants no further slot.
    async fn attempts(
        &self,
        upstream: &Upstream,
        ticket: &mut Ticket,
        job: &mut Job,
        case: &Case,
    ) -> Result<Reached, WhyNot> {
        let mut detail = None;
        let mut silent_on: Vec<NodeId> = Vec::new();
        let mut failed: Option<Failure> = None;
        loop {
            job.meter.waits();
            let grant = ticket.granted().await.map_err(|refusal| {
                self.note_stuck(case, &refusal, &silent_on);
                self.refused(refusal, detail.take(), &job.model)
            })?;
            if let Some(failure) = failed {
                self.metrics.retried(failure.label());
            }
            let Some(node) = self.nodes.get(grant.node) else {
                // The node was removed after the decision.
                failed = Some(Failure::Unreachable);
                ticket.failed(Failure::Unreachable);
                continue;
            };
            job.meter.granted(&node, grant.attempt);
            let foreseen = ticket.foreseen();
            // A plain answer shows no tokens: if its client leaves, the pace tells what the node has written.
            if !job.stream {
                job.meter.paced(foreseen.certain_pace);
            }
            let error = match self.tried(upstream, &node, grant.attempt, ticket, job).await {
                Tried::Reached(reply) => {
                    return Ok(Reached { id: grant.node, node, attempt: grant.attempt, foreseen, reply });
                }
                Tried::Failed(error) => error,
                Tried::BrokenOff(refusal) => {
                    let silent = AttemptError::new(Failure::Silent, "no token for far longer than expected");
                    self.note_failure(job, &node, &silent);
                    silent_on.push(grant.node);
                    if let Some(refusal) = refusal {
                        self.note_stuck(case, &refusal, &silent_on);
                        return Err(self.refused(refusal, Some(silent.detail), &job.model));
                    }
                    (failed, detail) = (Some(silent.failure), Some(silent.detail));
                    continue;
                }
            };
            self.note_failure(job, &node, &error);
            if error.failure.blame() == Blame::Undecided {
                case.failed(grant.node, self.clock.uptime());
            }
            ticket.failed(error.failure);
            (failed, detail) = (Some(error.failure), Some(error.detail));
        }
    }

    /// One attempt, unless the core breaks it off.
    async fn tried(
        &self,
        upstream: &Upstream,
        node: &Arc<NodeEndpoint>,
        attempt: u32,
        ticket: &mut Ticket,
        job: &mut Job,
    ) -> Tried {
        let result = tokio::select! {
            biased;
            interruption = ticket.interrupted() => Err(interruption),
            result = self.attempt(upstream, node, job) => Ok(result),
        };
        match result {
            // From its first byte on a stream is never retried, so the core must agree before the client sees it.
            Ok(Ok(reply)) if !matches!(reply, Reply::Stream(_)) || ticket.first_byte(attempt).await => {
                Tried::Reached(reply)
            }
            Ok(Err(error)) => Tried::Failed(error),
            Err(Interruption::Refused(refusal)) => Tried::BrokenOff(Some(refusal)),
            Ok(Ok(_)) | Err(Interruption::Abandoned) => Tried::BrokenOff(None),
        }
    }

    /// Why there is no node, if that is because all nodes that could have the model are drained; `None` = any model.
    pub fn maintenance_of(&self, model: Option<&str>, otherwise: Duration) -> Option<WhyNot> {
        let nodes = match model {
            Some(model) => self.dispatcher.read(|scheduler| scheduler.nodes_with(model)),
            None => self.nodes.ids(),
        };
        let maintenance = self.maintenances.of_all(&nodes)?;
        let left = |until_ms: i64| u64::try_from(until_ms.saturating_sub(self.clock.now().unix_ms)).unwrap_or(0);
        let retry_after = maintenance.until_ms.map_or(otherwise, |until_ms| Duration::from_millis(left(until_ms)));
        Some(WhyNot::Maintenance { maintenance, retry_after })
    }

    fn refused(&self, refusal: Refusal, detail: Option<String>, model: &str) -> WhyNot {
        let is_none_there = refusal.reason == RefusalReason::NoNode;
        let why = is_none_there.then(|| self.maintenance_of(Some(model), refusal.retry_after)).flatten();
        why.unwrap_or(WhyNot::Refused { refusal, detail })
    }

    /// A request that met nothing but silent nodes may be what silences them.
    fn note_stuck(&self, case: &Case, refusal: &Refusal, silent_on: &[NodeId]) {
        if matches!(refusal.reason, RefusalReason::Exhausted { last: Failure::Stuck }) {
            silent_on.iter().for_each(|node| case.failed(*node, self.clock.uptime()));
        }
    }

    fn note_failure(&self, job: &mut Job, node: &NodeEndpoint, error: &AttemptError) {
        let AttemptError { failure, detail } = error;
        tracing::warn!(request_id = job.request_id, node = &*node.name, ?failure, detail, "attempt failed");
        job.meter.attempt_failed(*failure);
    }

    /// One attempt on one node, up to a complete plain answer or the first event of a stream.
    async fn attempt(
        &self,
        upstream: &Upstream,
        node: &Arc<NodeEndpoint>,
        job: &mut Job,
    ) -> Result<Reply, AttemptError> {
        let first_byte = node.first_byte().unwrap_or(self.settings.first_byte());
        let sending = job.send(upstream, node);
        let head = tokio::time::timeout(first_byte, sending).await.map_err(|_| {
            AttemptError::new(Failure::TimedOut, format!("no first byte within {} s", first_byte.as_secs()))
        })??;
        let mut response = match head {
            Head::Good(response) => response,
            Head::Rejected { status, body } => return Ok(Reply::Plain { status, body, progress: None }),
        };
        if job.stream {
            let editor = StreamEditor::new(job.endpoint, &job.request_id, job.hide_usage);
            let editor = editor.limited(job.meter.stream_limit());
            let mut stream = Box::new(OpenStream { response, editor, first: Vec::new() });
            match open(&mut stream, first_byte).await {
                Ok(()) => {}
                Err(Unopened::Attempt(error)) => return Err(error),
                Err(Unopened::Node(detail)) => return reported(job, node, &detail),
            }
            job.meter.first_byte(self.clock.uptime());
            return Ok(Reply::Stream(stream));
        }
        let headed = self.clock.uptime();
        let body = read_answer(&mut response, node.chunk_gap().unwrap_or(self.settings.chunk_gap())).await?;
        let whole = self.clock.uptime();
        let (body, progress) =
            edit_answer(job.endpoint, body, &job.request_id).map_err(|why| AttemptError::new(Failure::Garbled, why))?;
        job.meter.forwarded(self.clock.uptime().saturating_sub(whole));
        job.meter.first_byte(headed);
        Ok(Reply::Plain { status: response.status().as_u16(), body, progress: Some(progress) })
    }
}

/// Settles, and waits until the row is safe: only then may the client have the answer.
async fn close_plain(meter: &mut Meter, status: u16, progress: Option<AnswerProgress>) -> Result<(), StorageFull> {
    let receipt = match progress {
        Some(progress) => {
            meter.progress(progress);
            meter.finish(Status::Completed, status)
        }
        // The node says that the request is at fault; it costs nothing.
        None => {
            meter.because(Reason::new(Some("node_refused"), None));
            meter.finish(Status::Refused, status)
        }
    };
    match receipt {
        Some(receipt) => meter.kept(receipt).await,
        None => Ok(()),
    }
}

/// Why no stream was opened.
enum Unopened {
    Attempt(AttemptError),
    /// The error that the node reported instead.
    Node(String),
}

impl From<AttemptError> for Unopened {
    fn from(error: AttemptError) -> Self {
        Self::Attempt(error)
    }
}

/// The node reported an error with a status of success; the request may be at fault.
fn reported(job: &Job, node: &NodeEndpoint, detail: &str) -> Result<Reply, AttemptError> {
    let asked = Asked { dialect: job.endpoint.dialect(), model: &job.model, is_ollama: node.is_ollama() };
    match judge(asked, Evidence::Message(detail)) {
        Verdict::Request { status, body } => Ok(Reply::Plain { status, body, progress: None }),
        Verdict::Attempt(failure) => {
            Err(AttemptError::new(failure, format!("the node reported an error in the stream: {detail}")))
        }
    }
}

/// Reads until there is something for the client. A stream that fails earlier has failed before its first byte.
async fn open(stream: &mut OpenStream, within: Duration) -> Result<(), Unopened> {
    while stream.first.is_empty() {
        let Some(chunk) = next_chunk(&mut stream.response, within).await? else {
            return Err(AttemptError::new(Failure::Garbled, "the stream ended before its first event").into());
        };
        stream.editor.push(chunk, &mut stream.first).map_err(|fault| match fault {
            StreamFault::Node(detail) => Unopened::Node(detail),
            fault => AttemptError::new(Failure::Garbled, fault.to_string()).into(),
        })?;
    }
    Ok(())
}
