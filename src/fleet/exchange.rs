//! How does one exchange with a node go? A request is written, the head of the answer is read, and its body as it comes.
//!
//! HTTP/1.1 over the codec of actix-http, without awc (docs/internals/decisions.md says why). States: sent → headed →
//! in the body → ended. Only an exchange that ended well, within the length that its head promised, gives its connection
//! back; dropped or failed anywhere, it closes it. The end of the connection never passes for the end of a body.
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::error::{ParseError, PayloadError};
use actix_http::h1::{ClientCodec, ClientPayloadCodec, MessageType};
use actix_http::header::{self, HeaderValue};
use actix_http::{ConnectionType, Method, ResponseHead, ServiceConfig, StatusCode, Uri};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio_util::codec::Decoder;

use super::connections::{Connection, Connections, NoConnection};

/// How much is read at once.
const READ: usize = 16 * 1024;
/// Room behind what was read. With less, the codec would make 32 KiB of it after each part.
const SPARE: usize = 2 * 1024;
/// Interim heads (1xx) before the real one; more are no answer.
const MAX_INTERIM: usize = 8;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No connection was made.
    #[error(transparent)]
    NoConnection(#[from] NoConnection),
    /// It ended or failed before the answer was complete.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// What came first cannot be read.
    #[error("what came is no HTTP answer: {0}")]
    Head(ParseError),
    /// A status that no answer has.
    #[error("what came is no HTTP answer: status {0}")]
    Status(StatusCode),
    /// The body cannot be read.
    #[error("the body is no HTTP: {0}")]
    Body(PayloadError),
}

/// The head of a request, as it is sent.
pub(super) struct RequestHead<'a> {
    uri: &'a Uri,
    text: BytesMut,
}

impl<'a> RequestHead<'a> {
    pub(super) fn new(method: &Method, uri: &'a Uri) -> Self {
        let mut text = BytesMut::with_capacity(512);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        for part in [method.as_str(), " ", path, " HTTP/1.1\r\nhost: ", host, "\r\naccept-encoding: identity\r\n"] {
            text.put_slice(part.as_bytes());
        }
        Self { uri, text }
    }

    pub(super) fn insert(&mut self, name: &str, value: &HeaderValue) {
        for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            self.text.put_slice(part);
        }
    }

    /// The end of the head.
    fn finish(mut self, length: usize) -> BytesMut {
        self.insert("content-length", &HeaderValue::from(length));
        self.text.put_slice(b"\r\n");
        self.text
    }
}

/// Sends a request and waits for the head of the answer. `config` says how the codec would write, which it does not.
pub(super) async fn exchange(
    connections: &Rc<Connections>,
    config: &ServiceConfig,
    head: RequestHead<'_>,
    body: Bytes,
) -> Result<NodeAnswer, ExchangeError> {
    let mut connection = connections.take(head.uri).await?;
    let mut request = head.finish(body.len()).chain(body);
    connection.wire.write_all_buf(&mut request).await?;
    connection.wire.flush().await?;
    drop(request);
    let mut arrived = Arrived::default();
    for _ in 0..=MAX_INTERIM {
        let mut codec = ClientCodec::new(config.clone());
        let head = loop {
            if let Some(head) = codec.decode(&mut arrived.bytes).map_err(ExchangeError::Head)? {
                break head;
            }
            poll_fn(|cx| arrived.poll_more(&mut connection, cx)).await?;
        };
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(ExchangeError::Status(head.status)),
            status if status.is_informational() => {}
            _ => return Ok(NodeAnswer::new(head, codec, arrived, connection, connections.clone())),
        }
    }
    Err(ExchangeError::Status(StatusCode::PROCESSING))
}

/// What has arrived and was not yet decoded. Between the parts of a stream it holds no memory: a part is read onto the
/// stack and then copied, because most are small and a thousand streams wait at a time.
#[derive(Default)]
struct Arrived {
    bytes: BytesMut,
}

impl Arrived {
    fn poll_more(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut connection.wire).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed it")));
        }
        self.bytes.reserve(read.filled().len() + SPARE);
        self.bytes.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

/// A node's answer: its head, and the body as a stream.
pub struct NodeAnswer {
    status: StatusCode,
    /// Whether the node leaves the connection open.
    is_kept: bool,
    /// `None` once the body has ended.
    rest: Option<Rest>,
}

/// What is needed to read the rest of a body.
struct Rest {
    codec: ClientPayloadCodec,
    arrived: Arrived,
    connection: Connection,
    /// Where the connection goes afterwards.
    home: Rc<Connections>,
}

impl std::fmt::Debug for NodeAnswer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NodeAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl NodeAnswer {
    fn new(
        head: ResponseHead,
        codec: ClientCodec,
        arrived: Arrived,
        connection: Connection,
        home: Rc<Connections>,
    ) -> Self {
        // The headers go: a thousand streams would hold 3 MB of them.
        let is_kept = head.connection_type() == ConnectionType::KeepAlive;
        // Without a length, a body may follow that ends with the connection.
        let has_length = head.headers.contains_key(header::CONTENT_LENGTH);
        let has_body = !matches!(codec.message_type(), MessageType::None);
        let rest = Rest { codec: codec.into_payload_codec(), arrived, connection, home };
        let mut answer = Self { status: head.status, is_kept, rest: Some(rest) };
        if !has_body {
            answer.end(has_length);
        }
        answer
    }

    /// The status of the answer; never 1xx.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body has ended. The connection may carry another exchange if the head said where that end is.
    fn end(&mut self, is_certain: bool) {
        let Some(Rest { arrived, connection, home, .. }) = self.rest.take() else { return };
        if is_certain && self.is_kept && arrived.bytes.is_empty() {
            home.keep(connection);
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ExchangeError>> {
        let Some(Rest { codec, arrived, connection, .. }) = &mut self.rest else { return Poll::Ready(Ok(None)) };
        loop {
            match codec.decode(&mut arrived.bytes).map_err(ExchangeError::Body)? {
                Some(Some(part)) => return Poll::Ready(Ok(Some(part))),
                Some(None) => {
                    self.end(true);
                    return Poll::Ready(Ok(None));
                }
                None => ready!(arrived.poll_more(connection, cx))?,
            }
        }
    }
}

impl Stream for NodeAnswer {
    type Item = Result<Bytes, ExchangeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = ready!(self.poll_body(cx));
        if polled.is_err() {
            self.rest = None;
        }
        Poll::Ready(polled.transpose())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, StreamExt, TryStreamExt};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::fleet::{NodeEndpoint, NodeSettings};

    const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    /// Its body is the number of requests that came over the same connection before.
    const EARLIER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}";
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\ncontent-length: 7\r\n\r\n";

    struct Node {
        uri: Uri,
        connections: Rc<Connections>,
        config: ServiceConfig,
    }

    impl Node {
        /// Gives one of `answers` after the other, and closes a connection after one of HTTP/1.0.
        async fn start(answers: &[&str]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
            actix_rt::spawn(async move {
                let mut answers = answers.into_iter();
                while let Ok((mut socket, _)) = listener.accept().await {
                    let (mut request, mut earlier) = ([0; 4096], 0);
                    while socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let Some(answer) = answers.next() else { return };
                        let answer = answer.replace("{}", &earlier.to_string());
                        socket.write_all(answer.as_bytes()).await.unwrap();
                        earlier += 1;
                        if answer.starts_with("HTTP/1.0") {
                            break;
                        }
                    }
                }
            });
            let settings = NodeSettings::new("a", url.clone());
            let connections = Connections::new(&NodeEndpoint::new(&settings).unwrap(), Duration::from_secs(5));
            Self { uri: url.parse().unwrap(), connections: Rc::new(connections), config: ServiceConfig::default() }
        }

        async fn ask(&self) -> Result<String, ExchangeError> {
            let head = RequestHead::new(&Method::POST, &self.uri);
            let answer = exchange(&self.connections, &self.config, head, Bytes::from_static(b"{}")).await?;
            let parts: Vec<Bytes> = answer.try_collect().await?;
            Ok(String::from_utf8(parts.concat()).unwrap())
        }
    }

    #[actix_rt::test]
    async fn a_connection_is_used_again_after_an_answer_of_known_length() {
        let node = Node::start(&[WHOLE, CHUNKED, EMPTY, EARLIER]).await;
        for body in ["hi", "hi", "", "3"] {
            assert_eq!(node.ask().await.unwrap(), body);
        }
    }

    #[actix_rt::test]
    async fn a_connection_is_not_used_again_if_more_may_follow() {
        for first in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi, and more",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
        ] {
            let node = Node::start(&[first, EARLIER]).await;
            node.ask().await.unwrap();
            assert_eq!(node.ask().await.unwrap(), "0", "{first}");
        }
    }

    #[actix_rt::test]
    async fn the_end_of_the_connection_is_not_the_end_of_a_body() {
        let node = Node::start(&["HTTP/1.0 200 OK\r\n\r\nhi", "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nhi"]).await;
        for _ in 0..2 {
            assert!(matches!(node.ask().await, Err(ExchangeError::Broken(_))));
        }
    }

    #[actix_rt::test]
    async fn interim_heads_are_skipped_whatever_they_promise_but_not_for_ever() {
        let some = format!("{}{WHOLE}", HINT.repeat(MAX_INTERIM));
        let many = format!("{}{WHOLE}", HINT.repeat(MAX_INTERIM + 1));
        let node = Node::start(&[&some, &many, "HTTP/1.1 101 Switching Protocols\r\n\r\n"]).await;
        assert_eq!(node.ask().await.unwrap(), "hi");
        for _ in 0..2 {
            assert!(matches!(node.ask().await, Err(ExchangeError::Status(_))));
        }
    }

    #[actix_rt::test]
    async fn a_stream_that_waits_holds_no_memory() {
        let node = Node::start(&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"]).await;
        let head = RequestHead::new(&Method::POST, &node.uri);
        let mut answer = exchange(&node.connections, &node.config, head, Bytes::new()).await.unwrap();
        let part = answer.next().await.unwrap().unwrap();
        let held = |answer: &NodeAnswer| answer.rest.as_ref().unwrap().arrived.bytes.capacity();
        assert_eq!(part, "hi");
        assert!(held(&answer) < SPARE + READ, "{}", held(&answer));

        assert!(answer.next().now_or_never().is_none());
        assert_eq!(held(&answer), 0);
    }
}
