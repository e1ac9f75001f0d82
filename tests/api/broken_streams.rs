//! What does a client see of a stream that breaks, in each dialect?
use ollama_gateway::config::Config;
use ollama_sim::{Fault, SimConfig, SimNode};
use serde_json::{Value, json};

use crate::harness::{
    TestDatabase, each_at_once, events_of, eventually, fast_node, header_of, node, spawn_app, spawn_app_with,
    stream_body,
};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_event, chunk, last_chunk, raw, stream_head};
use crate::streams::spawn_over;

// Streams that break

fn impatient(config: &mut Config) {
    config.relay.chunk_gap_seconds = 1;
}

/// The one event that ends a broken stream.
#[track_caller]
fn assert_error_event(event: &str, code: &str) {
    let mut event: Value = serde_json::from_str(event).unwrap_or_else(|_| panic!("no JSON: {event}"));
    let error = event["error"].take();
    assert_eq!(event, json!({"error": null}), "nothing but an error");
    let keys: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    assert_eq!((&error["type"], &error["code"], &error["param"]), (&json!("server_error"), &json!(code), &json!(null)));
    assert!(error["message"].as_str().is_some_and(|message| message.contains("incomplete")), "{error}");
}

#[actix_rt::test]
async fn a_stream_that_breaks_keeps_its_good_events_and_ends_with_an_error_and_is_not_tried_again() {
    // 20 tokens, the reason, the usage, which is hidden, and [DONE].
    let faults = [1, 2, 5, 19, 20, 21, 22].map(Fault::DieAfter).into_iter();
    let faults = faults.chain([1, 7, 21].map(Fault::EndAfter)).chain([1, 3, 21].map(Fault::GarbageAfter));
    let faults = faults.chain([1, 3].map(Fault::ErrorAfter)).chain([1, 4, 22].map(Fault::HangAfter));
    each_at_once(faults, async |fault| {
        let (bad, other) = (fast_node().await, fast_node().await);
        let nodes = vec![node("a", bad.url(), 1), node("b", other.url(), 1)];
        let app = spawn_app_with(nodes, TestDatabase::sqlite(), impatient).await;
        let key = app.user("ann").await;
        bad.set_fault(Some(fault.clone()));
        let good = match fault {
            Fault::DieAfter(good) | Fault::EndAfter(good) | Fault::GarbageAfter(good) => good,
            Fault::ErrorAfter(good) | Fault::HangAfter(good) => good,
            _ => unreachable!("not among these"),
        };

        let (head, body) = app.exchange(&key, &stream_body("llama3.2", "[[n=20]]")).await;

        assert!(head.starts_with("http/1.1 200"), "{fault:?}: {head}");
        let events = events_of(&body);
        let (last, before) = events.split_last().unwrap();
        assert_error_event(last, "upstream_error");
        assert_eq!(before.len(), good.min(21), "{fault:?}: {body}");
        let id = format!("chatcmpl-{}", header_of(&head, "x-request-id").unwrap());
        for event in before {
            assert_eq!(serde_json::from_str::<Value>(event).unwrap()["id"], id, "{fault:?}: {event}");
        }
        assert_eq!((bad.requests().len(), other.requests().len()), (1, 0), "{fault:?}");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["node"]), (&json!("upstream_error"), &json!("a")), "{fault:?}");
        assert_eq!(row["completion_tokens"], good.min(20), "{fault:?}: {row}");
        assert!(row["prompt_tokens"].as_u64().unwrap() > 0, "{fault:?}: {row}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn a_stream_cut_in_the_middle_of_an_event_shows_none_of_it() {
    let half = &chat_event("secret")[..40];
    let ends = [
        ("closes in a chunk", vec![raw(format!("fff\r\n{half}")), Step::Close]),
        ("resets in a chunk", vec![raw(format!("fff\r\n{half}")), Step::Reset]),
        ("closes between chunks", vec![chunk(half), Step::Close]),
        ("ends", vec![chunk(half), last_chunk()]),
        ("sends a wrong chunk", vec![raw("nonsense\r\n")]),
        ("closes behind an event", vec![Step::Close]),
        ("sends no event", vec![chunk("<html>\n\n"), last_chunk()]),
        ("sends two data lines", vec![chunk("data: 1\ndata: 2\n\n"), last_chunk()]),
    ];
    for (name, end) in ends {
        let mut steps = vec![stream_head(), chunk(chat_event("one")), chunk(chat_event("two"))];
        steps.extend(end);
        let once = std::cell::RefCell::new(Some(steps));
        let node_a = ScriptedNode::start(move |_| once.take().unwrap()).await;
        let app = spawn_app_with(vec![node("a", node_a.url(), 1)], TestDatabase::sqlite(), impatient).await;
        let key = app.user("ann").await;

        let (_, body) = app.exchange(&key, &stream_body("llama3.2", "hi")).await;

        let events = events_of(&body);
        assert_eq!(events.len(), 3, "{name}: {body}");
        assert_error_event(events[2], "upstream_error");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("upstream_error"), &json!(2)), "{name}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_stream_without_framing_counts_as_whole_only_with_done() {
    for (end, code) in [(CHAT_END, None), ("", Some("upstream_error"))] {
        let stream = format!("{}{end}", chat_event("Hello"));
        let node_a = ScriptedNode::always(move || {
            vec![raw(format!("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{stream}")), Step::Close]
        })
        .await;
        let app = spawn_app(vec![node("a", node_a.url(), 1)]).await;
        let key = app.user("ann").await;

        let (_, body) = app.exchange(&key, &stream_body("llama3.2", "hi")).await;

        let events = events_of(&body);
        match code {
            Some(code) => assert_error_event(events.last().unwrap(), code),
            None => assert_eq!(events.last(), Some(&"[DONE]"), "{body}"),
        }
        let status = if code.is_some() { "upstream_error" } else { "completed" };
        assert_eq!(app.rows_once(&key, 1).await[0]["status"], status);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_stream_that_goes_on_for_too_long_ends_with_an_error() {
    let slow = SimConfig { tokens_per_second: 20.0, ..SimConfig::warm() };
    let simulated = SimNode::start(slow).await.unwrap();
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.relay.total_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;

    let (_, body) = app.exchange(&key, &stream_body("llama3.2", "[[n=2000]]")).await;

    let events = events_of(&body);
    assert!(events.len() > 5, "{body}");
    assert_error_event(events.last().unwrap(), "timeout");
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!(row["status"], "deadline");
    assert_eq!(row["completion_tokens"], events.len() - 1);
    eventually("the node stops", || simulated.stats().cancelled == 1).await;
    app.stop().await;
}

#[actix_rt::test]
async fn nodes_whose_streams_break_are_given_a_rest() {
    let (bad, good) = (fast_node().await, fast_node().await);
    let app = spawn_app(vec![node("a", bad.url(), 1), node("b", good.url(), 1)]).await;
    let key = app.user("ann").await;
    bad.set_fault(Some(Fault::DieAfter(3)));
    let mut broken = 0;
    for _ in 0..6 {
        let (_, body) = app.exchange(&key, &stream_body("llama3.2", "hi")).await;
        broken += usize::from(!body.ends_with("data: [DONE]\n\n"));
    }
    // One may be enough: the other node was measured to be the faster one meanwhile.
    assert!((1..=2).contains(&broken), "{broken}");
    assert_eq!((bad.requests().len(), good.requests().len()), (broken, 6 - broken));
    app.stop().await;
}

// Every dialect

/// The routes that stream, and how each ends well.
fn dialects() -> Vec<(&'static str, Value, &'static str)> {
    let messages = json!([{"role": "user", "content": "[[n=20]]"}]);
    let body = json!({"model": "llama3.2", "stream": true, "max_tokens": 100, "messages": messages,
        "prompt": "[[n=20]]", "input": "[[n=20]]"});
    let without = |keys: &[&str]| {
        let mut body = body.clone();
        keys.iter().for_each(|key| drop(body.as_object_mut().unwrap().remove(*key)));
        body
    };
    vec![
        ("/v1/chat/completions", without(&["prompt", "input"]), "data: [DONE]\n\n"),
        ("/v1/completions", without(&["messages", "input"]), "data: [DONE]\n\n"),
        ("/v1/responses", without(&["messages", "prompt", "max_tokens"]), "response.completed"),
        ("/v1/messages", without(&["prompt", "input"]), "message_stop"),
        ("/api/chat", without(&["prompt", "input", "max_tokens"]), "\"done\":true"),
        ("/api/generate", without(&["messages", "input", "max_tokens"]), "\"done\":true"),
    ]
}

#[actix_rt::test]
async fn in_every_dialect_a_stream_ends_with_its_own_mark_and_a_broken_one_with_its_own_error() {
    for (route, body, mark) in dialects() {
        let simulated = fast_node().await;
        let app = spawn_over(&simulated).await;
        let key = app.user("ann").await;

        let whole = app.post(route, &key, body.clone()).await;
        simulated.set_fault(Some(Fault::DieAfter(6)));
        let broken = app.post(route, &key, body).await;

        assert_eq!((whole.status.as_u16(), broken.status.as_u16()), (200, 200), "{route}: {}", whole.text());
        assert!(whole.text().contains(mark) && !whole.text().contains("error\":{"), "{route}: {}", whole.text());
        assert!(!broken.text().contains(mark), "{route}: {}", broken.text());
        let last = broken.text().trim_end().lines().last().unwrap();
        let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap_or(last)).unwrap();
        match route {
            "/v1/responses" => assert_eq!(error["type"], "response.failed"),
            "/v1/messages" => {
                assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("api_error")))
            }
            route if route.starts_with("/api/") => assert!(error["error"].is_string(), "{error}"),
            _ => assert_error_event(&error.to_string(), "upstream_error"),
        }
        let rows = app.rows_once(&key, 2).await;
        assert_eq!((&rows[1]["status"], &rows[1]["completion_tokens"]), (&json!("completed"), &json!(20)), "{route}");
        assert_eq!(rows[0]["status"], "upstream_error", "{route}");
        let counted = rows[0]["completion_tokens"].as_u64().unwrap();
        assert!((1..=6).contains(&counted), "{route}: {}", rows[0]);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn in_every_dialect_an_answer_without_its_end_is_asked_of_another_node() {
    for (route, mut body, _) in dialects() {
        for stream in [false, true] {
            let (bad, good) = (fast_node().await, fast_node().await);
            let app = spawn_app(vec![node("a", bad.url(), 1), node("b", good.url(), 1)]).await;
            let key = app.user("ann").await;
            body["stream"] = stream.into();
            bad.set_fault(Some(Fault::EndAfter(0)));

            let reply = app.post(route, &key, body.clone()).await;

            let named = (reply.status.as_u16(), reply.header("x-gateway-node"));
            assert_eq!(named, (200, Some("b")), "{route} {stream}: {}", reply.text());
            assert_eq!(app.rows_once(&key, 1).await[0]["completion_tokens"], 20, "{route} {stream}");
            app.stop().await;
        }
    }
}
