//! Do the doors for operators, load balancers and Prometheus tell the truth?
use std::collections::BTreeMap;

use awc::http::Method;
use ollama_sim::Fault;
use scheduler::NodeState;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestApp, cold_node, error_of, eventually, fast_node, node, spawn_app};

async fn status(app: &TestApp, path: &str) -> u16 {
    app.send(Method::GET, path, None, "").await.status.as_u16()
}

async fn states(app: &TestApp, expected: &[NodeState]) {
    eventually("the nodes have the expected states", || {
        let states: Vec<NodeState> =
            app.dispatcher.read(|scheduler| scheduler.nodes().iter().map(|node| node.state).collect());
        states == expected
    })
    .await;
}

#[actix_rt::test]
async fn the_door_says_what_this_is_and_where_to_go() {
    let app = spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await;

    let reply = app.send(Method::GET, "/", None, "").await;

    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("Ollama is running"), "{}", reply.text());
    let welcome = reply.json();
    assert_eq!((&welcome["name"], &welcome["version"]), (&json!("ollama-gateway"), &json!(env!("CARGO_PKG_VERSION"))));
    let links = welcome["links"].as_object().unwrap();
    assert!(links.len() >= 3);
    for link in links.values().map(|link| link.as_str().unwrap()) {
        // The API is a base to put paths behind.
        let expected: &[u16] = if link == "/v1" { &[404] } else { &[200, 307, 503] };
        assert!(expected.contains(&status(&app, link).await), "{link}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn head_is_get_without_a_body_where_watchers_ask_for_it() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    for path in ["/", "/health", "/health/live", "/health/ready"] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

        let answer = app.send_bytes(request.as_bytes()).await;

        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{path}: {answer}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn health_counts_the_nodes_and_is_503_while_none_can_serve() {
    let (first, second) = (fast_node().await, fast_node().await);
    let app = spawn_app(vec![node("a", first.url(), 1), node("b", second.url(), 1)]).await;
    let health = async || {
        let reply = app.send(Method::GET, "/health", None, "").await;
        (reply.status.as_u16(), reply.json())
    };
    assert_eq!(health().await, (200, json!({"status": "ok", "nodes": {"healthy": 2, "total": 2}})));

    first.stop().await;
    states(&app, &[NodeState::Down, NodeState::Up]).await;
    assert_eq!(health().await, (200, json!({"status": "ok", "nodes": {"healthy": 1, "total": 2}})));

    second.stop().await;
    states(&app, &[NodeState::Down, NodeState::Down]).await;
    assert_eq!(health().await, (503, json!({"status": "unavailable", "nodes": {"healthy": 0, "total": 2}})));
    // The gateway itself lives, and may well be given requests: they wait, or are told.
    assert_eq!((status(&app, "/health/live").await, status(&app, "/health/ready").await), (200, 200));

    second.restart().await.unwrap();
    eventually("the node can serve again", || app.dispatcher.read(|scheduler| scheduler.serving_nodes() == 1)).await;
    assert_eq!(health().await, (200, json!({"status": "ok", "nodes": {"healthy": 1, "total": 2}})));
    app.stop().await;
}

/// Every sample by its name with its labels; the text must keep to Prometheus' format.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut help, mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (family, words) = rest.split_once(' ').unwrap();
            assert!(!words.is_empty() && help.insert(family, words).is_none(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(family, kind).is_none(), "{line}");
            assert!(kind != "counter" || family.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|part| name.strip_suffix(part));
            let histogram = parts.into_iter().find(|family| kinds.get(family) == Some(&"histogram"));
            let family = histogram.unwrap_or(name);
            assert!(help.contains_key(family) && kinds.contains_key(family), "{line} has no HELP or TYPE");
            assert!(family.starts_with("gateway_") || family.starts_with("process_"), "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line} twice");
        }
    }
    assert!(help.keys().eq(kinds.keys()));
    samples
}

pub async fn metrics(app: &TestApp) -> BTreeMap<String, f64> {
    let reply = app.send(Method::GET, "/metrics", None, "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    parse(reply.text())
}

/// The sum over the series of a family whose labels hold all of these.
pub fn sum(samples: &BTreeMap<String, f64>, family: &str, labels: &[&str]) -> f64 {
    let is_meant =
        |series: &str| series.split('{').next() == Some(family) && labels.iter().all(|label| series.contains(label));
    samples.iter().filter(|(series, _)| is_meant(series)).map(|(_, value)| value).sum()
}

#[actix_rt::test]
async fn counters_move_by_what_happened() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 3)]).await;
    let key = app.user("ann").await;
    let limited = app.user_with("limited", json!({"requests_per_minute": 1, "tokens_per_day": 10_000})).await;
    let before = metrics(&app).await;
    for limit in ["requests_per_minute", "tokens_per_day"] {
        assert_eq!(before[&format!("gateway_rate_limited_total{{limit=\"{limit}\"}}")], 0.0, "counters begin at 0");
    }

    for _ in 0..3 {
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    }
    let stream = json!({"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hi"}], "stream": true});
    assert_eq!(app.post("/v1/chat/completions", &key, stream).await.status, 200);
    assert_eq!(app.post("/v1/embeddings", &key, json!({"model": "all-minilm", "input": "hi"})).await.status, 200);
    error_of(&app.chat(&key, "nope", "hi").await, 404);
    error_of(&app.get("/v1/models", "noop").await, 401);
    assert_eq!(app.chat(&limited, "llama3.2", "hi").await.status, 200);
    for _ in 0..2 {
        error_of(&app.chat(&limited, "llama3.2", "hi").await, 429);
    }
    app.put("/admin/users/limited/limits", ADMIN_KEY, json!({"requests_per_minute": null, "tokens_per_day": 1})).await;
    error_of(&app.chat(&limited, "llama3.2", "hi").await, 429);
    simulated.fault_next([Fault::Status(500), Fault::Status(500), Fault::Status(500)]);
    assert!(app.chat(&key, "llama3.2:1b", "hi").await.status.is_server_error());
    let retried = [("authorization", "Bearer noop"), ("x-stainless-retry-count", "2")];
    app.send_with(Method::GET, "/v1/models", &retried, "").await;
    let rows: Vec<Value> = [app.rows(&key).await, app.rows(&limited).await].concat();

    let after = metrics(&app).await;
    let moved = |family: &str, labels: &[&str]| sum(&after, family, labels) - sum(&before, family, labels);
    let chat = "route=\"/v1/chat/completions\"";
    let requests = "gateway_requests_total";
    assert_eq!(moved(requests, &[chat, "outcome=\"ok\"", "code=\"200\"", "model=\"llama3.2:latest\""]), 4.0);
    assert_eq!(moved(requests, &[chat, "outcome=\"ok\"", "model=\"llama3.2:1b\""]), 1.0);
    assert_eq!(moved(requests, &["outcome=\"ok\"", "model=\"all-minilm:latest\""]), 1.0);
    assert_eq!(moved(requests, &[chat, "outcome=\"client_error\"", "code=\"404\"", "model=\"_unknown\""]), 1.0);
    assert_eq!(moved(requests, &["outcome=\"client_error\"", "code=\"401\""]), 2.0);
    assert_eq!(moved(requests, &[chat, "outcome=\"rate_limited\"", "code=\"429\""]), 3.0);
    assert_eq!(moved(requests, &[chat, "outcome=\"upstream_error\""]), 1.0);
    assert_eq!(moved("gateway_rate_limited_total", &["requests_per_minute"]), 2.0);
    assert_eq!(moved("gateway_rate_limited_total", &["tokens_per_day"]), 1.0);
    assert_eq!(moved("gateway_client_retries_total", &[]), 1.0);
    assert_eq!(moved("gateway_request_duration_seconds_count", &[chat, "stream=\"true\""]), 1.0);
    assert_eq!(moved("gateway_time_to_first_token_seconds_count", &[]), 6.0);
    assert_eq!(moved("gateway_time_per_output_token_seconds_count", &[]), 1.0);
    assert_eq!(moved("gateway_node_requests_total", &["node=\"a\"", "outcome=\"ok\""]), 6.0);
    assert_eq!(sum(&after, "gateway_requests_in_flight", &[]), 0.0);
    for (kind, field) in [("type=\"input\"", "prompt_tokens"), ("type=\"output\"", "completion_tokens")] {
        let recorded: u64 = rows.iter().map(|row| row[field].as_u64().unwrap()).sum();
        assert!(recorded > 0);
        assert_eq!(moved("gateway_tokens_total", &[kind]), recorded as f64, "{kind}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn gauges_show_the_nodes_as_they_are() {
    let (first, second) = (cold_node().await, cold_node().await);
    let app = spawn_app(vec![node("a", first.url(), 3), node("b", second.url(), 1)]).await;
    let key = app.user("ann").await;
    app.chat(&key, "llama3.2", "hi").await;
    second.stop().await;
    states(&app, &[NodeState::Up, NodeState::Down]).await;
    eventually("a loaded model is seen", || app.dispatcher.read(|scheduler| !scheduler.nodes()[0].loaded.is_empty()))
        .await;
    first.set_fault(Some(Fault::HangBeforeHead));
    let (url, body) = (app.url("/v1/chat/completions"), crate::harness::chat_body("llama3.2", "hi").to_string());
    let hanging = actix_rt::spawn(async move {
        drop(crate::harness::client().post(url).bearer_auth(key).send_body(body).await);
    });
    eventually("a request runs", || app.dispatcher.read(|scheduler| scheduler.in_flight() == 1)).await;

    let samples = metrics(&app).await;

    for (series, value) in [
        ("gateway_node_up{node=\"a\"}", 1.0),
        ("gateway_node_up{node=\"b\"}", 0.0),
        ("gateway_node_state{node=\"a\",state=\"up\"}", 1.0),
        ("gateway_node_state{node=\"b\",state=\"up\"}", 0.0),
        ("gateway_node_state{node=\"b\",state=\"down\"}", 1.0),
        ("gateway_node_slots{node=\"a\"}", 3.0),
        ("gateway_node_slots_in_use{node=\"a\"}", 1.0),
        ("gateway_node_slots_in_use{node=\"b\"}", 0.0),
        ("gateway_node_model_loaded{model=\"llama3.2:latest\",node=\"a\"}", 1.0),
        ("gateway_node_vram_bytes{node=\"a\"}", 2e9),
        ("gateway_requests_in_flight{route=\"/v1/chat/completions\"}", 1.0),
        ("gateway_usage_rows_waiting", 1.0),
        ("gateway_usage_storage_ready", 1.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert_eq!(sum(&samples, "gateway_build_info", &[env!("CARGO_PKG_VERSION")]), 1.0);
    hanging.abort();
    app.stop().await;
}

#[actix_rt::test]
async fn what_clients_invent_makes_no_series() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let invent = async |turn: usize| {
        error_of(&app.chat(&key, &format!("invented-{turn}"), "hi").await, 404);
        error_of(&app.get(&format!("/v1/models/invented-{turn}"), &key).await, 404);
        error_of(&app.get(&format!("/invented-{turn}"), &key).await, 404);
        error_of(&app.get(&format!("/admin/users/invented-{turn}"), ADMIN_KEY).await, 404);
        error_of(&app.get("/v1/models", &format!("invented-{turn}")).await, 401);
        let method = Method::from_bytes(format!("INVENTED{turn}").as_bytes()).unwrap();
        error_of(&app.send(method, "/v1/models", Some(&key), "").await, 405);
    };
    invent(0).await;
    metrics(&app).await;
    let before = metrics(&app).await;

    for turn in 1..=200 {
        invent(turn).await;
    }

    let after = metrics(&app).await;
    assert!(
        before.keys().eq(after.keys()),
        "{:?}",
        after.keys().filter(|series| !before.contains_key(*series)).collect::<Vec<_>>()
    );
    assert!(!after.keys().any(|series| series.contains("invented") || series.contains("INVENTED")));
    app.stop().await;
}

#[actix_rt::test]
async fn no_user_and_no_key_is_a_label() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("somebody").await;
    app.chat(&key, "llama3.2", "a secret prompt").await;
    app.get("/admin/users/somebody", ADMIN_KEY).await;

    let text = app.send(Method::GET, "/metrics", None, "").await.text().to_owned();

    for secret in ["somebody", &key, ADMIN_KEY, "secret prompt"] {
        assert!(!text.contains(secret), "{secret}");
    }
    app.stop().await;
}
