use std::time::Duration;

use ollama_sim::{Fault, Outcome, SimConfig, SimModel, SimNode};
use serde_json::json;

use crate::client::{Call, call, eventually, post};

fn generate(model: &str, prompt: &str) -> String {
    json!({"model": model, "prompt": prompt}).to_string()
}

/// A request that holds its slot until it is dropped.
async fn occupy(node: &SimNode, model: &str) -> Call {
    node.fault_next([Fault::HangAfter(0)]);
    let mut call = Call::send(node.addr(), "POST", "/api/generate", &generate(model, "hold")).await;
    call.until("\r\n\r\n").await;
    call
}

/// Sends a request and waits until it has arrived.
async fn arrive(node: &SimNode, model: &str, prompt: &str) -> Call {
    let before = node.requests().len();
    let call = Call::send(node.addr(), "POST", "/api/generate", &generate(model, prompt)).await;
    eventually(|| node.requests().len() > before).await;
    call
}

async fn node(config: SimConfig) -> SimNode {
    SimNode::start(config).await.unwrap()
}

fn small_vram() -> SimConfig {
    let models = vec![SimModel::chat("a", 1.0), SimModel::chat("b", 1.0), SimModel::chat("c", 1.0)];
    SimConfig { vram_bytes: 2_000_000_000, models, ..SimConfig::fast() }
}

#[actix_web::test]
async fn slots_are_given_first_come_first_served() {
    let node = node(SimConfig { queue_jitter: Duration::ZERO, ..SimConfig::fast() }).await;
    let holder = occupy(&node, "llama3.2").await;
    let mut waiting = Vec::new();
    for prompt in ["one", "two", "three"] {
        waiting.push(arrive(&node, "llama3.2", prompt).await);
    }
    assert_eq!((node.stats().in_flight, node.stats().queued), (4, 3));
    assert!(waiting[0].is_silent().await, "not even a head while queued");

    drop(holder);

    for (place, call) in waiting.into_iter().enumerate().rev() {
        call.reply("POST").await.unwrap();
        // The holder is the first in the log. All requests that came before this one have ended.
        let before = &node.requests()[1..=place + 1];
        assert!(before.iter().all(|request| request.outcome == Outcome::Completed), "{place}");
    }
    assert_eq!(node.stats().peak_in_flight, 4);
    eventually(|| node.stats().in_flight == 0).await;
}

#[actix_web::test]
async fn a_client_that_hangs_up_while_queued_frees_its_place() {
    let node = node(SimConfig::fast()).await;
    let holder = occupy(&node, "llama3.2").await;
    let leaver = arrive(&node, "llama3.2", "leaver").await;
    eventually(|| node.stats().queued == 1).await;

    drop(leaver);

    eventually(|| node.stats().queued == 0).await;
    assert_eq!((node.stats().in_flight, node.stats().cancelled), (1, 1));
    drop(holder);
}

#[actix_web::test]
async fn a_client_that_hangs_up_frees_its_slot_at_once() {
    let node = node(SimConfig { tokens_per_second: 20.0, ..SimConfig::fast() }).await;
    let mut leaver = Call::send(node.addr(), "POST", "/api/generate", &generate("llama3.2", "[[n=100000]]")).await;
    leaver.until("\"response\"").await;
    let next = arrive(&node, "llama3.2", "[[n=1]]").await;

    drop(leaver);

    assert!(next.reply("POST").await.unwrap().body.contains("\"done\":true"));
    let requests = node.requests();
    assert_eq!((requests[0].outcome, requests[1].outcome), (Outcome::Cancelled, Outcome::Completed));
    assert!(requests[0].tokens_generated > 0);
    assert_eq!((node.stats().cancelled, node.stats().completed), (1, 1));
}

#[actix_web::test]
async fn so_many_slots_run_at_once_but_embedding_models_have_one() {
    let node = node(SimConfig { slots: 2, ..SimConfig::fast() }).await;
    let _one = occupy(&node, "llama3.2").await;
    let _two = occupy(&node, "llama3.2").await;
    let _third = arrive(&node, "llama3.2", "third").await;
    eventually(|| node.stats().queued == 1).await;

    node.fault_next([Fault::HangBeforeHead]);
    let embed = r#"{"model":"all-minilm","input":"a"}"#;
    let _embed = Call::send(node.addr(), "POST", "/api/embed", embed).await;
    eventually(|| node.stats().in_flight == 4).await;
    let _embed = Call::send(node.addr(), "POST", "/api/embed", embed).await;
    eventually(|| node.stats().queued == 2).await;
}

#[actix_web::test]
async fn an_idle_model_with_the_lowest_name_is_evicted() {
    let node = node(small_vram()).await;
    for model in ["b", "a", "c"] {
        post(&node, "/api/generate", &generate(model, "hi")).await;
    }
    let stats = node.stats();
    assert_eq!((stats.loaded, stats.loads, stats.evictions), (vec!["b:latest".into(), "c:latest".into()], 3, 1));
}

#[actix_web::test]
async fn a_load_waits_for_the_lowest_name_which_still_accepts_requests() {
    let node = node(small_vram()).await;
    let a = occupy(&node, "a").await;
    let b = occupy(&node, "b").await;
    let mut c = arrive(&node, "c", "hi").await;
    assert!(c.is_silent().await);
    let late_a = arrive(&node, "a", "late").await;

    drop(b);
    assert!(c.is_silent().await, "it waits for `a`, though `b` is idle by now");
    drop(a);

    late_a.reply("POST").await.unwrap();
    assert!(c.reply("POST").await.unwrap().body.contains("\"done\":true"));
    assert_eq!(node.stats().loaded, ["b:latest", "c:latest"]);
}

#[actix_web::test]
async fn what_the_model_was_not_loaded_with_loads_it_anew() {
    let node = node(SimConfig::fast()).await;
    let ask = async |more: serde_json::Value| {
        let mut body = json!({"model": "llama3.2", "prompt": "[[n=1]]"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post(&node, "/api/generate", &body.to_string()).await;
        (node.stats().loads, node.requests().last().unwrap().found_loaded.unwrap())
    };
    let options = |options: serde_json::Value| json!({"options": options});

    assert_eq!(ask(json!({})).await, (1, false));
    for same in [json!({"temperature": 1, "num_predict": 3}), json!({"num_ctx": 4096, "num_gpu": -1, "num_batch": 512})]
    {
        assert_eq!(ask(options(same.clone())).await, (1, true), "{same}");
    }
    assert_eq!(ask(json!({"shift": true, "keep_alive": "1h"})).await, (1, true));
    let others = ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"];
    let others = others.map(|name| options(json!({name: 8}))).into_iter();
    let others = others.chain([options(json!({"use_mmap": true})), json!({"shift": false})]);
    let mut loads = 1;
    for other in others {
        loads += 1;
        assert_eq!(ask(other.clone()).await, (loads, false), "{other}");
        assert_eq!(ask(other.clone()).await, (loads, true), "{other}");
    }
    assert_eq!((node.stats().reloads, node.stats().evictions, node.stats().loaded.len()), (loads - 1, 0, 1));
    ask(options(json!({"num_ctx": 8192}))).await;
    assert_eq!(call(&node, "GET", "/api/ps", "").await.json()["models"][0]["context_length"], 8192);
}

#[actix_web::test]
async fn a_model_is_loaded_anew_only_when_it_is_idle() {
    let node = node(SimConfig { slots: 4, ..SimConfig::fast() }).await;
    let holder = occupy(&node, "llama3.2").await;
    let other = json!({"model": "llama3.2", "prompt": "hi", "options": {"num_ctx": 8192}}).to_string();
    let mut other = Call::send(node.addr(), "POST", "/api/generate", &other).await;
    assert!(other.is_silent().await);

    drop(holder);

    other.reply("POST").await.unwrap();
    let log = node.requests();
    assert!(log[0].ended.unwrap() >= log[1].arrived && log[1].ended.unwrap() >= log[0].ended.unwrap());
    assert_eq!((node.stats().loads, node.stats().reloads), (2, 1));
}

#[actix_web::test]
async fn a_node_can_become_slow_in_the_middle_of_an_answer() {
    let node = node(SimConfig { tokens_per_second: 400.0, ..SimConfig::warm() }).await;
    let mut call = Call::send(node.addr(), "POST", "/api/generate", &generate("llama3.2", "[[n=2000]]")).await;
    call.until("response").await;
    let made = || node.requests()[0].tokens_generated;
    let pause = || tokio::time::sleep(Duration::from_millis(50));

    node.slow_down(1e6);

    pause().await;
    let before = made();
    pause().await;
    assert_eq!((made(), node.stats().in_flight), (before, 1));
}

#[actix_web::test]
async fn the_queue_for_loads_is_bounded_and_that_for_slots_is_not() {
    let config = SimConfig { max_queue: 1, load_overhead: Duration::from_secs(3600), ..SimConfig::fast() };
    let node = node(config).await;
    let loading = arrive(&node, "llama3.2", "one").await;
    let _pending = arrive(&node, "llama3.2", "two").await;

    let refused = post(&node, "/v1/embeddings", r#"{"model":"all-minilm","input":"a"}"#).await;

    assert_eq!((refused.status, &refused.json()["error"]["type"]), (503, &"api_error".into()));
    assert_eq!(call(&node, "GET", "/api/ps", "").await.body, r#"{"models":[]}"#, "a model being loaded is not listed");
    drop(loading);
    eventually(|| node.stats().cancelled == 1).await;
    assert_eq!(node.stats().loads, 0, "the load ended with its client");
}

#[actix_web::test]
async fn an_empty_prompt_loads_and_keep_alive_zero_unloads() {
    let node = node(SimConfig::fast()).await;
    let loaded = post(&node, "/api/generate", r#"{"model":"llama3.2"}"#).await.json();
    assert_eq!((&loaded["done_reason"], &loaded["response"]), (&json!("load"), &json!("")));
    let ps = call(&node, "GET", "/api/ps", "").await.json();
    assert_eq!(ps["models"][0]["name"], "llama3.2:latest");
    assert_eq!(ps["models"][0]["size_vram"], 2_000_000_000_u64);
    assert_eq!(ps["models"][0]["context_length"], 4096);

    let unloaded = post(&node, "/api/chat", r#"{"model":"llama3.2","keep_alive":0}"#).await.json();
    assert_eq!(unloaded["done_reason"], "unload");
    assert_eq!(unloaded["message"], json!({"role": "assistant", "content": ""}));
    assert!(node.stats().loaded.is_empty());
    assert_eq!(node.stats().evictions, 0);

    let refused = post(&node, "/api/generate", r#"{"model":"all-minilm"}"#).await;
    let error = json!({"error": "\"all-minilm\" does not support generate"});
    assert_eq!((refused.status, refused.json()), (400, error), "a model that only embeds");
    post(&node, "/api/embed", r#"{"model":"all-minilm","input":""}"#).await;
    assert_eq!(node.stats().loaded, ["all-minilm:latest"]);
}

#[actix_web::test]
async fn an_idle_model_leaves_after_its_keep_alive() {
    let node = node(SimConfig { keep_alive: Duration::from_millis(30), ..SimConfig::fast() }).await;
    post(&node, "/api/generate", &generate("llama3.2", "hi")).await;
    eventually(|| node.stats().loaded.is_empty()).await;
    post(&node, "/api/generate", r#"{"model":"llama3.2","keep_alive":-1}"#).await;
    let ps = call(&node, "GET", "/api/ps", "").await.json();
    assert!(ps["models"][0]["expires_at"].as_str().unwrap() > "2300", "{ps}");
}
