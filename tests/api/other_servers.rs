//! Nodes that speak OpenAI's API and are no Ollama: llama.cpp's server and vLLM, as the simulator imitates them.
use awc::http::Method;
use ollama_gateway::fleet::{NodeKind, NodeSettings};
use ollama_sim::{Fault, SimConfig, SimModel, SimNode};
use scheduler::NodeState;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestApp, chat_body, error_of, eventually, fast_node, spawn_app, stream_body};

const THEIRS: &str = "meta-llama/Llama-3.2-3B-Instruct";

async fn llama_server(name: &str) -> SimNode {
    SimNode::start(SimConfig::llama_server(SimModel::chat(name, 2.0))).await.unwrap()
}

fn states(app: &TestApp) -> Vec<NodeState> {
    app.dispatcher.read(|scheduler| scheduler.nodes().iter().map(|node| node.state).collect())
}

#[actix_rt::test]
async fn a_node_is_found_to_be_no_ollama_and_serves_every_route_that_it_has() {
    for config in
        [SimConfig::llama_server(SimModel::chat("llama3.2", 2.0)), SimConfig::vllm(SimModel::chat("llama3.2", 2.0))]
    {
        let kind = config.kind;
        let simulated = SimNode::start(config).await.unwrap();
        let app = spawn_app(vec![NodeSettings::new("a", simulated.url())]).await;
        let key = app.user("ann").await;
        let routes = [
            ("/v1/chat/completions", chat_body("llama3.2", "hi")),
            ("/v1/chat/completions", stream_body("llama3.2", "hi")),
            ("/v1/completions", json!({"model": "llama3.2", "prompt": "hi", "max_tokens": 5})),
            ("/v1/completions", json!({"model": "llama3.2", "prompt": "hi", "max_tokens": 5, "stream": true})),
        ];
        for (path, body) in &routes {
            let reply = app.post(path, &key, body.clone()).await;
            assert_eq!(reply.status, 200, "{kind:?} {path}: {}", reply.text());
        }
        let rows = app.rows_once(&key, routes.len()).await;
        let seen: Vec<_> = simulated.requests().into_iter().filter(|seen| seen.path.starts_with("/v1/c")).collect();
        for (row, seen) in rows.iter().rev().zip(&seen) {
            assert_eq!(row["completion_tokens"], seen.tokens_generated, "{kind:?} {}: {row}", seen.path);
            assert_eq!(row["prompt_tokens"], seen.prompt_tokens, "{kind:?} {}: {row}", seen.path);
        }
        assert_eq!(states(&app), [NodeState::Up]);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn the_models_and_slots_of_a_llama_server_are_what_it_says_and_nothing_is_loaded_there() {
    let simulated = llama_server("llama3.2").await;
    let app = spawn_app(vec![NodeSettings::new("a", simulated.url())]).await;
    let key = app.user("ann").await;
    eventually("its slots are known", || app.dispatcher.read(|scheduler| scheduler.nodes()[0].slots) == 2).await;

    let models = app.get("/v1/models", &key).await.json();
    let shown = app.send(Method::POST, "/api/show", Some(&key), json!({"model": "llama3.2"}).to_string()).await;
    let hinted = app.post("/api/generate", &key, json!({"model": "llama3.2"})).await;
    app.chat(&key, "llama3.2", "hi").await;
    let loaded = app.post("/admin/nodes/a/models/llama3.2/load", ADMIN_KEY, Value::Null).await;

    assert_eq!(models["data"][0]["id"], "llama3.2:latest");
    assert_eq!(hinted.status, 200, "{}", hinted.text());
    assert_ne!((shown.status.as_u16(), loaded.status.as_u16()), (200, 200));
    let asked: Vec<String> = simulated.requests().into_iter().map(|seen| seen.path).collect();
    assert!(
        asked.iter().all(|path| !path.starts_with("/api/generate") && !path.starts_with("/api/embed")),
        "{asked:?}"
    );
    app.stop().await;
}

#[actix_rt::test]
async fn ollamas_own_routes_go_to_an_ollama_and_are_nowhere_without_one() {
    let (foreign, ollama) = (llama_server("llama3.2").await, fast_node().await);
    let native = || json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "stream": false});
    let app = spawn_app(vec![NodeSettings::new("foreign", foreign.url())]).await;
    let key = app.user("ann").await;
    let reply = app.post("/api/chat", &key, native()).await;
    assert_eq!(reply.status, 404, "{}", reply.text());
    assert!(reply.json()["error"].is_string());
    app.stop().await;

    let nodes = vec![NodeSettings::new("foreign", foreign.url()), NodeSettings::new("ollama", ollama.url())];
    let app = spawn_app(nodes).await;
    let key = app.user("ann").await;
    for _ in 0..4 {
        let reply = app.post("/api/chat", &key, native()).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some("ollama")), "{}", reply.text());
    }
    assert!(foreign.requests().iter().all(|seen| !seen.path.starts_with("/api/chat")));
    app.stop().await;
}

#[actix_rt::test]
async fn one_model_is_served_by_nodes_of_both_kinds_under_the_name_that_each_has() {
    let (foreign, ollama) = (llama_server(THEIRS).await, fast_node().await);
    let aliases = [("llama3.2".to_owned(), THEIRS.to_owned())].into();
    let nodes = vec![
        NodeSettings { aliases, slots: Some(1), ..NodeSettings::new("foreign", foreign.url()) },
        NodeSettings { slots: Some(1), ..NodeSettings::new("ollama", ollama.url()) },
    ];
    let app = spawn_app(nodes).await;
    let key = app.user("ann").await;
    // What fails on one is answered by the other, and the other way round.
    for (failing, other) in [(&foreign, "ollama"), (&ollama, "foreign")] {
        failing.set_fault(Some(Fault::Status(503)));
        let reply = app.chat(&key, "llama3.2", "hi").await;
        assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some(other)), "{}", reply.text());
        failing.set_fault(None);
        crate::harness::let_pass(std::time::Duration::from_millis(1100)).await;
    }
    let bodies: Vec<Value> =
        foreign.requests().iter().filter_map(|seen| serde_json::from_slice(&seen.body).ok()).collect();
    assert!(!bodies.is_empty() && bodies.iter().all(|body| body["model"] == format!("{THEIRS}:latest")), "{bodies:?}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_route_that_a_server_was_not_started_with_is_looked_for_elsewhere() {
    let foreign = llama_server("llama3.2").await;
    let app = spawn_app(vec![NodeSettings::new("foreign", foreign.url())]).await;
    let key = app.user("ann").await;
    for _ in 0..3 {
        let reply = app.post("/v1/embeddings", &key, json!({"model": "llama3.2", "input": "hi"})).await;
        assert_eq!(error_of(&reply, 404)["code"], "unsupported_endpoint");
    }
    assert_eq!(states(&app), [NodeState::Up]);
    let asked = foreign.requests().iter().filter(|seen| seen.path == "/v1/embeddings").count();
    assert!(asked <= 1, "asked {asked} times");
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_of_a_given_kind_is_asked_in_that_way_alone() {
    let (foreign, ollama) = (llama_server("llama3.2").await, fast_node().await);
    let nodes = vec![
        NodeSettings { kind: NodeKind::OpenAi, ..NodeSettings::new("a", foreign.url()) },
        NodeSettings { kind: NodeKind::OpenAi, ..NodeSettings::new("b", ollama.url()) },
        NodeSettings { kind: NodeKind::Ollama, ..NodeSettings::new("c", foreign.url()) },
        NodeSettings {
            kind: NodeKind::OpenAi,
            health_path: Some("/nowhere".to_owned()),
            ..NodeSettings::new("d", foreign.url())
        },
        NodeSettings {
            kind: NodeKind::OpenAi,
            health_path: Some("/v1/models".to_owned()),
            ..NodeSettings::new("e", format!("{}/v1", foreign.url()))
        },
    ];
    let app = spawn_app(nodes).await;
    let (up, down) = (NodeState::Up, NodeState::Down);
    assert_eq!(states(&app), [up, up, down, down, up]);
    app.stop().await;
}
