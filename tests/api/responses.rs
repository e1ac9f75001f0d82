//! OpenAI's Responses: the stream ends with `response.completed`, or says that it failed.
use awc::http::Method;
use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::dialects::{
    assert_answers_as_the_node, assert_row_is_as_the_node_counted, directly, last_seen, named_events_of, spawn_over,
    types, with,
};
use crate::harness::{TestDatabase, each_at_once, error_of, fast_node, node, spawn_app_with};

const PATH: &str = "/v1/responses";

fn body(prompt: &str) -> Value {
    json!({"model": "llama3.2", "input": prompt})
}

fn streamed(prompt: &str) -> Value {
    with(body(prompt), "stream", json!(true))
}

// Line 24 of the clients' checklist: the stream ends with response.completed.
#[actix_rt::test]
async fn a_streamed_response_ends_with_response_completed() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;

    let reply = app.post(PATH, &key, streamed("[[n=3]]")).await;

    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
    let events = named_events_of(reply.text());
    assert_eq!(types(&events)[..2], ["response.created", "response.in_progress"]);
    assert_eq!(types(&events).last(), Some(&"response.completed"));
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let id = format!("resp_{}", reply.header("x-request-id").unwrap());
    for event in events.iter().filter(|event| event["response"].is_object()) {
        assert_eq!(event["response"]["id"], id);
    }
    assert_row_is_as_the_node_counted(&app.rows_once(&key, 1).await[0], &simulated, 3);
    app.stop().await;
}

#[actix_rt::test]
async fn whatever_is_asked_of_responses_the_gateway_answers_as_the_node_itself() {
    let models = ["llama3.2", "qwen3:8b"].map(|name| SimModel::thinking(name, 2.0)).to_vec();
    let simulated = SimNode::start(SimConfig { models, ..SimConfig::warm() }).await.unwrap();
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let tool = json!({"type": "function", "name": "weather", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}}});
    let items = json!([{"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"}]);
    for asked in [
        body("hello"),
        with(body("hi"), "instructions", json!("Be brief.")),
        with(body("think [[n=40]]"), "model", json!("qwen3:8b")),
        with(body("the weather?"), "tools", json!([tool])),
        with(body("[[n=90]]"), "max_output_tokens", json!(3)),
        with(body("x"), "input", items),
        with(with(body("x"), "store", json!(false)), "metadata", json!({"a": "b"})),
    ] {
        assert_answers_as_the_node(&app, &simulated, &key, PATH, asked).await;
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_response_that_breaks_ends_with_response_failed_and_never_with_completed() {
    let faults = [Fault::DieAfter(8), Fault::ErrorAfter(8), Fault::EndAfter(8), Fault::GarbageAfter(8)];
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
        assert_eq!(before.len(), 8, "{fault:?}: {}", reply.text());
        assert!(types(before).iter().all(|kind| *kind != "response.completed"));
        assert_eq!((&last["type"], &last["sequence_number"]), (&json!("response.failed"), &json!(8)), "{fault:?}");
        let response = &last["response"];
        assert_eq!(response["id"], before[0]["response"]["id"], "it is the same response");
        assert_eq!((&response["status"], &response["error"]["code"]), (&json!("failed"), &json!("server_error")));
        assert!(response["error"]["message"].as_str().unwrap().contains("incomplete"));
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("upstream_error"), &json!(4)), "{row}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn the_cap_of_a_user_with_tokens_per_day_is_max_output_tokens() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.limits.default_max_output = 9;
    })
    .await;
    let limited = app.user_with("ann", json!({"tokens_per_day": 100_000})).await;
    let free = app.user("bob").await;
    for (given, sent) in [(None, 9), (Some(json!(null)), 9), (Some(json!(4)), 4)] {
        let mut asked = body("[[n=30]]");
        if let Some(given) = given {
            asked["max_output_tokens"] = given;
        }
        let reply = app.post(PATH, &limited, asked.clone()).await;

        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(last_seen(&simulated)["max_output_tokens"], sent, "{asked}");
        assert_eq!(reply.json()["usage"]["output_tokens"], sent, "{asked}");
    }
    app.post(PATH, &free, body("hi")).await;
    assert_eq!(last_seen(&simulated), body("hi"), "nothing is added without a limit");
    app.stop().await;
}

#[actix_rt::test]
async fn errors_of_responses_are_openais() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for (asked, param) in [
        (json!({"model": "llama3.2"}), "input"),
        (with(body(""), "input", json!(7)), "input"),
        (with(body(""), "input", json!(["x"])), "input"),
        (with(body("hi"), "max_output_tokens", json!(0)), "max_output_tokens"),
        (with(body("hi"), "stream", json!("yes")), "stream"),
        (
            with(
                body(""),
                "input",
                json!([{"role": "user", "content": [
                {"type": "input_image", "image_url": "https://example.org/x.png"}]}]),
            ),
            "input",
        ),
    ] {
        assert_eq!(error_of(&app.post(PATH, &key, asked.clone()).await, 400)["param"], param, "{asked}");
    }
    let missing = error_of(&app.post(PATH, &key, with(body("hi"), "model", json!("nothere"))).await, 404);
    assert_eq!(missing["code"], "model_not_found");
    error_of(&app.send(Method::POST, PATH, None, body("hi").to_string()).await, 401);
    error_of(&app.get("/v1/responses/resp_1", &key).await, 404);
    error_of(&app.get(PATH, &key).await, 405);
    assert!(simulated.requests().is_empty());

    let refused = with(body("hi"), "model", json!("all-minilm"));
    let reply = app.post(PATH, &key, refused.clone()).await;
    assert_eq!(reply.text(), directly(&simulated, PATH, &refused).await.text(), "the node's own no is handed on");
    error_of(&reply, 400);
    app.stop().await;
}
