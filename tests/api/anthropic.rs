//! Anthropic's Messages: events in their order, its envelope for every error, and rows like everybody's.
use awc::http::Method;
use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::dialects::{
    assert_answers_as_the_node, assert_row_is_as_the_node_counted, directly, named_events_of, spawn_over, types, with,
};
use crate::harness::{
    Reply, TestDatabase, each_at_once, eventually, fast_node, node, spawn_app, spawn_app_with, stream_body,
};

const PATH: &str = "/v1/messages";

fn body(prompt: &str) -> Value {
    json!({"model": "llama3.2", "max_tokens": 200, "messages": [{"role": "user", "content": prompt}]})
}

fn streamed(prompt: &str) -> Value {
    with(body(prompt), "stream", json!(true))
}

/// The error of an answer in Anthropic's envelope, which must hold nothing else.
#[track_caller]
fn anthropic_error(reply: &Reply, status: u16, kind: &str) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let id = reply.header("request-id").expect("an id where Anthropic's SDKs look for it");
    assert_eq!(reply.header("x-request-id"), Some(id));
    uuid::Uuid::parse_str(id).unwrap();
    let whole = reply.json();
    let message = whole["error"]["message"].as_str().unwrap_or_else(|| panic!("no message: {whole}")).to_owned();
    assert_eq!(whole, json!({"type": "error", "error": {"type": kind, "message": message}}));
    message
}

// Whole answers

// Line 23 of the clients' checklist: the order of the events, from message_start to message_stop.
#[actix_rt::test]
async fn the_events_of_a_message_come_in_their_order() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;

    let reply = app.post(PATH, &key, streamed("[[n=3]]")).await;

    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let events = named_events_of(reply.text());
    let delta = "content_block_delta";
    let order = [
        "message_start",
        "content_block_start",
        delta,
        delta,
        delta,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types(&events), order);
    assert_eq!(events[0]["message"]["id"], format!("msg_{}", reply.header("x-request-id").unwrap()));
    assert_row_is_as_the_node_counted(&app.rows_once(&key, 1).await[0], &simulated, 3);
    app.stop().await;
}

#[actix_rt::test]
async fn whatever_is_asked_in_anthropics_words_the_gateway_answers_as_the_node_itself() {
    let models = ["llama3.2", "qwen3:8b"].map(|name| SimModel::thinking(name, 2.0)).into_iter();
    let models = models.chain([SimModel::vision("llava", 4.7)]).collect();
    let simulated = SimNode::start(SimConfig { models, ..SimConfig::warm() }).await.unwrap();
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let tool =
        json!({"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let picture = json!([{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "text", "text": "what?"}]}]);
    let result = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": [
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "rain"}]}]);
    for asked in [
        body("hello"),
        with(body("hi"), "system", json!("Be brief.")),
        with(
            body("hi"),
            "system",
            json!([{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]),
        ),
        with(body("think [[n=40]]"), "model", json!("qwen3:8b")),
        with(body("think [[n=40]]"), "thinking", json!({"type": "disabled"})),
        with(body("the weather?"), "tools", json!([tool])),
        with(body("[[n=90]]"), "max_tokens", json!(3)),
        with(with(body("x"), "model", json!("llava")), "messages", picture),
        with(body("x"), "messages", result),
    ] {
        assert_answers_as_the_node(&app, &simulated, &key, PATH, asked).await;
    }
    app.stop().await;
}

// Limits

#[actix_rt::test]
async fn max_tokens_of_a_message_is_what_it_reserves() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user_with("ann", json!({"tokens_per_day": 1000})).await;

    let fits = app.post(PATH, &key, with(body("[[n=20]]"), "max_tokens", json!(10))).await;
    let too_much = app.post(PATH, &key, with(body("hi"), "max_tokens", json!(1000))).await;

    assert_eq!((fits.status.as_u16(), &fits.json()["stop_reason"]), (200, &json!("max_tokens")));
    assert!(fits.header("x-ratelimit-remaining-tokens").is_some());
    anthropic_error(&too_much, 429, "rate_limit_error");
    assert_eq!(too_much.header("x-should-retry"), Some("false"));
    assert_eq!(simulated.requests().len(), 1);
    app.stop().await;
}

// Errors

// Line 23 of the clients' checklist: errors in Anthropic's envelope, a 429 among them.
#[actix_rt::test]
async fn every_error_of_messages_is_in_anthropics_envelope() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = 10_000;
        config.queue.max_queued = 0;
    })
    .await;
    let key = app.user("ann").await;
    let without = |member: &str| {
        let mut body = body("hi");
        body.as_object_mut().unwrap().remove(member);
        body
    };
    let by_address = json!([{"role": "user", "content": [
        {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}]}]);

    for (asked, word) in [
        (without("max_tokens"), "max_tokens"),
        (with(body("hi"), "max_tokens", json!(null)), "max_tokens"),
        (with(body("hi"), "max_tokens", json!(0)), "max_tokens"),
        (with(body("hi"), "max_tokens", json!("9")), "max_tokens"),
        (without("model"), "model"),
        (without("messages"), "messages"),
        (with(body("hi"), "messages", json!([])), "messages"),
        (with(body("hi"), "messages", by_address), "base64"),
    ] {
        let message = anthropic_error(&app.post(PATH, &key, asked.clone()).await, 400, "invalid_request_error");
        assert!(message.contains(word), "{asked}: {message}");
    }
    anthropic_error(&app.send(Method::POST, PATH, Some(&key), "{").await, 400, "invalid_request_error");
    anthropic_error(&app.send(Method::POST, PATH, None, body("hi").to_string()).await, 401, "authentication_error");
    let missing = app.post(PATH, &key, with(body("hi"), "model", json!("nothere"))).await;
    assert!(anthropic_error(&missing, 404, "not_found_error").contains("nothere"));
    anthropic_error(&app.post("/v1/messages/batches", &key, body("hi")).await, 404, "not_found_error");
    let wrong_method = app.get(PATH, &key).await;
    anthropic_error(&wrong_method, 405, "invalid_request_error");
    assert_eq!(wrong_method.header("allow"), Some("POST"));
    anthropic_error(&app.send(Method::POST, PATH, Some(&key), "x".repeat(20_000)).await, 413, "request_too_large");
    let limited = app.user_with("bob", json!({"requests_per_minute": 1})).await;
    assert_eq!(app.post(PATH, &limited, body("hi")).await.status, 200);
    let refused = app.post(PATH, &limited, body("hi")).await;
    anthropic_error(&refused, 429, "rate_limit_error");
    assert!(refused.header("retry-after").is_some() && refused.header("x-ratelimit-limit-requests") == Some("1"));

    simulated.fault_next([Fault::HangAfter(1)]);
    let mut busy = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    busy.next().await.unwrap();
    anthropic_error(&app.post(PATH, &key, body("hi")).await, 503, "overloaded_error");
    drop(busy);
    eventually("the node is free", || simulated.stats().in_flight == 0).await;

    simulated.set_fault(Some(Fault::Status(500)));
    anthropic_error(&app.post(PATH, &key, streamed("hi")).await, 502, "api_error");
    simulated.stop().await;
    eventually("the node is down", || app.dispatcher.read(|scheduler| scheduler.serving_nodes()) == 0).await;
    anthropic_error(&app.post(PATH, &key, body("hi")).await, 503, "overloaded_error");
    app.stop().await;
}

#[actix_rt::test]
async fn tokens_are_counted_without_a_node_and_for_nothing() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let key = app.user_with("ann", json!({"tokens_per_minute": 30})).await;
    let count = async |prompt: &str| {
        let asked = json!({"model": "llama3.2", "messages": [{"role": "user", "content": prompt}]});
        let reply = app.post("/v1/messages/count_tokens", &key, asked).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["input_tokens"].as_u64().unwrap()
    };
    let short = count("Why is the sky blue?").await;
    let long = count(&"Why is the sky blue? ".repeat(100)).await;
    assert!((3..30).contains(&short) && (300..1500).contains(&long), "{short}, {long}");
    assert!(simulated.requests().is_empty() && app.rows(&key).await.is_empty());

    let unknown = json!({"model": "none", "messages": [{"role": "user", "content": "hi"}]});
    anthropic_error(&app.post("/v1/messages/count_tokens", &key, unknown).await, 404, "not_found_error");
    let none = app.post("/v1/messages/count_tokens", &key, json!({"model": "llama3.2"})).await;
    anthropic_error(&none, 400, "invalid_request_error");
    app.stop().await;
}

#[actix_rt::test]
async fn the_nodes_own_no_to_a_message_is_handed_on_as_it_is() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for stream in [true, false] {
        let asked = with(with(body("hi"), "model", json!("all-minilm")), "stream", json!(stream));
        let direct = directly(&simulated, PATH, &asked).await;
        let reply = app.post(PATH, &key, asked).await;

        assert_eq!((reply.status.as_u16(), reply.text()), (400, direct.text()));
        assert_eq!(reply.json()["type"], "error");
    }
    app.stop().await;
}

// Line 23 of the clients' checklist: a failure on the way is an error event, and no message_stop.
#[actix_rt::test]
async fn a_message_that_breaks_ends_with_an_error_event_and_never_with_message_stop() {
    let faults = [Fault::DieAfter(6), Fault::ErrorAfter(6), Fault::EndAfter(6), Fault::GarbageAfter(6)];
    each_at_once(faults, async |fault| {
        // Slow enough for each event to come by itself.
        let simulated = SimNode::start(SimConfig { tokens_per_second: 10.0, ..SimConfig::warm() }).await.unwrap();
        let app = spawn_over(&simulated).await;
        let key = app.user("ann").await;
        simulated.set_fault(Some(fault.clone()));

        let reply = app.post(PATH, &key, streamed("[[n=20]]")).await;

        assert_eq!(reply.status, 200, "{fault:?}: {}", reply.text());
        let events = named_events_of(reply.text());
        let (last, before) = events.split_last().unwrap();
        assert_eq!(types(before)[..2], ["message_start", "content_block_start"], "{fault:?}");
        assert!(types(before)[2..].iter().all(|kind| *kind == "content_block_delta"), "{fault:?}");
        assert_eq!(before.len(), 6, "{fault:?}: {}", reply.text());
        let message = &last["error"]["message"];
        assert!(message.as_str().unwrap().contains("incomplete"));
        assert_eq!(*last, json!({"type": "error", "error": {"type": "api_error", "message": message}}));
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("upstream_error"), &json!(4)), "{row}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn a_key_comes_as_anthropics_sdk_sends_it() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for header in ["x-api-key", "api-key"] {
        let headers = [(header, key.as_str()), ("anthropic-version", "2023-06-01"), ("anthropic-beta", "tools-2024")];

        let reply = app.send_with(Method::POST, PATH, &headers, body("hi").to_string()).await;

        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let seen = simulated.requests().pop().unwrap();
    assert!(seen.headers.iter().all(|(_, value)| !value.contains(&key)), "{:?}", seen.headers);
    app.stop().await;
}
