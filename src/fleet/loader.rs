//! Who brings models into the nodes' memory and takes them out? One task, with requests of the gateway's own, so that no
//! client that leaves aborts a load that others wait for.
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

/// An unload is only taken note of: the node answers at once.
const UNLOAD_DEADLINE: Duration = Duration::from_secs(10);

/// How models are loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadTerms {
    /// Longest wait for a model to be loaded.
    pub deadline: Duration,
    /// How long a model stays in memory after its last request, if nothing else needs the memory.
    pub keep_alive: Duration,
}

/// Does the scheduler's errands, as many at a time as it wants.
#[derive(Debug)]
pub struct Loader {
    context: FleetContext,
    terms: LoadTerms,
    upstream: Upstream,
    errands: mpsc::Receiver<Errand>,
}

impl Loader {
    /// A loader for what the dispatcher wants.
    pub fn new(context: FleetContext, terms: LoadTerms, upstream: Upstream, errands: mpsc::Receiver<Errand>) -> Self {
        Self { context, terms, upstream, errands }
    }

    /// Does errands until `stop`; a load under way is broken off then.
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

/// Does something with a node, unless it was taken out since.
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

/// An empty request: it loads the model, or unloads it where `keep_alive` is 0, and nothing else. Models that only embed
/// say so, and are asked in their own way.
async fn ask(
    upstream: &Upstream,
    node: &Arc<NodeEndpoint>,
    model: &str,
    keep_alive: &serde_json::Value,
    deadline: Duration,
) -> Result<(), AttemptError> {
    if node.found_kind() == Kind::OpenAi {
        let detail = "the node is no Ollama: it loads what it is set up to";
        return Err(AttemptError::new(Failure::Unloadable, detail));
    }
    let generate = json!({"model": model, "keep_alive": keep_alive, "stream": false});
    let asking = async {
        match post(upstream, node, Endpoint::Generate, model, &generate).await? {
            Head::Good(_) => Ok(()),
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
        // To its end, so that the connection can be used again, and so that an answer cut short is no success.
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
