//! Which models are listed, under which names? Other names for models, and what stands in for one that no node has.
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ollama_gateway::config::Config;
use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::dialects::last_seen;
use crate::harness::{
    TestApp, TestDatabase, error_of, events_of, eventually, fast_node, node, spawn_app, spawn_app_with,
};
use crate::input::app_with_node;

const ROUTES: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
];

fn body(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "max_tokens": 50, "prompt": "hi", "input": "hi",
        "messages": [{"role": "user", "content": "hi"}]})
}

fn text(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn named(config: &mut Config) {
    let aliases = [
        ("gpt-4o-mini", "llama3.2"),
        ("small/one:v1", "llama3.2:1b"),
        ("text-embedding-3-small", "all-minilm"),
        ("lost", "nothere"),
    ];
    config.models.aliases = aliases.into_iter().map(|(name, model)| (name.to_owned(), model.to_owned())).collect();
    config.models.fallbacks = BTreeMap::from([
        ("llama3.1".to_owned(), text(&["nothere", "llama3.2:1b", "llama3.2"])),
        ("llama3.2".to_owned(), text(&["llama3.2:1b"])),
        ("gone".to_owned(), text(&["nothere", "neither"])),
    ]);
}

async fn spawn_named(simulated: &SimNode) -> TestApp {
    spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), named).await
}

#[actix_rt::test]
async fn the_node_hears_the_real_name_on_every_route_and_the_row_keeps_the_clients() {
    let simulated = fast_node().await;
    let app = spawn_named(&simulated).await;
    let key = app.user("ann").await;
    let mut count = 0;
    for (route, stream) in ROUTES.into_iter().flat_map(|route| [(route, false), (route, true)]) {
        let (alias, model) = if route.contains("embed") {
            ("text-embedding-3-small", "all-minilm")
        } else {
            ("gpt-4o-mini", "llama3.2")
        };
        let reply = app.post(route, &key, body(alias, stream)).await;

        assert_eq!(reply.status, 200, "{route} {stream}: {}", reply.text());
        let mut expected = body(model, stream);
        if stream && ["/v1/chat/completions", "/v1/completions"].contains(&route) {
            expected["stream_options"] = json!({"include_usage": true});
        }
        assert_eq!(last_seen(&simulated), expected, "{route} {stream}");
        count += 1;
        let row = &app.rows_once(&key, count).await[0];
        assert_eq!((&row["model"], &row["status"]), (&json!(alias), &json!("completed")), "{route}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn only_the_name_changes_in_the_bytes_of_a_request() {
    let simulated = fast_node().await;
    let app = spawn_named(&simulated).await;
    let key = app.user("ann").await;
    let asked = "{ \"x\":[1.0 , 2e1],\"model\" :  \"gpt-4o-mini\" ,\"messages\":[{\"role\":\"user\",\"content\":\"gpt-4o-mini \\u00e9\"}]}";

    let reply = app.send(awc::http::Method::POST, "/v1/chat/completions", Some(&key), asked).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent = simulated.requests().pop().unwrap().body;
    assert_eq!(sent, asked.replacen("\"gpt-4o-mini\"", "\"llama3.2\"", 1));
    app.stop().await;
}

#[actix_rt::test]
async fn other_names_are_listed_and_retrieved_like_models() {
    let simulated = fast_node().await;
    let app = spawn_named(&simulated).await;
    let key = app.user("ann").await;

    let list = app.get("/v1/models", &key).await.json();

    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    for name in ["llama3.2:latest", "gpt-4o-mini", "small/one:v1", "text-embedding-3-small"] {
        assert_eq!(ids.iter().filter(|id| **id == name).count(), 1, "{name}: {ids:?}");
    }
    for name in ["lost", "llama3.1", "gone"] {
        assert!(!ids.contains(&name), "{name} stands for nothing that is there, or is no name of its own");
    }
    for model in list["data"].as_array().unwrap() {
        assert_eq!((&model["object"], &model["owned_by"]), (&json!("model"), &json!("library")));
        assert!(model["created"].as_i64() > Some(0), "{model}");
    }
    for path in ["gpt-4o-mini", "small/one:v1", "small%2Fone%3Av1"] {
        let model = app.get(&format!("/v1/models/{path}"), &key).await;
        assert_eq!(model.status, 200, "{path}: {}", model.text());
        assert!(ids.contains(&model.json()["id"].as_str().unwrap()), "{path}");
    }
    let tags = app.get("/api/tags", &key).await.json();
    let tags = tags["models"].as_array().unwrap();
    let names: Vec<&str> = tags.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(BTreeSet::from_iter(names.clone()), BTreeSet::from_iter(ids.clone()), "the lists agree");
    assert_eq!(names.len(), ids.len());
    let tag = |name: &str| tags.iter().find(|model| model["name"] == name).unwrap();
    assert_eq!(tag("gpt-4o-mini")["model"], "gpt-4o-mini");
    assert_eq!(tag("gpt-4o-mini")["digest"], tag("llama3.2:latest")["digest"]);
    let lost = app.get("/v1/models/lost", &key).await;
    assert_eq!(error_of(&lost, 404)["code"], "model_not_found");
    app.stop().await;
}

#[actix_rt::test]
async fn ollamas_own_clients_know_a_model_by_its_other_name_too() {
    let simulated = fast_node().await;
    let app = spawn_named(&simulated).await;
    let key = app.user("ann").await;

    // As `ollama run` begins.
    let shown = app.post("/api/show", &key, json!({"model": "gpt-4o-mini"})).await;
    let loaded = app.post("/api/generate", &key, json!({"model": "gpt-4o-mini"})).await;

    assert_eq!(shown.status, 200, "{}", shown.text());
    assert_eq!(last_seen(&simulated), json!({"model": "llama3.2"}));
    assert_eq!((loaded.status.as_u16(), &loaded.json()["model"]), (200, &json!("gpt-4o-mini")));
    assert_eq!(app.post("/api/show", &key, json!({"model": "llama3.1"})).await.status, 200, "by its stand-in");
    assert_eq!(app.post("/api/show", &key, json!({"model": "lost"})).await.status, 404);
    app.stop().await;
}

#[actix_rt::test]
async fn the_first_stand_in_that_a_node_has_is_used_and_none_where_the_model_is_there() {
    let simulated = fast_node().await;
    let app = spawn_named(&simulated).await;
    let key = app.user("ann").await;
    for (asked, used) in [("llama3.1", "llama3.2:1b"), ("llama3.2", "llama3.2"), ("gpt-4o-mini", "llama3.2")] {
        for stream in [false, true] {
            let reply = app.post("/v1/chat/completions", &key, body(asked, stream)).await;

            assert_eq!(reply.status, 200, "{asked}: {}", reply.text());
            assert_eq!(last_seen(&simulated)["model"], used, "{asked}");
            if stream {
                assert_eq!(events_of(reply.text()).last(), Some(&"[DONE]"));
            } else {
                assert_eq!(reply.json()["model"], used, "an answer says what made it");
            }
        }
    }
    for asked in ["gone", "lost", "nothere"] {
        let reply = app.post("/v1/chat/completions", &key, body(asked, true)).await;
        let error = error_of(&reply, 404);
        assert_eq!(error["code"], "model_not_found");
        assert!(error["message"].as_str().unwrap().contains(asked), "in the client's own words: {error}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn an_alias_of_a_model_that_no_node_has_means_its_stand_in() {
    let models = vec![SimModel::chat("llama3.2:1b", 1.3)];
    let simulated = SimNode::start(SimConfig { models, ..SimConfig::warm() }).await.unwrap();
    let app = spawn_named(&simulated).await;
    let key = app.user("ann").await;

    let reply = app.post("/v1/chat/completions", &key, body("gpt-4o-mini", false)).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(last_seen(&simulated)["model"], "llama3.2:1b");
    let list = app.get("/v1/models", &key).await.text().to_owned();
    assert!(list.contains("gpt-4o-mini") && !list.contains("text-embedding-3-small"), "{list}");
    app.stop().await;
}

#[actix_rt::test]
async fn metrics_know_models_by_the_nodes_names_alone() {
    let simulated = fast_node().await;
    let app = spawn_named(&simulated).await;
    let key = app.user("ann").await;
    assert_eq!(app.post("/v1/chat/completions", &key, body("gpt-4o-mini", false)).await.status, 200);
    app.rows_once(&key, 1).await;

    let metrics = app.send(awc::http::Method::GET, "/metrics", None, "").await.text().to_owned();

    assert!(metrics.contains("model=\"llama3.2:latest\"") && !metrics.contains("gpt-4o-mini"), "{metrics}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_whose_node_is_down_is_waited_for_and_not_replaced() {
    let with = |model: &str| SimConfig { models: vec![SimModel::chat(model, 1.0)], ..SimConfig::warm() };
    let (first, second) =
        (SimNode::start(with("llama3.2")).await.unwrap(), SimNode::start(with("llama3.2:1b")).await.unwrap());
    let nodes = vec![node("a", first.url(), 1), node("b", second.url(), 1)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), named).await;
    let key = app.user("ann").await;
    first.stop().await;
    eventually("the node is down", || app.dispatcher.read(|scheduler| scheduler.serving_nodes()) == 1).await;

    let reply = app.post("/v1/chat/completions", &key, body("gpt-4o-mini", false)).await;

    let named = (reply.status.as_u16(), second.requests().len());
    assert!([(503, 0), (200, 1)].contains(&named), "{named:?}: {}", reply.text());
    app.stop().await;
}

#[actix_rt::test]
async fn models_are_the_union_over_the_nodes_each_once_as_the_nodes_name_them() {
    let start = async |models| SimNode::start(SimConfig { models, ..SimConfig::warm() }).await.unwrap();
    let mut untagged = SimModel::chat("custom", 1.0);
    untagged.name = "custom".to_owned();
    let first =
        start(vec![SimModel::chat("llama3.2", 2.0), SimModel::chat("hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M", 1.0)]).await;
    let second =
        start(vec![SimModel::chat("llama3.2:latest", 2.0), SimModel::chat("llama3.2:1b", 1.0), untagged]).await;
    let app = spawn_app(vec![node("a", first.url(), 1), node("b", second.url(), 1)]).await;
    let key = app.user("ann").await;

    let list = app.get("/v1/models", &key).await.json();

    let mut ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["custom", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M", "llama3.2:1b", "llama3.2:latest"]);
    assert_eq!(list["object"], "list");
    for model in list["data"].as_array().unwrap() {
        assert_eq!((&model["object"], model.as_object().unwrap().len()), (&json!("model"), 4), "{model}");
        assert!(model["created"].as_i64().unwrap() > 1_000_000_000 && model["owned_by"].is_string(), "{model}");
    }
    for (asked, id) in [
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:latest", "llama3.2:latest"),
        ("llama3.2%3Alatest", "llama3.2:latest"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("llama3%2e2%3a1b", "llama3.2:1b"),
        ("custom", "custom"),
        ("custom:latest", "custom"),
        ("hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M"),
        ("hf.co%2Fbartowski%2FQwen_2.5-GGUF%3AQ4_K_M", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M"),
    ] {
        let reply = app.get(&format!("/v1/models/{asked}"), &key).await;
        assert_eq!(reply.status, 200, "{asked}: {}", reply.text());
        let listed = list["data"].as_array().unwrap().iter().find(|model| model["id"] == id).unwrap();
        assert_eq!(&reply.json(), listed, "{asked}");
    }
    for asked in ["llama3.2", "llama3.2:latest", "custom", "custom:latest", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M"] {
        assert_eq!(app.chat(&key, asked, "hi").await.status, 200, "{asked}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_that_is_not_there_cannot_be_retrieved() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for id in ["nope", "llama3.2:", "llama", "x/llama3.2", "%00", "%0d%0aX-Evil:1", "a%20b", "%ff"] {
        let reply = app.get(&format!("/v1/models/{id}"), &key).await;
        let error = error_of(&reply, 404);
        assert!(reply.header("x-evil").is_none(), "{error}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_list_of_models_is_empty_and_not_null_while_no_node_has_been_heard() {
    let app = spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.get("/v1/models", &key).await;

    assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({"object": "list", "data": []})));
    error_of(&app.get("/v1/models/llama3.2", &key).await, 404);
    // Whether the model exists nobody knows yet.
    assert_eq!(error_of(&app.chat(&key, "llama3.2", "hi").await, 503)["code"], "no_node_available");
    app.stop().await;
}

#[actix_rt::test]
async fn the_list_of_models_comes_at_once_while_a_node_hangs() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    let before = app.get("/v1/models", &key).await.json();
    simulated.freeze_probes(true);

    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(app.get("/v1/models", &key).await.json(), before);
    }

    let each = begun.elapsed() / 20;
    assert!(each < Duration::from_millis(100), "{each:?}");
    simulated.freeze_probes(false);
    app.stop().await;
}
