//! Does what a client says reach the right node, and what the node says the client, unchanged but for the documented
//! edits?
use std::rc::Rc;

use awc::http::Method;
use futures_util::future::{join, join_all};
use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{
    chat_body, client, cold_node, events_of, eventually, fast_node, let_pass, node, read, spawn_app, stream_body,
};
use crate::scripted::{ScriptedNode, Step, chat_answer, plain};

fn requests_at(node: &SimNode) -> usize {
    node.requests().len()
}

// What the node says

/// Takes the id and the time out of an answer or an event, as they differ between two of the same.
fn timeless(json: &str) -> Value {
    let mut value: Value = serde_json::from_str(json).unwrap_or_else(|_| json.into());
    if let Some(object) = value.as_object_mut() {
        object.remove("id");
        object.remove("created");
    }
    value
}

#[actix_rt::test]
async fn whatever_is_asked_the_gateway_answers_as_the_node_itself() {
    let models = ["llama3.2:latest", "qwen3:8b"].map(|name| SimModel::thinking(name, 2.0)).into_iter();
    let models = models.chain([SimModel::embedding("all-minilm:latest", 0.05)]).collect();
    let simulated = SimNode::start(SimConfig { models, ..SimConfig::warm() }).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let key = app.user("ann").await;
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}}}});
    let with = |mut body: Value, key: &str, value: Value| {
        body[key] = value;
        body
    };
    let requests = [
        ("/v1/chat/completions", chat_body("llama3.2", "hello")),
        ("/v1/chat/completions", chat_body("qwen3:8b", "think [[n=40]]")),
        ("/v1/chat/completions", with(chat_body("llama3.2", "the weather?"), "tools", json!([tool]))),
        ("/v1/chat/completions", with(chat_body("llama3.2", "x"), "response_format", json!({"type": "json_object"}))),
        ("/v1/chat/completions", with(chat_body("llama3.2", "x"), "max_tokens", json!(3))),
        ("/v1/completions", json!({"model": "llama3.2", "prompt": "once upon"})),
        ("/v1/embeddings", json!({"model": "all-minilm", "input": ["one", "two"]})),
        ("/v1/embeddings", json!({"model": "all-minilm", "input": "one", "encoding_format": "base64"})),
    ];
    for (path, body) in requests {
        let direct = read(client().post(simulated.url() + path).send_body(body.to_string()).await.unwrap()).await;
        let reply = app.post(path, &key, body.clone()).await;

        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        assert_eq!(timeless(reply.text()), timeless(direct.text()), "{body}");

        if path != "/v1/embeddings" {
            let body = with(with(body, "stream", json!(true)), "stream_options", json!({"include_usage": true}));
            let direct = read(client().post(simulated.url() + path).send_body(body.to_string()).await.unwrap()).await;
            let reply = app.post(path, &key, body.clone()).await;

            assert_eq!(reply.status, 200, "{body}: {}", reply.text());
            let timeless_events = |text| -> Vec<Value> { events_of(text).into_iter().map(timeless).collect() };
            assert_eq!(timeless_events(reply.text()), timeless_events(direct.text()), "{body}");
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_nodes_verdict_on_a_request_is_handed_on_and_not_asked_of_another() {
    let simulated = [fast_node().await, fast_node().await];
    let app = spawn_app(vec![node("a", simulated[0].url(), 1), node("b", simulated[1].url(), 1)]).await;
    let key = app.user("ann").await;
    let body = json!({"model": "all-minilm", "messages": [{"role": "user", "content": "an embedder cannot chat"}]});
    let direct = client().post(simulated[0].url() + "/v1/chat/completions").send_body(body.to_string()).await.unwrap();
    let direct = read(direct).await;

    let reply = app.post("/v1/chat/completions", &key, body).await;

    assert_eq!((reply.status.as_u16(), reply.text()), (400, direct.text()));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(requests_at(&simulated[0]) + requests_at(&simulated[1]), 2, "one of them was direct");
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!((&row["status"], &row["total_tokens"]), (&json!("refused"), &json!(0)));
    app.stop().await;
}

// What the client says

#[actix_rt::test]
async fn a_request_reaches_the_node_byte_for_byte_but_for_the_documented_edits() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let rest = "\"model\" : \"llama3.2\",\t\"x-new\":[1.0, 2e3, 18446744073709551616, -0.0 ,{}],\r\n \"seed\":7,\"keep_alive\":\
                \"5m\", \"dup\":1, \"dup\":2, \"messages\":[ {\"role\":\"user\",\"content\":\"\\u00e9\u{e9}\\ud83d\\ude00\u{1f600}\
                \\/\\n\", \"odd\":null}],\"b\u{e9}\":\"\u{2603}\" } \n";
    let usage = r#""stream_options":{"include_usage":true},"#;
    let cases = [
        (format!(" {{ {rest}"), None),
        (format!("{{\"stream\":false,{rest}"), None),
        (format!("{{\"stream\":true,\"stream_options\":{{\"include_usage\":true, \"y\":1}},{rest}"), None),
        (format!("{{\"max_tokens\":5,\"max_completion_tokens\":5,{rest}"), None),
        (format!(" {{ \"stream\" : true,{rest}"), Some(format!(" {{{usage} \"stream\" : true,{rest}"))),
        (
            format!("{{\"stream\":true,\"stream_options\": {{ \"include_usage\" : false }} ,{rest}"),
            Some(format!("{{\"stream\":true,\"stream_options\": {{\"include_usage\":true}} ,{rest}")),
        ),
        (
            format!("{{\"stream\":true,\"stream_options\":null,{rest}"),
            Some(format!("{{\"stream\":true,\"stream_options\":{{\"include_usage\":true}},{rest}")),
        ),
        (
            format!("{{\"max_completion_tokens\":9,{rest}"),
            Some(format!("{{\"max_tokens\":9,\"max_completion_tokens\":9,{rest}")),
        ),
        (
            format!("{{\"max_tokens\":4 ,\"max_completion_tokens\":9,{rest}"),
            Some(format!("{{\"max_tokens\":9 ,\"max_completion_tokens\":9,{rest}")),
        ),
    ];
    for (sent, expected) in cases {
        let reply = app.send(Method::POST, "/v1/chat/completions", Some(&key), sent.clone()).await;

        assert_eq!(reply.status, 200, "{sent}: {}", reply.text());
        let seen = simulated.requests().pop().unwrap();
        assert_eq!(std::str::from_utf8(&seen.body).unwrap(), expected.unwrap_or(sent));
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_prompt_of_ten_megabytes_of_any_script_reaches_the_node_whole() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let prompt = "gr\u{fc}\u{df}e \u{4f60}\u{597d} \u{1f600} \"\\ ".repeat(400_000);
    let body = chat_body("llama3.2", &prompt).to_string();
    assert!(body.len() > 10_000_000, "{}", body.len());

    let reply = app.send(Method::POST, "/v1/chat/completions", Some(&key), body.clone()).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(simulated.requests()[0].body == body, "the body differs");
    app.stop().await;
}

#[actix_rt::test]
async fn a_hundred_images_reach_the_node_whole() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let image = |number: usize| {
        let data = format!("{number:04}").repeat(10_000);
        json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}})
    };
    let mut parts: Vec<Value> = (0..100).map(image).collect();
    parts.push(json!({"type": "text", "text": "What is this?"}));
    let body = json!({"model": "llava", "messages": [{"role": "user", "content": parts}]}).to_string();

    let reply = app.send(Method::POST, "/v1/chat/completions", Some(&key), body.clone()).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("I see 100 images:"), "{}", reply.text());
    assert!(simulated.requests()[0].body == body, "the body differs");
    app.stop().await;
}

#[actix_rt::test]
async fn every_answer_carries_our_id_and_says_which_node_gave_it() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("gpu-1", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let bearer = format!("Bearer {key}");
    let long = "x".repeat(129);
    let cases = [("mine-1", Some("mine-1")), (&long, None), ("two words", None)];
    let bodies = [chat_body("llama3.2", "hi"), stream_body("llama3.2", "hi")];
    let mut ids = Vec::new();
    for (body, (sent, echoed)) in bodies.iter().flat_map(|body| cases.iter().map(move |case| (body, case))) {
        let headers = [("authorization", bearer.as_str()), ("x-request-id", sent)];
        let reply = app.send_with(Method::POST, "/v1/chat/completions", &headers, body.to_string()).await;

        assert_eq!(reply.header("x-client-request-id"), *echoed);
        let id = uuid::Uuid::parse_str(reply.header("x-request-id").unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(simulated.requests().last().unwrap().request_id, Some(id.to_string()));
        assert_eq!(reply.header("x-gateway-node"), Some("gpu-1"));
        assert_eq!(reply.header("x-gateway-attempts"), Some("1"));
        for millis in ["x-gateway-queue-ms", "openai-processing-ms"] {
            assert!(reply.header(millis).unwrap().parse::<u64>().unwrap() < 5000);
        }
        ids.push(id.to_string());
    }
    let rows = app.rows_once(&key, ids.len()).await;
    let row_ids: Vec<&str> = rows.iter().rev().map(|row| row["request_id"].as_str().unwrap()).collect();
    assert_eq!(row_ids, ids);
    app.stop().await;
}

#[actix_rt::test]
async fn the_time_in_the_queue_is_told() {
    let gate = Rc::new(Semaphore::new(0));
    let shared = gate.clone();
    let node_a = ScriptedNode::always(move || vec![Step::Pass(shared.clone()), plain(&chat_answer("hi"))]).await;
    let app = spawn_app(vec![node("a", node_a.url(), 1)]).await;
    let key = app.user("ann").await;
    let waited = std::time::Instant::now();
    let open = async {
        eventually("one runs and one waits", || {
            app.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued())) == (1, 1)
        })
        .await;
        let_pass(std::time::Duration::from_millis(60)).await;
        gate.add_permits(2);
    };

    let ((first, second), ()) =
        join(join(app.chat(&key, "llama3.2", "one"), app.chat(&key, "llama3.2", "two")), open).await;

    let waited = waited.elapsed().as_millis();
    let mut told = [&first, &second].map(|reply| reply.header("x-gateway-queue-ms").unwrap().parse::<u128>().unwrap());
    told.sort_unstable();
    assert!(told[0] < 50 && (50..=waited).contains(&told[1]), "{told:?}");
    app.stop().await;
}

// Which node

#[actix_rt::test]
async fn two_requests_at_once_run_on_two_nodes_of_one_slot() {
    let simulated = [fast_node().await, fast_node().await];
    let app = spawn_app(vec![node("a", simulated[0].url(), 1), node("b", simulated[1].url(), 1)]).await;
    let key = app.user("ann").await;
    for node in &simulated {
        node.set_fault(Some(Fault::HangAfter(1)));
    }
    let body = stream_body("llama3.2", "hi");

    let mut first = app.open_stream(&key, &body).await;
    let mut second = app.open_stream(&key, &body).await;

    assert!(first.next().await.is_some() && second.next().await.is_some());
    assert_eq!((simulated[0].stats().in_flight, simulated[1].stats().in_flight), (1, 1));
    drop((first, second));
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_never_has_more_requests_for_a_model_than_slots_and_gets_that_many() {
    let slow = || SimConfig { tokens_per_second: 800.0, slots: 100, batch_slowdown: 0.0, ..SimConfig::warm() };
    let simulated = [SimNode::start(slow()).await.unwrap(), SimNode::start(slow()).await.unwrap()];
    let app = spawn_app(vec![node("a", simulated[0].url(), 3), node("b", simulated[1].url(), 1)]).await;
    let key = app.user("ann").await;

    let replies = join_all((0..24).map(|number| {
        let prompt = "[[n=60]]";
        let body = if number % 2 == 0 { chat_body("llama3.2", prompt) } else { stream_body("llama3.2", prompt) };
        app.post("/v1/chat/completions", &key, body)
    }))
    .await;

    assert!(replies.iter().all(|reply| reply.status == 200));
    let peaks = [simulated[0].stats().peak_in_flight, simulated[1].stats().peak_in_flight];
    assert_eq!(peaks, [3, 1]);
    assert_eq!(requests_at(&simulated[0]) + requests_at(&simulated[1]), 24);
    app.stop().await;
}

#[actix_rt::test]
async fn a_busy_model_does_not_keep_another_one_waiting() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    simulated.fault_next([Fault::HangAfter(1)]);
    let mut busy = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    assert!(busy.next().await.is_some());

    let reply = app.chat(&key, "llama3.2:1b", "hi").await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(simulated.stats().in_flight, 1);
    drop(busy);
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_has_the_model_in_memory_is_preferred() {
    let simulated = [cold_node().await, cold_node().await, cold_node().await];
    let loading = chat_body("llama3.2", "load").to_string();
    client().post(simulated[1].url() + "/v1/chat/completions").send_body(loading).await.unwrap();
    let nodes = ["a", "b", "c"].iter().zip(&simulated).map(|(name, simulated)| node(name, simulated.url(), 2));
    let app = spawn_app(nodes.collect()).await;
    eventually("the loaded model is known", || {
        app.dispatcher.read(|scheduler| !scheduler.nodes()[1].loaded.is_empty())
    })
    .await;
    let key = app.user("ann").await;
    for _ in 0..5 {
        let reply = app.chat(&key, "llama3.2", "hi").await;

        assert_eq!(reply.header("x-gateway-node"), Some("b"), "{}", reply.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_is_asked_of_the_node_that_has_it() {
    let only = |name: &str| SimConfig { models: vec![SimModel::chat(name, 1.0)], ..SimConfig::warm() };
    let simulated = [SimNode::start(only("one:1b")).await.unwrap(), SimNode::start(only("two:latest")).await.unwrap()];
    let app = spawn_app(vec![node("a", simulated[0].url(), 1), node("b", simulated[1].url(), 1)]).await;
    let key = app.user("ann").await;
    for (model, name) in [("two", "b"), ("one:1b", "a"), ("two:latest", "b")] {
        let reply = app.chat(&key, model, "hi").await;

        assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some(name)), "{}", reply.text());
        assert_eq!(reply.header("x-gateway-attempts"), Some("1"));
    }
    app.stop().await;
}
