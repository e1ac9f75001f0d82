//! The models of the fleet in the operator's hands: the table, pull, delete, load and unload.
use awc::http::Method;
use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{
    ADMIN_KEY, Reply, TestApp, client, error_of, events_of, eventually, fast_node, node, spawn_app, wait_for,
};
use crate::scripted::{ScriptedNode, chunk, stream_head};

async fn order(app: &TestApp, what: &str, body: Value) -> Reply {
    app.post(&format!("/admin/models/{what}"), ADMIN_KEY, body).await
}

/// The row of a model; `null` where no node has it.
async fn row(app: &TestApp, name: &str) -> Value {
    let table = app.get("/admin/models", ADMIN_KEY).await.json();
    table["data"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
}

async fn eventually_row(app: &TestApp, name: &str, holds: impl Fn(&Value) -> bool) {
    wait_for("the row says so", async || holds(&row(app, name).await)).await;
}

#[actix_rt::test]
async fn the_table_shows_who_has_what_and_where_content_differs() {
    let revised = vec![SimModel::chat("llama3.2:latest", 2.0).revised(2), SimModel::chat("only:1b", 1.0)];
    let (a, b) = (fast_node().await, SimNode::start(SimConfig { models: revised, ..SimConfig::fast() }).await.unwrap());
    let app = spawn_app(vec![node("a", a.url(), 1), node("b", b.url(), 1)]).await;
    let key = app.user("ann").await;
    assert_eq!(app.chat(&key, "only:1b", "hi").await.status, 200);

    eventually_row(&app, "only:1b", |row| row["nodes"][0]["loaded"] == true).await;
    let drifted = row(&app, "llama3.2:latest").await;

    assert_eq!(drifted["drift"], true);
    let nodes = drifted["nodes"].as_array().unwrap();
    assert_eq!((nodes.len(), &nodes[0]["node"], &nodes[1]["node"]), (2, &json!("a"), &json!("b")));
    assert_ne!(nodes[0]["digest"], nodes[1]["digest"]);
    assert_eq!(nodes[0]["size_bytes"], 2_000_000_000_u64);
    let only = row(&app, "only:1b").await;
    assert_eq!((&only["drift"], only["nodes"].as_array().unwrap().len()), (&json!(false), 1));
    app.stop().await;
}

#[actix_rt::test]
async fn a_pull_tells_its_progress_and_serves_soon_after() {
    let (a, b) = (fast_node().await, fast_node().await);
    let app = spawn_app(vec![node("a", a.url(), 1), node("b", b.url(), 1)]).await;
    let key = app.user("ann").await;
    assert_eq!(app.chat(&key, "qwen3:8b", "hi").await.status, 404);

    let reply = order(&app, "pull", json!({"model": "qwen3:8b", "nodes": ["b"]})).await;

    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
    let events: Vec<Value> = events_of(reply.text()).iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(events[0], json!({"node": "b", "status": "pulling manifest"}));
    let completed: Vec<u64> = events.iter().filter_map(|event| event["completed"].as_u64()).collect();
    assert_eq!(completed.last(), Some(&5_200_000_000));
    assert_eq!(events.last().unwrap(), &json!({"done": true, "succeeded": ["b"], "failed": []}));
    // Far sooner than the next regular look at the disks.
    eventually_row(&app, "qwen3:8b", |row| row["nodes"][0]["node"] == "b").await;
    assert_eq!(app.chat(&key, "qwen3:8b", "hi").await.header("x-gateway-node"), Some("b"));
    let all = order(&app, "pull", json!({"model": "qwen3:8b"})).await;
    assert!(all.text().contains("\"succeeded\":[\"a\",\"b\"]") || all.text().contains("\"succeeded\":[\"b\",\"a\"]"));
    app.stop().await;
}

#[actix_rt::test]
async fn a_pull_that_fails_on_a_node_says_so_of_that_node() {
    let a = fast_node().await;
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let app = spawn_app(vec![node("a", a.url(), 1), node("gone", gone, 1)]).await;
    let reply = order(&app, "pull", json!({"model": "llama3.2"})).await;
    assert_eq!(events_of(reply.text()).last().unwrap(), &r#"{"done":true,"failed":["gone"],"succeeded":["a"]}"#);
    let reply = order(&app, "pull", json!({"model": "nobody-has-it", "nodes": ["a"]})).await;
    let events = events_of(reply.text());
    assert_eq!(events[events.len() - 2], r#"{"error":"pull model manifest: file does not exist","node":"a"}"#);
    assert_eq!(events.last().unwrap(), &r#"{"done":true,"failed":["a"],"succeeded":[]}"#);
    app.stop().await;
}

#[actix_rt::test]
async fn a_pull_ends_with_its_client() {
    let slow = ScriptedNode::always(|| vec![stream_head(), chunk("{\"status\":\"pulling manifest\"}\n")]).await;
    let app = spawn_app(vec![node("a", slow.url(), 1)]).await;
    let request = client().post(app.url("/admin/models/pull")).bearer_auth(ADMIN_KEY);
    let response = request.send_body(json!({"model": "qwen3:8b"}).to_string()).await.unwrap();
    assert_eq!(response.status(), 200);
    eventually("the node pulls", || slow.received().len() == 1).await;
    assert_eq!(slow.closed_connections(), 0);

    drop(response);

    // This is how a node learns that nobody wants the model any more.
    eventually("the connection to the node is closed", || slow.closed_connections() == 1).await;
    app.stop().await;
}

#[actix_rt::test]
async fn models_are_loaded_unloaded_and_deleted_where_the_operator_says() {
    let cold = || SimNode::start(SimConfig { is_warm: false, ..SimConfig::fast() });
    let (a, b) = (cold().await.unwrap(), cold().await.unwrap());
    let app = spawn_app(vec![node("a", a.url(), 1), node("b", b.url(), 1)]).await;
    for model in ["llama3.2", "all-minilm"] {
        let said = order(&app, "load", json!({"model": model, "nodes": ["b"]})).await;
        assert_eq!(said.json(), json!({"model": model, "nodes": [{"node": "b", "done": true, "error": null}]}));
    }
    assert_eq!((a.stats().loaded.len(), b.stats().loaded.len()), (0, 2));
    eventually_row(&app, "llama3.2:latest", |row| row["nodes"][1]["loaded"] == true).await;

    for model in ["llama3.2", "all-minilm"] {
        assert_eq!(order(&app, "unload", json!({"model": model})).await.status, 200);
    }
    eventually("nothing is loaded", || b.stats().loaded.is_empty()).await;

    let deleted = app.delete("/admin/models/llama3.2?nodes=b", ADMIN_KEY).await;
    assert_eq!(deleted.json(), json!({"model": "llama3.2", "nodes": [{"node": "b", "done": true, "error": null}]}));
    eventually_row(&app, "llama3.2:latest", |row| row["nodes"].as_array().unwrap().len() == 1).await;
    assert_eq!(app.delete("/admin/models/llama3.2", ADMIN_KEY).await.status, 200);
    eventually_row(&app, "llama3.2:latest", Value::is_null).await;
    assert_eq!(error_of(&app.delete("/admin/models/llama3.2", ADMIN_KEY).await, 404)["code"], "model_not_found");
    let failed = app.delete("/admin/models/llama3.2?nodes=a", ADMIN_KEY).await;
    assert_eq!(failed.status, 502);
    assert_eq!(failed.json()["nodes"][0]["error"], "model 'llama3.2' not found");
    app.stop().await;
}

#[actix_rt::test]
async fn orders_that_make_no_sense_and_users_are_refused() {
    let a = fast_node().await;
    let app = spawn_app(vec![node("a", a.url(), 1)]).await;
    let key = app.user("ann").await;
    for what in ["pull", "load", "unload"] {
        for (body, status) in [
            (json!({"model": ""}), 400),
            (json!({"model": "x", "nodes": []}), 400),
            (json!({"model": "x", "nods": ["a"]}), 400),
            (json!({"model": "x", "nodes": ["b"]}), 404),
        ] {
            error_of(&order(&app, what, body).await, status);
        }
        let path = format!("/admin/models/{what}");
        assert_eq!(app.send(Method::POST, &path, Some(&key), r#"{"model":"llama3.2"}"#).await.status, 403);
    }
    assert_eq!(app.delete("/admin/models/llama3.2?node=a", ADMIN_KEY).await.status, 400);
    assert_eq!(app.get("/admin/models", &key).await.status, 403);
    assert!(a.requests().is_empty());
    app.stop().await;
}
