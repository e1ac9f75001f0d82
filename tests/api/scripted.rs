//! A node for what the simulated one cannot do: it answers every request with bytes written by hand.
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::harness::let_pass;

/// What the node does about a request, one after the other. Unless it closes the connection in the end, it reads the
/// next request from it.
#[derive(Clone)]
pub enum Step {
    Send(Bytes),
    /// One byte at a time, so far apart.
    Trickle(Bytes, Duration),
    /// Waits for a permit.
    Pass(Rc<Semaphore>),
    Close,
    /// Closes so that the other side meets an error.
    Reset,
}

/// A request that is not a probe.
#[derive(Clone, Debug)]
pub struct Received {
    /// The connections are counted in the order of their first request.
    pub connection: usize,
    /// Requests before it on the same connection.
    pub earlier: usize,
    /// In lower case.
    pub head: String,
    pub body: Bytes,
}

type Script = dyn Fn(&Received) -> Vec<Step>;

#[derive(Default)]
struct Log {
    received: Vec<Received>,
    connections: usize,
    /// Connections with requests that the other side closed.
    closed: usize,
}

/// The node. It stops when it is dropped.
pub struct ScriptedNode {
    address: SocketAddr,
    log: Rc<RefCell<Log>>,
    accepting: actix_rt::task::JoinHandle<()>,
}

impl ScriptedNode {
    /// A node with the model `llama3.2:latest` that is up, and follows the script.
    pub async fn start(script: impl Fn(&Received) -> Vec<Step> + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Rc::new(RefCell::new(Log::default()));
        let (script, shared): (Rc<Script>, _) = (Rc::new(script), log.clone());
        let accepting = actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let connection = Connection { stream, held: BytesMut::new(), number: None, earlier: 0 };
                actix_rt::spawn(connection.serve(script.clone(), shared.clone()));
            }
        });
        Self { address, log, accepting }
    }

    /// A node that does the same about every request.
    pub async fn always(steps: impl Fn() -> Vec<Step> + 'static) -> Self {
        Self::start(move |_| steps()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests but the probes, oldest first.
    pub fn received(&self) -> Vec<Received> {
        self.log.borrow().received.clone()
    }

    /// Connections that carried such requests.
    pub fn connections(&self) -> usize {
        self.log.borrow().connections
    }

    /// Those of them that the gateway closed.
    pub fn closed_connections(&self) -> usize {
        self.log.borrow().closed
    }
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Connection {
    stream: TcpStream,
    held: BytesMut,
    number: Option<usize>,
    earlier: usize,
}

impl Connection {
    async fn serve(mut self, script: Rc<Script>, log: Rc<RefCell<Log>>) {
        while let Some((head, body)) = self.request().await {
            if let Some(answer) = probe(&head) {
                if self.stream.write_all(json(answer).as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
            let received = self.note(head, body, &log);
            for step in script(&received) {
                match self.act(step).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(_) => {
                        log.borrow_mut().closed += 1;
                        return;
                    }
                }
            }
        }
        if self.number.is_some() {
            log.borrow_mut().closed += 1;
        }
    }

    fn note(&mut self, head: String, body: Bytes, log: &RefCell<Log>) -> Received {
        let mut log = log.borrow_mut();
        let number = *self.number.get_or_insert(log.connections);
        log.connections = log.connections.max(number + 1);
        let received = Received { connection: number, earlier: self.earlier, head, body };
        self.earlier += 1;
        log.received.push(received.clone());
        received
    }

    /// The next request; `None` when the other side has closed the connection.
    async fn request(&mut self) -> Option<(String, Bytes)> {
        let end = loop {
            if let Some(end) = self.held.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.read().await?;
        };
        let head = String::from_utf8(self.held.split_to(end).to_vec()).unwrap().to_ascii_lowercase();
        let length = crate::harness::header_of(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while self.held.len() < length {
            self.read().await?;
        }
        Some((head, self.held.split_to(length).freeze()))
    }

    async fn read(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.held).await.unwrap_or(0);
        (read > 0).then_some(())
    }

    /// Whether the connection goes on; an error when the other side has closed it.
    async fn act(&mut self, step: Step) -> std::io::Result<bool> {
        match step {
            Step::Send(bytes) => self.stream.write_all(&bytes).await?,
            Step::Trickle(bytes, pause) => {
                for byte in bytes {
                    let_pass(pause).await;
                    self.stream.write_all(&[byte]).await?;
                }
            }
            Step::Pass(gate) => gate.acquire().await.unwrap().forget(),
            Step::Close => return Ok(false),
            Step::Reset => {
                socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn probe(head: &str) -> Option<&'static str> {
    let mut words = head.split(' ').skip(1);
    match words.next()? {
        "/api/version" => Some(r#"{"version":"0.12.0"}"#),
        "/api/ps" => {
            Some(r#"{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest","size_vram":2000000000}]}"#)
        }
        "/api/tags" => Some(
            r#"{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest","modified_at":"2026-11-01T12:00:00Z","size":2000000000,"digest":"ab"}]}"#,
        ),
        _ => None,
    }
}

fn json(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A plain answer as it should be.
pub fn plain(body: &str) -> Step {
    raw(json(body))
}

/// Exactly these bytes.
pub fn raw(bytes: impl Into<Bytes>) -> Step {
    Step::Send(bytes.into())
}

/// The head of a stream.
pub fn stream_head() -> Step {
    raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
}

/// A part of a chunked body.
pub fn chunk(content: impl AsRef<[u8]>) -> Step {
    let content = content.as_ref();
    let mut bytes = format!("{:x}\r\n", content.len()).into_bytes();
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(b"\r\n");
    raw(bytes)
}

/// The end of a chunked body.
pub fn last_chunk() -> Step {
    raw("0\r\n\r\n")
}

/// A plain chat answer that says so.
pub fn chat_answer(content: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-7","object":"chat.completion","created":1790000000,"model":"llama3.2","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}}}"#
    )
}

/// One event of a chat stream that says so.
pub fn chat_event(content: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-7\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"llama3.2\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// The last events of a chat stream: the reason, the usage, and the mark.
pub const CHAT_END: &str = concat!(
    "data: {\"id\":\"chatcmpl-7\",\"model\":\"llama3.2\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"id\":\"chatcmpl-7\",\"model\":\"llama3.2\",\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2,\"total_tokens\":13}}\n\n",
    "data: [DONE]\n\n",
);
