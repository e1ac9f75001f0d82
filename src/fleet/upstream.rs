//! What comes back from one attempt on a node? Sends the request, waits for the head, and tells good answers from
//! failures.
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use awc::error::{ConnectError, PayloadError, SendRequestError};
use awc::http::{StatusCode, header};
use awc::{ClientRequest, ClientResponse};
use bytes::Bytes;
use futures_util::StreamExt;

use super::connector;
use super::endpoint::NodeEndpoint;
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
    Good(ClientResponse),
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

type Clients = Vec<(Weak<NodeEndpoint>, awc::Client)>;

/// One worker's clients, one for each node. Their connections never leave the thread, and each client has its node's
/// trusted certificates and deadlines.
#[derive(Clone)]
pub struct Upstream {
    clients: Rc<RefCell<Clients>>,
    connect: Duration,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Upstream")
    }
}

impl Upstream {
    /// Clients for the calling thread; `connect` is the longest wait for a connection.
    pub fn new(connect: Duration) -> Self {
        Self { clients: Rc::default(), connect }
    }

    fn client(&self, node: &Arc<NodeEndpoint>) -> awc::Client {
        let mut clients = self.clients.borrow_mut();
        // By the endpoint itself and not by its name: changed settings make another endpoint, and so another client.
        let is_its = |(known, _): &&(Weak<NodeEndpoint>, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(node));
        if let Some((_, client)) = clients.iter().find(is_its) {
            return client.clone();
        }
        // Whenever a new node comes, clients of removed nodes are dropped.
        clients.retain(|(known, _)| known.strong_count() > 0);
        let client = connector::client(node, self.connect);
        clients.push((Arc::downgrade(node), client.clone()));
        client
    }

    /// awc pools a connection as soon as it has read a head that promises no body. After an interim answer (1xx), or a
    /// head whose body ends with the connection, the rest would then answer another client's request. So nothing in the
    /// pool is reused after such a head.
    pub(crate) fn give_up_pool_after(&self, node: &Arc<NodeEndpoint>, response: &ClientResponse) {
        let headers = response.headers();
        let has_length =
            headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        if response.status().is_informational() || !has_length {
            self.clients.borrow_mut().retain(|(known, _)| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(node)));
        }
    }

    /// Sends a request and waits for the head of the answer. The node's credentials are sent to that node only.
    pub(crate) async fn send(&self, node: &Arc<NodeEndpoint>, question: Question<'_>) -> Result<Head, AttemptError> {
        let Question { endpoint, model, request_id, headers, body } = question;
        let named = node.name_there(model);
        let there = named.as_deref().unwrap_or(model);
        let asked = Asked { dialect: endpoint.dialect(), model: there, is_ollama: node.found_kind() == Kind::Ollama };
        let mut request = self
            .client(node)
            .post(node.uri(endpoint).clone())
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .insert_header(("x-request-id", request_id));
        for (name, value) in headers {
            request = request.append_header((*name, value.as_str()));
        }
        for header in node.headers() {
            request = request.insert_header(header);
        }
        // The body must carry the node's own name for the model.
        let renamed = (there != model).then(|| with_model(body, there)).flatten();
        let body = renamed.unwrap_or_else(|| body.clone());
        let mut response = request.send_body(body).await.map_err(|error| not_sent(asked, &error))?;
        self.give_up_pool_after(node, &response);
        let status = response.status();
        if status.is_success() {
            return Ok(Head::Good(response));
        }
        if status == StatusCode::UNAUTHORIZED {
            node.deny();
        }
        // An error that does not come in time, or is too long, is judged by its status alone.
        let body = tokio::time::timeout(ERROR_PATIENCE, read(&mut response, MAX_ERROR)).await;
        let body = body.map(Result::unwrap_or_default).unwrap_or_default();
        let detail = || format!("status {}: {}", status.as_u16(), excerpt(&body));
        match judge(asked, Evidence::Status(status.as_u16(), &body)) {
            Verdict::Request { status, body } => Ok(Head::Rejected { status, body }),
            Verdict::Attempt(failure) => Err(AttemptError::new(failure, detail())),
        }
    }

    /// Asks a node for something small.
    pub(crate) async fn get(&self, node: &Arc<NodeEndpoint>, uri: &awc::http::Uri) -> Result<Bytes, AskError> {
        self.ask(node, self.client(node).get(uri.clone()), Bytes::new()).await
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
        self.ask(node, self.client(node).post(node.show_uri().clone()), body).await
    }

    /// A request of the gateway's own, with the node's headers.
    pub(crate) fn request(
        &self,
        node: &Arc<NodeEndpoint>,
        uri: &awc::http::Uri,
        method: &str,
    ) -> Result<ClientRequest, String> {
        let method = method.parse().map_err(|_| format!("`{method}` is not an HTTP method"))?;
        let mut request = self.client(node).request(method, uri.clone());
        for header in node.headers() {
            request = request.insert_header(header);
        }
        Ok(request)
    }

    async fn ask(&self, node: &Arc<NodeEndpoint>, mut request: ClientRequest, body: Bytes) -> Result<Bytes, AskError> {
        for header in node.headers() {
            request = request.insert_header(header);
        }
        let mut response = request.send_body(body).await.map_err(|error| match evidence(&error) {
            Evidence::NoDescriptor => AskError::Starved,
            _ => AskError::Failed(error.to_string()),
        })?;
        self.give_up_pool_after(node, &response);
        if response.status() == StatusCode::UNAUTHORIZED {
            node.deny();
        }
        if response.status() != StatusCode::OK {
            return Err(AskError::Status(response.status().as_u16()));
        }
        read(&mut response, MAX_LISTING).await.map_err(|error| AskError::Failed(error.detail))
    }
}

/// Reads a whole body, up to `limit`.
async fn read(response: &mut ClientResponse, limit: usize) -> Result<Bytes, AttemptError> {
    let mut chunks = Chunks::new(limit);
    while let Some(chunk) = response.next().await {
        chunks.push(chunk.map_err(|error| cut_short(&error))?)?;
    }
    chunks.finish(response)
}

/// Reads a plain answer's body, with at most `gap` between its parts.
pub(crate) async fn read_answer(response: &mut ClientResponse, gap: Duration) -> Result<Bytes, AttemptError> {
    let mut chunks = Chunks::new(MAX_ANSWER);
    while let Some(chunk) = next_chunk(response, gap).await? {
        chunks.push(chunk)?;
    }
    chunks.finish(response)
}

/// The next part of a body; `None` at its proper end.
pub(crate) async fn next_chunk(response: &mut ClientResponse, within: Duration) -> Result<Option<Bytes>, AttemptError> {
    match tokio::time::timeout(within, response.next()).await {
        Ok(chunk) => chunk.transpose().map_err(|error| cut_short(&error)),
        Err(_) => Err(AttemptError::new(Failure::TimedOut, format!("silent for {} s", within.as_secs()))),
    }
}

struct Chunks {
    limit: usize,
    size: usize,
    parts: Vec<Bytes>,
}

impl Chunks {
    fn new(limit: usize) -> Self {
        Self { limit, size: 0, parts: Vec::new() }
    }

    fn push(&mut self, part: Bytes) -> Result<(), AttemptError> {
        self.size += part.len();
        if self.size > self.limit {
            return Err(AttemptError::new(Failure::Garbled, format!("the answer is larger than {} bytes", self.limit)));
        }
        self.parts.push(part);
        Ok(())
    }

    /// Checks the promised length as well: if TLS closes properly, the socket cannot tell that bytes are missing.
    fn finish(mut self, response: &ClientResponse) -> Result<Bytes, AttemptError> {
        let promised =
            response.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if promised.is_some_and(|promised: usize| promised != self.size) {
            return Err(AttemptError::new(Failure::Reset, "the answer is shorter than promised"));
        }
        Ok(match self.parts.len() {
            1 => self.parts.swap_remove(0),
            _ => self.parts.concat().into(),
        })
    }
}

/// The connection broke within a body.
pub(crate) fn cut_short(error: &PayloadError) -> AttemptError {
    AttemptError::new(Failure::Reset, format!("the answer was cut short: {error}"))
}

fn not_sent(asked: Asked<'_>, error: &SendRequestError) -> AttemptError {
    let failure = match judge(asked, evidence(error)) {
        Verdict::Attempt(failure) => failure,
        // Nothing was sent, so the request cannot be at fault.
        Verdict::Request { .. } => Failure::Garbled,
    };
    AttemptError::new(failure, error.to_string())
}

fn evidence(error: &SendRequestError) -> Evidence<'static> {
    match error {
        error if is_out_of_descriptors(error) => Evidence::NoDescriptor,
        // awc also reports this if a connection closed before it carried a head.
        SendRequestError::Connect(ConnectError::Disconnected) | SendRequestError::Send(_) => Evidence::ConnectionLost,
        SendRequestError::Connect(_) => Evidence::NoConnection,
        SendRequestError::Response(error) if is_broken_connection(error) => Evidence::ConnectionLost,
        _ => Evidence::NotUnderstood,
    }
}

/// Whether this process, or the machine, cannot open any more files.
fn is_out_of_descriptors(error: &SendRequestError) -> bool {
    let is_it = |error: &std::io::Error| {
        let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
        code.is_some_and(|code| {
            [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].iter().any(|it| it.raw_os_error() as u32 == code)
        })
    };
    match error {
        SendRequestError::Connect(ConnectError::Io(error)) | SendRequestError::Send(error) => is_it(error),
        _ => false,
    }
}

/// Whether the connection broke, as opposed to what came over it being wrong.
fn is_broken_connection(error: &impl std::error::Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<std::io::Error>())
}

/// The message of an error body, short enough for a log line.
fn excerpt(body: &[u8]) -> String {
    let text = message_of(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
