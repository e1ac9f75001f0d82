//! What becomes of a request whose client leaves?
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ollama_sim::{SimConfig, SimNode};
use serde_json::json;

use crate::failures::{counts, full_app, idle, requests_at, spawn_over};
use crate::harness::{TestApp, chat_body, eventually, let_pass, node, spawn_app, stream_body};

// Clients that leave

/// A node so slow that whatever is asked of it runs for minutes, but for short answers.
async fn slow_node() -> SimNode {
    SimNode::start(SimConfig { tokens_per_second: 20.0, slots: 100, batch_slowdown: 0.0, ..SimConfig::warm() })
        .await
        .unwrap()
}

/// How long the node takes to see that the client is gone, once `leave` has been called.
async fn time_to_cancel(app: &TestApp, simulated: &SimNode, leave: impl FnOnce()) -> Duration {
    let left = Instant::now();
    leave();
    eventually("the node sees it", || simulated.stats().cancelled == 1).await;
    let took = left.elapsed();
    idle(app, &[simulated]).await;
    took
}

#[actix_rt::test]
async fn a_client_that_leaves_a_running_request_stops_the_node_at_once() {
    for body in [chat_body("llama3.2", "[[n=5000]]"), stream_body("llama3.2", "[[n=5000]]")] {
        let simulated = slow_node().await;
        let app = spawn_over(&[&simulated], |_| {}).await;
        let key = app.user("ann").await;
        let connection = app.send_and_hold(&key, &body).await;
        eventually("it runs", || simulated.requests().iter().any(|seen| seen.tokens_generated > 1)).await;

        let took = time_to_cancel(&app, &simulated, || drop(connection)).await;

        assert!(took < Duration::from_secs(1), "{took:?}");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["node"]), (&json!("cancelled"), &json!("a")));
        assert!(row["prompt_tokens"].as_u64().unwrap() > 0, "what was begun is paid for: {row}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_client_that_leaves_in_the_middle_of_a_stream_pays_for_what_was_sent() {
    let simulated = slow_node().await;
    let app = spawn_over(&[&simulated], |_| {}).await;
    let key = app.user("ann").await;
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "[[n=5000]]")).await;
    for _ in 0..5 {
        assert!(stream.next().await.is_some());
    }

    let took = time_to_cancel(&app, &simulated, || drop(stream)).await;

    assert!(took < Duration::from_secs(1), "{took:?}");
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!(row["status"], "cancelled");
    let counted = row["completion_tokens"].as_u64().unwrap();
    assert!((5..=simulated.requests()[0].tokens_generated).contains(&counted), "{row}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_before_the_first_byte_stops_the_node_at_once() {
    let prompt = "hi ".repeat(5000);
    for body in [chat_body("llama3.2", &prompt), stream_body("llama3.2", &prompt)] {
        // A prompt that takes it minutes to read.
        let simulated = SimNode::start(SimConfig { tokens_per_second: 1.0, ..SimConfig::warm() }).await.unwrap();
        let app = spawn_over(&[&simulated], |_| {}).await;
        let key = app.user("ann").await;
        let connection = app.send_and_hold(&key, &body).await;
        eventually("the node works on it", || simulated.stats().in_flight == 1).await;

        let took = time_to_cancel(&app, &simulated, || drop(connection)).await;

        assert!(took < Duration::from_secs(1), "{took:?}");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("cancelled"), &json!(0)));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_client_that_leaves_while_its_model_is_loaded_aborts_nothing() {
    let loading = SimConfig { load_overhead: Duration::from_secs(1), ..SimConfig::fast() };
    let simulated = SimNode::start(loading).await.unwrap();
    let app = spawn_over(&[&simulated], |_| {}).await;
    let key = app.user("ann").await;
    let connection = app.send_and_hold(&key, &chat_body("llama3.2", "hi")).await;
    eventually("the node loads", || simulated.stats().in_flight == 1).await;

    drop(connection);
    let reply = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    let stats = simulated.stats();
    assert_eq!((stats.loads, stats.cancelled), (1, 0), "the load went on for whoever came next");
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_the_queue_frees_its_place() {
    for body in [chat_body("llama3.2", "hi"), stream_body("llama3.2", "hi")] {
        let (simulated, app, key, busy) = full_app(|config| config.queue.max_queued = 1).await;
        let connection = app.send_and_hold(&key, &body).await;
        eventually("it waits", || counts(&app) == (1, 1)).await;

        drop(connection);

        eventually("its place is free", || counts(&app) == (1, 0)).await;
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["node"]), (&json!("cancelled"), &json!(null)));
        assert_eq!(row["total_tokens"], 0, "nothing was begun");
        assert_eq!(requests_at(&[&simulated]), 1, "the node never heard of it");
        drop(busy);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_hundred_clients_that_leave_at_any_moment_leave_nothing_behind() {
    let config = SimConfig { tokens_per_second: 200.0, slots: 2, ..SimConfig::warm() };
    let (one, two) = (SimNode::start(config.clone()).await.unwrap(), SimNode::start(config).await.unwrap());
    let nodes = vec![node("a", one.url(), 2), node("b", two.url(), 2)];
    let app = spawn_app(nodes).await;
    let key = app.user("ann").await;
    let clients = (0..100u64).map(|number| {
        let (app, key) = (&app, &key);
        async move {
            let prompt = "[[n=200]]";
            let body = if number % 2 == 0 { stream_body("llama3.2", prompt) } else { chat_body("llama3.2", prompt) };
            let connection = app.send_and_hold(key, &body).await;
            let_pass(Duration::from_millis(number * 7 % 90)).await;
            drop(connection);
        }
    });
    futures_util::stream::iter(clients).buffer_unordered(20).collect::<Vec<()>>().await;

    idle(&app, &[&one, &two]).await;

    // A client that leaves before its request is read has not been here.
    let rows = app.rows(&key).await;
    assert!(!rows.is_empty() && rows.iter().all(|row| row["status"] == "cancelled"), "{rows:?}");
    let replies = futures_util::future::join_all((0..4).map(|_| app.chat(&key, "llama3.2", "[[n=5]]"))).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "all slots can be used again");
    app.stop().await;
}
