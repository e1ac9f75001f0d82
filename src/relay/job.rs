//! What goes to a node for one admitted request?
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::meter::Meter;
use crate::fleet::{AttemptError, Head, NodeEndpoint, Question, Upstream, route_of};
use protocol::Endpoint;
use scheduler::{Arrival, Prefix, RequestId};

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
    /// What of the prompt a node may have read before.
    pub prefixes: Arc<[Prefix]>,
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

impl Job {
    pub(super) fn arrival(&self) -> Arrival {
        Arrival {
            // The dispatcher gives it its own.
            id: RequestId(0),
            user: self.user.clone(),
            weight: self.weight,
            model: self.model.clone(),
            prompt_tokens: self.prompt_tokens,
            max_output: self.max_output,
            known_output: self.endpoint.embeds().then_some(0),
            prefixes: self.prefixes.clone(),
            route: route_of(self.endpoint),
            is_stream: self.stream,
            deadline: Duration::ZERO,
        }
    }

    /// Sends it to a node and waits for the head of the answer. Only our own headers go along, and those that the job
    /// names.
    pub(super) async fn send(&self, upstream: &Upstream, node: &Arc<NodeEndpoint>) -> Result<Head, AttemptError> {
        let mut headers = self.headers.clone();
        if let Some((traceparent, tracestate)) = self.meter.trace_headers() {
            headers.push(("traceparent", traceparent));
            headers.extend(tracestate.map(|tracestate| ("tracestate", tracestate)));
        }
        let question = Question {
            endpoint: self.endpoint,
            model: &self.model,
            request_id: &self.request_id,
            headers: &headers,
            body: &self.body,
        };
        upstream.send(node, question).await
    }
}
