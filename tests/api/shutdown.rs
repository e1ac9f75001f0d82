//! What becomes of requests when the gateway is told to stop?
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use ollama_gateway::config::Config;
use ollama_sim::Fault;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::{
    TestApp, TestDatabase, chat_body, chat_bytes, error_of, events_of, eventually, fast_node, node, spawn_app,
    spawn_app_with, stream_body,
};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_answer, chat_event, chunk, last_chunk, plain, stream_head};

/// A node that ends its answers, plain or streamed, only once they may pass the gate.
pub async fn gated_node() -> (ScriptedNode, Rc<Semaphore>) {
    let gate = Rc::new(Semaphore::new(0));
    let shared = gate.clone();
    let node = ScriptedNode::start(move |received| {
        let pass = Step::Pass(shared.clone());
        if String::from_utf8_lossy(&received.body).contains("\"stream\":true") {
            vec![stream_head(), chunk(chat_event("Hel")), pass, chunk(chat_event("lo")), chunk(CHAT_END), last_chunk()]
        } else {
            vec![pass, plain(&chat_answer("Hello"))]
        }
    })
    .await;
    (node, gate)
}

async fn spawn_over(url: String, slots: u32, change: impl FnOnce(&mut Config)) -> TestApp {
    spawn_app_with(vec![node("a", url, slots)], TestDatabase::sqlite(), change).await
}

async fn eventually_counts(app: &TestApp, running: usize, queued: usize) {
    eventually("so many run and wait", || {
        app.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued())) == (running, queued)
    })
    .await;
}

/// Tells the gateway to stop and waits until it says so.
async fn begin_stop(app: &TestApp) {
    app.begin_stop();
    let mut ready = app.get("/health/ready", "").await;
    while ready.status != 503 {
        ready = app.get("/health/ready", "").await;
    }
    assert_eq!(ready.json(), json!({"status": "draining"}));
}

#[actix_rt::test]
async fn requests_that_came_before_the_stop_are_answered_and_later_ones_refused() {
    let (node_a, gate) = gated_node().await;
    let app = spawn_over(node_a.url(), 2, |config| config.server.drain_seconds = 60).await;
    let key = app.user("ann").await;
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    assert!(stream.next().await.unwrap().contains("Hel"));
    let (running_body, waiting_body) = (chat_body("llama3.2", "runs"), stream_body("llama3.2", "waits"));
    let running = app.exchange(&key, &running_body);
    let waiting = app.exchange(&key, &waiting_body);
    let stopping = async {
        eventually_counts(&app, 2, 1).await;
        begin_stop(&app).await;
        for body in [chat_body("llama3.2", "late"), stream_body("llama3.2", "late")] {
            let late = app.post("/v1/chat/completions", &key, body).await;
            assert_eq!(error_of(&late, 503)["code"], "server_shutting_down");
            assert!(late.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        }
        assert_eq!(app.get("/health/live", "").await.status, 200);
        gate.add_permits(3);
        stream.rest().await
    };

    let (running, waiting, rest) = futures_util::future::join3(running, waiting, stopping).await;

    assert!(running.1.contains("Hello"), "{}", running.1);
    assert!(waiting.1.ends_with("data: [DONE]\n\n"), "{}", waiting.1);
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(node_a.received().len(), 3, "the late ones reached no node");
    let app = app.restart().await;
    let rows = app.rows_once(&key, 3).await;
    assert!(rows.iter().all(|row| row["status"] == "completed"), "{rows:?}");
    app.stop().await;
}

/// The answer to a request on a connection that is open already, which the gateway must close.
async fn answered_on(mut connection: TcpStream, key: &str, body: &Value) -> String {
    connection.write_all(&chat_bytes(key, body, "keep-alive")).await.unwrap();
    let mut answer = String::new();
    let reading = connection.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it closes the connection").unwrap();
    answer.to_ascii_lowercase()
}

#[actix_rt::test]
async fn balancers_may_take_their_time_and_open_connections_are_served_once_more() {
    let gate = Rc::new(Semaphore::new(0));
    let shared = gate.clone();
    let node_a = ScriptedNode::start(move |received| {
        if String::from_utf8_lossy(&received.body).contains("\"stream\":true") {
            let pass = Step::Pass(shared.clone());
            vec![stream_head(), chunk(chat_event("Hel")), pass, chunk(CHAT_END), last_chunk()]
        } else {
            vec![plain(&chat_answer("Hello"))]
        }
    })
    .await;
    let app = spawn_over(node_a.url(), 4, |config| {
        (config.server.lame_duck_seconds, config.server.drain_seconds) = (1, 60);
    })
    .await;
    let key = app.user("ann").await;
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "runs on")).await;
    assert!(stream.next().await.unwrap().contains("Hel"));
    let connect = || async { TcpStream::connect(app.address).await.unwrap() };
    let (early, body) = (connect().await, chat_body("llama3.2", "late"));

    begin_stop(&app).await;
    let in_time = answered_on(connect().await, &key, &body).await;
    let mut late = in_time.clone();
    while late.starts_with("http/1.1 200") {
        late = answered_on(connect().await, &key, &body).await;
    }
    let on_an_open_one = answered_on(early, &key, &body).await;
    gate.add_permits(1);
    stream.rest().await;

    for answer in [in_time, on_an_open_one] {
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    }
    assert!(late.starts_with("http/1.1 503") && late.contains("\"server_shutting_down\""), "{late}");
    app.stop().await;
}

#[actix_rt::test]
async fn after_the_grace_period_what_still_runs_or_waits_is_told_so() {
    let (node_a, _gate) = gated_node().await;
    let app = spawn_over(node_a.url(), 2, |config| config.server.drain_seconds = 1).await;
    let key = app.user("ann").await;
    let (stream, runs) = (stream_body("llama3.2", "streams"), chat_body("llama3.2", "runs"));
    let (waits, waiting_stream) = (chat_body("llama3.2", "waits"), stream_body("llama3.2", "waits"));
    let streaming = app.exchange(&key, &stream);
    let running = app.exchange(&key, &runs);
    let waiting = async {
        eventually_counts(&app, 2, 0).await;
        let waiting = futures_util::future::join(app.exchange(&key, &waits), app.exchange(&key, &waiting_stream));
        let stopping = async {
            eventually_counts(&app, 2, 2).await;
            app.begin_stop();
        };
        futures_util::future::join(waiting, stopping).await.0
    };

    let ((_, streamed), running, (waited, waited_stream)) =
        futures_util::future::join3(streaming, running, waiting).await;

    let events = events_of(&streamed);
    assert_eq!(events.len(), 2, "{streamed}");
    assert!(events[0].contains("Hel") && events[1].starts_with("{\"error\":"), "{streamed}");
    assert!(events[1].contains("\"server_shutting_down\""), "{streamed}");
    for (head, body) in [running, waited, waited_stream] {
        assert!(head.starts_with("http/1.1 503") && body.contains("\"server_shutting_down\""), "{head} {body}");
    }
    let app = app.restart().await;
    let rows = app.rows_once(&key, 4).await;
    assert!(rows.iter().all(|row| row["status"] == "interrupted"), "{rows:?}");
    let mut counted: Vec<u64> = rows.iter().map(|row| row["completion_tokens"].as_u64().unwrap()).collect();
    counted.sort_unstable();
    assert_eq!(counted, [0, 0, 0, 1], "what was sent is counted: {rows:?}");
    app.stop().await;
}

#[actix_rt::test]
async fn without_a_grace_period_running_streams_end_at_once_but_properly() {
    let simulated = fast_node().await;
    let app = spawn_over(simulated.url(), 4, |config| config.server.drain_seconds = 0).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::HangAfter(3)));
    let body = stream_body("llama3.2", "hi");
    let streaming = join_all((0..4).map(|_| app.exchange(&key, &body)));
    let stopping = async {
        eventually("all stream", || simulated.stats().in_flight >= 1).await;
        eventually_counts(&app, 4, 0).await;
        app.begin_stop();
    };

    let (streamed, ()) = futures_util::future::join(streaming, stopping).await;

    assert!(streamed.iter().all(|(_, body)| body.contains("\"server_shutting_down\"")), "{streamed:?}");
    let app = app.restart().await;
    let rows = app.rows_once(&key, 4).await;
    assert!(rows.iter().all(|row| row["status"] == "interrupted"), "{rows:?}");
    app.stop().await;
}

#[actix_rt::test]
async fn every_row_is_stored_when_the_gateway_has_stopped() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 8)], database, |_| {}).await;
        let key = app.user("ann").await;
        let replies = join_all((0..40).map(|number| {
            let body = if number % 2 == 0 { chat_body("llama3.2", "hi") } else { stream_body("llama3.2", "hi") };
            app.post("/v1/chat/completions", &key, body)
        }))
        .await;
        simulated.set_fault(Some(Fault::HangAfter(1)));
        let mut left = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
        assert!(left.next().await.is_some());
        drop(left);

        let app = app.restart().await;

        let rows = app.rows_once(&key, 41).await;
        for reply in &replies {
            let id = reply.header("x-request-id").unwrap();
            let of_reply: Vec<_> = rows.iter().filter(|row| row["request_id"] == id).collect();
            assert_eq!(of_reply.len(), 1, "{id}");
            assert_eq!(of_reply[0]["status"], "completed");
        }
        let others = rows.iter().filter(|row| row["status"] == "cancelled").count();
        assert_eq!(others, 1, "the one whose client left");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn an_idle_gateway_stops_at_once_although_clients_keep_their_connections() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let client = crate::harness::client();
    let request = client.get(app.url("/v1/models")).bearer_auth(&key);
    assert_eq!(crate::harness::read(request.send().await.unwrap()).await.status, 200);

    let stopping = std::time::Instant::now();
    app.stop().await;

    assert!(stopping.elapsed() < Duration::from_secs(2), "{:?}", stopping.elapsed());
    drop(client);
}
