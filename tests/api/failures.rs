//! What does a client see when a node fails before it has said anything, when all are taken, or when the client itself
//! leaves?
use std::rc::Rc;

use ollama_gateway::config::Config;
use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, chat_body, each_at_once, error_of, eventually, fast_node, node, spawn_app,
    spawn_app_with, stream_body,
};
use crate::scripted::{ScriptedNode, Step, chat_answer, chunk, last_chunk, plain, raw, stream_head};

/// A gateway over these simulated nodes, named `a`, `b` and so on.
pub async fn spawn_over(simulated: &[&SimNode], change: impl FnOnce(&mut Config)) -> TestApp {
    let names = ["a", "b", "c", "d"].iter();
    let nodes = names.zip(simulated).map(|(name, simulated)| node(name, simulated.url(), 4)).collect();
    spawn_app_with(nodes, TestDatabase::sqlite(), change).await
}

fn impatient(config: &mut Config) {
    config.relay.first_byte_seconds = 1;
    config.relay.chunk_gap_seconds = 1;
}

pub fn requests_at(nodes: &[&SimNode]) -> usize {
    nodes.iter().map(|node| node.requests().len()).sum()
}

/// Seconds after which a refused client is to come back.
#[track_caller]
pub fn retry_after(reply: &Reply) -> u64 {
    let seconds = reply.header("retry-after").expect("a time to come back").parse().unwrap();
    assert!((1..=120).contains(&seconds), "{seconds}");
    seconds
}

pub fn counts(app: &TestApp) -> (usize, usize) {
    app.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued()))
}

/// Waits until the gateway holds nothing any more, and none of the nodes works.
pub async fn idle(app: &TestApp, nodes: &[&SimNode]) {
    eventually("nothing runs", || counts(app) == (0, 0) && nodes.iter().all(|node| node.stats().in_flight == 0)).await;
}

// Another node

/// What may go wrong before a client has seen anything.
fn early_faults() -> Vec<Fault> {
    let statuses = [401, 403, 404, 408, 429, 500, 502, 503, 504].into_iter().map(Fault::Status);
    let others = [
        Fault::Refuse,
        Fault::HangBeforeHead,
        Fault::HangAfter(0),
        Fault::DieAfter(0),
        Fault::Garbage,
        Fault::ErrorAfter(0),
        Fault::Redirect("http://127.0.0.1:9/".to_owned()),
    ];
    statuses.chain(others).collect()
}

#[actix_rt::test]
async fn whatever_a_node_does_before_its_first_byte_another_one_answers() {
    let bodies = || [chat_body("llama3.2", "hi"), stream_body("llama3.2", "hi")];
    let cases = early_faults().into_iter().flat_map(|fault| bodies().map(|body| (fault.clone(), body)));
    each_at_once(cases, async |(fault, body)| {
        let (bad, good) = (fast_node().await, fast_node().await);
        let app = spawn_over(&[&bad, &good], impatient).await;
        let key = app.user("ann").await;
        bad.set_fault(Some(fault.clone()));

        let reply = app.post("/v1/chat/completions", &key, body).await;

        assert_eq!(reply.status, 200, "{fault:?}: {}", reply.text());
        let named = (reply.header("x-gateway-node"), reply.header("x-gateway-attempts"));
        assert_eq!(named, (Some("b"), Some("2")), "{fault:?}");
        assert!(!reply.text().contains("error"), "{fault:?}: {}", reply.text());
        assert_eq!((requests_at(&[&bad]), requests_at(&[&good])), (1, 1), "{fault:?}");
        let row = &app.rows_once(&key, 1).await[0];
        let seen = &good.requests()[0];
        assert_eq!((&row["status"], &row["node"]), (&json!("completed"), &json!("b")), "{fault:?}");
        assert_eq!(row["prompt_tokens"], seen.prompt_tokens, "{fault:?}");
        assert_eq!(row["completion_tokens"], seen.tokens_generated, "{fault:?}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn a_node_that_is_gone_costs_no_request() {
    let (gone, good) = (fast_node().await, fast_node().await);
    let app = spawn_over(&[&gone, &good], |config| config.health.probe_interval_ms = 60_000).await;
    let key = app.user("ann").await;
    gone.stop().await;

    let first = app.chat(&key, "llama3.2", "hi").await;
    let second = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!((first.status.as_u16(), first.header("x-gateway-attempts")), (200, Some("2")), "{}", first.text());
    assert_eq!((second.status.as_u16(), second.header("x-gateway-attempts")), (200, Some("1")), "it is out at once");
    app.stop().await;
}

/// Bytes that must not pass for a plain answer. What is cut off is never needed to read it as JSON.
fn broken_plain_answers() -> Vec<(&'static str, Vec<Step>)> {
    let answer = chat_answer("half of it");
    let promise = |length: usize, end: Step| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        vec![raw(head + &answer), end]
    };
    let chunked = || raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    let never = || Step::Pass(Rc::new(Semaphore::new(0)));
    let head = |head: &str| raw(format!("{head}\r\n\r\n{answer}"));
    let huge = format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\n\r\n", "x".repeat(300_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: x\r\n".repeat(500));
    vec![
        ("promises more and closes", promise(answer.len() + 1, Step::Close)),
        ("promises more and resets", promise(answer.len() + 1, Step::Reset)),
        ("promises more and hangs", promise(answer.len() + 1, never())),
        ("promises less", promise(answer.len() - 1, Step::Close)),
        ("ends between chunks", vec![chunked(), chunk(&answer), Step::Close]),
        ("is reset between chunks", vec![chunked(), chunk(&answer), Step::Reset]),
        ("ends inside a chunk", vec![chunked(), raw(format!("{:x}\r\n{answer}", answer.len() + 9)), Step::Close]),
        ("ends behind a chunk", vec![chunked(), raw(format!("{:x}\r\n{answer}", answer.len())), Step::Close]),
        ("ends inside the last chunk", vec![chunked(), chunk(&answer), raw("0\r\n"), Step::Close]),
        ("has chunks without sizes", vec![chunked(), raw(format!("zz\r\n{answer}\r\n0\r\n\r\n")), Step::Close]),
        ("ends with the connection", vec![head("HTTP/1.1 200 OK\r\nconnection: close"), Step::Close]),
        ("has no length", vec![head("HTTP/1.1 200 OK"), Step::Close]),
        ("is of HTTP/1.0", vec![head("HTTP/1.0 200 OK"), Step::Close]),
        ("has no head", vec![raw(answer.clone()), Step::Close]),
        ("has half a head", vec![raw("HTTP/1.1 200 OK\r\ncontent-le"), Step::Close]),
        ("has a huge head", vec![raw(huge), plain(&answer)]),
        ("has too many headers", vec![raw(many), plain(&answer)]),
        ("has two lengths", vec![head("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2"), Step::Close]),
        ("is empty", vec![plain("")]),
        ("is no JSON", vec![plain("<html>welcome to nginx</html>")]),
        ("is another JSON", vec![plain(r#"{"status":"ok"}"#)]),
        ("is an error with status 200", vec![plain(r#"{"error":{"message":"no"}}"#)]),
        ("is no error object with status 400", vec![raw("HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nbad")]),
        ("says nothing and closes", vec![Step::Close]),
        ("says nothing and resets", vec![Step::Reset]),
        ("says nothing at all", vec![never()]),
    ]
}

/// Lets a scripted node follow `steps` and checks that the other node's answer is what the client gets.
async fn assert_not_taken(name: &str, steps: Vec<Step>, body: &Value) {
    let once = std::cell::RefCell::new(Some(steps));
    let bad = ScriptedNode::start(move |_| once.take().unwrap_or_else(|| vec![Step::Close])).await;
    let good = fast_node().await;
    let nodes = vec![node("bad", bad.url(), 1), node("good", good.url(), 1)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), impatient).await;
    let key = app.user("ann").await;

    let reply = app.post("/v1/chat/completions", &key, body.clone()).await;

    assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    let named = (reply.header("x-gateway-node"), reply.header("x-gateway-attempts"));
    assert_eq!(named, (Some("good"), Some("2")), "{name}: {}", reply.text());
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!((&row["status"], &row["node"]), (&json!("completed"), &json!("good")), "{name}");
    assert_eq!((bad.received().len(), requests_at(&[&good])), (1, 1), "{name}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_plain_answer_that_is_not_whole_is_never_taken_for_one() {
    each_at_once(broken_plain_answers(), async |(name, steps)| {
        assert_not_taken(name, steps, &chat_body("llama3.2", "hi")).await;
    })
    .await;
}

#[actix_rt::test]
async fn a_stream_that_breaks_before_its_first_event_goes_on_elsewhere() {
    let half = "data: {\"id\":\"chatcmpl-7\",\"model\":\"llama3.2\",\"choices\":[]}\n";
    let streams = [
        ("ends at once", vec![stream_head(), last_chunk()]),
        ("dies at once", vec![stream_head(), Step::Close]),
        ("ends in an event", vec![stream_head(), chunk(half), last_chunk()]),
        ("dies in an event", vec![stream_head(), chunk(half), Step::Close]),
        ("dies in a chunk", vec![stream_head(), raw(format!("fff\r\n{half}")), Step::Close]),
        ("hangs in an event", vec![stream_head(), chunk(half), Step::Pass(Rc::new(Semaphore::new(0)))]),
        ("is a plain answer", vec![plain(&chat_answer("hi"))]),
        ("is a web page", vec![plain("<html>\n\n</html>")]),
        ("is an error", vec![stream_head(), chunk("data: {\"error\":{\"message\":\"no\"}}\n\n"), last_chunk()]),
        ("is an error in Ollama's words", vec![stream_head(), chunk("{\"error\":\"no\"}\n"), last_chunk()]),
        ("is of no model", vec![stream_head(), chunk("data: {\"model\":\"\",\"choices\":[]}\n\n"), last_chunk()]),
    ];
    each_at_once(streams, async |(name, steps)| {
        assert_not_taken(name, steps, &stream_body("llama3.2", "hi")).await;
    })
    .await;
}

#[actix_rt::test]
async fn no_redirect_is_ever_followed() {
    for status in [301, 302, 303, 307, 308] {
        let target = ScriptedNode::always(|| vec![plain(&chat_answer("stolen"))]).await;
        let location = format!("{}/v1/chat/completions", target.url());
        let bad = ScriptedNode::always(move || {
            vec![raw(format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))]
        })
        .await;
        let app = spawn_app(vec![node("bad", bad.url(), 1)]).await;
        let key = app.user("ann").await;

        let reply = app.chat(&key, "llama3.2", "secret").await;

        assert_eq!(error_of(&reply, 502)["code"], "upstream_error");
        assert_eq!((bad.received().len(), target.received().len()), (1, 0), "{status}");
        app.stop().await;
    }
}

// No other node

#[actix_rt::test]
async fn without_another_node_each_failure_has_its_status_and_word() {
    let cases = [
        // fault, status, code, whether it says when to come back, requests at the node
        (Fault::Status(500), 502, "upstream_error", false, 1),
        (Fault::Status(502), 502, "upstream_error", false, 1),
        (Fault::Status(401), 502, "upstream_error", false, 1),
        (Fault::Status(404), 404, "model_not_found", false, 1),
        (Fault::Status(503), 503, "server_is_overloaded", true, 3),
        (Fault::Garbage, 502, "upstream_error", false, 1),
        (Fault::ErrorAfter(0), 502, "upstream_error", false, 1),
        (Fault::HangBeforeHead, 504, "timeout", false, 1),
        // One user alone takes no node from the others: it is asked as often as a request may be tried.
        (Fault::Refuse, 502, "upstream_error", false, 3),
        (Fault::Redirect("http://127.0.0.1:9/".to_owned()), 502, "upstream_error", false, 1),
    ];
    let cases = cases.into_iter().flat_map(|case| [(case.clone(), false), (case, true)]);
    each_at_once(cases, async |((fault, status, code, says_when, seen), stream)| {
        let simulated = fast_node().await;
        let app = spawn_over(&[&simulated], impatient).await;
        let key = app.user("ann").await;
        simulated.set_fault(Some(fault.clone()));
        let body = if stream { stream_body("llama3.2", "hi") } else { chat_body("llama3.2", "hi") };

        let reply = app.post("/v1/chat/completions", &key, body).await;

        let error = error_of(&reply, status);
        assert_eq!(error["code"], code, "{fault:?}");
        assert_eq!(reply.header("retry-after").is_some(), says_when, "{fault:?}");
        if says_when {
            retry_after(&reply);
        }
        assert_eq!(requests_at(&[&simulated]), seen, "{fault:?}");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["node"]), (&json!("upstream_error"), &json!("a")), "{fault:?}");
        assert_eq!(row["total_tokens"], 0, "{fault:?}");
        assert_eq!(row["request_id"], reply.header("x-request-id").unwrap());
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn a_request_is_tried_on_three_nodes_at_most() {
    let simulated = [fast_node().await, fast_node().await, fast_node().await, fast_node().await];
    let nodes: Vec<&SimNode> = simulated.iter().collect();
    let app = spawn_over(&nodes, |_| {}).await;
    let key = app.user("ann").await;
    simulated.iter().for_each(|node| node.set_fault(Some(Fault::Refuse)));

    let reply = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!(error_of(&reply, 502)["code"], "upstream_error");
    assert_eq!(requests_at(&nodes), 3);
    app.stop().await;
}

#[actix_rt::test]
async fn a_request_that_crashes_nodes_reaches_two_of_them_at_most() {
    for fault in [Fault::Status(500), Fault::HangBeforeHead, Fault::Garbage, Fault::ErrorAfter(0)] {
        let simulated = [fast_node().await, fast_node().await, fast_node().await];
        let nodes: Vec<&SimNode> = simulated.iter().collect();
        let app = spawn_over(&nodes, impatient).await;
        let key = app.user("ann").await;
        simulated.iter().for_each(|node| node.set_fault(Some(fault.clone())));

        let reply = app.chat(&key, "llama3.2", "poison").await;

        error_of(&reply, if fault == Fault::HangBeforeHead { 504 } else { 502 });
        assert_eq!(requests_at(&nodes), 2, "{fault:?}");
        app.stop().await;
    }
}

// Nothing free

#[actix_rt::test]
async fn a_request_that_takes_too_long_ends_with_a_504() {
    let simulated = fast_node().await;
    let app = spawn_over(&[&simulated], |config| config.relay.total_seconds = 1).await;
    let key = app.user("ann").await;
    simulated.set_fault(Some(Fault::HangBeforeHead));
    for body in [chat_body("llama3.2", "hi"), stream_body("llama3.2", "hi")] {
        let reply = app.post("/v1/chat/completions", &key, body).await;

        assert_eq!(error_of(&reply, 504)["code"], "timeout");
    }
    for row in app.rows_once(&key, 2).await {
        assert_eq!(row["status"], "deadline");
        assert!((1000..5000).contains(&row["duration_ms"].as_u64().unwrap()), "{row}");
    }
    idle(&app, &[&simulated]).await;
    app.stop().await;
}

/// A gateway with one slot, and a stream that holds it.
pub async fn full_app(change: impl FnOnce(&mut Config)) -> (SimNode, TestApp, String, crate::harness::EventReader) {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), change).await;
    let key = app.user("ann").await;
    simulated.fault_next([Fault::HangAfter(1)]);
    let mut busy = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    assert!(busy.next().await.is_some());
    (simulated, app, key, busy)
}

#[actix_rt::test]
async fn who_waits_too_long_for_a_slot_is_sent_away() {
    let (simulated, app, key, busy) = full_app(|config| config.relay.queue_seconds = 1).await;
    for body in [chat_body("llama3.2", "hi"), stream_body("llama3.2", "hi")] {
        let reply = app.post("/v1/chat/completions", &key, body).await;

        assert_eq!(error_of(&reply, 503)["code"], "server_is_overloaded");
        retry_after(&reply);
    }
    assert_eq!(requests_at(&[&simulated]), 1);
    for row in app.rows_once(&key, 2).await {
        assert_eq!((&row["status"], &row["node"], &row["total_tokens"]), (&json!("deadline"), &json!(null), &json!(0)));
    }
    drop(busy);
    app.stop().await;
}

#[actix_rt::test]
async fn a_full_queue_refuses_everybody_and_a_full_share_its_user() {
    let (simulated, app, ann, busy) = full_app(|config| {
        config.queue.max_queued = 2;
        config.queue.max_queued_per_user = 1;
    })
    .await;
    let (bob, eve) = (app.user("bob").await, app.user("eve").await);
    let limits = json!({"requests_per_minute": 10, "tokens_per_day": 100_000});
    app.put("/admin/users/ann/limits", ADMIN_KEY, limits).await;
    let _first = app.send_and_hold(&ann, &chat_body("llama3.2", "one")).await;
    eventually("one waits", || counts(&app) == (1, 1)).await;

    let share_full = app.chat(&ann, "llama3.2", "two").await;
    let _second = app.send_and_hold(&bob, &chat_body("llama3.2", "one")).await;
    eventually("two wait", || counts(&app) == (1, 2)).await;
    let queue_full = app.chat(&eve, "llama3.2", "one").await;

    let error = error_of(&share_full, 429);
    assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("rate_limit_exceeded")));
    retry_after(&share_full);
    assert_eq!(share_full.header("x-ratelimit-limit-requests"), Some("10"));
    assert!(share_full.header("x-ratelimit-remaining-tokens").is_some());
    assert_eq!(error_of(&queue_full, 503)["code"], "server_is_overloaded");
    retry_after(&queue_full);
    let row = &app.rows_once(&eve, 1).await[0];
    assert_eq!((&row["status"], &row["node"]), (&json!("refused"), &json!(null)));
    assert_eq!(requests_at(&[&simulated]), 1);
    drop(busy);
    eventually("those who waited are served", || requests_at(&[&simulated]) == 3).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_nobody_has_is_unknown_although_a_node_is_down() {
    let only = SimConfig { models: vec![SimModel::chat("one:1b", 1.0)], ..SimConfig::warm() };
    let (down, up) = (fast_node().await, SimNode::start(only).await.unwrap());
    down.stop().await;
    let app = spawn_over(&[&down, &up], |_| {}).await;
    let key = app.user("ann").await;

    let reply = app.chat(&key, "nonsense", "hi").await;

    assert_eq!(error_of(&reply, 404)["code"], "model_not_found");
    app.stop().await;
}
