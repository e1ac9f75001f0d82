//! Do the metrics tell what happened, also of nodes that fail, and is their number bounded?
use awc::http::Method;
use ollama_gateway::metrics::UserLabel;
use ollama_sim::{Fault, SimConfig, SimNode};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    ADMIN_KEY, PATIENCE, TestApp, TestDatabase, chat_body, cold_node, error_of, eventually, fast_node, node, spawn_app,
    spawn_app_with, stream_body, wait_for,
};
use crate::ops::{metrics, sum};

type Samples = BTreeMap<String, f64>;

/// By how much a family has grown, over the series with all of these labels.
fn moved(before: &Samples, after: &Samples, family: &str, labels: &[&str]) -> f64 {
    sum(after, family, labels) - sum(before, family, labels)
}

#[actix_rt::test]
async fn everything_that_can_be_known_begins_at_zero() {
    let (first, second) = (cold_node().await, cold_node().await);
    let app = spawn_app(vec![node("a", first.url(), 3), node("b", second.url(), 1)]).await;

    let samples = metrics(&app).await;

    let mut expected: Vec<String> = Vec::new();
    for name in ["a", "b"] {
        let outcomes = ["ok", "client_error", "cancelled", "unreachable", "reset", "crashed", "timed_out", "busy"];
        expected.extend(outcomes.map(|it| format!("gateway_node_requests_total{{node=\"{name}\",outcome=\"{it}\"}}")));
        expected.extend(
            ["warm", "cold", "fallback"]
                .map(|it| format!("gateway_routing_decisions_total{{node=\"{name}\",reason=\"{it}\"}}")),
        );
        expected.extend(
            ["open", "half_open", "closed"]
                .map(|it| format!("gateway_circuit_transitions_total{{node=\"{name}\",to=\"{it}\"}}")),
        );
        expected.push(format!("gateway_node_request_duration_seconds_count{{node=\"{name}\"}}"));
        expected.push(format!("gateway_node_model_loaded{{model=\"llama3.2:latest\",node=\"{name}\"}}"));
    }
    let rejections = ["user_full", "full", "deadline", "no_node", "exhausted", "stopping"];
    expected.extend(rejections.map(|it| format!("gateway_queue_rejected_total{{reason=\"{it}\"}}")));
    expected.extend(
        ["auth", "route", "forward", "record"].map(|it| format!("gateway_overhead_seconds_count{{stage=\"{it}\"}}")),
    );
    for model in ["llama3.2:latest", "_unknown"] {
        expected.push(format!("gateway_queue_depth{{model=\"{model}\"}}"));
        expected.push(format!("gateway_time_to_first_token_seconds_count{{model=\"{model}\"}}"));
        expected.push(format!("gateway_time_per_output_token_seconds_count{{model=\"{model}\"}}"));
        expected.push(format!("gateway_queue_wait_seconds_count{{model=\"{model}\"}}"));
        expected.push(format!("gateway_tokens_total{{model=\"{model}\",type=\"output\"}}"));
        expected.extend(["200", "502"].map(|code| {
            let labels = "outcome=\"upstream_error\",route=\"/v1/chat/completions\"";
            format!("gateway_requests_total{{code=\"{code}\",model=\"{model}\",{labels}}}")
        }));
    }
    expected.push("gateway_requests_in_flight{route=\"/api/chat\"}".to_owned());
    expected.push("gateway_retries_total{reason=\"crashed\"}".to_owned());
    for series in expected {
        assert_eq!(samples.get(&series), Some(&0.0), "{series}");
    }
    assert!(samples.keys().all(|series| !series.starts_with("gateway_user_")), "users are not told apart");
    for name in ["a", "b"] {
        assert!(samples[&format!("gateway_node_probe_duration_seconds_count{{node=\"{name}\"}}")] >= 1.0);
        let asked = samples[&format!("gateway_node_last_probe_timestamp_seconds{{node=\"{name}\"}}")];
        let age = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - asked;
        assert!((0.0..60.0).contains(&age), "{age}");
    }
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    app.stop().await;
}

#[actix_rt::test]
async fn attempts_tell_where_they_went_how_long_and_how_they_ended() {
    // If a load took no time, it would be right to load the model on the idle node as soon as the other seems a bit slow.
    let slow_to_load = || SimConfig { load_overhead: Duration::from_secs(1), ..SimConfig::fast() };
    let (first, second) =
        (SimNode::start(slow_to_load()).await.unwrap(), SimNode::start(slow_to_load()).await.unwrap());
    let app = spawn_app(vec![node("a", first.url(), 3), node("b", second.url(), 3)]).await;
    let key = app.user("ann").await;
    let before = metrics(&app).await;

    // Cold on one, which then has it loaded.
    for _ in 0..3 {
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    }
    let (warm, other) = if first.requests().is_empty() { (&second, "a") } else { (&first, "b") };
    // The warm node fails, and the other takes over.
    warm.fault_next([Fault::Status(500)]);
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    app.rows_once(&key, 4).await;
    let after = metrics(&app).await;

    let moved = |family: &str, labels: &[&str]| moved(&before, &after, family, labels);
    assert_eq!(moved("gateway_routing_decisions_total", &["reason=\"cold\""]), 1.0);
    assert_eq!(moved("gateway_routing_decisions_total", &["reason=\"warm\""]), 3.0);
    let fallback = format!("node=\"{other}\"");
    assert_eq!(moved("gateway_routing_decisions_total", &["reason=\"fallback\"", &fallback]), 1.0);
    assert_eq!(moved("gateway_retries_total", &["reason=\"crashed\""]), 1.0);
    assert_eq!(moved("gateway_node_requests_total", &["outcome=\"ok\""]), 4.0);
    assert_eq!(moved("gateway_node_requests_total", &["outcome=\"crashed\""]), 1.0);
    assert_eq!(moved("gateway_node_request_duration_seconds_count", &[]), 5.0);
    for stage in ["auth", "route", "forward", "record"] {
        assert_eq!(moved("gateway_overhead_seconds_count", &[&format!("\"{stage}\"")]), 4.0, "{stage}");
    }
    let spent = moved("gateway_overhead_seconds_sum", &[]);
    assert!(spent > 0.0 && spent < 2.0, "the two seconds of loads are no overhead: {spent}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_stream_that_breaks_is_no_success_of_its_node() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 3)]).await;
    let key = app.user("ann").await;
    simulated.fault_next([Fault::DieAfter(2)]);
    let events = app.open_stream(&key, &stream_body("llama3.2", "hi")).await.rest().await;
    assert!(!events.contains(&"[DONE]".to_owned()));
    app.rows_once(&key, 1).await;

    let samples = metrics(&app).await;

    let broken = ["route=\"/v1/chat/completions\"", "code=\"200\"", "outcome=\"upstream_error\""];
    assert_eq!(sum(&samples, "gateway_requests_total", &broken), 1.0);
    assert_eq!(sum(&samples, "gateway_node_requests_total", &["outcome=\"ok\""]), 0.0);
    assert_eq!(sum(&samples, "gateway_node_requests_total", &["outcome=\"reset\""]), 1.0);
    assert_eq!(sum(&samples, "gateway_retries_total", &[]), 0.0, "nothing was tried again");
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_ends_its_attempt() {
    let simulated = SimNode::start(SimConfig { tokens_per_second: 5.0, ..SimConfig::warm() }).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "hi [[n=100]]")).await;
    stream.next().await;
    drop(stream);
    app.rows_once(&key, 1).await;

    let samples = metrics(&app).await;

    assert_eq!(sum(&samples, "gateway_node_requests_total", &["outcome=\"cancelled\""]), 1.0);
    assert_eq!(sum(&samples, "gateway_node_request_duration_seconds_count", &[]), 1.0);
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_goes_away_and_comes_back_turns_its_breaker() {
    let simulated = fast_node().await;
    let (url, address) = (simulated.url(), simulated.url().replace("http://", "").parse().unwrap());
    let app = spawn_app(vec![node("a", url, 3)]).await;
    let key = app.user("ann").await;
    simulated.stop().await;
    let is_live = |app: &TestApp| app.dispatcher.read(|scheduler| scheduler.serving_nodes() == 1);
    eventually("the node is out", || !is_live(&app)).await;
    let again = SimNode::start(SimConfig { listen: address, ..SimConfig::warm() }).await.unwrap();
    eventually("the node is on trial", || is_live(&app)).await;
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);

    let samples = metrics(&app).await;

    for (to, least) in [("open", 1.0), ("half_open", 1.0), ("closed", 1.0)] {
        let turned = sum(&samples, "gateway_circuit_transitions_total", &[&format!("to=\"{to}\"")]);
        assert!(turned >= least, "{to}: {turned}");
    }
    again.stop().await;
    app.stop().await;
}

#[actix_rt::test]
async fn waiting_requests_count_under_the_listed_name() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::HangBeforeHead));
    let held = [
        app.send_and_hold(&key, &chat_body("llama3.2", "hi")).await,
        app.send_and_hold(&key, &chat_body("llama3.2", "hi")).await,
        app.send_and_hold(&key, &chat_body("llama3.2:latest", "hi")).await,
    ];
    eventually("two wait", || app.dispatcher.read(|scheduler| scheduler.queued() == 2)).await;

    assert_eq!(metrics(&app).await["gateway_queue_depth{model=\"llama3.2:latest\"}"], 2.0);
    drop(held);
    eventually("nothing waits", || app.dispatcher.read(|scheduler| scheduler.queued() == 0)).await;
    assert_eq!(metrics(&app).await["gateway_queue_depth{model=\"llama3.2:latest\"}"], 0.0);
    app.stop().await;
}

#[actix_rt::test]
async fn users_are_told_apart_if_the_operator_wants_it_up_to_the_cap() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 3)], TestDatabase::sqlite(), |config| {
        config.metrics.user_label = UserLabel::All;
        config.metrics.user_cap = 2;
    })
    .await;
    let keys = [app.user("ann").await, app.user("bob").await, app.user("carl").await, app.user("dora").await];
    let before = metrics(&app).await;
    let ann = "gateway_user_requests_total{code_class=\"4xx\",user=\"ann\"}";
    assert_eq!(before.get(ann), Some(&0.0), "a user who was made begins at 0");
    for key in &keys {
        assert_eq!(app.chat(key, "llama3.2", "hi").await.status, 200);
    }
    let tokens = app.rows_once(&keys[0], 1).await[0]["completion_tokens"].as_f64().unwrap();
    app.rows_once(&keys[3], 1).await;

    let samples = metrics(&app).await;

    assert_eq!(samples["gateway_user_requests_total{code_class=\"2xx\",user=\"ann\"}"], 1.0);
    assert_eq!(samples["gateway_user_requests_total{code_class=\"2xx\",user=\"_other\"}"], 2.0);
    assert_eq!(samples["gateway_user_tokens_total{type=\"output\",user=\"bob\"}"], tokens);
    assert!(!samples.keys().any(|series| series.contains("carl") || series.contains("dora")));
    // After a restart those who are known begin at 0 again.
    let app = app.restart().await;
    assert_eq!(metrics(&app).await["gateway_user_requests_total{code_class=\"2xx\",user=\"ann\"}"], 0.0);
    app.stop().await;
}

#[actix_rt::test]
async fn refusals_while_the_gateway_stops_are_counted() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::HangBeforeHead));
    let held = app.send_and_hold(&key, &chat_body("llama3.2", "hi")).await;
    eventually("one runs", || app.dispatcher.read(|scheduler| scheduler.in_flight() == 1)).await;
    app.begin_stop();
    wait_for("it stops", async || app.send(Method::GET, "/health/ready", None, "").await.status != 200).await;
    error_of(&app.chat(&key, "llama3.2", "hi").await, 503);

    assert_eq!(metrics(&app).await["gateway_queue_rejected_total{reason=\"stopping\"}"], 1.0);
    drop(held);
    app.stop().await;
}

/// What a client invents must not become a label: whoever scrapes us would run out of memory.
#[actix_rt::test]
async fn ten_thousand_invented_names_change_no_series() {
    const INVENTED: usize = 10_000;
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    invent(&app, &key, 0..4).await;
    // The first scrape is a route with series of its own.
    metrics(&app).await;
    let before = metrics(&app).await;

    invent(&app, &key, 4..INVENTED).await;

    let after = metrics(&app).await;
    assert!(before.keys().eq(after.keys()), "{} series became {}", before.len(), after.len());
    let refused = ["code=\"404\"", "model=\"_unknown\""];
    assert_eq!(moved(&before, &after, "gateway_requests_total", &refused), (INVENTED - 4) as f64);
    app.stop().await;
}

/// Sends a request for each of these numbers: a model, a path, a listing and a user, in turn, each with a name that
/// nobody has.
async fn invent(app: &TestApp, key: &str, numbers: std::ops::Range<usize>) {
    let request = |number: usize| {
        let body = json!({"model": format!("m{number}"), "messages": [{"role": "user", "content": "hi"}]}).to_string();
        let (line, key, body) = match number % 4 {
            0 => ("POST /v1/chat/completions".to_owned(), key, body),
            1 => (format!("GET /v1/models/m{number}"), key, String::new()),
            2 => (format!("GET /p{number}/x?m={number}"), key, String::new()),
            _ => (format!("GET /admin/users/u{number}"), ADMIN_KEY, String::new()),
        };
        let length = body.len();
        format!("{line} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let mut connection = tokio::net::TcpStream::connect(app.address).await.unwrap();
    for number in numbers {
        connection.write_all(request(number).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut part = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, connection.read(&mut part)).await.unwrap().unwrap();
            assert!(read > 0, "the connection stays open");
            answer.extend_from_slice(&part[..read]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// Whether an answer with a length is all there.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    crate::harness::header_of(head, "content-length").is_some_and(|length| Ok(body.len()) == length.parse())
}
