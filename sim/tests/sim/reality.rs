//! What does real Ollama 0.33.0 do that its documentation does not mention?

use std::time::Duration;

use ollama_sim::{Outcome, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::client::{Call, Reply, call, eventually, post};
use crate::fast_node;

const CHAT: &str = "/v1/chat/completions";

fn native(more: Value) -> String {
    let mut body = json!({"model": "llama3.2", "prompt": "[[n=2]]", "stream": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn error(reply: &Reply) -> (u16, String) {
    let body = reply.json();
    let error = &body["error"];
    (reply.status, error.as_str().or(error["message"].as_str()).unwrap_or_default().to_owned())
}

#[actix_web::test]
async fn a_chat_model_asked_for_embeddings_is_the_servers_mistake() {
    let node = fast_node().await;
    let message = "This server does not support embeddings. Start it with `--embeddings`";
    for (path, status) in [("/api/embed", 501), ("/v1/embeddings", 501), ("/api/embeddings", 500)] {
        let reply = post(&node, path, r#"{"model":"llama3.2","input":"a","prompt":"a"}"#).await;
        assert_eq!(error(&reply), (status, message.to_owned()), "{path}");
    }
    assert_eq!(node.stats().loads, 1, "the model was loaded before it was found out");
    assert_eq!(node.stats().in_flight, 0);
    assert!(node.requests().iter().all(|request| request.outcome == Outcome::Completed));
}

#[actix_web::test]
async fn an_option_of_the_wrong_type_is_the_servers_mistake() {
    let node = fast_node().await;
    for (options, message) in [
        (json!({"temperature": "hot"}), "option \"temperature\" must be of type float32"),
        (json!({"num_ctx": "4096"}), "option \"num_ctx\" must be of type integer"),
        (json!({"use_mmap": 1}), "option \"use_mmap\" must be of type boolean"),
        (json!({"stop": "x"}), "option \"stop\" must be of type array"),
        (json!({"stop": [1]}), "option \"stop\" must be of an array of strings"),
    ] {
        for path in ["/api/generate", "/api/chat", "/api/embed"] {
            let model = if path == "/api/embed" { "all-minilm" } else { "llama3.2" };
            let messages = json!([{"role": "user", "content": "hi"}]);
            let body = native(json!({"model": model, "options": options, "messages": messages, "input": "a"}));
            assert_eq!(error(&post(&node, path, &body).await), (500, message.to_owned()), "{path}");
        }
    }
    assert_eq!(node.stats().loads, 0);
    assert_eq!(
        post(&node, "/api/generate", &native(json!({"options": {"temperature": 1, "unknown": "x"}}))).await.status,
        200
    );
    let missing = native(json!({"model": "nope", "options": {"temperature": "hot"}}));
    assert_eq!(post(&node, "/api/generate", &missing).await.status, 404, "the model is looked up first");
    assert_eq!(post(&node, "/api/generate", &native(json!({"options": "hot"}))).await.status, 400);
}

#[actix_web::test]
async fn a_format_that_is_none_is_the_servers_mistake() {
    let node = fast_node().await;
    let message = r#"invalid format: "\"xml\""; expected "json" or a valid JSON Schema object"#;
    for body in [native(json!({"format": "xml"})), native(json!({"format": "xml", "stream": true}))] {
        assert_eq!(error(&post(&node, "/api/generate", &body).await), (500, message.to_owned()));
    }
    assert_eq!((node.stats().loads, node.stats().in_flight), (1, 0));
}

#[actix_web::test]
async fn an_empty_answer_has_no_content_in_anthropics_dialect() {
    let node = fast_node().await;
    let body = json!({"model": "llama3.2", "max_tokens": 9, "messages": [{"role": "user", "content": "[[n=0]]"}]});
    let reply = post(&node, "/v1/messages", &body.to_string()).await;
    assert!(reply.body.contains("\"content\":null"), "{}", reply.body);
    assert_eq!((reply.status, &reply.json()["stop_reason"]), (200, &json!("end_turn")));
}

#[actix_web::test]
async fn the_guard_against_repetition_ends_an_answer_without_a_word() {
    let node = fast_node().await;
    let ask = |content: &str, stream: bool| {
        let messages = json!([{"role": "user", "content": content}]);
        json!({"model": "llama3.2", "max_tokens": 1000, "messages": messages, "stream": stream,
            "stream_options": {"include_usage": true}})
        .to_string()
    };
    let repeating = "[[repeat]] [[n=200]]";

    let plain = post(&node, CHAT, &ask(repeating, false)).await.json();
    assert_eq!(plain["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(plain["usage"], json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}));
    let content = plain["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(content.split_whitespace().count(), 31);

    let stream = post(&node, CHAT, &ask(repeating, true)).await;
    assert!(stream.clean && stream.status == 200 && !stream.body.contains("[DONE]"));
    assert_eq!(stream.events().len(), 31);
    let lines = post(&node, "/api/chat", &ask(repeating, true)).await;
    assert!(lines.clean && lines.lines().iter().all(|line| line["done"] == false));
    let messages = post(&node, "/v1/messages", &ask(repeating, true)).await;
    assert!(messages.clean && !messages.body.contains("message_delta"));
    assert_eq!((node.stats().completed, node.stats().in_flight), (4, 0));

    let short = post(&node, CHAT, &ask("[[repeat]] [[n=31]]", false)).await.json();
    assert_eq!(short["choices"][0]["finish_reason"], "stop", "that many repetitions are allowed");
}

#[actix_web::test]
async fn names_over_the_same_weights_share_a_runner() {
    let base = SimModel::chat("base", 2.0);
    let models = vec![base.clone(), base.copied_as("copy:1"), base.derived_as("made"), SimModel::chat("other", 1.0)];
    let config = SimConfig { models, slots: 2, vram_bytes: 3_000_000_000, ..SimConfig::fast() };
    let node = SimNode::start(config).await.unwrap();

    for model in ["copy:1", "base", "made", "base", "other"] {
        let reply = post(&node, "/api/generate", &native(json!({"model": model}))).await.json();
        assert_eq!(reply["model"], model, "the answer names what was asked for");
    }

    let stats = node.stats();
    assert_eq!((stats.loads, stats.evictions, stats.loaded), (2, 0, vec!["copy:1".into(), "other:latest".into()]));
    let tags = call(&node, "GET", "/api/tags", "").await.json();
    let digest = |index: usize| tags["models"][index]["digest"].clone();
    assert_eq!(digest(0), digest(1));
    assert_ne!(digest(0), digest(2));
    assert_eq!(tags["models"][2]["details"]["parent_model"], "base:latest");
    let mut blobs = Vec::new();
    for model in ["base", "copy:1", "made", "other"] {
        let shown = post(&node, "/api/show", &json!({"model": model}).to_string()).await.json();
        let modelfile = shown["modelfile"].as_str().unwrap().to_owned();
        let from = modelfile.lines().find(|line| line.starts_with("FROM ")).unwrap();
        blobs.push(from.split_once("/blobs/sha256-").unwrap().1.to_owned());
    }
    assert!(blobs[0] == blobs[1] && blobs[0] == blobs[2] && blobs[0] != blobs[3], "{blobs:?}");
    assert_eq!(blobs[0].len(), 64);
}

#[actix_web::test]
async fn a_warm_node_has_shared_weights_in_memory_once() {
    let base = SimModel::chat("base", 2.0);
    let models = vec![base.clone(), base.copied_as("copy"), SimModel::chat("other", 1.0)];
    let node = SimNode::start(SimConfig { models, vram_bytes: 3_000_000_000, ..SimConfig::warm() }).await.unwrap();
    assert_eq!(node.stats().loaded, ["base:latest", "other:latest"]);
}

#[actix_web::test]
async fn copies_of_a_model_share_its_slots() {
    let base = SimModel::chat("base", 2.0);
    let models = vec![base.clone(), base.derived_as("made")];
    let node = SimNode::start(SimConfig { models, ..SimConfig::fast() }).await.unwrap();
    node.fall_silent(true);
    let mut calls = Vec::new();
    for model in ["base", "made"] {
        calls.push(Call::send(node.addr(), "POST", "/api/generate", &native(json!({"model": model}))).await);
    }
    eventually(|| node.stats().queued == 1 && node.stats().in_flight == 2).await;
    node.fall_silent(false);
    for call in calls {
        assert_eq!(call.reply("POST").await.unwrap().status, 200);
    }
}

#[actix_web::test]
async fn a_queue_does_not_keep_the_order_of_what_comes_at_once() {
    let order = async |queue_jitter| {
        let node = SimNode::start(SimConfig { queue_jitter, ..SimConfig::fast() }).await.unwrap();
        node.fall_silent(true);
        let mut calls = Vec::new();
        for place in 0..12 {
            calls.push(Call::send(node.addr(), "POST", "/api/generate", &native(json!({}))).await);
            eventually(|| node.requests().len() == place + 1).await;
        }
        node.fall_silent(false);
        for call in calls {
            call.reply("POST").await.unwrap();
        }
        node.requests().iter().map(|request| request.ended.unwrap()).collect::<Vec<_>>()
    };
    assert!(order(Duration::ZERO).await.is_sorted());
    assert!(!order(Duration::from_secs(60)).await.is_sorted());
}

#[actix_web::test]
async fn memory_is_told_by_where_it_is() {
    let model = || vec![SimModel::chat("a", 2.0)];
    let told = async |config| {
        let node = SimNode::start(SimConfig { models: model(), ..config }).await.unwrap();
        let ps = call(&node, "GET", "/api/ps", "").await.json();
        (ps["models"][0]["size"].as_u64().unwrap(), ps["models"][0]["size_vram"].as_u64().unwrap())
    };
    let warm = SimConfig::warm;
    assert_eq!(told(warm()).await, (2_000_000_000, 2_000_000_000));
    assert_eq!(told(SimConfig { gpu_share: 0.0, ..warm() }).await, (2_000_000_000, 0));
    assert_eq!(told(SimConfig { gpu_share: 0.25, ..warm() }).await, (2_000_000_000, 500_000_000));

    let small = SimConfig { models: model(), vram_bytes: 1_500_000_000, ..SimConfig::fast() };
    let small = SimNode::start(small).await.unwrap();
    post(&small, "/api/generate", r#"{"model":"a"}"#).await;
    let ps = call(&small, "GET", "/api/ps", "").await.json();
    assert_eq!(ps["models"][0]["size_vram"], 1_500_000_000_u64, "the rest of it is in main memory");
}

#[actix_web::test]
async fn a_frozen_node_does_nothing_until_it_is_thawed() {
    let config = SimConfig { tokens_per_second: 400.0, slots: 2, ..SimConfig::warm() };
    let node = SimNode::start(config).await.unwrap();
    let long = native(json!({"prompt": "[[n=200]]", "stream": true}));
    let mut running = Call::send(node.addr(), "POST", "/api/generate", &long).await;
    running.until("response").await;

    node.freeze(true);
    let mut probe = Call::send(node.addr(), "GET", "/", "").await;
    let mut asked = Call::send(node.addr(), "POST", "/api/generate", &native(json!({}))).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let made = node.requests()[0].tokens_generated;
    assert!(probe.is_silent().await && asked.is_silent().await);
    assert_eq!((node.requests()[0].tokens_generated, node.requests().len()), (made, 1), "nothing is made or read");

    node.freeze(false);
    assert_eq!(probe.reply("GET").await.unwrap().status, 200);
    assert_eq!(asked.reply("POST").await.unwrap().status, 200);
    assert!(running.reply("POST").await.unwrap().body.contains("\"eval_count\":200"));
}

#[actix_web::test]
async fn names_match_as_ollama_matches_them() {
    let node = fast_node().await;
    for name in [
        "Llama3.2",
        "library/llama3.2",
        "LIBRARY/LLAMA3.2:Latest",
        "registry.ollama.ai/library/llama3.2",
        "https://registry.ollama.ai/library/llama3.2:latest",
        " llama3.2 ",
        "llama3.2:local",
    ] {
        let reply = post(&node, "/api/generate", &native(json!({"model": name}))).await;
        assert_eq!((reply.status, &reply.json()["model"]), (200, &json!(name)));
        assert_eq!(post(&node, "/api/show", &json!({"model": name}).to_string()).await.status, 200, "{name}");
    }
    assert_eq!(node.stats().loads, 1);
    assert_eq!(error(&post(&node, "/api/generate", &native(json!({"model": "mine/llama3.2"}))).await).0, 404);
    for name in ["-x", "a b", "llama3.2:", "a/b/c/d e"] {
        let reply = post(&node, "/api/generate", &native(json!({"model": name}))).await;
        assert_eq!(error(&reply), (400, "invalid model name".to_owned()), "{name}");
    }
}

#[actix_web::test]
async fn an_empty_model_falls_back_to_the_name() {
    let node = fast_node().await;
    let shown = r#"{"model":"","system":"","template":"","verbose":false,"options":null,"name":"llama3.2"}"#;
    assert_eq!(post(&node, "/api/show", shown).await.status, 200);
    let neither = post(&node, "/api/show", r#"{"model":"","name":""}"#).await;
    assert_eq!(error(&neither), (400, "model is required".to_owned()));
    assert_eq!(call(&node, "DELETE", "/api/delete", r#"{"model":"","name":"llama3.2"}"#).await.status, 200);
}

#[actix_web::test]
async fn the_status_is_told() {
    let node = fast_node().await;
    assert_eq!(call(&node, "GET", "/api/status", "").await.body, r#"{"cloud":{"disabled":false,"source":"none"}}"#);
    let recommendations = call(&node, "GET", "/api/experimental/model-recommendations", "").await;
    assert_eq!((recommendations.status, recommendations.body.as_str()), (200, r#"{"recommendations":[]}"#));
    assert_eq!(call(&node, "POST", "/api/status", "{}").await.status, 405);
}

#[actix_web::test]
async fn fields_that_contradict_each_other_are_refused() {
    let node = fast_node().await;
    let raw = "raw mode does not support template, system, or context";
    for field in [json!({"template": "x"}), json!({"system": "x"}), json!({"context": [1]})] {
        let mut body = json!({"raw": true});
        body.as_object_mut().unwrap().extend(field.as_object().unwrap().clone());
        assert_eq!(error(&post(&node, "/api/generate", &native(body)).await), (400, raw.to_owned()), "{field}");
    }
    let empty = json!({"raw": true, "template": "", "system": "", "context": []});
    assert_eq!(post(&node, "/api/generate", &native(empty)).await.status, 200);

    for (keep_alive, message) in [
        (json!([1]), "Unsupported type: '[]interface {}'"),
        (json!({}), "Unsupported type: 'map[string]interface {}'"),
        (json!(true), "Unsupported type: 'bool'"),
        (json!("soon"), "time: invalid duration \"soon\""),
    ] {
        let reply = post(&node, "/api/generate", &native(json!({"keep_alive": keep_alive}))).await;
        assert_eq!(error(&reply), (400, message.to_owned()));
    }
    for field in [json!({"shift": "no"}), json!({"truncate": 1}), json!({"raw": "x"})] {
        assert_eq!(error(&post(&node, "/api/generate", &native(field.clone())).await).0, 400, "{field}");
    }
}

#[actix_web::test]
async fn a_prompt_that_may_not_be_shortened_has_to_fit() {
    let node = fast_node().await;
    let prompt = "x".repeat(4 * 200) + "[[n=1]]";
    let small = json!({"prompt": prompt, "options": {"num_ctx": 100}});
    let with = |field: &str| {
        let mut body = small.clone();
        body[field] = json!(false);
        native(body)
    };

    assert_eq!(post(&node, "/api/generate", &native(small.clone())).await.status, 200, "it is shortened");
    let (status, message) = error(&post(&node, "/api/generate", &with("shift")).await);
    assert_eq!((status, message.starts_with("the prompt is longer than the context length")), (400, true), "{message}");
    let (status, message) = error(&post(&node, "/api/generate", &with("truncate")).await);
    let inner: Value = serde_json::from_str(&message).unwrap();
    assert_eq!((status, &inner["error"]["code"]), (400, &json!(400)));
    assert!(inner["error"]["message"].as_str().unwrap().contains("exceeds the available context size (100 tokens)"));

    let fits = native(json!({"shift": false, "truncate": false}));
    assert_eq!(post(&node, "/api/generate", &fits).await.status, 200);
}

#[actix_web::test]
async fn embeddings_of_nothing_are_no_mistake() {
    let node = fast_node().await;
    for body in
        [r#"{"model":"all-minilm"}"#, r#"{"model":"all-minilm","input":""}"#, r#"{"model":"all-minilm","input":null}"#]
    {
        let reply = post(&node, "/api/embed", body).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"model":"all-minilm","embeddings":[]}"#), "{body}");
    }
    for body in [r#"{"model":"all-minilm"}"#, r#"{"model":"all-minilm","prompt":""}"#] {
        let reply = post(&node, "/api/embeddings", body).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"embedding":[]}"#), "{body}");
    }
    assert_eq!(post(&node, "/api/embed", r#"{"model":"llama3.2"}"#).await.status, 200, "a chat model just loads");
}

#[actix_web::test]
async fn an_older_version_does_not_know_the_newer_routes() {
    for (version, messages, responses) in [("0.33.0", 200, 200), ("0.13.5", 404, 200), ("0.12.11", 404, 404)] {
        let node = SimNode::start(SimConfig { version: version.to_owned(), ..SimConfig::fast() }).await.unwrap();
        assert_eq!(call(&node, "GET", "/api/version", "").await.json()["version"], version);
        let body = json!({"model": "llama3.2", "max_tokens": 9, "input": "hi",
            "messages": [{"role": "user", "content": "hi"}]})
        .to_string();
        for (path, status) in [("/v1/messages", messages), ("/v1/responses", responses), (CHAT, 200)] {
            let reply = post(&node, path, &body).await;
            assert_eq!(reply.status, status, "{version} {path}");
            assert!(status == 200 || reply.body == "404 page not found");
        }
    }
}
