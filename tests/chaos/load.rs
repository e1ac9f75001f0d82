//! Clients that know what they got: whether the end of an answer was there, and under which id.
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::run::Random;

/// As far as it came.
#[derive(Debug, Default)]
pub struct Answer {
    /// 0 where not even that came.
    pub status: u16,
    pub id: Option<Uuid>,
    /// Chunked or not, without the framing.
    pub body: String,
    /// Whether the framing says that this is all.
    pub is_whole: bool,
    /// Until the first byte behind the head.
    pub first_byte: Option<Duration>,
}

/// What one client asked and got.
#[derive(Debug)]
pub struct Sent {
    pub id: Uuid,
    /// That it must have been charged for, where the end of the answer was seen.
    pub completion_tokens: u64,
    /// The end of the answer was seen.
    pub is_acknowledged: bool,
    /// Something of a good answer was seen.
    pub has_begun: bool,
}

/// Sends a request on a connection of its own and reads until it closes, or for `patience`.
pub async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    key: &str,
    body: &str,
    patience: Duration,
) -> Answer {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut raw = Vec::new();
    let mut first_byte = None;
    let began = std::time::Instant::now();
    let reading = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.set_nodelay(true)?;
        connection.write_all(request.as_bytes()).await?;
        while connection.read_buf(&mut raw).await? > 0 {
            let head = raw.windows(4).position(|four| four == b"\r\n\r\n");
            if first_byte.is_none() && head.is_some_and(|end| raw.len() > end + 4) {
                first_byte = Some(began.elapsed());
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Too late, cut off or refused: what came until then is what counts.
    let _ = tokio::time::timeout(patience, reading).await;
    parse(&raw, first_byte)
}

fn parse(raw: &[u8], first_byte: Option<Duration>) -> Answer {
    let raw = String::from_utf8_lossy(raw);
    let Some((head, rest)) = raw.split_once("\r\n\r\n") else { return Answer::default() };
    let head = head.to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let (body, is_whole) = match header("content-length") {
        Some(length) => (rest.to_owned(), rest.len() == length.parse::<usize>().unwrap()),
        None => dechunk(rest),
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let id = header("x-request-id").and_then(|id| id.parse().ok());
    Answer { status, id, body, is_whole, first_byte }
}

fn dechunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = after.get(..size) else {
            body.push_str(after);
            break;
        };
        body.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    (body, false)
}

/// What one may ask: a route, whether it streams, and what stands at the end of a whole stream.
pub const KINDS: [(&str, bool, &str); 6] = [
    ("/v1/chat/completions", false, ""),
    ("/v1/chat/completions", true, "data: [DONE]\n\n"),
    ("/api/chat", true, "\"done\":true"),
    ("/api/chat", false, ""),
    ("/v1/messages", true, "event: message_stop\n"),
    ("/v1/embeddings", false, ""),
];

/// One request of a random kind; some of the clients leave early. `None` where there was no answer with an id.
pub async fn one(address: SocketAddr, key: &str, random: &mut Random) -> Option<Sent> {
    let (path, stream, end) = KINDS[random.below(KINDS.len() as u64) as usize];
    // Some run for more than a second, so that their progress is noted.
    let tokens = if random.below(12) == 0 { 600 } else { 1 + random.below(40) };
    let (body, completion_tokens) = if path == "/v1/embeddings" {
        (json!({"model": "all-minilm", "input": ["one", "two"]}), 0)
    } else {
        let messages = json!([{"role": "user", "content": format!("[[n={tokens}]] tell me")}]);
        (json!({"model": "llama3.2", "messages": messages, "stream": stream, "max_tokens": 1000}), tokens)
    };
    let patience =
        if random.below(8) == 0 { Duration::from_millis(random.below(150)) } else { Duration::from_secs(20) };
    let answer = exchange(address, "POST", path, key, &body.to_string(), patience).await;
    let is_ended = if stream { answer.body.contains(end) } else { answer.is_whole };
    let is_acknowledged = answer.status == 200 && is_ended;
    let has_begun = answer.status == 200 && !answer.body.is_empty();
    Some(Sent { id: answer.id?, completion_tokens, is_acknowledged, has_begun })
}

/// Several clients that ask one thing after the other.
pub struct Load {
    stop: Rc<Cell<bool>>,
    pub sent: Rc<RefCell<Vec<Sent>>>,
    tasks: Vec<actix_rt::task::JoinHandle<()>>,
}

impl Load {
    pub fn start(address: SocketAddr, key: &str, clients: u64, random: &mut Random) -> Self {
        let (stop, sent) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Vec::new())));
        let tasks = (0..clients)
            .map(|_| {
                let (stop, sent, key) = (stop.clone(), sent.clone(), key.to_owned());
                let mut random = Random::new(random.next());
                actix_rt::spawn(async move {
                    while !stop.get() {
                        match one(address, &key, &mut random).await {
                            Some(one) => sent.borrow_mut().push(one),
                            None => tokio::time::sleep(Duration::from_millis(2)).await,
                        }
                    }
                })
            })
            .collect();
        Self { stop, sent, tasks }
    }

    /// Lets the clients finish what they are at; what they got.
    pub async fn finish(self) -> Vec<Sent> {
        self.stop.set(true);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.sent.take()
    }
}

/// A plain chat request.
pub fn chat(prompt: &str) -> Value {
    json!({"model": "llama3.2", "messages": [{"role": "user", "content": prompt}]})
}
