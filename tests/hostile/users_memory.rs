//! One user's bodies, however large, however many and however packed, take no more memory than all bodies may; they take no
//! more than is that user's share, and none is read that leads nowhere.
use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use awc::http::StatusCode;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::join_all;
use ollama_sim::SimModel;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::elsewhere::Elsewhere;
use crate::good::{compare, steady_node, steady_node_with};
use crate::harness::{
    TestApp, TestDatabase, chat_body, client, error_of, fast_node, node, read, spawn_app, spawn_app_with, stream_body,
};
use crate::process::Process;

const MIB: usize = 1024 * 1024;
/// Bodies of the user at a time.
const BODIES: usize = 25;
/// How far memory may grow, in shares of what all bodies may take.
const GROWTH: f64 = 1.5;
/// How long the slowest answer may take, in the best round.
const WORST: Duration = Duration::from_secs(1);

/// The largest body and the memory for all, in MiB: `HOSTILE_BODIES=60` is the real size.
fn sizes() -> (usize, usize) {
    let largest = std::env::var("HOSTILE_BODIES").ok().and_then(|size| size.parse().ok()).unwrap_or(8);
    (largest, 8 * largest)
}

/// Sends a body; the status, or `None` if the gateway hung up on it.
async fn send(gateway: SocketAddr, key: &str, body: Bytes, coding: Option<&'static str>) -> Option<StatusCode> {
    let mut request = client().post(format!("http://{gateway}/v1/chat/completions")).bearer_auth(key);
    if let Some(coding) = coding {
        request = request.insert_header(("content-encoding", coding));
    }
    let response = request.timeout(Duration::from_secs(60)).send_body(body).await.ok()?;
    Some(read(response).await.status)
}

/// How far memory grows beside the harm, in MiB, while good users' worst latency stays within bounds.
async fn hold_memory(app: &Process, harm: impl Fn() -> Elsewhere) -> f64 {
    let keys = app.good_users().await;
    let before = Cell::new(None);
    let compared = compare(app, &keys, || {
        if before.get().is_none() {
            before.set(Some(app.rss_mib()));
        }
        harm()
    })
    .await;
    println!("{compared:?}");
    assert!(compared.worst <= WORST, "{compared:?}");
    app.peak_mib() - before.get().unwrap()
}

async fn gateway(urls: &[String]) -> (Process, f64) {
    let (largest, all) = sizes();
    let (largest, budget) = ((largest * MIB).to_string(), (all * MIB).to_string());
    let settings = [("SERVER__MAX_BODY_BYTES", &*largest), ("SERVER__BODY_MEMORY_BYTES", &*budget)];
    (Process::start_at(urls, &settings, None).await, all as f64)
}

/// A node that alone has the model of the large bodies, and its address. A simulated node does nothing else while it parses
/// one, so it must not be the others' node, nor in their thread.
fn node_for_large_bodies() -> (Elsewhere, String) {
    let (tell, told) = std::sync::mpsc::channel();
    let running = Elsewhere::start(move || async move {
        let models = vec![SimModel::chat("large:latest", 5.0)];
        let node = steady_node_with(|config| config.models = models).await;
        tell.send(node.url()).unwrap();
        std::future::pending::<()>().await;
    });
    (running, told.recv().unwrap())
}

#[actix_rt::test]
async fn large_bodies_of_one_user_take_no_more_memory_than_all_may_and_delay_nobody() {
    let simulated = steady_node().await;
    let (_large, url) = node_for_large_bodies();
    let (app, budget) = gateway(&[simulated.url(), url]).await;
    let greedy = app.user_with("greedy", json!({"max_concurrency": 1})).await;
    let content = "x".repeat(sizes().0 * MIB - 4096);
    let body = Bytes::from(json!({"model": "large", "messages": [{"role": "user", "content": content}]}).to_string());
    let refused = Arc::new(AtomicUsize::new(0));

    let grown = hold_memory(&app, || {
        let (address, key, body, refused) = (app.address, greedy.clone(), body.clone(), refused.clone());
        Elsewhere::start(move || async move {
            loop {
                join_all((0..BODIES).map(async |_| {
                    let status = send(address, &key, body.clone(), None).await;
                    refused.fetch_add(usize::from(status != Some(StatusCode::OK)), Ordering::Relaxed);
                }))
                .await;
            }
        })
    })
    .await;

    println!("{grown:.0} MiB more, of {budget} for bodies");
    assert!(grown < GROWTH * budget, "{grown} MiB for a budget of {budget}");
    let refused = refused.load(Ordering::Relaxed);
    assert!(refused >= BODIES / 2, "they were not too many: {refused}");
}

#[actix_rt::test]
async fn bodies_that_unpack_to_hundreds_of_times_their_size_are_refused_at_the_limit() {
    let simulated = steady_node().await;
    let (app, budget) = gateway(&[simulated.url()]).await;
    let bomber = app.user_with("bomber", json!({})).await;
    // One member after another, each of a megabyte.
    let zeros = vec![b' '; MIB];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&zeros).unwrap();
    let bombs = [
        ("gzip", Bytes::from(gzip.finish().unwrap().repeat(512))),
        ("zstd", Bytes::from(zstd::encode_all(&zeros[..], 1).unwrap().repeat(512))),
    ];
    let blown = Arc::new(AtomicUsize::new(0));

    let grown = hold_memory(&app, || {
        let (address, key, bombs, blown) = (app.address, bomber.clone(), bombs.clone(), blown.clone());
        Elsewhere::start(move || async move {
            loop {
                let sending = (0..8).map(|number| {
                    let (coding, bomb) = &bombs[number % 2];
                    send(address, &key, bomb.clone(), Some(coding))
                });
                for status in join_all(sending).await.into_iter().flatten() {
                    assert!([413, 429, 503].contains(&status.as_u16()), "{status}");
                    blown.fetch_add(usize::from(status == StatusCode::PAYLOAD_TOO_LARGE), Ordering::Relaxed);
                }
            }
        })
    })
    .await;

    let blown = blown.load(Ordering::Relaxed);
    println!("{grown:.0} MiB more, of {budget} for bodies; {blown} unpacked to the limit");
    assert!(grown < GROWTH * budget, "{grown} MiB for a budget of {budget}");
    assert!(blown > 0, "none was unpacked at all");
}

const LARGE: usize = 4 * 1024 * 1024;

/// Promises a body of this length, and sends none of it.
async fn promise(app: &TestApp, key: &str, length: usize) -> TcpStream {
    let mut connection = TcpStream::connect(app.address).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
         content-length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection
}

/// What comes back within a second.
async fn answer(connection: &mut TcpStream) -> Option<String> {
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(1), connection.read(&mut answer)).await.ok()?.unwrap();
    Some(String::from_utf8_lossy(&answer[..read]).into_owned())
}

#[actix_rt::test]
async fn a_user_who_may_have_no_further_request_is_told_before_the_body_is_read() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let key = app.user_with("ann", json!({"max_concurrency": 1})).await;
    let mut first = promise(&app, &key, LARGE).await;
    assert_eq!(answer(&mut first).await, None, "there is room for one, which is waited for");

    let mut second = promise(&app, &key, LARGE).await;

    let refused = answer(&mut second).await.expect("an answer, though no body was sent");
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("running or waiting"), "{refused}");
    drop((first, second));
    let rows = app.rows_once(&key, 1).await;
    assert_eq!((&rows[0]["limit"], &rows[0]["model"]), (&json!("max_concurrency"), &json!("")));
    app.stop().await;
}

#[actix_rt::test]
async fn one_users_bodies_take_a_quarter_of_the_memory_and_leave_the_rest_to_others() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = LARGE;
        config.server.body_memory_bytes = 4 * LARGE;
    })
    .await;
    let mut keys = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        keys.push(app.user(name).await);
    }
    let mut held = promise(&app, &keys[0], LARGE).await;
    assert_eq!(answer(&mut held).await, None);

    let of_user = answer(&mut promise(&app, &keys[0], LARGE).await).await.expect("an answer");
    assert!(of_user.starts_with("HTTP/1.1 429 "), "{of_user}");
    let mut others = Vec::new();
    for key in &keys[1..4] {
        let mut other = promise(&app, key, LARGE).await;
        assert_eq!(answer(&mut other).await, None, "each of the others has a quarter");
        others.push(other);
    }
    let of_all = answer(&mut promise(&app, &keys[4], LARGE).await).await.expect("an answer");
    assert!(of_all.starts_with("HTTP/1.1 503 ") && of_all.contains("server_is_overloaded"), "{of_all}");
    drop((held, others));
    // A body that has gone has left its room.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let reply = app.chat(&keys[4], "llama3.2", &"x".repeat(LARGE / 2)).await;
        if reply.status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "{}", reply.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn bodies_that_wait_in_the_queue_count() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = LARGE;
        config.server.body_memory_bytes = LARGE;
    })
    .await;
    let (key, other) = (app.user("ann").await, app.user("ben").await);
    let mut running = app.open_stream(&other, &stream_body("llama3.2", "[[n=100000]]")).await;
    running.next().await;
    let waiting = app.send_and_hold(&key, &chat_body("llama3.2", &"x".repeat(LARGE - 1024))).await;
    crate::harness::eventually("it waits", || app.dispatcher.read(|scheduler| scheduler.queued() == 1)).await;

    let refused = app.chat(&other, "llama3.2", &"x".repeat(2048)).await;

    assert_eq!(error_of(&refused, 503)["code"], "server_is_overloaded");
    drop((waiting, running));
    crate::harness::eventually("nothing is left", || {
        app.dispatcher.read(|scheduler| scheduler.queued() + scheduler.in_flight() == 0)
    })
    .await;
    assert_eq!(app.chat(&other, "llama3.2", &"x".repeat(2048)).await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn a_body_that_is_dear_to_parse_is_refused_without_parsing_it() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let key = app.user("ann").await;
    let with =
        |field: &str| format!(r#"{{"model":"llama3.2","messages":[{{"role":"user","content":"hi"}}],"x":{field}}}"#);
    let members = with(&format!("{{{}\"a\":0}}", "\"a\":0,".repeat(200_000)));
    let deep = with(&("[".repeat(200) + &"]".repeat(200)));
    let fine = with(&format!("{{{}\"a\":0}}", "\"a\":0,".repeat(100_000)));

    for body in [members, deep] {
        let reply = app.send(awc::http::Method::POST, "/v1/chat/completions", Some(&key), body).await;
        let error = error_of(&reply, 400);
        assert!(error["message"].as_str().unwrap().starts_with("the body"), "{error}");
    }
    let reply = app.send(awc::http::Method::POST, "/v1/chat/completions", Some(&key), fine).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    app.stop().await;
}
