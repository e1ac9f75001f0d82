//! How does a node answer that costs next to nothing? With fixed answers, whose chunks and pauses the prompt sets:
//! `[[n=100,d=20]]` = 100 chunks, 20 ms apart.
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::http::{Body, Connection, body_of};

const PLAIN: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"fake","system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"Because of Rayleigh scattering: air scatters blue light more than red."},"finish_reason":"stop"}],"usage":{"prompt_tokens":60,"completion_tokens":15,"total_tokens":75}}"#;
const TAGS: &str = r#"{"models":[{"name":"fake:latest","model":"fake:latest","size":1000000,"digest":"d","details":{"family":"llama","parameter_size":"1B"}}]}"#;
const LOADED: &str = r#"{"models":[{"name":"fake:latest","model":"fake:latest","size":1000000,"size_vram":1000000,"digest":"d","expires_at":"2999-01-01T00:00:00Z","context_length":4096}]}"#;
const MODELS: &str = r#"{"object":"list","data":[{"id":"fake","object":"model","created":1,"owned_by":"library"}]}"#;

/// Serves for ever.
///
/// # Errors
/// The address cannot be used.
pub async fn serve(listen: &str) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        actix_rt::spawn(async move {
            if let Ok(connection) = Connection::new(stream) {
                // A client may leave at any time.
                let _ = answer_all(connection).await;
            }
        });
    }
}

async fn answer_all(mut connection: Connection) -> io::Result<()> {
    loop {
        let head = connection.head().await?;
        let body = match body_of(&head) {
            Body::Length(length) => connection.exactly(length).await?,
            Body::Chunked => {
                let mut body = Vec::new();
                loop {
                    let chunk = connection.chunk().await?;
                    if chunk.is_empty() {
                        break body;
                    }
                    body.extend(chunk);
                }
            }
        };
        let path = head.split(' ').nth(1).unwrap_or("/");
        let text = match path {
            "/v1/chat/completions" => {
                let body = String::from_utf8_lossy(&body);
                if body.contains("\"stream\":true") {
                    stream(&mut connection, number(&body, "n=").unwrap_or(100), number(&body, "d=").unwrap_or(0))
                        .await?;
                    continue;
                }
                PLAIN
            }
            "/api/tags" => TAGS,
            "/api/ps" => LOADED,
            "/api/version" => r#"{"version":"0.20.0"}"#,
            "/v1/models" => MODELS,
            "/" => "Ollama is running",
            _ => "{}",
        };
        let kind = if path == "/" { "text/plain" } else { "application/json" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        connection.send(answer.as_bytes()).await?;
    }
}

/// The number after `name` in the mark of a prompt.
fn number(body: &str, name: &str) -> Option<u64> {
    let mark = body.split("[[").nth(1)?.split("]]").next()?;
    mark.split(',').find_map(|part| part.strip_prefix(name))?.parse().ok()
}

async fn stream(connection: &mut Connection, chunks: u64, pause_ms: u64) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.send(head.as_bytes()).await?;
    let event = |delta: &str, reason: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"fake\",\
             \"system_fingerprint\":\"fp_ollama\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let token = Rc::new(framed(&event("{\"role\":\"assistant\",\"content\":\" blue\"}", "null")));
    for _ in 0..chunks {
        if pause_ms > 0 {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        connection.send(token.as_bytes()).await?;
    }
    let usage = format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"fake\",\
         \"system_fingerprint\":\"fp_ollama\",\"choices\":[],\"usage\":{{\"prompt_tokens\":60,\"completion_tokens\":{chunks},\
         \"total_tokens\":{}}}}}\n\n",
        60 + chunks
    );
    let end = [&event("{\"role\":\"assistant\",\"content\":\"\"}", "\"stop\""), &usage, "data: [DONE]\n\n"];
    let end: String = end.iter().map(|part| framed(part)).collect();
    connection.send(format!("{end}0\r\n\r\n").as_bytes()).await
}

fn framed(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}
