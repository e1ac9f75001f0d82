//! Streams that wait: a status is kept as long as it can be, then 200 and signs of life that no client chokes on.
use std::time::Duration;

use awc::http::Method;
use futures_util::StreamExt;
use ollama_gateway::config::Config;
use ollama_sim::{Fault, SimConfig, SimNode};
use serde_json::{Value, json};

use crate::dialects::{lines_of, named_events_of, types};
use crate::harness::{
    EventReader, TestApp, TestDatabase, chat_body, client, each_at_once, events_of, eventually, fast_node, header_of,
    node, read, spawn_app_with, stream_body,
};

const ALIVE: &str = ": keep-alive\n";
const PING: &str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
/// The routes that stream.
const ROUTES: [&str; 6] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"];

/// A streamed request that each of the routes can answer.
fn body(prompt: &str) -> Value {
    json!({"model": "llama3.2", "stream": true, "max_tokens": 200, "messages": [{"role": "user", "content": prompt}],
        "prompt": prompt, "input": prompt})
}

/// What a route says while it waits.
fn sign_of_life(route: &str) -> &'static str {
    match route {
        "/v1/messages" => PING,
        route if route.starts_with("/api/") => "",
        _ => ALIVE,
    }
}

/// The signs of life at the beginning of a stream, counted, and what follows them.
fn after_signs<'a>(route: &str, stream: &'a str) -> (usize, &'a str) {
    let sign = sign_of_life(route);
    let rest = if sign.is_empty() { stream } else { stream.trim_start_matches(sign) };
    ((stream.len() - rest.len()) / sign.len().max(1), rest)
}

async fn spawn_impatient(nodes: &[&SimNode], change: impl FnOnce(&mut Config)) -> TestApp {
    let nodes = nodes.iter().zip(["a", "b"]).map(|(simulated, name)| node(name, simulated.url(), 1)).collect();
    spawn_app_with(nodes, TestDatabase::sqlite(), |config| {
        config.relay.commit_seconds = 1;
        config.relay.heartbeat_seconds = 1;
        change(config);
    })
    .await
}

async fn slow_to_load(seconds: f64) -> SimNode {
    SimNode::start(SimConfig { load_overhead: Duration::from_secs_f64(seconds), ..SimConfig::fast() }).await.unwrap()
}

/// Asserts that this is a whole stream of the route.
#[track_caller]
fn assert_is_whole(route: &str, stream: &str) {
    match route {
        "/v1/messages" => assert_eq!(types(&named_events_of(stream)).last(), Some(&"message_stop")),
        "/v1/responses" => assert_eq!(types(&named_events_of(stream)).last(), Some(&"response.completed")),
        route if route.starts_with("/api/") => assert_eq!(lines_of(stream).last().unwrap()["done"], true),
        _ => assert_eq!(events_of(stream).last(), Some(&"[DONE]")),
    }
}

/// Asserts that this is nothing but the error of the route; its message.
#[track_caller]
fn only_an_error(route: &str, stream: &str) -> String {
    let (count, message) = match route {
        "/v1/messages" => {
            let events = named_events_of(stream);
            assert_eq!(events[0]["type"], "error", "{stream}");
            (events.len(), events[0]["error"]["message"].clone())
        }
        "/v1/responses" => {
            let events = named_events_of(stream);
            assert_eq!((&events[0]["type"], &events[0]["sequence_number"]), (&json!("response.failed"), &json!(0)));
            (events.len(), events[0]["response"]["error"]["message"].clone())
        }
        route if route.starts_with("/api/") => {
            let lines = lines_of(stream);
            (lines.len(), lines[0]["error"].clone())
        }
        _ => {
            let events = events_of(stream);
            let error: Value = serde_json::from_str(events[0]).unwrap();
            assert_eq!(error["error"].as_object().unwrap().len(), 4, "{stream}");
            (events.len(), error["error"]["message"].clone())
        }
    };
    assert_eq!(count, 1, "{stream}");
    message.as_str().unwrap_or_else(|| panic!("no message: {stream}")).to_owned()
}

// Lines 12 and 13 of the clients' checklist: the form of a sign of life, and that the stream follows it.
#[actix_rt::test]
async fn a_stream_that_waits_says_so_in_its_dialect_and_then_comes_whole() {
    each_at_once(ROUTES, async |route| {
        let simulated = slow_to_load(2.5).await;
        let app = spawn_impatient(&[&simulated], |_| {}).await;
        let key = app.user("ann").await;

        let (head, stream) = app.exchange_at(route, &key, &body("[[n=3]]")).await;

        assert!(head.starts_with("http/1.1 200"), "{route}: {head}");
        let content_type = header_of(&head, "content-type").unwrap();
        let lines = route.starts_with("/api/");
        assert!(content_type.starts_with(if lines { "application/x-ndjson" } else { "text/event-stream" }), "{head}");
        for absent in ["x-gateway-node", "x-gateway-queue-ms", "x-gateway-attempts"] {
            assert_eq!(header_of(&head, absent), None, "it was not known: {route}");
        }
        assert!(header_of(&head, "x-request-id").is_some());
        let (signs, rest) = after_signs(route, &stream);
        assert_eq!(signs, if lines { 0 } else { 2 }, "{route}: {stream}");
        assert!(!rest.contains("keep-alive") && !rest.contains("ping"), "none follows the first byte: {stream}");
        // No other line of a comment, and no blank line of its own: what follows is the first event.
        assert!(rest.starts_with(['d', 'e', '{']), "{route}: {stream}");
        assert_is_whole(route, rest);
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("completed"), &json!(3)), "{route}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn a_stream_that_waits_in_vain_ends_with_an_error_in_its_dialect() {
    each_at_once(ROUTES, async |route| {
        let simulated = fast_node().await;
        let app = spawn_impatient(&[&simulated], |config| config.relay.first_byte_seconds = 2).await;
        let key = app.user("ann").await;
        simulated.set_fault(Some(Fault::HangBeforeHead));

        let (head, stream) = app.exchange_at(route, &key, &body("hi")).await;

        assert!(head.starts_with("http/1.1 200"), "{route}: {head}");
        let (_, rest) = after_signs(route, &stream);
        let message = only_an_error(route, rest);
        assert!(message.contains("No node could answer"), "{route}: {message}");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["total_tokens"]), (&json!("upstream_error"), &json!(0)), "{route}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn after_signs_of_life_another_node_is_still_tried() {
    each_at_once(ROUTES, async |route| {
        let (hanging, good) = (fast_node().await, fast_node().await);
        let app = spawn_impatient(&[&hanging, &good], |config| config.relay.first_byte_seconds = 2).await;
        let key = app.user("ann").await;
        hanging.set_fault(Some(Fault::HangBeforeHead));

        let (head, stream) = app.exchange_at(route, &key, &body("[[n=3]]")).await;

        assert!(head.starts_with("http/1.1 200"), "{route}: {head}");
        let (signs, rest) = after_signs(route, &stream);
        assert!(signs >= usize::from(!route.starts_with("/api/")), "{route}: {stream}");
        assert_is_whole(route, rest);
        assert_eq!((hanging.requests().len(), good.requests().len()), (1, 1), "{route}");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["node"]), (&json!("completed"), &json!("b")), "{route}: {row}");
        app.stop().await;
    })
    .await;
}

/// A gateway whose one slot is held by a stream.
async fn full_app(change: impl FnOnce(&mut Config)) -> (SimNode, TestApp, String, EventReader) {
    let simulated = fast_node().await;
    let app = spawn_impatient(&[&simulated], change).await;
    let key = app.user("ann").await;
    simulated.fault_next([Fault::HangAfter(1)]);
    let mut busy = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    assert!(busy.next().await.is_some());
    (simulated, app, key, busy)
}

/// Sends a streamed request and waits for the head of the answer alone, which comes with the commit.
async fn committed(app: &TestApp, route: &str, key: &str, body: &Value) -> awc::ClientResponse {
    let response = client().post(app.url(route)).bearer_auth(key).send_body(body.to_string()).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

#[actix_rt::test]
async fn a_stream_that_waits_for_a_slot_gets_it_after_signs_of_life() {
    each_at_once(ROUTES, async |route| {
        let (_simulated, app, key, busy) = full_app(|_| {}).await;
        let mut waiting = committed(&app, route, &key, &body("[[n=3]]")).await;
        if !route.starts_with("/api/") {
            assert_eq!(waiting.next().await.unwrap().unwrap(), sign_of_life(route), "{route}");
        }
        assert_eq!(app.dispatcher.read(|scheduler| scheduler.queued()), 1, "it still waits: {route}");

        drop(busy);

        assert_is_whole(route, after_signs(route, read(waiting).await.text()).1);
        let rows = app.rows_once(&key, 2).await;
        let waited = rows.iter().find(|row| row["status"] == "completed").unwrap();
        assert!(waited["queue_ms"].as_u64() >= Some(900), "{waited}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn who_waits_in_vain_for_a_slot_reads_so_in_the_stream() {
    let (simulated, app, key, busy) = full_app(|config| config.relay.queue_seconds = 2).await;
    for route in ["/v1/chat/completions", "/v1/messages", "/api/chat"] {
        let (head, stream) = app.exchange_at(route, &key, &body("hi")).await;

        assert!(head.starts_with("http/1.1 200"), "{route}: {head}");
        let message = only_an_error(route, after_signs(route, &stream).1);
        assert!(message.contains("no slot became free in time"), "{route}: {message}");
    }
    let (_, stream) = app.exchange_at("/v1/responses", &key, &body("hi")).await;
    let failed = &named_events_of(after_signs("/v1/responses", &stream).1)[0];
    assert_eq!(failed["response"]["error"]["code"], "server_is_overloaded", "clients know what to do about that");
    assert_eq!(simulated.requests().len(), 1);
    let rows = app.rows_once(&key, 4).await;
    assert!(rows.iter().all(|row| row["status"] == "deadline" && row["total_tokens"] == 0), "{rows:?}");
    drop(busy);
    app.stop().await;
}

#[actix_rt::test]
async fn the_nodes_own_no_after_signs_of_life_is_an_error_in_the_stream() {
    for route in ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat"] {
        let (simulated, app, key, busy) = full_app(|_| {}).await;
        simulated.fault_next([Fault::Status(400)]);
        let waiting = committed(&app, route, &key, &body("hi")).await;

        drop(busy);

        let stream = read(waiting).await;
        assert_eq!(only_an_error(route, after_signs(route, stream.text()).1), "invalid model name", "{route}");
        eventually("the node is free", || simulated.stats().in_flight == 0).await;
        assert_eq!(app.rows_once(&key, 2).await[0]["status"], "refused");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn what_is_refused_before_the_commit_keeps_its_status() {
    let (simulated, app, ann, busy) = full_app(|config| {
        config.queue.max_queued = 2;
        config.queue.max_queued_per_user = 1;
        config.relay.commit_seconds = 5;
    })
    .await;
    let (bob, eve) = (app.user("bob").await, app.user("eve").await);
    let limited = app.user_with("may", json!({"requests_per_minute": 0})).await;
    let first = app.send_and_hold(&ann, &stream_body("llama3.2", "one")).await;
    eventually("one waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;
    let post = async |key: &str, model: &str| {
        let mut statuses = Vec::new();
        for route in ROUTES {
            let mut body = body("hi");
            body["model"] = model.into();
            let reply = app.post(route, key, body).await;
            assert_eq!(reply.header("content-type"), Some("application/json"), "{route}");
            statuses.push(reply.status.as_u16());
        }
        statuses
    };

    assert_eq!(post(&ann, "llama3.2").await, [429; 6], "the user's share of the queue is full");
    assert_eq!(post(&bob, "nothere").await, [404; 6]);
    assert_eq!(post(&limited, "llama3.2").await, [429; 6]);
    let second = app.send_and_hold(&bob, &stream_body("llama3.2", "one")).await;
    eventually("two wait", || app.dispatcher.read(|scheduler| scheduler.queued()) == 2).await;
    assert_eq!(post(&eve, "llama3.2").await, [503; 6], "the queue is full");

    drop((first, second, busy));
    eventually("all is quiet", || simulated.stats().in_flight == 0).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_plain_answer_that_waits_keeps_its_status_however_long_it_takes() {
    let simulated = fast_node().await;
    let app = spawn_impatient(&[&simulated], |config| config.relay.first_byte_seconds = 2).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::HangBeforeHead));

    let reply = app.post("/v1/chat/completions", &key, chat_body("llama3.2", "hi")).await;

    assert_eq!(reply.status, 504, "{}", reply.text());
    app.stop().await;
}

#[actix_rt::test]
async fn a_stream_that_comes_before_the_commit_has_the_nodes_headers_and_no_sign_of_life() {
    let simulated = slow_to_load(0.3).await;
    let app = spawn_impatient(&[&simulated], |config| config.relay.commit_seconds = 5).await;
    let key = app.user_with("ann", json!({"requests_per_minute": 100})).await;

    let reply = app.send(Method::POST, "/v1/chat/completions", Some(&key), body("[[n=3]]").to_string()).await;

    assert_eq!((reply.header("x-gateway-node"), reply.header("x-gateway-attempts")), (Some("a"), Some("1")));
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some("99"));
    assert_is_whole("/v1/chat/completions", reply.text());
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_while_it_waits_frees_its_place_in_every_dialect() {
    each_at_once(["/v1/messages", "/api/chat"], async |route| {
        let simulated = fast_node().await;
        let app = spawn_impatient(&[&simulated], |_| {}).await;
        let key = app.user("ann").await;
        simulated.set_fault(Some(Fault::HangBeforeHead));
        let waiting = committed(&app, route, &key, &body("hi")).await;

        drop(waiting);

        eventually("the node is free", || simulated.stats().in_flight == 0).await;
        assert_eq!(app.rows_once(&key, 1).await[0]["status"], "cancelled");
        app.stop().await;
    })
    .await;
}
