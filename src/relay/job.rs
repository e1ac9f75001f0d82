//! What is sent to a node for one admitted request?
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::meter::Meter;
use crate::fleet::{AttemptError, Head, NodeEndpoint, Question, Upstream, route_of};
use protocol::Endpoint;
use scheduler::{Arrival, Membership, Prefix, RequestId};

/// An admitted request, ready for a node.
#[derive(Debug)]
pub struct Job {
    /// Its account.
    pub meter: Meter,
    /// The user whose lane it joins.
    pub user: Arc<str>,
    /// The user's weight.
    pub weight: f64,
    /// The user's group.
    pub membership: Option<Membership>,
    /// As the client spelled it.
    pub model: Arc<str>,
    /// The route.
    pub endpoint: Endpoint,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Estimated tokens of the prompt.
    pub prompt_tokens: u64,
    /// The most tokens the answer may have, if it is limited.
    pub max_output: Option<u64>,
    /// Beginnings of the prompt that a node may have cached.
    pub prefixes: Arc<[Prefix]>,
    /// Whether the client must not see the usage chunk.
    pub hide_usage: bool,
    /// The request id as text, for the answer's id and the node's log.
    pub request_id: String,
    /// The request id.
    pub id: Uuid,
    /// The client's headers that are passed on to the node.
    pub headers: Vec<(&'static str, String)>,
    /// The client's body with the gateway's edits.
    pub body: Bytes,
}

impl Job {
    pub(super) fn arrival(&self) -> Arrival {
        Arrival {
            // The dispatcher assigns the real one.
            id: RequestId(0),
            user: self.user.clone(),
            weight: self.weight,
            membership: self.membership.clone(),
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

    /// Sends it to a node and waits for the head of the answer. Only the gateway's own headers and those named by the
    /// job are sent.
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
