//! How do clients put load on a gateway? Each sends its next request as soon as its last answer is complete.
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::net::TcpStream;

use crate::http::{Body, Connection, body_of};

/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many requests to send, and to whom.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// `ADDRESS:PORT`
    #[arg(long)]
    to: String,
    /// A user's key
    #[arg(long, default_value = "")]
    key: String,
    /// Clients
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests in total; 0 = as many as there is time for
    #[arg(long, default_value_t = 0)]
    requests: u64,
    /// Duration at most, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Ask for streams of this many chunks
    #[arg(long)]
    chunks: Option<u64>,
    /// Milliseconds between two chunks
    #[arg(long, default_value_t = 0)]
    pause: u64,
}

#[derive(Debug, Default)]
struct Seen {
    asked: u64,
    good: u64,
    bad: u64,
    chunks: u64,
    milliseconds: Vec<f64>,
    first_byte: Vec<f64>,
}

/// Sends the requests, and returns the results as one line of JSON.
pub async fn run(load: Load) -> String {
    let (seen, began) = (Rc::new(RefCell::new(Seen::default())), now());
    let clients = (0..load.clients).map(|_| {
        let (load, seen) = (load.clone(), seen.clone());
        actix_rt::spawn(async move { client(&load, &seen, began).await })
    });
    for client in clients.collect::<Vec<_>>() {
        let _ = client.await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut seen = seen.borrow_mut();
    let at = |times: &mut Vec<f64>, part: f64| {
        times.sort_by(f64::total_cmp);
        times.get(((times.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or_default()
    };
    let Seen { good, bad, chunks, milliseconds, first_byte, .. } = &mut *seen;
    json!({
        "seconds": seconds, "good": good, "bad": bad, "chunks": chunks, "per_second": *good as f64 / seconds,
        "ms": {"p50": at(milliseconds, 0.5), "p95": at(milliseconds, 0.95), "p99": at(milliseconds, 0.99)},
        "first_byte_ms": {"p50": at(first_byte, 0.5), "p99": at(first_byte, 0.99)},
    })
    .to_string()
}

#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn now() -> Instant {
    Instant::now()
}

async fn client(load: &Load, seen: &RefCell<Seen>, began: Instant) {
    let request = request(load);
    let mut connection = None;
    loop {
        if began.elapsed().as_secs_f64() > load.seconds {
            return;
        }
        {
            let mut seen = seen.borrow_mut();
            if load.requests > 0 && seen.asked >= load.requests {
                return;
            }
            seen.asked += 1;
        }
        let asked = now();
        let exchange = tokio::time::timeout(PATIENCE, exchange(load, &mut connection, &request, asked)).await;
        let mut seen = seen.borrow_mut();
        match exchange {
            Ok(Ok((chunks, first_byte))) => {
                seen.good += 1;
                seen.chunks += chunks;
                seen.first_byte.push(first_byte.as_secs_f64() * 1e3);
                seen.milliseconds.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            Ok(Err(_)) | Err(_) => {
                seen.bad += 1;
                connection = None;
            }
        }
    }
}

fn request(load: &Load) -> Vec<u8> {
    let mark = load.chunks.map_or(String::new(), |chunks| format!("[[n={chunks},d={}]] ", load.pause));
    let prompt = format!("{mark}{}", "Why is the sky blue? ".repeat(10));
    let mut body = json!({"model": "fake", "messages": [{"role": "user", "content": prompt}]});
    if load.chunks.is_some() {
        body["stream"] = true.into();
    }
    let (body, Load { to, key, .. }) = (body.to_string(), load);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {to}\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// Returns the number of chunks, and when the first byte came.
async fn exchange(
    load: &Load,
    connection: &mut Option<Connection>,
    request: &[u8],
    asked: Instant,
) -> io::Result<(u64, Duration)> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::new(TcpStream::connect(&load.to).await?)?),
    };
    connection.send(request).await?;
    let head = connection.head().await?;
    let failed = || io::Error::other("the status is not 200, or the answer is incomplete");
    if !head.starts_with("http/1.1 200") {
        return Err(failed());
    }
    match body_of(&head) {
        Body::Length(length) => {
            connection.exactly(length).await?;
            Ok((0, asked.elapsed()))
        }
        Body::Chunked => {
            let first = connection.chunk().await?;
            let (first_byte, mut text) = (asked.elapsed(), String::from_utf8_lossy(&first).into_owned());
            loop {
                let chunk = connection.chunk().await?;
                if chunk.is_empty() {
                    break;
                }
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
            let tokens = text.matches("\" blue\"").count() as u64;
            let is_whole = text.ends_with("data: [DONE]\n\n") && load.chunks == Some(tokens);
            if is_whole { Ok((tokens, first_byte)) } else { Err(failed()) }
        }
    }
}
