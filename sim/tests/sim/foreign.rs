//! How do simulated servers other than Ollama answer?

use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::client::{Call, Reply, call, eventually, post};

const CHAT: &str = "/v1/chat/completions";

async fn llama_server() -> SimNode {
    SimNode::start(SimConfig::llama_server(SimModel::chat("gemma:270m", 0.3))).await.unwrap()
}

async fn vllm() -> SimNode {
    SimNode::start(SimConfig::vllm(SimModel::chat("llama", 6.4).served_as("meta-llama/Llama-3.2-3B-Instruct")))
        .await
        .unwrap()
}

fn ask(content: &str, more: Value) -> String {
    let mut body = json!({"model": "gemma:270m", "messages": [{"role": "user", "content": content}], "max_tokens": 50,
        "prompt": content, "input": content});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn events(reply: &Reply) -> Vec<Value> {
    reply.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect()
}

#[actix_web::test]
async fn none_of_them_has_ollamas_routes() {
    let missing = r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#;
    for (node, body) in [(llama_server().await, missing), (vllm().await, r#"{"detail":"Not Found"}"#)] {
        for path in ["/api/tags", "/api/ps", "/api/version", "/api/chat"] {
            let reply = call(&node, "GET", path, "").await;
            assert_eq!((reply.status, reply.body.as_str()), (404, body), "{path}");
        }
        assert_eq!(post(&node, "/api/generate", "{}").await.status, 404);
    }
}

#[actix_web::test]
async fn a_llama_server_tells_its_slots() {
    let node = llama_server().await;
    assert_eq!(call(&node, "GET", "/health", "").await.body, r#"{"status":"ok"}"#);
    let models = call(&node, "GET", "/v1/models", "").await.json();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["owned_by"]), (&json!("gemma:270m"), &json!("llamacpp")));
    let busy = async || {
        let slots = call(&node, "GET", "/slots", "").await.json();
        slots.as_array().unwrap().iter().map(|slot| slot["is_processing"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(busy().await, [false, false]);
    assert_eq!(call(&node, "GET", "/props", "").await.json()["total_slots"], 2);

    node.fall_silent(true);
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(Call::send(node.addr(), "POST", CHAT, &ask("hi", json!({}))).await);
    }
    eventually(|| node.stats().queued == 1 && node.stats().in_flight == 3).await;
    assert_eq!(busy().await, [true, true]);
    let metrics = call(&node, "GET", "/metrics", "").await.body;
    assert!(metrics.contains("llamacpp:requests_processing 2\n") && metrics.contains("llamacpp:requests_deferred 1\n"));
    drop(calls);
    eventually(|| node.stats().in_flight == 0).await;
    assert_eq!(busy().await, [false, false], "a client that leaves frees its slot");
    assert!(node.requests().iter().all(|request| request.path == CHAT), "its pages are not logged");
    assert_eq!((node.stats().loads, node.requests()[0].found_loaded), (0, Some(true)), "it never loads anything");
}

#[actix_web::test]
async fn a_llama_server_serves_its_model_whatever_the_name() {
    let node = llama_server().await;
    let reply = post(&node, CHAT, &ask("[[n=2]]", json!({"model": "anything"}))).await.json();
    assert_eq!(reply["model"], "gemma:270m");
    assert!(reply["choices"][0]["message"]["content"].is_string());
}

#[actix_web::test]
async fn a_llama_server_tells_timings_where_it_tells_no_usage() {
    let node = llama_server().await;
    let counts = |timings: &Value| ["cache_n", "prompt_n", "predicted_n"].map(|name| timings[name].as_u64().unwrap());
    let first = events(&post(&node, "/v1/completions", &ask("tell me [[n=3]]", json!({"stream": true}))).await);
    assert_eq!(first.len(), 4, "the reason comes in a chunk of its own");
    let last = first.last().unwrap();
    assert!(last.get("usage").is_none());
    let [cached, read, made] = counts(&last["timings"]);
    assert_eq!((cached, made), (0, 3));

    let body = ask("tell me [[n=3]] more", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let second = events(&post(&node, "/v1/completions", &body).await);
    let last = second.last().unwrap();
    let [cached, read_now, made] = counts(&last["timings"]);
    assert!(last.get("usage").is_none() && cached > 0 && cached + read_now >= read && made == 3);

    let chat = events(&post(&node, CHAT, &ask("[[n=2]]", json!({"stream": true}))).await);
    assert_eq!(chat[0]["choices"][0]["delta"], json!({"role": "assistant", "content": null}));
    assert_eq!(chat.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(counts(&chat.last().unwrap()["timings"])[2], 2);
    let with_usage = ask("[[n=2]]", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chat = events(&post(&node, CHAT, &with_usage).await);
    let last = chat.last().unwrap();
    let [cached, read, _] = counts(&last["timings"]);
    assert_eq!((&last["choices"], &last["usage"]["prompt_tokens"]), (&json!([]), &json!(cached + read)));
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], cached);
    assert!(chat[chat.len() - 2].get("timings").is_none());
}

#[actix_web::test]
async fn a_llama_server_tells_cached_tokens_apart_in_messages() {
    let node = llama_server().await;
    let long = format!("{} [[n=2]]", "word ".repeat(100));
    let fresh = post(&node, "/v1/messages", &ask(&long, json!({}))).await.json();
    let all = fresh["usage"]["input_tokens"].as_u64().unwrap();
    assert_eq!(fresh["usage"]["cache_read_input_tokens"], 0);

    let again = post(&node, "/v1/messages", &ask(&long, json!({"stream": true}))).await;
    let again = events(&again);
    let usage = &again[0]["message"]["usage"];
    let cached = usage["cache_read_input_tokens"].as_u64().unwrap();
    assert!(cached > 100, "{usage}");
    assert_eq!(usage["input_tokens"].as_u64().unwrap() + cached, all);
    let delta = again.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(delta["usage"], json!({"output_tokens": 2}), "the prompt is not told again");

    let counted = post(&node, "/v1/messages/count_tokens", &ask(&long, json!({}))).await;
    assert_eq!(counted.json(), json!({"input_tokens": all}));
    let response = post(&node, "/v1/responses", &ask(&long, json!({}))).await.json();
    assert!(response["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);
}

#[actix_web::test]
async fn a_llama_server_embeds_only_with_a_model_for_it() {
    let node = llama_server().await;
    let refused = post(&node, "/v1/embeddings", &ask("hi", json!({}))).await;
    let message = "This server does not support embeddings. Start it with `--embeddings`";
    let expected = json!({"error": {"code": 501, "message": message, "type": "not_supported_error"}});
    assert_eq!((refused.status, refused.json()), (501, expected));

    let node = SimNode::start(SimConfig::llama_server(SimModel::embedding("nomic", 0.1))).await.unwrap();
    let reply = post(&node, "/v1/embeddings", r#"{"model":"x","input":"hi"}"#).await;
    assert_eq!((reply.status, reply.json()["usage"]["prompt_tokens"].as_u64()), (200, Some(1)));
}

#[actix_web::test]
async fn tool_calls_come_in_pieces() {
    for node in [llama_server().await, vllm().await] {
        let model = call(&node, "GET", "/v1/models", "").await.json()["data"][0]["id"].clone();
        let tool = json!({"type": "function", "function": {"name": "get_weather", "parameters":
            {"type": "object", "properties": {"city": {"type": "string"}}}}});
        let body = ask("what weather?", json!({"model": model, "stream": true, "tools": [tool]}));
        let events = events(&post(&node, CHAT, &body).await);
        let calls = || events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0));
        let arguments: String = calls().map(|call| call["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!((calls().count(), arguments.as_str()), (3, r#"{"city":"sample"}"#));
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    }
}

#[actix_web::test]
async fn vllm_knows_its_model_by_name() {
    let node = vllm().await;
    let health = call(&node, "GET", "/health", "").await;
    assert_eq!((health.status, health.body.as_str()), (200, ""));
    let models = call(&node, "GET", "/v1/models", "").await.json();
    let model = &models["data"][0]["id"];
    assert_eq!((model, &models["data"][0]["owned_by"]), (&json!("meta-llama/Llama-3.2-3B-Instruct"), &json!("vllm")));
    assert!(call(&node, "GET", "/version", "").await.json()["version"].is_string());

    let missing = post(&node, CHAT, &ask("hi", json!({}))).await;
    assert_eq!((missing.status, &missing.json()["error"]["type"]), (404, &json!("NotFoundError")));
    assert_eq!(missing.json()["error"]["message"], "The model `gemma:270m` does not exist.");

    let body = ask("[[n=2]]", json!({"model": model, "stream": true, "stream_options": {"include_usage": true}}));
    for path in [CHAT, "/v1/completions"] {
        let events = events(&post(&node, path, &body).await);
        let last = events.last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(2)), "{path}");
        assert!(events.iter().all(|event| event.get("timings").is_none()));
    }

    node.fall_silent(true);
    let _running = Call::send(node.addr(), "POST", CHAT, &body).await;
    eventually(|| node.stats().in_flight == 1).await;
    let metrics = call(&node, "GET", "/metrics", "").await.body;
    let running = "vllm:num_requests_running{engine=\"0\",model_name=\"meta-llama/Llama-3.2-3B-Instruct\"} 1\n";
    assert!(metrics.contains(running), "{metrics}");
}

#[actix_web::test]
async fn keys_leave_some_pages_open() {
    let model = || SimModel::chat("a", 1.0);
    let with_key = |config: SimConfig| SimConfig { api_key: Some("secret".to_owned()), ..config };
    for (config, open, closed, body) in [
        (
            SimConfig::llama_server(model()),
            ["/health", "/v1/models"],
            ["/slots", "/metrics"],
            r#"{"error":{"code":401,"message":"Invalid API Key","type":"authentication_error"}}"#,
        ),
        (SimConfig::vllm(model()), ["/health", "/metrics"], ["/v1/models", CHAT], r#"{"error":"Unauthorized"}"#),
    ] {
        let node = SimNode::start(with_key(config)).await.unwrap();
        for path in open {
            assert_eq!(call(&node, "GET", path, "").await.status, 200, "{path}");
        }
        for path in closed {
            let refused = call(&node, "GET", path, "").await;
            assert_eq!((refused.status, refused.body.as_str()), (401, body), "{path}");
        }
        let allowed = Call::send_with(node.addr(), "GET", "/metrics", "authorization: Bearer secret\r\n", "").await;
        assert_eq!(allowed.reply("GET").await.unwrap().status, 200);
    }
}

#[actix_web::test]
async fn faults_strike_them_as_well() {
    let node = llama_server().await;
    node.fault_next([Fault::Status(503), Fault::ErrorAfter(2), Fault::NoUsage]);
    let busy = post(&node, CHAT, &ask("hi", json!({}))).await;
    assert_eq!((busy.status, &busy.json()["error"]["type"]), (503, &json!("unavailable_error")));
    let broken = post(&node, CHAT, &ask("hi", json!({"stream": true}))).await;
    let last: Value = serde_json::from_str(broken.events()[2]).unwrap();
    assert_eq!((&last["error"]["code"], broken.events().len()), (&json!(500), 3));
    let silent = post(&node, CHAT, &ask("hi", json!({}))).await.json();
    assert!(silent.get("usage").is_none() && silent.get("timings").is_none());
}
