//! A tiny HTTP client on a raw socket, which sees bytes as they arrive and hangs up on demand.

use std::net::SocketAddr;
use std::time::Duration;

use ollama_sim::SimNode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough for any step of a test on a slow machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection with one request on it.
pub struct Call {
    socket: TcpStream,
    received: Vec<u8>,
}

/// A complete answer.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// Whether the body ended as HTTP demands.
    pub clean: bool,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The data of each server-sent event.
    pub fn events(&self) -> Vec<&str> {
        self.body.split("\n\n").filter_map(|event| Some(event.split_once("data: ")?.1)).collect()
    }

    pub fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Call {
    pub async fn send(addr: SocketAddr, method: &str, path: &str, body: &str) -> Call {
        Self::send_with(addr, method, path, "", body).await
    }

    /// `headers` are whole lines, each with its line end.
    pub async fn send_with(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Call {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: sim\r\n{headers}content-length: {length}\r\n\r\n{body}");
        socket.write_all(request.as_bytes()).await.unwrap();
        Call { socket, received: Vec::new() }
    }

    /// Reads until the received text contains `mark`.
    pub async fn until(&mut self, mark: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.received).into_owned();
            if text.contains(mark) {
                return text;
            }
            assert!(self.more().await, "closed before `{mark}`: {text}");
        }
    }

    /// Reads everything up to the end of the answer; `None` if the connection closed before that.
    pub async fn reply(mut self, method: &str) -> Option<Reply> {
        loop {
            if let Some(reply) = parse(&self.received, method, false) {
                return Some(reply);
            }
            if !self.more().await {
                return parse(&self.received, method, true);
            }
        }
    }

    /// Whether nothing arrives for a while.
    pub async fn is_silent(&mut self) -> bool {
        let mut buffer = [0; 1];
        timeout(Duration::from_millis(150), self.socket.peek(&mut buffer)).await.is_err()
    }

    pub fn received(&self) -> &[u8] {
        &self.received
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = timeout(PATIENCE, self.socket.read(&mut buffer)).await.expect("the node hangs");
        let count = read.unwrap_or(0);
        self.received.extend_from_slice(&buffer[..count]);
        count > 0
    }
}

fn parse(bytes: &[u8], method: &str, closed: bool) -> Option<Reply> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let rest = &bytes[end..];
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let (body, clean) = if method == "HEAD" {
        (Vec::new(), true)
    } else if head.contains("transfer-encoding: chunked") {
        dechunk(rest)
    } else {
        let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        (rest[..rest.len().min(length)].to_vec(), rest.len() >= length)
    };
    if !clean && !closed {
        return None;
    }
    Some(Reply { status, head, body: String::from_utf8(body).unwrap(), clean })
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = rest.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line_end]).unwrap(), 16).unwrap();
        let data = &rest[line_end + 2..];
        if data.len() < size + 2 {
            return (body, false);
        }
        if size == 0 {
            return (body, true);
        }
        body.extend_from_slice(&data[..size]);
        rest = &data[size + 2..];
    }
}

/// Sends a request and reads the whole answer.
pub async fn call(node: &SimNode, method: &str, path: &str, body: &str) -> Reply {
    try_call(node, method, path, body).await.expect("the connection closed without an answer")
}

pub async fn try_call(node: &SimNode, method: &str, path: &str, body: &str) -> Option<Reply> {
    Call::send(node.addr(), method, path, body).await.reply(method).await
}

pub async fn post(node: &SimNode, path: &str, body: &str) -> Reply {
    call(node, "POST", path, body).await
}

/// Waits until a claim about the node is true.
pub async fn eventually(claim: impl Fn() -> bool) {
    let wait = async {
        while !claim() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the claim never came true");
}
