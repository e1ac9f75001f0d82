//! What comes back from one attempt on a node? Sends the request, waits for the head, and tells good answers from
//! failures.
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix_http::header::{HeaderValue, InvalidHeaderValue};
use actix_http::{Method, ServiceConfig, StatusCode, Uri};
use actix_tls::connect::ConnectError;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::connections::{Connections, NoConnection};
use super::endpoint::NodeEndpoint;
use super::exchange::{ExchangeError, NodeAnswer, RequestHead, exchange};
use super::kind::Kind;
use super::verdict::{Asked, Evidence, Verdict, judge};
use protocol::{Endpoint, message_of, with_model};
use scheduler::Failure;

/// The largest plain answer that is held in memory.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// The largest answer to a question of the gateway's own, such as a list of 10,000 models.
const MAX_LISTING: usize = 16 * 1024 * 1024;
/// How much of an error body is read and kept.
const MAX_ERROR: usize = 64 * 1024;
/// How long to wait for the body of an error; its head is enough to go on.
const ERROR_PATIENCE: Duration = Duration::from_secs(2);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why an attempt failed, for the scheduler and for people.
#[derive(Clone, Debug)]
pub struct AttemptError {
    /// For the scheduler.
    pub failure: Failure,
    /// For people.
    pub detail: String,
}

impl AttemptError {
    pub(crate) fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self { failure, detail: detail.into() }
    }
}

/// A node's answer with a good head, or its verdict on the request.
pub enum Head {
    /// The body is still to come.
    Good(NodeAnswer),
    /// The node says that the request itself is at fault; this is for the client.
    Rejected {
        /// 4xx.
        status: u16,
        /// In the client's dialect.
        body: Bytes,
    },
}

/// A request to a node on behalf of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) endpoint: Endpoint,
    /// The model's name as sent to the node.
    pub(crate) model: &'a str,
    pub(crate) request_id: &'a str,
    /// Only these and the gateway's own headers are sent.
    pub(crate) headers: &'a [(&'static str, String)],
    pub(crate) body: &'a Bytes,
}

/// Why a node did not answer a question of the gateway's own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The node was not asked.
    #[error("the gateway has no file descriptors left")]
    Starved,
    /// It answered with a status other than 200.
    #[error("status {0}")]
    Status(u16),
    /// It failed in another way.
    #[error("{0}")]
    Failed(String),
}

type Way = (Weak<NodeEndpoint>, Rc<Connections>);

/// One worker's ways to the nodes: connections that never leave its thread.
#[derive(Clone)]
pub struct Upstream {
    nodes: Rc<RefCell<Vec<Way>>>,
    connect: Duration,
    /// Made once, since it keeps a timer.
    config: Rc<OnceCell<ServiceConfig>>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Upstream")
    }
}

impl Upstream {
    /// For the calling thread; `connect` is the longest wait for a connection.
    pub fn new(connect: Duration) -> Self {
        Self { nodes: Rc::default(), connect, config: Rc::default() }
    }

    fn connections(&self, node: &Arc<NodeEndpoint>) -> Rc<Connections> {
        let mut nodes = self.nodes.borrow_mut();
        // By the endpoint itself and not by its name: changed settings make another endpoint, and so other connections.
        let is_its = |(known, _): &&Way| std::ptr::eq(known.as_ptr(), Arc::as_ptr(node));
        if let Some((_, connections)) = nodes.iter().find(is_its) {
            return connections.clone();
        }
        // Whenever a new node comes, the connections to removed ones are closed.
        nodes.retain(|(known, _)| known.strong_count() > 0);
        let connections = Rc::new(Connections::new(node, self.connect));
        nodes.push((Arc::downgrade(node), connections.clone()));
        connections
    }

    /// Any exchange with a node, whose credentials are sent to it alone. A node that refuses them is noted as such.
    async fn exchange(
        &self,
        node: &Arc<NodeEndpoint>,
        mut head: RequestHead<'_>,
        body: Bytes,
    ) -> Result<NodeAnswer, ExchangeError> {
        for (name, value) in node.headers() {
            head.insert(name.as_str(), value);
        }
        let config = self.config.get_or_init(ServiceConfig::default);
        let answer = exchange(&self.connections(node), config, head, body).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            node.deny();
        }
        Ok(answer)
    }

    /// Sends a request and waits for the head of the answer. The node's credentials are sent to that node only.
    pub(crate) async fn send(&self, node: &Arc<NodeEndpoint>, question: Question<'_>) -> Result<Head, AttemptError> {
        let Question { endpoint, model, request_id, headers, body } = question;
        let named = node.name_there(model);
        let there = named.as_deref().unwrap_or(model);
        let asked = Asked { dialect: endpoint.dialect(), model: there, is_ollama: node.found_kind() == Kind::Ollama };
        let head = head(node.uri(endpoint), request_id, headers)
            .map_err(|error| AttemptError::new(Failure::Garbled, error.to_string()))?;
        // The body must carry the node's own name for the model.
        let renamed = (there != model).then(|| with_model(body, there)).flatten();
        let body = renamed.unwrap_or_else(|| body.clone());
        let mut answer = self.exchange(node, head, body).await.map_err(|error| not_sent(asked, &error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Head::Good(answer));
        }
        // An error that does not come in time, or is too long, is judged by its status alone.
        let body = tokio::time::timeout(ERROR_PATIENCE, read(&mut answer, MAX_ERROR)).await;
        let body = body.map(Result::unwrap_or_default).unwrap_or_default();
        let detail = || format!("status {}: {}", status.as_u16(), excerpt(&body));
        match judge(asked, Evidence::Status(status.as_u16(), &body)) {
            Verdict::Request { status, body } => Ok(Head::Rejected { status, body }),
            Verdict::Attempt(failure) => Err(AttemptError::new(failure, detail())),
        }
    }

    /// Asks a node for something small.
    pub(crate) async fn get(&self, node: &Arc<NodeEndpoint>, uri: &Uri) -> Result<Bytes, AskError> {
        self.ask(node, RequestHead::new(&Method::GET, uri), Bytes::new()).await
    }

    /// Asks a node about a model. The caller sets a deadline.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn show(&self, node: &Arc<NodeEndpoint>, body: Bytes) -> Result<Bytes, String> {
        if node.found_kind() == Kind::OpenAi {
            return Err("only an Ollama node can show its models".to_owned());
        }
        self.ask_about(node, body).await.map_err(|error| error.to_string())
    }

    /// The same for an Ollama node.
    pub(crate) async fn ask_about(&self, node: &Arc<NodeEndpoint>, body: Bytes) -> Result<Bytes, AskError> {
        let mut head = RequestHead::new(&Method::POST, node.show_uri());
        head.insert("content-type", &JSON);
        self.ask(node, head, body).await
    }

    async fn ask(&self, node: &Arc<NodeEndpoint>, head: RequestHead<'_>, body: Bytes) -> Result<Bytes, AskError> {
        let mut answer = self.exchange(node, head, body).await.map_err(|error| match evidence(&error) {
            Evidence::NoDescriptor => AskError::Starved,
            _ => AskError::Failed(error.to_string()),
        })?;
        if answer.status() != StatusCode::OK {
            return Err(AskError::Status(answer.status().as_u16()));
        }
        read(&mut answer, MAX_LISTING).await.map_err(|error| AskError::Failed(error.detail))
    }

    /// A command to a node. The caller sets a deadline.
    ///
    /// # Errors
    /// Why it is not followed, in the node's words if it has any.
    pub(super) async fn command(
        &self,
        node: &Arc<NodeEndpoint>,
        method: &Method,
        uri: &Uri,
        command: &serde_json::Value,
    ) -> Result<NodeAnswer, String> {
        let mut head = RequestHead::new(method, uri);
        head.insert("content-type", &JSON);
        let body = Bytes::from(command.to_string());
        let mut answer = self.exchange(node, head, body).await.map_err(|error| error.to_string())?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let said = tokio::time::timeout(ERROR_PATIENCE, read(&mut answer, MAX_ERROR)).await;
        let said = said.ok().and_then(Result::ok).and_then(|body| message_of(&body));
        Err(said.unwrap_or_else(|| format!("status {}", answer.status().as_u16())))
    }
}

fn head<'a>(
    uri: &'a Uri,
    request_id: &str,
    headers: &[(&'static str, String)],
) -> Result<RequestHead<'a>, InvalidHeaderValue> {
    let mut head = RequestHead::new(&Method::POST, uri);
    head.insert("content-type", &JSON);
    head.insert("x-request-id", &HeaderValue::from_str(request_id)?);
    for (name, value) in headers {
        head.insert(name, &HeaderValue::from_str(value)?);
    }
    Ok(head)
}

/// Reads a whole body, up to `limit`.
async fn read(answer: &mut NodeAnswer, limit: usize) -> Result<Bytes, AttemptError> {
    let mut chunks = Chunks::new(limit);
    while let Some(chunk) = answer.next().await {
        chunks.push(chunk.map_err(|error| cut_short(&error))?)?;
    }
    Ok(chunks.finish())
}

/// Reads a plain answer's body, with at most `gap` between its parts. It is as long as its head promised.
pub(crate) async fn read_answer(answer: &mut NodeAnswer, gap: Duration) -> Result<Bytes, AttemptError> {
    let mut chunks = Chunks::new(MAX_ANSWER);
    while let Some(chunk) = next_chunk(answer, gap).await? {
        chunks.push(chunk)?;
    }
    Ok(chunks.finish())
}

/// The next part of a body; `None` at its proper end.
pub(crate) async fn next_chunk(answer: &mut NodeAnswer, within: Duration) -> Result<Option<Bytes>, AttemptError> {
    match tokio::time::timeout(within, answer.next()).await {
        Ok(chunk) => chunk.transpose().map_err(|error| cut_short(&error)),
        Err(_) => Err(AttemptError::new(Failure::TimedOut, format!("silent for {} s", within.as_secs()))),
    }
}

/// A body that is put together. Parts are copied, but for one that is alone: each may hold more memory than it has bytes.
struct Chunks {
    limit: usize,
    first: Bytes,
    all: BytesMut,
}

impl Chunks {
    fn new(limit: usize) -> Self {
        Self { limit, first: Bytes::new(), all: BytesMut::new() }
    }

    fn push(&mut self, part: Bytes) -> Result<(), AttemptError> {
        if self.first.len() + self.all.len() + part.len() > self.limit {
            return Err(AttemptError::new(Failure::Garbled, format!("the answer is larger than {} bytes", self.limit)));
        }
        if self.first.is_empty() && self.all.is_empty() {
            self.first = part;
        } else {
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
            self.all.extend_from_slice(&part);
        }
        Ok(())
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// The connection broke within a body.
pub(crate) fn cut_short(error: &ExchangeError) -> AttemptError {
    AttemptError::new(Failure::Reset, format!("the answer was cut short: {error}"))
}

fn not_sent(asked: Asked<'_>, error: &ExchangeError) -> AttemptError {
    let failure = match judge(asked, evidence(error)) {
        Verdict::Attempt(failure) => failure,
        // Nothing was sent, so the request cannot be at fault.
        Verdict::Request { .. } => Failure::Garbled,
    };
    AttemptError::new(failure, error.to_string())
}

fn evidence(error: &ExchangeError) -> Evidence<'static> {
    match error {
        error if is_out_of_descriptors(error) => Evidence::NoDescriptor,
        ExchangeError::NoConnection(_) => Evidence::NoConnection,
        ExchangeError::Broken(_) => Evidence::ConnectionLost,
        ExchangeError::Head(_) | ExchangeError::Status(_) | ExchangeError::Body(_) => Evidence::NotUnderstood,
    }
}

/// Whether this process, or the machine, cannot open any more files.
fn is_out_of_descriptors(error: &ExchangeError) -> bool {
    let is_it = |error: &std::io::Error| {
        let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
        code.is_some_and(|code| {
            [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].iter().any(|it| it.raw_os_error() as u32 == code)
        })
    };
    match error {
        ExchangeError::NoConnection(NoConnection::Failed(ConnectError::Io(error))) | ExchangeError::Broken(error) => {
            is_it(error)
        }
        _ => false,
    }
}

/// The message of an error body, short enough for a log line.
fn excerpt(body: &[u8]) -> String {
    let text = message_of(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_parts_is_whole_and_no_longer_than_its_limit() {
        let mut chunks = Chunks::new(4);
        for part in ["a", "", "bc", "d"] {
            chunks.push(Bytes::from_static(part.as_bytes())).unwrap();
        }
        assert!(chunks.push(Bytes::from_static(b"e")).is_err());
        assert_eq!(chunks.finish(), "abcd");

        let alone = Bytes::from_static(b"abcd");
        let mut chunks = Chunks::new(4);
        chunks.push(alone.clone()).unwrap();
        assert_eq!(chunks.finish().as_ptr(), alone.as_ptr(), "it is not copied");
    }
}
