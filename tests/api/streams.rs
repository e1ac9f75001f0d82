//! Do streams arrive event by event, end as they should, and say so when they cannot?
use std::time::Duration;

use awc::http::Method;
use ollama_sim::{Fault, SimConfig, SimNode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    PATIENCE, TestApp, TestDatabase, events_of, eventually, fast_node, node, spawn_app, spawn_app_with, stream_body,
};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_event, chunk, last_chunk, stream_head};

const ROUTES: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

/// A streamed request for either route, with these stream options.
fn body_with(prompt: &str, options: Option<Value>) -> Value {
    let mut body = stream_body("llama3.2", prompt);
    body["prompt"] = prompt.into();
    if let Some(options) = options {
        body["stream_options"] = options;
    }
    body
}

fn parsed(events: &[&str]) -> Vec<Value> {
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    chunks.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// One event over the wire: what a client that reads as it comes has read.
pub async fn spawn_over(simulated: &SimNode) -> TestApp {
    spawn_app(vec![node("a", simulated.url(), 4)]).await
}

// Whole streams

#[actix_rt::test]
async fn the_usage_chunk_is_shown_to_those_who_ask_and_the_row_is_exact_for_all() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let cases = [
        (None, false),
        (Some(json!(null)), false),
        (Some(json!({})), false),
        (Some(json!({"include_usage": false})), false),
        (Some(json!({"include_usage": null})), false),
        (Some(json!({"include_usage": true})), true),
    ];
    let mut count = 0;
    for (route, (options, shown)) in ROUTES.iter().flat_map(|route| cases.iter().map(move |case| (route, case))) {
        let reply = app.post(route, &key, body_with("count [[n=7]]", options.clone())).await;

        assert_eq!(reply.status, 200, "{route} {options:?}: {}", reply.text());
        let chunks = parsed(&events_of(reply.text()));
        let is_usage = |chunk: &&Value| chunk["choices"].as_array().unwrap().is_empty();
        let usages: Vec<&Value> = chunks.iter().filter(is_usage).collect();
        let seen = simulated.requests().pop().unwrap();
        if *shown {
            let total = seen.prompt_tokens + 7;
            let usage = json!({"prompt_tokens": seen.prompt_tokens, "completion_tokens": 7, "total_tokens": total});
            assert_eq!(usages.len(), 1, "{route} {options:?}");
            assert_eq!(usages[0]["usage"], usage, "{route} {options:?}");
            assert_eq!(chunks.last(), usages.first().copied(), "right before [DONE]");
        } else {
            assert!(usages.is_empty() && !reply.text().contains("usage"), "{route} {options:?}: {}", reply.text());
        }
        count += 1;
        let row = &app.rows_once(&key, count).await[0];
        assert_eq!(row["status"], "completed");
        assert_eq!((&row["prompt_tokens"], &row["completion_tokens"]), (&json!(seen.prompt_tokens), &json!(7)));
        assert_eq!((&row["endpoint"], &row["stream"]), (&json!(route), &json!(true)));
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_stream_is_events_of_one_kind_and_one_id_that_is_its_own() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let kinds = [("chat.completion.chunk", "chatcmpl"), ("text_completion", "cmpl")];
    for (route, (object, prefix)) in ROUTES.into_iter().zip(kinds) {
        for _ in 0..3 {
            let reply = app.post(route, &key, body_with("[[n=9]]", None)).await;

            let chunks = parsed(&events_of(reply.text()));
            let id = format!("{prefix}-{}", reply.header("x-request-id").unwrap());
            assert!(chunks.len() >= 9, "{chunks:?}");
            for chunk in &chunks {
                assert_eq!((&chunk["object"], &chunk["id"]), (&json!(object), &json!(id)));
                assert_eq!(chunk["choices"].as_array().map(Vec::len), Some(1));
            }
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_stream_has_the_headers_that_keep_proxies_from_holding_it_back() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("accept-encoding", "gzip, br")];

    let body = stream_body("llama3.2", "hi").to_string();
    let reply = app.send_with(Method::POST, "/v1/chat/completions", &headers, body).await;

    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    assert_eq!(reply.header("content-length"), None);
    assert_eq!(reply.header("content-encoding"), None);
    app.stop().await;
}

#[actix_rt::test]
async fn each_event_is_passed_on_before_the_next_one_exists() {
    for known in [1, 2, 9] {
        let simulated = fast_node().await;
        let app = spawn_over(&simulated).await;
        let key = app.user("ann").await;
        simulated.set_fault(Some(Fault::HangAfter(known)));

        let mut stream = app.open_stream(&key, &stream_body("llama3.2", "[[n=20]]")).await;
        for _ in 0..known {
            assert!(stream.next().await.unwrap().contains("delta"));
        }

        assert_eq!(simulated.stats().in_flight, 1);
        drop(stream);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_stream_that_comes_a_byte_at_a_time_arrives_whole() {
    let stream = format!("{}{}{CHAT_END}", chat_event("\u{1f600}"), chat_event("b"));
    let sent = stream.clone();
    let node_a = ScriptedNode::always(move || {
        let (slow, fast) = sent.as_bytes().split_at(250);
        let mut bytes = Vec::new();
        for byte in slow {
            bytes.extend_from_slice(b"1\r\n");
            bytes.push(*byte);
            bytes.extend_from_slice(b"\r\n");
        }
        vec![stream_head(), Step::Trickle(bytes.into(), Duration::from_micros(50)), chunk(fast), last_chunk()]
    })
    .await;
    let app = spawn_app_with(vec![node("a", node_a.url(), 1)], TestDatabase::sqlite(), |config| {
        config.relay.chunk_gap_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;
    let body = body_with("hi", Some(json!({"include_usage": true})));

    let reply = app.post("/v1/chat/completions", &key, body).await;

    let id = format!("chatcmpl-{}", reply.header("x-request-id").unwrap());
    assert_eq!(reply.text(), stream.replace("chatcmpl-7", &id));
    app.stop().await;
}

#[actix_rt::test]
async fn an_event_of_a_megabyte_passes() {
    let long = "x".repeat(1_000_000);
    let sent = chat_event(&long);
    let node_a = ScriptedNode::always(move || vec![stream_head(), chunk(&sent), chunk(CHAT_END), last_chunk()]).await;
    let app = spawn_app(vec![node("a", node_a.url(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.post("/v1/chat/completions", &key, stream_body("llama3.2", "hi")).await;

    let chunks = parsed(&events_of(reply.text()));
    assert!(chunks[0]["choices"][0]["delta"]["content"] == long, "the content differs");
    app.stop().await;
}

#[actix_rt::test]
async fn a_stream_is_over_with_done_although_the_node_says_more_or_keeps_the_connection_open() {
    let more = format!("{CHAT_END}{}", chat_event("more"));
    let ends = [
        ("keeps it open", vec![CHAT_END.to_owned()], None),
        ("says more at once", vec![more.clone()], Some(last_chunk())),
        ("says more later", vec![CHAT_END.to_owned(), chat_event("more")], Some(last_chunk())),
        ("dies", vec![CHAT_END.to_owned()], Some(Step::Close)),
        ("resets", vec![CHAT_END.to_owned()], Some(Step::Reset)),
        ("never stops", vec![CHAT_END.to_owned(), chat_event("more").repeat(1000)], None),
    ];
    for (name, parts, end) in ends {
        let mut steps = vec![stream_head(), chunk(chat_event("Hello"))];
        steps.extend(parts.iter().map(chunk));
        steps.extend(end);
        let once = std::cell::RefCell::new(Some(steps));
        let node_a = ScriptedNode::start(move |_| once.take().unwrap()).await;
        let app = spawn_app(vec![node("a", node_a.url(), 1)]).await;
        let key = app.user("ann").await;

        let mut stream = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
        let mut events = Vec::new();
        while events.last().is_none_or(|event| event != "[DONE]") {
            events.push(stream.next().await.expect("[DONE] comes"));
        }

        assert_eq!(events.len(), 3, "{name}: {events:?}");
        let free = app.dispatcher.read(|scheduler| scheduler.in_flight()) == 0;
        assert!(free, "{name}: the slot is free as soon as the client has [DONE]");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("completed"), &json!(2)), "{name}");
        assert_eq!(stream.rest().await, [""; 0], "{name}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_node_that_reports_no_usage_is_counted() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::NoUsage));

    let reply = app.post("/v1/chat/completions", &key, stream_body("llama3.2", "[[n=13]]")).await;

    assert_eq!(parsed(&events_of(reply.text())).len(), 14);
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("completed"), &json!(13)));
    assert!(row["prompt_tokens"].as_u64().unwrap() > 0, "{row}");
    app.stop().await;
}

// Streams that wait

/// A gateway that says 200 after a second of waiting, and that it is still there every second.
async fn spawn_committing(url: String) -> TestApp {
    spawn_app_with(vec![node("a", url, 1)], TestDatabase::sqlite(), |config| {
        config.relay.commit_seconds = 1;
        config.relay.heartbeat_seconds = 1;
        config.relay.first_byte_seconds = 3;
    })
    .await
}

#[actix_rt::test]
async fn a_stream_that_waits_long_gets_its_status_and_keep_alives_and_then_its_events() {
    let loading = SimConfig { load_overhead: Duration::from_millis(2500), ..SimConfig::fast() };
    let simulated = SimNode::start(loading).await.unwrap();
    let app = spawn_committing(simulated.url()).await;
    let key = app.user("ann").await;

    let (head, body) = app.exchange(&key, &stream_body("llama3.2", "[[n=3]]")).await;

    assert!(head.starts_with("http/1.1 200") && head.contains("text/event-stream"), "{head}");
    let alive = ": keep-alive\n";
    let stream = body.trim_start_matches(alive);
    assert_eq!(body.len() - stream.len(), 2 * alive.len(), "{body}");
    assert_eq!(parsed(&events_of(stream)).len(), 4);
    assert_eq!(app.rows_once(&key, 1).await[0]["status"], "completed");
    app.stop().await;
}

#[actix_rt::test]
async fn a_stream_that_waited_and_gets_no_answer_ends_with_an_error_event() {
    let simulated = fast_node().await;
    let app = spawn_committing(simulated.url()).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::HangBeforeHead));

    let (head, body) = app.exchange(&key, &stream_body("llama3.2", "hi")).await;

    assert!(head.starts_with("http/1.1 200"), "{head}");
    let events = events_of(body.trim_start_matches(": keep-alive\n"));
    let error: Value = serde_json::from_str(events[0]).unwrap();
    assert_eq!((events.len(), &error["error"]["code"]), (1, &json!("timeout")));
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!((&row["status"], &row["total_tokens"]), (&json!("upstream_error"), &json!(0)));
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_while_it_gets_keep_alives_frees_its_place() {
    let simulated = fast_node().await;
    let app = spawn_committing(simulated.url()).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::HangBeforeHead));
    let mut connection = app.send_and_hold(&key, &stream_body("llama3.2", "hi")).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b": keep-alive\n\r\n") {
        let reading = connection.read_buf(&mut answer);
        assert!(tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap() > 0);
    }

    drop(connection);

    eventually("the slot is free", || app.dispatcher.read(|scheduler| scheduler.in_flight()) == 0).await;
    eventually("the node is free", || simulated.stats().in_flight == 0).await;
    assert_eq!(app.rows_once(&key, 1).await[0]["status"], "cancelled");
    app.stop().await;
}

// Clients that do not read

#[actix_rt::test]
async fn a_client_that_stops_reading_loses_its_connection_and_its_slot() {
    let event = chat_event(&"x".repeat(60_000));
    let node_a = ScriptedNode::always(move || {
        let events = (0..2000).map(|_| chunk(&event));
        [stream_head()].into_iter().chain(events).collect()
    })
    .await;
    let app = spawn_app_with(vec![node("a", node_a.url(), 1)], TestDatabase::sqlite(), |config| {
        config.server.client_stall_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;
    let mut connection = app.send_and_hold(&key, &stream_body("llama3.2", "hi")).await;
    connection.flush().await.unwrap();

    eventually("the stream runs", || app.dispatcher.read(|scheduler| scheduler.in_flight()) == 1).await;
    eventually("its slot is free", || app.dispatcher.read(|scheduler| scheduler.in_flight()) == 0).await;
    eventually("the node's connection is closed", || node_a.closed_connections() == 1).await;

    assert_eq!(app.rows_once(&key, 1).await[0]["status"], "cancelled");
    drop(connection);
    app.stop().await;
}
