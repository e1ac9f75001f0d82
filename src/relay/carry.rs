//! One request's way through the relay: slot, node, answer; and again elsewhere, while no byte has reached the client.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Settings;
use super::catalog::Catalog;
use super::dispatcher::{Dispatcher, Interruption, Ticket};
use super::meter::Meter;
use super::metered::{MeteredBody, OpenStream, Patience};
use super::nodes::{Fleet, NodeEndpoint};
use super::upstream::{AttemptError, Head, Upstream, next_chunk, read_answer};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{Status, StorageFull};
use protocol::{Endpoint, StreamEditor, StreamFault, Usage, edit_answer};
use scheduler::{Arrival, Failure, Outcome, Refusal, RequestId};

/// What every request shares on its way.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Deadlines.
    pub settings: Settings,
    /// The queue and its scheduler.
    pub dispatcher: Arc<Dispatcher>,
    /// Where the nodes are.
    pub fleet: Fleet,
    /// What they say about their models.
    pub catalog: Arc<Catalog>,
    /// The clock.
    pub clock: Clock,
    /// Where attempts are counted.
    pub metrics: Arc<Metrics>,
    /// Set when the gateway stops and running requests have had their time.
    pub stop: CancellationToken,
}

/// An admitted request, ready for a node.
#[derive(Debug)]
pub struct Job {
    /// Its account.
    pub meter: Meter,
    /// Whose turn it takes in the queue.
    pub user: Arc<str>,
    /// The user's share of the nodes, beside others'.
    pub weight: f64,
    /// As the client spelled it.
    pub model: Arc<str>,
    /// The route.
    pub endpoint: Endpoint,
    /// Whether the answer streams.
    pub stream: bool,
    /// Tokens of the prompt, about.
    pub prompt_tokens: u64,
    /// The most tokens the answer may have, where there is a limit.
    pub max_output: Option<u64>,
    /// The same for every turn of a conversation.
    pub session: Option<u64>,
    /// Whether the usage chunk stays hidden.
    pub hide_usage: bool,
    /// In text; ours, for the answer's id and the node's log.
    pub request_id: String,
    /// The same.
    pub id: Uuid,
    /// Headers of the client's that the node is to see.
    pub headers: Vec<(&'static str, String)>,
    /// With our edits.
    pub body: Bytes,
}

/// A node's answer.
#[derive(Debug)]
pub struct Answer {
    /// By whom, and after what.
    pub served: Served,
    /// What it said.
    pub content: Content,
}

/// How a request came to its answer.
#[derive(Clone, Debug)]
pub struct Served {
    /// Which node.
    pub node: Arc<str>,
    /// Waiting, over all attempts.
    pub queued: Duration,
    /// Nodes asked.
    pub attempts: u32,
    /// Requests that waited when this one came.
    pub ahead: usize,
    /// When the first token was expected, after the request came; `None` if it was too far back to say.
    pub expected: Option<Duration>,
}

/// What a node said.
#[derive(Debug)]
pub enum Content {
    /// A whole JSON body; a status of 4xx is the node's verdict on the request.
    Plain {
        /// The node's status.
        status: u16,
        /// JSON.
        body: Bytes,
    },
    /// A stream that has begun.
    Stream(Box<MeteredBody>),
}

/// A request that got no answer. Its account is still open: whoever words the error closes it.
#[derive(Debug)]
pub struct CarryError {
    /// The open account.
    pub meter: Meter,
    /// What happened.
    pub why: WhyNot,
}

/// Why a request got no answer.
#[derive(Clone, Debug)]
pub enum WhyNot {
    /// The scheduler refused it; `detail` is what the last attempt met, if there was one.
    Refused {
        /// Why, and when to come back.
        refusal: Refusal,
        /// For people.
        detail: Option<String>,
    },
    /// It took longer than the service allows.
    TooLong,
    /// The gateway stops.
    Stopping,
    /// The answer is here, or begins, but its usage could not be stored in time.
    Unrecorded,
    /// The key it came with is revoked.
    Revoked,
}

impl WhyNot {
    fn label(&self) -> &'static str {
        match self {
            Self::Refused { refusal, .. } => refusal.reason.label(),
            Self::TooLong => "deadline",
            Self::Stopping => "stopping",
            Self::Unrecorded => "storage",
            Self::Revoked => "revoked",
        }
    }
}

/// A node that answered.
struct Reached {
    node: Arc<NodeEndpoint>,
    attempt: u32,
    reply: Reply,
}

impl Job {
    fn arrival(&self) -> Arrival {
        Arrival {
            // The dispatcher gives it its own.
            id: RequestId(0),
            user: self.user.clone(),
            weight: self.weight,
            model: self.model.clone(),
            prompt_tokens: self.prompt_tokens,
            max_output: self.max_output,
            known_output: self.endpoint.embeds().then_some(0),
            session: self.session,
            is_stream: self.stream,
            deadline: Duration::ZERO,
        }
    }
}

enum Reply {
    Plain { status: u16, body: Bytes, usage: Option<Usage> },
    Stream(Box<OpenStream>),
}

impl Relay {
    /// Takes a request to a node and brings its answer back.
    ///
    /// # Errors
    /// [`CarryError`] when no node gave a whole answer, or the first byte of one.
    pub async fn carry(&self, upstream: &Upstream, mut job: Job) -> Result<Answer, CarryError> {
        let until = job.meter.received() + self.settings.total();
        let left = until.saturating_sub(self.clock.uptime());
        let mut ticket = self.dispatcher.join(job.id, job.arrival(), self.settings.queue().min(left));
        job.meter.joins(&ticket, job.endpoint);
        let revoked = job.meter.revoked();
        let result = tokio::select! {
            biased;
            // First, so that what waits does not take the slot of what is ended with it.
            () = self.stop.cancelled() => Err(WhyNot::Stopping),
            () = revoked.cancelled() => Err(WhyNot::Revoked),
            result = self.attempts(upstream, &mut ticket, &mut job) => result,
            () = tokio::time::sleep(left) => Err(WhyNot::TooLong),
        };
        let reached = match result {
            Ok(reached) => reached,
            Err(why) => {
                self.metrics.queue_rejected(why.label());
                return Err(CarryError { meter: job.meter, why });
            }
        };
        let Reached { node, attempt, reply } = reached;
        let queued = job.meter.queued();
        let (ahead, expected) = ticket.forecast();
        let content = match reply {
            Reply::Plain { status, body, usage } => {
                ticket.leave(Outcome::Completed, usage.and_then(|usage| usage.completion_tokens));
                if close_plain(&mut job.meter, status, usage).await.is_err() {
                    self.metrics.queue_rejected(WhyNot::Unrecorded.label());
                    return Err(CarryError { meter: job.meter, why: WhyNot::Unrecorded });
                }
                Content::Plain { status, body }
            }
            Reply::Stream(stream) => {
                if job.meter.admitted().await.is_err() {
                    self.metrics.queue_rejected(WhyNot::Unrecorded.label());
                    return Err(CarryError { meter: job.meter, why: WhyNot::Unrecorded });
                }
                let gap = node.chunk_gap().unwrap_or(self.settings.chunk_gap());
                let patience = Patience { clock: self.clock, gap, until, stop: self.stop.clone() };
                Content::Stream(Box::new(MeteredBody::new(*stream, ticket, job.meter, patience)))
            }
        };
        let served = Served { node: node.name.clone(), queued, attempts: attempt, ahead, expected };
        Ok(Answer { served, content })
    }

    /// Attempts until one gives something for the client, or the scheduler gives no further slot.
    async fn attempts(&self, upstream: &Upstream, ticket: &mut Ticket, job: &mut Job) -> Result<Reached, WhyNot> {
        let mut detail = None;
        let mut failed: Option<Failure> = None;
        loop {
            job.meter.waits();
            let grant = ticket.granted().await.map_err(|refusal| WhyNot::Refused { refusal, detail: detail.take() })?;
            if let Some(failure) = failed {
                self.metrics.retried(failure.label());
            }
            let Some(node) = self.fleet.get(grant.node) else {
                // It was taken out between the decision and now.
                failed = Some(Failure::Unreachable);
                ticket.failed(Failure::Unreachable);
                continue;
            };
            job.meter.granted(&node, grant.attempt);
            let result = tokio::select! {
                biased;
                interruption = ticket.interrupted() => Err(interruption),
                result = self.attempt(upstream, &node, job) => Ok(result),
            };
            let error = match result {
                Ok(Ok(reply)) if !matches!(reply, Reply::Stream(_)) || ticket.first_byte(grant.attempt) => {
                    return Ok(Reached { node, attempt: grant.attempt, reply });
                }
                Ok(Err(error)) => error,
                // The core has moved the request on already.
                Ok(Ok(_)) | Err(_) => {
                    let silent = AttemptError::new(Failure::Silent, "no token in far longer than it should need");
                    self.note_failure(job, &node, &silent);
                    if let Err(Interruption::Refused(refusal)) = result {
                        return Err(WhyNot::Refused { refusal, detail: Some(silent.detail) });
                    }
                    (failed, detail) = (Some(silent.failure), Some(silent.detail));
                    continue;
                }
            };
            self.note_failure(job, &node, &error);
            ticket.failed(error.failure);
            (failed, detail) = (Some(error.failure), Some(error.detail));
        }
    }

    fn note_failure(&self, job: &mut Job, node: &NodeEndpoint, error: &AttemptError) {
        let AttemptError { failure, detail } = error;
        tracing::warn!(request_id = job.request_id, node = &*node.name, ?failure, detail, "attempt failed");
        job.meter.attempt_failed(*failure);
    }

    /// One attempt on one node, up to a whole plain answer or the first event of a stream.
    async fn attempt(
        &self,
        upstream: &Upstream,
        node: &Arc<NodeEndpoint>,
        job: &mut Job,
    ) -> Result<Reply, AttemptError> {
        let first_byte = node.first_byte().unwrap_or(self.settings.first_byte());
        let sending = upstream.post(node, job);
        let head = tokio::time::timeout(first_byte, sending).await.map_err(|_| {
            AttemptError::new(Failure::TimedOut, format!("no first byte within {} s", first_byte.as_secs()))
        })??;
        let mut response = match head {
            Head::Good(response) => response,
            Head::Rejected { status, body } => return Ok(Reply::Plain { status, body, usage: None }),
        };
        if job.stream {
            let editor = StreamEditor::new(job.endpoint, &job.request_id, job.hide_usage);
            let editor = editor.limited(job.meter.stream_limit());
            let stream = open_stream(response, editor, first_byte).await?;
            job.meter.first_byte(self.clock.uptime());
            return Ok(Reply::Stream(Box::new(stream)));
        }
        let headed = self.clock.uptime();
        let body = read_answer(&mut response, node.chunk_gap().unwrap_or(self.settings.chunk_gap())).await?;
        let whole = self.clock.uptime();
        let (body, usage) =
            edit_answer(job.endpoint, body, &job.request_id).map_err(|why| AttemptError::new(Failure::Garbled, why))?;
        job.meter.forwarded(self.clock.uptime().saturating_sub(whole));
        job.meter.first_byte(headed);
        Ok(Reply::Plain { status: response.status().as_u16(), body, usage: Some(usage) })
    }
}

/// Settles, and waits until the row is safe: only then may the client have the answer.
async fn close_plain(meter: &mut Meter, status: u16, usage: Option<Usage>) -> Result<(), StorageFull> {
    let receipt = match usage {
        Some(usage) => {
            meter.reported(usage);
            meter.finish(Status::Completed, status)
        }
        // The request is at fault, says the node, and costs nothing.
        None => meter.finish(Status::Refused, status),
    };
    match receipt {
        Some(receipt) => meter.kept(receipt).await,
        None => Ok(()),
    }
}

/// Reads until there is something for the client. A stream that fails before has failed before its first byte.
async fn open_stream(
    mut response: awc::ClientResponse,
    mut editor: StreamEditor,
    within: Duration,
) -> Result<OpenStream, AttemptError> {
    let mut first = Vec::new();
    while first.is_empty() {
        let Some(chunk) = next_chunk(&mut response, within).await? else {
            return Err(AttemptError::new(Failure::Garbled, "the stream ended before its first event"));
        };
        editor.push(chunk, &mut first).map_err(|fault| {
            let failure = if matches!(fault, StreamFault::Node(_)) { Failure::Crashed } else { Failure::Garbled };
            AttemptError::new(failure, fault.to_string())
        })?;
    }
    Ok(OpenStream { response, editor, first })
}
