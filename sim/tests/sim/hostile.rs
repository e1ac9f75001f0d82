//! What does a bad node do, and what does a bad prompt do to a node?

use std::time::Duration;

use ollama_sim::{Fault, OddListing, Outcome, SimConfig, SimNode, UsageClaim};
use serde_json::{Value, json};

use crate::client::{Call, call, eventually, post, try_call};
use crate::fast_node;

const CHAT: &str = "/v1/chat/completions";

fn chat(content: &str, stream: bool) -> String {
    json!({"model": "llama3.2", "messages": [{"role": "user", "content": content}], "stream": stream, "max_tokens": 50,
        "stream_options": {"include_usage": true}})
    .to_string()
}

async fn listing(node: &SimNode, path: &str, odd: OddListing) -> Value {
    node.set_listing(Some(odd));
    let listed = call(node, "GET", path, "").await.json();
    node.set_listing(None);
    listed
}

#[actix_web::test]
async fn a_field_of_a_listing_can_be_anything_or_absent() {
    let node = SimNode::start(SimConfig::warm()).await.unwrap();
    for path in ["/api/tags", "/api/ps"] {
        let times = if path == "/api/tags" { "modified_at" } else { "expires_at" };
        for field in ["digest", "size", "name", times] {
            for value in [Value::Null, json!(-1), json!(0.5), json!("x"), json!([])] {
                let odd = OddListing::Field(field.to_owned(), Some(value.clone()));
                assert_eq!(listing(&node, path, odd).await["models"][0][field], value, "{path} {field}");
            }
            let absent = listing(&node, path, OddListing::Field(field.to_owned(), None)).await;
            assert!(absent["models"][0].get(field).is_none() && absent["models"][1].get(field).is_some());
        }
        let family = listing(&node, path, OddListing::Field("details.family".to_owned(), None)).await;
        assert!(family["models"][0]["details"].get("family").is_none());
        assert!(family["models"][0]["details"].get("families").is_some());
    }
    let id = OddListing::Field("id".to_owned(), Some(Value::Null));
    assert_eq!(listing(&node, "/v1/models", id).await["data"][0]["id"], Value::Null);
    assert!(call(&node, "GET", "/api/tags", "").await.json()["models"][0]["digest"].is_string(), "it has ended");
}

#[actix_web::test]
async fn an_entry_of_a_listing_can_be_anything() {
    let node = fast_node().await;
    for entry in [Value::Null, json!(3), json!("llama3.2"), json!({}), json!([])] {
        let listed = listing(&node, "/api/tags", OddListing::Entry(entry.clone())).await;
        assert_eq!((&listed["models"][0], &listed["models"][1]["name"]), (&entry, &json!("llama3.2:latest")));
    }
    node.set_listing(Some(OddListing::Body("<html>".to_owned())));
    assert_eq!(call(&node, "GET", "/api/tags", "").await.body, "<html>");
}

#[actix_web::test]
async fn a_node_can_invent_models_without_end() {
    let node = fast_node().await;
    node.set_listing(Some(OddListing::Invented(20_000)));
    let names = async || {
        let listed = call(&node, "GET", "/api/tags", "").await.json();
        let names = listed["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = names().await;
    assert_eq!(before.len(), 20_000 + 5);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let new = names().await.difference(&before).count();
    assert!((2_000..=20_000).contains(&new), "{new} new names after a tenth of a second or more");
}

#[actix_web::test]
async fn a_listing_can_take_its_time() {
    let node = fast_node().await;
    node.set_listing(Some(OddListing::Slow(Duration::from_millis(400))));
    let mut slow = Call::send(node.addr(), "GET", "/api/tags", "").await;
    assert!(slow.is_silent().await);
    assert_eq!(call(&node, "GET", "/api/version", "").await.status, 200);
    assert_eq!(slow.reply("GET").await.unwrap().json()["models"].as_array().unwrap().len(), 5);
}

#[actix_web::test]
async fn token_counts_can_be_anything() {
    let node = fast_node().await;
    let claimed = async |path: &str, stream: bool, claim: UsageClaim| {
        node.fault_next([Fault::Usage(claim)]);
        post(&node, path, &chat("[[n=3]]", stream)).await.body
    };
    for value in [json!(i64::MAX), json!(u64::MAX), json!(-5), json!("7"), json!(0.5), json!(1e300), Value::Null] {
        let claim = || UsageClaim::Counts { prompt: value.clone(), completion: value.clone() };
        for (path, prompt, completion) in [
            (CHAT, "prompt_tokens", "completion_tokens"),
            ("/v1/messages", "input_tokens", "output_tokens"),
            ("/api/chat", "prompt_eval_count", "eval_count"),
        ] {
            for stream in [false, true] {
                let body = claimed(path, stream, claim()).await;
                for name in [prompt, completion] {
                    assert!(body.contains(&format!("\"{name}\":{value}")), "{path} {body}");
                }
            }
        }
    }
    let without = claimed(CHAT, false, UsageClaim::WithoutPrompt).await;
    assert!(!without.contains("prompt_tokens") && without.contains("\"completion_tokens\":3"));
    let without = claimed(CHAT, true, UsageClaim::WithoutCompletion).await;
    assert!(without.contains("\"prompt_tokens\":12") && !without.contains("completion_tokens"));
    let doubled: Value = serde_json::from_str(&claimed(CHAT, false, UsageClaim::Doubled).await).unwrap();
    let usage = &doubled["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["input_tokens"]), (&json!(12), &json!(1012)));
    assert_eq!((&usage["completion_tokens"], &usage["output_tokens"]), (&json!(3), &json!(1003)));
    let doubled: Value = serde_json::from_str(&claimed("/v1/messages", false, UsageClaim::Doubled).await).unwrap();
    assert_eq!((&doubled["usage"]["input_tokens"], &doubled["usage"]["prompt_tokens"]), (&json!(12), &json!(1012)));
    node.fault_next([Fault::Usage(UsageClaim::WithoutPrompt)]);
    let embed = post(&node, "/v1/embeddings", r#"{"model":"all-minilm","input":"a"}"#).await.json();
    assert_eq!(embed["usage"], json!({"total_tokens": 1}));
    assert!(node.requests().iter().all(|request| request.outcome == Outcome::Faulted));
}

#[actix_web::test]
async fn a_silent_node_answers_its_probes_and_generates_nothing() {
    let node = SimNode::start(SimConfig { tokens_per_second: 400.0, slots: 2, ..SimConfig::warm() }).await.unwrap();
    let mut running = Call::send(node.addr(), "POST", CHAT, &chat("[[n=50]]", true)).await;
    running.until("\"delta\":{\"content\"").await;

    node.fall_silent(true);
    let mut asked = Call::send(node.addr(), "POST", CHAT, &chat("[[n=1]]", true)).await;
    assert!(asked.is_silent().await && asked.received().is_empty(), "not even a head");
    let made = node.requests()[0].tokens_generated;
    assert_eq!(call(&node, "GET", "/api/ps", "").await.status, 200);
    assert_eq!(post(&node, "/api/generate", r#"{"model":"llama3.2"}"#).await.status, 200, "a load is no generation");
    assert_eq!((node.requests()[0].tokens_generated, node.stats().in_flight), (made, 2));

    node.fall_silent(false);
    assert!(running.reply("POST").await.unwrap().body.ends_with("data: [DONE]\n\n"));
    assert!(asked.reply("POST").await.unwrap().body.ends_with("data: [DONE]\n\n"));
}

#[actix_web::test]
async fn a_poisonous_prompt_fails_wherever_its_marker_stands() {
    let node = fast_node().await;
    node.poison("bad-500", Fault::Status(500));
    node.poison("bad-hangup", Fault::Refuse);
    node.poison("bad-garbage", Fault::Garbage);
    node.fault_next([Fault::Status(503)]);

    assert_eq!(post(&node, CHAT, &chat("a bad-500 prompt", false)).await.status, 500);
    assert!(try_call(&node, "POST", CHAT, &chat("bad-hangup", false)).await.is_none());
    assert_eq!(post(&node, CHAT, &chat("bad-garbage", false)).await.body, "this is not json");
    assert_eq!(post(&node, CHAT, &chat("good", false)).await.status, 503, "what was planned is for the others");
    assert_eq!(post(&node, CHAT, &chat("good", false)).await.status, 200);
    assert_eq!(post(&node, CHAT, &chat("bad-500 again", false)).await.status, 500);
}

#[actix_web::test]
async fn an_answer_can_come_in_one_chunk() {
    let node = fast_node().await;
    for reports_usage in [true, false] {
        node.fault_next([Fault::OneChunk { bytes: 100_000, reports_usage }]);
        let reply = post(&node, CHAT, &chat("hi", true)).await;
        let events = reply.events();
        let first: Value = serde_json::from_str(events[0]).unwrap();
        assert_eq!(first["choices"][0]["delta"]["content"].as_str().unwrap().len(), 100_000);
        assert_eq!(events.len(), if reports_usage { 4 } else { 3 });
        assert_eq!(reply.body.contains("\"completion_tokens\":25000"), reports_usage);
        assert_eq!(node.requests().last().unwrap().tokens_generated, 25_000);
    }
}

#[actix_web::test]
async fn a_stream_can_pause_and_go_on() {
    let node = fast_node().await;
    node.fault_next([Fault::PauseAfter(2, Duration::from_millis(400))]);
    let mut call = Call::send(node.addr(), "POST", CHAT, &chat("[[n=5]]", true)).await;
    call.until("\"delta\":{\"content\":\" ").await;
    assert!(call.is_silent().await);
    assert!(call.reply("POST").await.unwrap().body.ends_with("data: [DONE]\n\n"));
    eventually(|| node.stats().in_flight == 0).await;
    assert_eq!(node.requests()[0].outcome, Outcome::Faulted);
}
