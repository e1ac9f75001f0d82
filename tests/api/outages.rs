//! What does a client hear while nodes are down, and after they are back?
use futures_util::StreamExt;
use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use serde_json::json;

use crate::failures::{requests_at, retry_after, spawn_over};
use crate::harness::{
    ADMIN_KEY, TestApp, chat_body, error_of, events_of, eventually, fast_node, read, stream_body, wait_for,
    wait_long_for,
};

#[actix_rt::test]
async fn a_model_that_is_nowhere_any_more_is_unknown_after_every_node_was_asked() {
    let (one, two) = (fast_node().await, fast_node().await);
    let app = spawn_over(&[&one, &two], |_| {}).await;
    let key = app.user("ann").await;
    one.set_fault(Some(Fault::Status(404)));
    two.set_fault(Some(Fault::Status(404)));

    let reply = app.chat(&key, "llama3.2", "hi").await;

    let error = error_of(&reply, 404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    assert_eq!(requests_at(&[&one, &two]), 2);
    app.stop().await;
}

// Nodes that come and go

#[actix_rt::test]
async fn a_gateway_without_any_node_says_so_and_serves_as_soon_as_one_comes_up() {
    let simulated = fast_node().await;
    simulated.stop().await;
    let app = spawn_over(&[&simulated], |_| {}).await;
    let key = app.user("ann").await;

    let health = app.get("/health", &key).await;
    let refused = app.chat(&key, "llama3.2", "hi").await;
    simulated.restart().await.unwrap();
    eventually("the node is up", || app.dispatcher.read(|scheduler| scheduler.serving_nodes() == 1)).await;
    let served = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!((health.status.as_u16(), &health.json()["status"]), (503, &json!("unavailable")));
    assert_eq!(error_of(&refused, 503)["code"], "no_node_available");
    retry_after(&refused);
    assert_eq!(served.status, 200, "{}", served.text());
    assert_eq!(app.get("/health", &key).await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_comes_up_later_is_used() {
    let only = SimConfig { models: vec![SimModel::chat("late:1b", 1.0)], ..SimConfig::warm() };
    let (late, early) = (SimNode::start(only).await.unwrap(), fast_node().await);
    late.stop().await;
    let app = spawn_over(&[&late, &early], |_| {}).await;
    let key = app.user("ann").await;
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.header("x-gateway-node"), Some("b"));

    late.restart().await.unwrap();
    eventually("the node is up", || app.dispatcher.read(|scheduler| scheduler.serving_nodes() == 2)).await;
    let reply = app.chat(&key, "late:1b", "hi").await;

    assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some("a")), "{}", reply.text());
    app.stop().await;
}

#[actix_rt::test]
async fn all_nodes_down_means_come_back_soon() {
    let simulated = fast_node().await;
    let app = spawn_over(&[&simulated], |_| {}).await;
    let key = app.user("ann").await;
    simulated.stop().await;
    eventually("the node is known to be down", || app.dispatcher.read(|scheduler| scheduler.serving_nodes() == 0))
        .await;

    let reply = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!(error_of(&reply, 503)["code"], "no_node_available");
    retry_after(&reply);
    // No node has failed, and the user has used nothing.
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!((&row["status"], &row["code"]), (&json!("refused"), &json!("no_node_available")), "{row}");
    assert_eq!((&row["node"], &row["http_status"]), (&json!(null), &json!(503)), "{row}");
    wait_long_for("the failure is plotted", async || {
        let series = app.get("/admin/series", ADMIN_KEY).await.json();
        series["errors_per_minute"].as_array().unwrap().iter().any(|rate| rate.as_f64() > Some(0.0))
    })
    .await;
    assert_eq!(app.get("/health", &key).await.status, 503);
    app.stop().await;
}

/// One request of a load, plain or streamed; what is wrong with its answer, if anything.
async fn one_of_many(app: &TestApp, key: &str, number: usize) -> Option<String> {
    let stream = number % 2 == 1;
    let prompt = format!("{number} [[n=40]]");
    let body = if stream { stream_body("llama3.2", &prompt) } else { chat_body("llama3.2", &prompt) };
    let reply = read(app.open(key, &body).await).await;
    let text = reply.text();
    if reply.status != 200 {
        return Some(format!("{}: {text}", reply.status));
    }
    if !stream {
        return (reply.json()["usage"]["completion_tokens"] != 40).then(|| text.to_owned());
    }
    let events = events_of(text);
    let has_begun = events[0].contains("delta");
    let last = *events.last().unwrap();
    let has_ended = if last == "[DONE]" { events.len() == 42 } else { last.starts_with("{\"error\":") };
    (!has_begun || !has_ended).then(|| text.to_owned())
}

#[actix_rt::test]
async fn a_node_that_dies_under_load_costs_no_request_that_had_not_begun() {
    let speed = || SimConfig { tokens_per_second: 500.0, slots: 4, ..SimConfig::warm() };
    let mut simulated = Vec::new();
    for _ in 0..3 {
        simulated.push(SimNode::start(speed()).await.unwrap());
    }
    let nodes: Vec<&SimNode> = simulated.iter().collect();
    let app = spawn_over(&nodes, |_| {}).await;
    let key = app.user("ann").await;
    let (mut ended, mut has_died) = (0, false);
    let mut wrong = Vec::new();
    let requests = (0..150).map(|number| one_of_many(&app, &key, number));
    let mut running = futures_util::stream::iter(requests).buffer_unordered(15);

    while let Some(outcome) = running.next().await {
        wrong.extend(outcome);
        ended += 1;
        if !has_died && ended >= 40 && simulated[0].stats().in_flight > 0 {
            has_died = true;
            simulated[0].stop().await;
        }
    }
    assert!(has_died, "it dies at work");
    let seen_before = simulated[0].requests().len();
    simulated[0].restart().await.unwrap();
    eventually("the node is back", || app.dispatcher.read(|scheduler| scheduler.serving_nodes() == 3)).await;
    let mut wrong_after = Vec::new();
    let mut ended_after = 0;
    // It counts as cold until it has said what is in its memory; then it has its part again.
    wait_for("the node gets requests again", async || {
        let after = futures_util::stream::iter((0..15).map(|number| one_of_many(&app, &key, number)));
        wrong_after.extend(after.buffer_unordered(15).filter_map(std::future::ready).collect::<Vec<_>>().await);
        ended_after += 15;
        simulated[0].requests().len() > seen_before
    })
    .await;

    assert_eq!(wrong, [""; 0]);
    assert_eq!(wrong_after, [""; 0]);
    let rows = app.get("/v1/usage?limit=1000", &key).await.json();
    assert_eq!(rows["data"].as_array().unwrap().len(), (150 + ended_after).min(1000));
    drop(running);
    app.stop().await;
}
