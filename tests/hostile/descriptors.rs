//! The gateway has no file left to open, or hardly any. That is no node's failure.
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::good::{good_users, marked, steady_node};
use crate::harness::{ADMIN_KEY, client, let_pass, read, wait_for};
use crate::process::Process;

/// Requests that wait for a file.
const STARVED: usize = 8;
/// For how long.
const WHILE: Duration = Duration::from_secs(4);
/// Streams at a time.
const STREAMS: usize = 200;

/// A connection that is kept open for several requests.
struct Kept(TcpStream);

impl Kept {
    async fn open(app: &Process) -> Self {
        let mut kept = Self(TcpStream::connect(app.address).await.unwrap());
        assert!(kept.exchange("GET", "/health/live", "", "").await.0 == 200);
        kept
    }

    async fn exchange(&mut self, method: &str, path: &str, key: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.as_bytes()).await.unwrap();
        let (mut said, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let count = self.0.read(&mut part).await.unwrap();
            assert!(count > 0, "closed after {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&part[..count]);
            let text = String::from_utf8_lossy(&said).into_owned();
            let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.to_ascii_lowercase();
            let length =
                length.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            if length.map_or_else(|| rest.ends_with("0\r\n\r\n"), |length: usize| rest.len() >= length) {
                return (head.split(' ').nth(1).unwrap().parse().unwrap(), rest.to_owned());
            }
        }
    }
}

#[actix_rt::test]
async fn a_gateway_without_files_blames_no_node_and_answers_as_soon_as_it_has_some() {
    let simulated = [steady_node().await, steady_node().await];
    let app = Process::start(&simulated.iter().collect::<Vec<_>>(), &[]).await;
    let keys = app.good_users().await;
    let mut operator = Kept::open(&app).await;
    let mut waiting = Vec::new();
    for _ in 0..STARVED {
        waiting.push(Kept::open(&app).await);
    }
    app.starve();

    let body =
        json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}).to_string();
    let asking =
        join_all(waiting.iter_mut().map(|kept| kept.exchange("POST", "/v1/chat/completions", &keys[0], &body)));
    let watching = async {
        let began = std::time::Instant::now();
        while began.elapsed() < WHILE {
            let (status, nodes) = operator.exchange("GET", "/admin/nodes", ADMIN_KEY, "").await;
            assert_eq!(status, 200, "{nodes}");
            let nodes: Value = serde_json::from_str(&nodes).unwrap();
            for node in nodes["data"].as_array().unwrap() {
                assert_eq!(node["state"], "up", "{node}");
            }
            let_pass(Duration::from_millis(100)).await;
        }
        app.relax();
    };
    let (answers, ()) = futures_util::future::join(asking, watching).await;

    for (status, body) in answers {
        assert_eq!(status, 200, "{body}");
    }
    let text = app.get("/metrics").await;
    let starved = |line: &&str| line.starts_with("gateway_") && line.contains("\"starved\"") && !line.ends_with(" 0");
    assert!(text.text().lines().any(|line| starved(&line)), "it had files enough");
    assert_eq!(good_users(&app, &keys).await.failures, [] as [&str; 0]);
    assert_eq!(app.states().await, ["up", "up"]);
}

#[actix_rt::test]
async fn more_streams_than_files_are_served_in_turn_and_no_node_is_taken_for_dead() {
    let simulated = [steady_node().await, steady_node().await];
    let app = Process::start_with(&simulated.iter().collect::<Vec<_>>(), &[], Some(200)).await;
    let keys = app.good_users().await;
    let url = format!("http://{}/v1/chat/completions", app.address);

    let ask = |number: usize| {
        let request = client().post(&url).bearer_auth(&keys[number % 2]).timeout(Duration::from_secs(60));
        async move { read(request.send_json(&marked(&format!("stream {number}"))).await.unwrap()).await }
    };
    let answers = join_all((0..STREAMS).map(ask)).await;

    for reply in answers {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    }
    wait_for("no node is taken for dead", async || app.states().await == ["up", "up"]).await;
    assert!(app.log().contains("file descriptors are enough for"), "{}", app.log());
    assert!(!app.log().contains("node is down"), "{}", app.log());
}
