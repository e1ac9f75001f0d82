//! What did a node's time go into, and whose is it? Loads, prompts and answers, as rows tell them.
use std::time::Duration;

use awc::http::Method;
use futures_util::future::join_all;
use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use scheduler::NodeView;
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, chat_body, eventually, let_pass, node, spawn_app, spawn_app_with, stream_body,
};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_event, chunk, last_chunk, stream_head};

const MESSAGE: &str = "a message of some length";

/// A route, whether it streams, a body, and the least milliseconds for prompt and answer.
type Case = (&'static str, bool, Value, [Option<u64>; 2]);

/// A model that takes 1 ms a token, and a prompt of 100 ms; the answer takes as long.
async fn measured_node() -> SimNode {
    let models = vec![SimModel::chat("chat", 5.0), SimModel::embedding("embed", 5.0)];
    SimNode::start(SimConfig { tokens_per_second: 1000.0, models, slots: 4, ..SimConfig::warm() }).await.unwrap()
}

/// What takes a measured node 100 ms to read, and as long to answer.
fn long_prompt() -> String {
    format!("[[n=100]] {}", "word ".repeat(2490))
}

async fn loading_node(overhead: Duration) -> SimNode {
    let models = vec![SimModel::chat("chat", 2.0), SimModel::chat("other", 2.0)];
    let config = SimConfig { tokens_per_second: 400.0, load_overhead: overhead, models, slots: 4, ..SimConfig::fast() };
    SimNode::start(config).await.unwrap()
}

/// A row's time for this, in milliseconds.
fn time(row: &Value, field: &str) -> Option<u64> {
    row[field].as_u64()
}

fn duration(row: &Value) -> u64 {
    // Each of the times is cut off to whole milliseconds.
    time(row, "duration_ms").unwrap() + 2
}

/// Prompt and answer.
fn worked(row: &Value) -> u64 {
    time(row, "prefill_ms").unwrap_or(0) + time(row, "decode_ms").unwrap_or(0)
}

fn view(app: &TestApp, name: &str) -> NodeView {
    app.dispatcher.read(|scheduler| scheduler.nodes().into_iter().find(|node| node.name == name).unwrap())
}

/// The row of whoever has asked once.
async fn row_of(app: &TestApp, key: &str) -> Value {
    app.rows_once(key, 1).await.remove(0)
}

#[actix_rt::test]
async fn every_answer_has_its_nodes_time_as_reported_or_as_measured() {
    let simulated = measured_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let prompt = long_prompt();
    let (messages, input) = (json!([{"role": "user", "content": prompt}]), json!(prompt));
    let chat = || json!({"messages": messages, "max_tokens": 500});
    // A first byte that is late takes from the rest, which the node catches up.
    let both = [Some(80), Some(30)];
    let whole = [None, Some(180)];
    let cases: [Case; 12] = [
        ("/api/chat", false, json!({"messages": messages}), both),
        ("/api/chat", true, json!({"messages": messages}), both),
        ("/api/generate", false, json!({"prompt": input}), both),
        ("/api/generate", true, json!({"prompt": input}), both),
        ("/v1/chat/completions", false, chat(), whole),
        ("/v1/chat/completions", true, chat(), both),
        ("/v1/completions", false, json!({"prompt": input}), whole),
        ("/v1/completions", true, json!({"prompt": input}), both),
        ("/v1/responses", false, json!({"input": input}), whole),
        ("/v1/responses", true, json!({"input": input}), both),
        ("/v1/messages", false, chat(), whole),
        ("/v1/messages", true, chat(), both),
    ];
    let embeddings: [Case; 3] = [
        ("/v1/embeddings", false, json!({"model": "embed", "input": input}), [Some(80), None]),
        ("/api/embed", false, json!({"model": "embed", "input": input}), [Some(80), None]),
        ("/api/embeddings", false, json!({"model": "embed", "prompt": input}), [Some(80), None]),
    ];
    for (number, (path, stream, mut body, least)) in cases.into_iter().chain(embeddings).enumerate() {
        let key = app.user(&format!("user-{number}")).await;
        if body["model"].is_null() {
            (body["model"], body["stream"]) = ("chat".into(), stream.into());
        }

        let reply = app.post(path, &key, body).await;

        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let row = row_of(&app, &key).await;
        for (field, least) in ["prefill_ms", "decode_ms"].into_iter().zip(least) {
            let is_as_expected = match (time(&row, field), least) {
                (Some(time), Some(least)) => time >= least,
                (time, least) => time.is_none() && least.is_none(),
            };
            assert!(is_as_expected, "{path} stream: {stream}: {field} in {row}");
        }
        assert!(worked(&row) <= duration(&row), "{path} stream: {stream}: {row}");
        assert_eq!(time(&row, "load_ms"), None, "{row}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_pays_for_what_was_worked_by_then() {
    let simulated = measured_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let row_after = async |name: &str, body: Value, fault: Fault| {
        let key = app.user(name).await;
        simulated.fault_next([fault]);
        let connection = app.send_and_hold(&key, &body).await;
        let_pass(Duration::from_millis(500)).await;
        drop(connection);
        let row = row_of(&app, &key).await;
        assert_eq!(row["status"], "cancelled", "{row}");
        row
    };

    let row = row_after("plain", chat_body("chat", MESSAGE), Fault::HangBeforeHead).await;
    assert!(time(&row, "prefill_ms").is_none() && time(&row, "decode_ms") >= Some(250), "{row}");
    let row = row_after("unbegun", stream_body("chat", MESSAGE), Fault::HangBeforeHead).await;
    assert!(time(&row, "prefill_ms") >= Some(250) && time(&row, "decode_ms").is_none(), "{row}");
    let row = row_after("begun", stream_body("chat", &long_prompt()), Fault::HangAfter(60)).await;
    assert!(time(&row, "prefill_ms") >= Some(80) && time(&row, "decode_ms") >= Some(10), "{row}");
    assert!(worked(&row) + 200 <= duration(&row), "the answer was over with its last token: {row}");
    app.stop().await;
}

#[actix_rt::test]
async fn an_attempt_that_failed_counts_beside_the_one_that_did_not() {
    let (bad, good) = (measured_node().await, measured_node().await);
    bad.set_fault(Some(Fault::HangBeforeHead));
    let mut slow = node("bad", bad.url(), 4);
    slow.first_byte_seconds = Some(1);
    let app = spawn_app(vec![slow, node("good", good.url(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.post("/v1/chat/completions", &key, stream_body("chat", &long_prompt())).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    let row = row_of(&app, &key).await;
    assert_eq!((&row["attempts"], &row["node"]), (&json!(2), &json!("good")), "{row}");
    assert!(time(&row, "prefill_ms") >= Some(1080) && time(&row, "decode_ms") >= Some(30), "{row}");
    assert!(worked(&row) <= duration(&row), "{row}");
    app.stop().await;
}

#[actix_rt::test]
async fn whoever_caused_a_load_has_its_time_and_nobody_else_has() {
    for database in TestDatabase::each().await {
        let simulated = loading_node(Duration::from_millis(400)).await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let keys = [app.user("first").await, app.user("second").await, app.user("third").await];
        let asking = keys.iter().enumerate().map(async |(place, key)| {
            // One after the other, all before the model is there.
            eventually("the one before waits", || app.dispatcher.read(|core| core.queued()) == place).await;
            assert_eq!(app.chat(key, "chat", "[[n=2]]").await.status, 200);
        });
        join_all(asking).await;
        let late = app.user("late").await;
        app.chat(&late, "chat", "[[n=2]]").await;

        let row = row_of(&app, &keys[0]).await;
        let load = time(&row, "load_ms").unwrap();
        assert!((400..=time(&row, "queue_ms").unwrap() + 2).contains(&load), "{row}");
        for key in [&keys[1], &keys[2], &late] {
            assert_eq!(time(&row_of(&app, key).await, "load_ms"), None);
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_client_that_leaves_while_its_load_goes_on_has_what_it_took_so_far_and_who_waits_has_nothing() {
    let simulated = loading_node(Duration::from_millis(900)).await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let leaving = async {
        let connection = app.send_and_hold(&ann, &chat_body("chat", MESSAGE)).await;
        let_pass(Duration::from_millis(400)).await;
        drop(connection);
    };
    let waiting = async {
        eventually("the load is under way", || view(&app, "a").loading.is_some()).await;
        assert_eq!(app.chat(&bob, "chat", "[[n=2]]").await.status, 200);
    };
    tokio::join!(leaving, waiting);

    let row = row_of(&app, &ann).await;
    assert_eq!((&row["status"], &row["node"]), (&json!("cancelled"), &json!(null)));
    assert!((300..=duration(&row)).contains(&time(&row, "load_ms").unwrap()), "{row}");
    assert_eq!(time(&row_of(&app, &bob).await, "load_ms"), None);
    assert_eq!(simulated.stats().loads, 1);
    app.stop().await;
}

#[actix_rt::test]
async fn a_load_is_its_causes_also_where_it_failed_and_that_one_ran_elsewhere_or_not_at_all() {
    let (slow, good) = (loading_node(Duration::from_secs(60)).await, loading_node(Duration::ZERO).await);
    let nodes = vec![node("slow", slow.url(), 1), node("good", good.url(), 1)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), |config| config.relay.load_seconds = 1).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);

    assert_eq!(app.chat(&ann, "chat", "[[n=2]]").await.status, 200);

    let row = row_of(&app, &ann).await;
    assert_eq!(row["node"], "good");
    assert!((1000..=duration(&row)).contains(&time(&row, "load_ms").unwrap()), "{row}");
    good.set_fault(Some(Fault::Status(500)));

    assert_ne!(app.chat(&bob, "other", "[[n=2]]").await.status, 200);

    let row = row_of(&app, &bob).await;
    assert_eq!(row["node"], json!(null));
    assert!((1000..=duration(&row)).contains(&time(&row, "load_ms").unwrap()), "{row}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_load_that_no_request_caused_is_nobodys() {
    let simulated = loading_node(Duration::from_millis(400)).await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let key = app.user("ann").await;
    // As `ollama run` begins.
    app.post("/api/generate", &key, json!({"model": "chat"})).await;
    eventually("the hint is taken", || view(&app, "a").loads == 1).await;
    let load = json!({"model": "other", "nodes": ["a"]});
    let loaded = app.send(Method::POST, "/admin/models/load", Some(ADMIN_KEY), load.to_string()).await;
    assert_eq!(loaded.status, 200, "{}", loaded.text());
    eventually("the operator's load is seen", || view(&app, "a").loaded.len() == 2).await;

    for model in ["chat", "other"] {
        let body = json!({"model": model, "prompt": "[[n=2]]", "stream": false});
        assert_eq!(app.post("/api/generate", &key, body).await.status, 200);
        assert_eq!(time(&app.rows(&key).await[0], "load_ms"), None, "{model}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_load_that_the_node_did_by_itself_is_in_one_row_where_the_node_tells() {
    let models = vec![SimModel::chat("chat", 2.0)];
    let (overhead, keep_alive) = (Duration::from_millis(600), Duration::from_millis(200));
    let config = SimConfig { load_overhead: overhead, keep_alive, models, slots: 4, ..SimConfig::warm() };
    let simulated = SimNode::start(config).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    // The gateway takes it to be there for some seconds still.
    eventually("the model has expired", || simulated.stats().loaded.is_empty()).await;
    let keys = [app.user("first").await, app.user("second").await];
    let body = json!({"model": "chat", "prompt": "[[n=2]]", "stream": false});
    let asking = keys.iter().map(async |key| app.post("/api/generate", key, body.clone()).await);
    join_all(asking).await;

    let mut loads = Vec::new();
    for key in &keys {
        loads.extend(time(&row_of(&app, key).await, "load_ms"));
    }
    assert_eq!(simulated.stats().loads, 1);
    // The node tells the request that came second, which waited a little less for it.
    assert!((500..1200).contains(&loads.iter().sum::<u64>()), "{loads:?}");
    app.stop().await;
}

#[actix_rt::test]
async fn what_comes_together_with_the_first_token_was_written_before_it() {
    // A gateway that was busy reads 60 words in one piece. The next one takes a second and a half.
    let pause = Duration::from_millis(1500);
    let burst = chunk((0..60).map(|word| chat_event(&format!("{word} "))).collect::<String>());
    let end = CHAT_END.replace("completion_tokens\":2", "completion_tokens\":61");
    let Step::Send(mut next) = chunk(chat_event("last")) else { unreachable!("a chunk is sent") };
    let late = Step::Trickle(next.split_to(1), pause);
    let script = vec![stream_head(), burst, late, Step::Send(next), chunk(end), last_chunk()];
    let scripted = ScriptedNode::start(move |_| script.clone()).await;
    let app = spawn_app(vec![node("a", scripted.url(), 1)]).await;
    let reply = app.post("/v1/chat/completions", &app.user("ann").await, stream_body("llama3.2", MESSAGE)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let speed = view(&app, "a").tokens_per_second.unwrap();
    assert!(speed < 5.0, "{speed} tokens a second");
    app.stop().await;
}
