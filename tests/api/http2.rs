//! What HTTP/2 must not change: streams, slots that are free once a client has left, bounds, and who a client is.
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ollama_gateway::http::TrustedNetwork;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{TestApp, chat_body, eventually, fast_node, let_pass, node, stream_body};
use crate::scripted::{ScriptedNode, Step, chat_event, chunk, last_chunk, stream_head};
use crate::secure::{Answer, Http2, Pair, head, spawn_secure};

const CHAT: &str = "/v1/chat/completions";

fn running(app: &TestApp) -> (usize, usize) {
    app.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued()))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A node whose streams send one part, and another one for each permit.
async fn node_that_waits(gate: &Rc<Semaphore>) -> ScriptedNode {
    let gate = gate.clone();
    let event = chat_event("word ");
    ScriptedNode::always(move || {
        let mut steps = vec![stream_head(), chunk(&event)];
        for _ in 0..3 {
            steps.extend([Step::Pass(gate.clone()), chunk(&event)]);
        }
        steps.extend([chunk("data: [DONE]\n\n"), last_chunk()]);
        steps
    })
    .await
}

#[actix_rt::test]
async fn plain_answers_and_streams_come_as_over_http_1_and_many_at_a_time() {
    let (pair, simulated) = (Pair::new(), fast_node().await);
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 8)], |_| {}).await;
    let key = app.user("ann").await;
    let mut client = Http2::connect(app.secure()).await;

    let models = client.get("/v1/models", &key).await;
    assert_eq!(models.status, 200);
    assert!(models.headers.contains_key("x-request-id"));
    assert!(models.text().await.contains("llama3.2"));
    let plain = client.post(CHAT, &key, &chat_body("llama3.2", "hello")).await.answer().await;
    assert_eq!((plain.status, &plain.headers["x-gateway-node"] == "a"), (200, true));
    assert!(json_of(&plain.text().await)["usage"]["total_tokens"].as_u64() > Some(0));
    let mut sent = Vec::new();
    for _ in 0..8 {
        sent.push(client.post(CHAT, &key, &stream_body("llama3.2", "hello")).await);
    }
    for stream in sent {
        let text = stream.answer().await.text().await;
        assert!(text.starts_with("data: {") && text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    assert_eq!(client.get("/nowhere", &key).await.status, 404);
    assert_eq!(client.get("/v1/models", "wrong").await.status, 401);
    app.stop().await;
}

#[actix_rt::test]
async fn each_part_of_a_stream_comes_when_the_node_sends_it() {
    let (pair, gate) = (Pair::new(), Rc::new(Semaphore::new(0)));
    let simulated = node_that_waits(&gate).await;
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 1)], |_| {}).await;
    let key = app.user("ann").await;
    let mut client = Http2::connect(app.secure()).await;

    let mut answer = client.post(CHAT, &key, &stream_body("llama3.2", "hi")).await.answer().await;
    for _ in 0..3 {
        assert!(answer.part().await.is_some_and(|part| part.starts_with(b"data: ")));
        gate.add_permits(1);
    }
    assert!(answer.text().await.ends_with("data: [DONE]\n\n"));
    app.stop().await;
}

/// Leaves in this way while a stream runs, another request waits for the slot and a plain one waits for its answer.
async fn leaves(leave: impl AsyncFnOnce(Http2, Answer, [crate::secure::Sent; 1])) {
    let (pair, gate) = (Pair::new(), Rc::new(Semaphore::new(0)));
    let simulated = node_that_waits(&gate).await;
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 1)], |_| {}).await;
    let key = app.user("ann").await;
    let mut client = Http2::connect(app.secure()).await;
    let mut stream = client.post(CHAT, &key, &stream_body("llama3.2", "hi")).await.answer().await;
    assert!(stream.part().await.is_some());
    let queued = client.post(CHAT, &key, &chat_body("llama3.2", "hi")).await;
    eventually("one runs and one waits", || running(&app) == (1, 1)).await;

    leave(client, stream, [queued]).await;

    eventually("both places are free", || running(&app) == (0, 0)).await;
    let rows = app.rows_once(&key, 2).await;
    assert!(rows.iter().all(|row| row["status"] == "cancelled"), "{rows:?}");
    // It notices when it goes on.
    gate.add_permits(100);
    eventually("the node's connection is closed", || simulated.closed_connections() == simulated.connections()).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_resets_its_streams_frees_their_places_and_keeps_its_connection() {
    leaves(async |mut client, stream, [queued]| {
        queued.reset();
        drop(stream);
        assert_eq!(client.get("/health/live", "").await.status, 200);
        // Kept until the places are free, so that not the end of the connection frees them.
        actix_rt::spawn(async move {
            let_pass(Duration::from_secs(5)).await;
            drop(client);
        });
    })
    .await;
}

#[actix_rt::test]
async fn a_client_whose_connection_ends_frees_the_places_of_its_streams() {
    leaves(async |client, stream, queued| drop((client, stream, queued))).await;
}

#[actix_rt::test]
async fn a_client_that_reads_nothing_loses_its_answer_and_its_slot() {
    let event = chat_event(&"x".repeat(60_000));
    let simulated = ScriptedNode::always(move || {
        [stream_head()].into_iter().chain((0..200).map(|_| chunk(&event))).chain([last_chunk()]).collect()
    })
    .await;
    let pair = Pair::new();
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 1)], |config| {
        config.server.client_stall_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;
    let mut client = Http2::connect(app.secure()).await;

    // The window of the stream is never opened again, while the connection itself goes on.
    let stalled = client.post(CHAT, &key, &stream_body("llama3.2", "hi")).await.answer().await;
    eventually("the stream runs", || running(&app) == (1, 0)).await;
    eventually("its slot is free", || running(&app) == (0, 0)).await;
    assert_eq!(app.rows_once(&key, 1).await[0]["status"], "cancelled");

    assert_eq!(client.get("/health/live", "").await.status, 200, "the connection lives");
    let reader = client.post(CHAT, &key, &stream_body("llama3.2", "hi")).await.answer().await;
    assert!(reader.text().await.len() > 200 * 60_000, "who reads gets everything");
    drop(stalled);
    app.stop().await;
}

#[actix_rt::test]
async fn a_body_is_bounded_in_size_and_time() {
    let (pair, simulated) = (Pair::new(), fast_node().await);
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 1)], |config| {
        config.server.max_body_bytes = 10_000;
        config.server.body_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;
    let mut client = Http2::connect(app.secure()).await;
    let long = Bytes::from(vec![b' '; 20_000]);

    let unannounced = client.begin(head("POST", CHAT, &key), long, true).await.answer().await;
    assert_eq!(unannounced.status, 413);
    let mut announced = head("POST", CHAT, &key);
    announced.headers_mut().insert("content-length", "20000".parse().unwrap());
    assert_eq!(client.begin(announced, "", false).await.answer().await.status, 413);
    let slow = client.begin(head("POST", CHAT, &key), "{", false).await;
    assert_eq!(slow.answer().await.status, 408);
    app.stop().await;
}

#[actix_rt::test]
async fn a_connection_may_have_so_many_requests_open_and_no_more() {
    let (pair, simulated) = (Pair::new(), fast_node().await);
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 1)], |_| {}).await;
    let key = app.user("ann").await;
    let mut client = Http2::connect(app.secure()).await;
    let mut open = Vec::new();
    for _ in 0..1_000 {
        open.push(client.begin(head("POST", CHAT, &key), "{", false).await);
    }

    let refused = client.get("/v1/models", &key).await;

    assert_eq!((refused.status, &refused.headers["retry-after"] == "1"), (429, true));
    let error = json_of(&refused.text().await);
    assert_eq!(error["error"]["code"], "rate_limit_exceeded");
    let mut other = Http2::connect(app.secure()).await;
    assert_eq!(other.get("/v1/models", &key).await.status, 200, "another connection has room");
    open.drain(..).for_each(crate::secure::Sent::reset);
    crate::harness::wait_for("there is room again", async || client.get("/v1/models", &key).await.status == 200).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_is_known_by_its_address_and_the_console_by_its_host() {
    let (pair, simulated) = (Pair::new(), fast_node().await);
    let trusted = TrustedNetwork { cidr: "127.0.0.0/8".parse().unwrap(), user: "lab".to_owned() };
    let app = spawn_secure(&pair, vec![node("a", simulated.url(), 1)], |config| {
        config.server.trusted_networks = vec![trusted];
    })
    .await;
    let key = app.user("lab").await;
    let mut client = Http2::connect(app.secure()).await;

    let forged = {
        let mut request = head("POST", CHAT, "");
        request.headers_mut().insert("x-forwarded-for", "10.9.9.9".parse().unwrap());
        client.begin(request, chat_body("llama3.2", "hi").to_string(), true).await.answer().await
    };
    assert_eq!(forged.status, 200, "the address is that of the connection");
    assert_eq!(app.rows_once(&key, 1).await.len(), 1);
    let sign_in = |origin: &'static str| {
        let mut request = head("POST", "/console/session", "");
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request
    };
    let body = json!({"api_key": key}).to_string();
    let own = client.begin(sign_in("https://gateway.test"), body.clone(), true).await.answer().await;
    assert_eq!(own.status, 200);
    assert!(own.headers["set-cookie"].to_str().unwrap().ends_with("; Secure"), "{:?}", own.headers);
    let other = client.begin(sign_in("https://elsewhere.test"), body, true).await.answer().await;
    assert_eq!(other.status, 403);
    app.stop().await;
}
