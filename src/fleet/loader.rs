//! Who loads and unloads the models on nodes? One task, by requests of the gateway's own, so that a client that leaves
//! does not abort a load that others wait for.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::FleetContext;
use super::endpoint::NodeEndpoint;
use super::kind::Kind;
use super::upstream::{AttemptError, Head, Question, Upstream, read_answer};
use crate::dispatch::Errand;
use protocol::Endpoint;
use scheduler::{Event, Failure, NodeId};

/// A node answers an unload at once; it only has to take note of it.
const UNLOAD_DEADLINE: Duration = Duration::from_secs(10);

/// How models are loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadTerms {
    /// The longest wait for a model to be loaded.
    pub deadline: Duration,
    /// How long a model stays in memory after its last request, if nothing else needs the memory.
    pub keep_alive: Duration,
}

/// Carries out the scheduler's errands, as many at a time as the scheduler issues.
#[derive(Debug)]
pub struct Loader {
    context: FleetContext,
    terms: LoadTerms,
    upstream: Upstream,
    errands: mpsc::Receiver<Errand>,
}

impl Loader {
    /// A loader for the dispatcher's errands.
    pub fn new(context: FleetContext, terms: LoadTerms, upstream: Upstream, errands: mpsc::Receiver<Errand>) -> Self {
        Self { context, terms, upstream, errands }
    }

    /// Carries out errands until `stop`, which breaks off loads in progress.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                errand = self.errands.recv() => match errand {
                    Some(errand) => under_way.push(run(self.context.clone(), self.terms, self.upstream.clone(), errand)),
                    None => return,
                },
                Some(()) = under_way.next() => {}
            }
        }
    }
}

async fn run(context: FleetContext, terms: LoadTerms, upstream: Upstream, errand: Errand) {
    let began = context.clock.uptime();
    let event = match errand {
        Errand::Load { node, model, cost } => {
            let keep = json!(format!("{}s", terms.keep_alive.as_secs()));
            let result = with_node(&context, node, async |endpoint| {
                let under_way = endpoint.loads.begin(cost, context.clock);
                let result = ask(&upstream, endpoint, &model, &keep, terms.deadline).await;
                // Its cost ends here, and not with the log line.
                drop(under_way);
                let seconds = context.clock.uptime().saturating_sub(began);
                match &result {
                    Ok(()) => {
                        context.metrics.loaded(&endpoint.name, seconds);
                        tracing::info!(node = &*endpoint.name, model = &*model, ?seconds, "model loaded");
                    }
                    Err(error) => report(&endpoint.name, &model, error, "a model could not be loaded"),
                }
                result
            });
            Event::Loaded { node, result: result.await, model: model.clone() }
        }
        Errand::Unload { node, model } => {
            let result = with_node(&context, node, async |endpoint| {
                let result = ask(&upstream, endpoint, &model, &json!(0), UNLOAD_DEADLINE).await;
                match &result {
                    Ok(()) => tracing::info!(node = &*endpoint.name, model = &*model, "model unloaded to make room"),
                    Err(error) => report(&endpoint.name, &model, error, "a model could not be unloaded"),
                }
                result
            });
            Event::Unloaded { node, result: result.await, model: model.clone() }
        }
    };
    context.dispatcher.report(event);
}

/// Does something with a node, unless it was removed meanwhile.
async fn with_node(
    context: &FleetContext,
    node: NodeId,
    act: impl AsyncFnOnce(&Arc<NodeEndpoint>) -> Result<(), AttemptError>,
) -> Result<(), Failure> {
    match context.nodes.get(node) {
        Some(endpoint) => act(&endpoint).await.map_err(|error| error.failure),
        None => Err(Failure::Unreachable),
    }
}

fn report(node: &str, model: &str, error: &AttemptError, message: &str) {
    tracing::warn!(node, model, failure = ?error.failure, detail = error.detail, "{message}");
}

/// Sends an empty request, which only loads the model, or unloads it if `keep_alive` is 0. Models that only embed
/// reject it, and are sent an embedding request instead.
async fn ask(
    upstream: &Upstream,
    node: &Arc<NodeEndpoint>,
    model: &str,
    keep_alive: &serde_json::Value,
    deadline: Duration,
) -> Result<(), AttemptError> {
    if node.found_kind() == Kind::OpenAi {
        let detail = "the node is not Ollama: its models are configured on the node itself";
        return Err(AttemptError::new(Failure::Unloadable, detail));
    }
    let generate = json!({"model": model, "keep_alive": keep_alive, "stream": false});
    let asking = async {
        match post(upstream, node, Endpoint::Generate, model, &generate).await? {
            Head::Good(_) => Ok(()),
            // Ollama says so of a model that only embeds.
            Head::Rejected { status: 400, .. } => {
                let embed = json!({"model": model, "keep_alive": keep_alive, "input": ""});
                match post(upstream, node, Endpoint::Embed, model, &embed).await? {
                    Head::Good(_) => Ok(()),
                    rejected => Err(verdict(rejected)),
                }
            }
            rejected => Err(verdict(rejected)),
        }
    };
    tokio::time::timeout(deadline, asking)
        .await
        .map_err(|_| AttemptError::new(Failure::TimedOut, format!("not done within {} s", deadline.as_secs())))?
}

async fn post(
    upstream: &Upstream,
    node: &Arc<NodeEndpoint>,
    endpoint: Endpoint,
    model: &str,
    body: &serde_json::Value,
) -> Result<Head, AttemptError> {
    let body = Bytes::from(body.to_string());
    let question = Question { endpoint, model, request_id: "gateway", headers: &[], body: &body };
    let head = upstream.send(node, question).await?;
    Ok(match head {
        // Read it to its end: the connection can be reused then, and a truncated answer is noticed.
        Head::Good(mut response) => {
            read_answer(&mut response, UNLOAD_DEADLINE).await?;
            Head::Good(response)
        }
        rejected => rejected,
    })
}

fn verdict(head: Head) -> AttemptError {
    match head {
        Head::Rejected { status, body } => {
            let said = protocol::message_of(&body).unwrap_or_default();
            AttemptError::new(Failure::Unloadable, format!("status {status}: {said}"))
        }
        Head::Good(_) => AttemptError::new(Failure::Garbled, "no verdict"),
    }
}
