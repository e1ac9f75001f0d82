//! What do the lists of Ollama's own API say, and who may read them?
use awc::http::Method;
use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::json;

use crate::dialects::{directly, last_seen, spawn_over};
use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, answer_of, client, fast_node, node, spawn_app, spawn_app_with,
};
use crate::native::{body, error_string};
use crate::scripted::{ScriptedNode, Step};

// Lists of the fleet

fn names(reply: &Reply) -> Vec<String> {
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")));
    let models = reply.json()["models"].as_array().unwrap().clone();
    models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

async fn two_nodes() -> (SimNode, SimNode, TestApp) {
    let with = |models: Vec<SimModel>| SimConfig { models, ..SimConfig::fast() };
    let first = SimNode::start(with(vec![SimModel::chat("llama3.2", 2.0), SimModel::chat("both", 1.0)])).await.unwrap();
    let second = SimNode::start(with(vec![SimModel::chat("both", 1.0), SimModel::chat("own", 1.0)])).await.unwrap();
    let nodes = vec![node("a", first.url(), 1), node("b", second.url(), 1)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), |config| config.health.loaded_interval_seconds = 1).await;
    (first, second, app)
}

#[actix_rt::test]
async fn tags_and_ps_are_those_of_all_nodes_each_model_once_and_in_the_nodes_words() {
    let (first, second, app) = two_nodes().await;
    let key = app.user("ann").await;

    let tags = app.get("/api/tags", &key).await;

    assert_eq!(names(&tags), ["llama3.2:latest", "both:latest", "own:latest"]);
    let said = crate::harness::read(client().get(second.url() + "/api/tags").send().await.unwrap()).await.json();
    assert_eq!(tags.json()["models"][2], said["models"][1]);

    assert!(names(&app.get("/api/ps", &key).await).is_empty());
    assert_eq!(app.chat(&key, "own", "hi").await.status, 200);
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    let loaded = async |count: usize| {
        answer_of("so many models are seen in memory", async || {
            let ps = app.get("/api/ps", &key).await;
            (names(&ps).len() == count).then_some(ps)
        })
        .await
    };
    let ps = loaded(2).await;
    assert_eq!(names(&ps), ["llama3.2:latest", "own:latest"]);
    let said = crate::harness::read(client().get(first.url() + "/api/ps").send().await.unwrap()).await.json();
    assert_eq!(ps.json()["models"][0]["size_vram"], said["models"][0]["size_vram"]);

    second.stop().await;
    assert_eq!(names(&loaded(1).await), ["llama3.2:latest"], "a node that is down has nothing in memory");
    app.stop().await;
}

// Line 19 of the clients' checklist: what Ollama's clients ask for before anything else.
#[actix_rt::test]
async fn the_door_and_the_version_are_open_and_the_lists_take_a_key() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let said = crate::harness::read(client().get(simulated.url() + "/api/version").send().await.unwrap()).await;

    assert_eq!(app.send(Method::GET, "/api/version", None, "").await.json(), said.json());
    let wrong = app.get("/api/version", "sk-of-nobody").await;
    error_string(&wrong, 401);
    assert_eq!(app.get("/api/status", &key).await.json()["cloud"]["disabled"], true);
    assert!(app.send(Method::GET, "/", None, "").await.text().contains("Ollama is running"));
    let own = Some(key.as_str());
    for (path, key) in [
        ("/", None),
        ("/api/version", None),
        ("/api/tags", own),
        ("/api/ps", own),
        ("/v1/models", own),
        ("/v1/models/llama3.2", own),
        ("/v1/usage", own),
        ("/admin/nodes", Some(ADMIN_KEY)),
        ("/openapi.json", None),
    ] {
        let head = app.send(Method::HEAD, path, key, "").await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0), "{path}");
    }
    assert_eq!(app.send(Method::HEAD, "/api/tags", None, "").await.status, 401);
    for path in ["/api/tags", "/api/ps"] {
        error_string(&app.send(Method::GET, path, None, "").await, 401);
        error_string(&app.post(path, &key, json!({})).await, 405);
    }
    assert!(simulated.requests().is_empty(), "all of it is the gateway's own");
    app.stop().await;
}

#[actix_rt::test]
async fn a_gateway_that_has_heard_of_no_node_still_answers_the_lists() {
    let app = spawn_app(vec![node("a", "http://127.0.0.1:1".to_owned(), 1)]).await;
    let key = app.user("ann").await;

    assert!(names(&app.get("/api/tags", &key).await).is_empty());
    assert!(names(&app.get("/api/ps", &key).await).is_empty());
    let version = app.get("/api/version", &key).await.json()["version"].as_str().unwrap().to_owned();
    assert!(!version.starts_with("0.0."), "some clients refuse to talk to so old a server: {version}");
    for (path, asked) in [("/api/chat", body("hi")), ("/api/show", body("hi"))] {
        let reply = app.post(path, &key, asked).await;
        error_string(&reply, 503);
        assert!(reply.header("retry-after").is_some());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_is_shown_without_what_is_the_operators() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for asked in [
        json!({"model": "llama3.2"}),
        json!({"name": "llama3.2"}),
        json!({"model": "llama3.2:latest", "system": "x", "template": "y", "verbose": true, "options": {}}),
    ] {
        let direct = directly(&simulated, "/api/show", &asked).await.json();
        let reply = app.post("/api/show", &key, asked.clone()).await;

        assert_eq!(reply.status, 200, "{}", reply.text());
        let shown = reply.json();
        for kept in ["details", "model_info", "capabilities", "modified_at"] {
            assert_eq!(shown[kept], direct[kept], "{kept}");
        }
        for hidden in ["license", "template", "system", "modelfile", "parameters", "messages"] {
            assert!(shown.get(hidden).is_none(), "{hidden}");
        }
        assert!(direct.get("template").is_some() && direct.get("modelfile").is_some(), "the node does tell");
        let model = asked.get("model").or(asked.get("name")).unwrap();
        assert_eq!(last_seen(&simulated), json!({"model": model}), "and hears only the name");
    }
    let missing = error_string(&app.post("/api/show", &key, json!({"model": "nothere"})).await, 404);
    assert!(missing.contains("nothere"));
    for bad in ["", "[]", "{}", r#"{"model":7}"#] {
        error_string(&app.send(Method::POST, "/api/show", Some(&key), bad).await, 400);
    }
    error_string(&app.send(Method::POST, "/api/show", None, r#"{"model":"llama3.2"}"#).await, 401);
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_is_shown_by_the_next_node_when_one_fails() {
    let dead = ScriptedNode::always(|| vec![Step::Close]).await;
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", dead.url(), 1), node("b", simulated.url(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.post("/api/show", &key, json!({"model": "llama3.2"})).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["capabilities"], json!(["completion", "tools"]));
    app.stop().await;
}
