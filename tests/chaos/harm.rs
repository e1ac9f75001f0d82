//! What may a bad user do? One of everything that `tests/hostile` knows, at random.
use std::net::SocketAddr;
use std::time::Duration;

use ollama_sim::Fault;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::Gateway;
use crate::load::exchange;
use crate::run::Random;

const CHAT: &str = "/v1/chat/completions";
/// How long bad clients wait for anything.
const PATIENCE: Duration = Duration::from_secs(2);
/// Each does harm of one kind: what several users meet on a node counts against that node.
const USERS: [&str; 6] = ["careless", "poisoner", "misled", "hasty", "large", "slow"];

/// Prompts that make nodes fail.
pub fn poisons() -> Vec<(&'static str, Fault)> {
    vec![
        ("poison-crash", Fault::Status(500)),
        ("poison-hang-up", Fault::Refuse),
        ("poison-garbage", Fault::Garbage),
        ("poison-error", Fault::ErrorAfter(0)),
        ("poison-mid-stream", Fault::DieAfter(2)),
        ("poison-silent", Fault::HangBeforeHead),
        ("poison-lull", Fault::HangAfter(2)),
    ]
}

pub fn build() -> &'static str {
    match (std::env::var("CHAOS_GATEWAY"), cfg!(debug_assertions)) {
        (Ok(path), _) if path.contains("release") => "release",
        (_, true) => "debug",
        (_, false) => "release",
    }
}

/// The bad users.
pub struct Harm {
    keys: [String; USERS.len()],
    refused: String,
}

fn chat(prompt: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": prompt}]);
    json!({"model": "llama3.2", "messages": messages, "stream": stream, "max_tokens": 20})
}

impl Harm {
    pub async fn by(gateway: &Gateway) -> Self {
        let mut keys = Vec::new();
        for name in USERS {
            keys.push(gateway.user(name).await);
        }
        let refused = gateway.user_with("refused", json!({"requests_per_minute": 1})).await;
        Self { keys: keys.try_into().unwrap(), refused }
    }

    /// Does some harm; its kind.
    pub async fn one(&self, address: SocketAddr, random: &mut Random) -> &'static str {
        match random.below(20) {
            kind @ 0..=8 => self.to_nodes(kind, address, random).await,
            kind => self.to_the_gateway(kind, address, random).await,
        }
    }

    /// What a node has to do with.
    async fn to_nodes(&self, kind: u64, address: SocketAddr, random: &mut Random) -> &'static str {
        let [careless, poisoner, misled, ..] = &self.keys;
        match kind {
            0..=2 => {
                let (path, body) = mistake(random);
                exchange(address, "POST", path, careless, &body, PATIENCE).await;
                "mistake"
            }
            3..=4 => {
                let (method, path) = route(random);
                let body = json!({"model": "llama3.2", "input": "hi", "max_output_tokens": 2}).to_string();
                exchange(address, method, path, careless, &body, PATIENCE).await;
                "route"
            }
            5..=6 => {
                // The silent ones last as long as their client is patient, so they are few.
                let poisons = poisons();
                let fast = poisons.len() as u64 - 2;
                let chosen = if random.below(10) == 0 { fast + random.below(2) } else { random.below(fast) };
                let prompt = format!("{} {}", poisons[chosen as usize].0, random.next());
                exchange(address, "POST", CHAT, poisoner, &chat(&prompt, true).to_string(), PATIENCE).await;
                "poison"
            }
            _ => {
                let lie = ["lie-huge", "lie-absent", "lie-twice"][random.below(3) as usize];
                let body = chat(lie, random.below(2) == 0).to_string();
                exchange(address, "POST", CHAT, misled, &body, PATIENCE).await;
                "lying usage"
            }
        }
    }

    /// What the gateway has to cope with by itself.
    async fn to_the_gateway(&self, kind: u64, address: SocketAddr, random: &mut Random) -> &'static str {
        let [careless, _, _, hasty, large_user, slow] = &self.keys;
        match kind {
            9..=11 => {
                exchange(address, "POST", CHAT, &self.refused, &chat("hi", false).to_string(), PATIENCE).await;
                "refusal"
            }
            12 => {
                let wrong = format!("sk-slow-{:032x}", random.next());
                exchange(address, "GET", "/v1/models", &wrong, "", PATIENCE).await;
                "wrong key"
            }
            13..=15 => {
                let body = chat("[[n=300]] go on", random.below(2) == 0).to_string();
                let soon = Duration::from_millis(random.below(10));
                exchange(address, "POST", CHAT, hasty, &body, soon).await;
                "cancel"
            }
            16 => {
                exchange(address, "POST", CHAT, large_user, &large(random), PATIENCE).await;
                "large body"
            }
            17 => {
                slowly(address, slow).await;
                "slow reader"
            }
            18 => {
                garbage(address, hasty, random).await;
                "garbage"
            }
            _ => {
                let path = ["/v1/usage/summary", "/v1/usage", "/metrics"][random.below(3) as usize];
                exchange(address, "GET", path, careless, "", PATIENCE).await;
                "reading"
            }
        }
    }
}

/// What real Ollama answers with 5xx.
fn mistake(random: &mut Random) -> (&'static str, String) {
    let with = |extra: Value| {
        let mut body = chat("hi", false);
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let mistakes = [
        ("/api/chat", with(json!({"options": {"temperature": "hot"}}))),
        ("/api/chat", with(json!({"format": "xml"}))),
        ("/v1/embeddings", json!({"model": "llama3.2", "input": "hi"})),
        ("/api/embed", json!({"model": "llama3.2", "input": "hi"})),
        (CHAT, json!({"model": "no-such-model", "messages": []})),
        (CHAT, json!({"model": "llama3.2", "messages": 5})),
    ];
    let (path, body) = &mistakes[random.below(mistakes.len() as u64) as usize];
    (path, body.to_string())
}

/// Routes that an old node lacks, or all.
fn route(random: &mut Random) -> (&'static str, &'static str) {
    [
        ("POST", "/v1/responses"),
        ("POST", "/v1/nothing"),
        ("GET", "/.env"),
        ("DELETE", "/v1/models"),
        ("GET", "/admin/users"),
    ][random.below(5) as usize]
}

/// A megabyte, or many members, or deep nesting.
fn large(random: &mut Random) -> String {
    let with =
        |field: String| format!(r#"{{"model":"llama3.2","messages":[{{"role":"user","content":"hi"}}],"x":{field}}}"#);
    match random.below(3) {
        0 => with(format!("\"{}\"", "y".repeat(1 << 20))),
        1 => with(format!("{{{}\"a\":0}}", "\"a\":0,".repeat(200_000))),
        _ => with("[".repeat(200) + &"]".repeat(200)),
    }
}

/// Asks for a long answer and reads a few bytes of it now and then.
async fn slowly(address: SocketAddr, key: &str) {
    let body = chat("[[n=5000]] go on", true).to_string().replace("\"max_tokens\":20", "\"max_tokens\":5000");
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let Ok(mut connection) = TcpStream::connect(address).await else { return };
    if connection.write_all(request.as_bytes()).await.is_err() {
        return;
    }
    let mut few = [0; 5];
    for _ in 0..10 {
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut few)).await;
        if !matches!(read, Ok(Ok(1..))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is no request, half a one, or a promise of more.
async fn garbage(address: SocketAddr, key: &str, random: &mut Random) {
    let bytes = match random.below(3) {
        0 => "\u{0}\u{1}\u{2} nonsense\r\n\r\n".to_owned(),
        1 => format!(
            "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\ncontent-length: 100\r\n\r\n{{\"mo"
        ),
        _ => format!("GET /{} HTTP/1.1\r\nhost: gateway\r\n\r\n", "x".repeat(3_000)),
    };
    let Ok(mut connection) = TcpStream::connect(address).await else { return };
    let _ = connection.write_all(bytes.as_bytes()).await;
    let mut answer = [0; 256];
    let _ = tokio::time::timeout(Duration::from_millis(100), connection.read(&mut answer)).await;
}
