//! Nodes that come and go while the gateway runs: by the admin's hand, another gateway's, and the DNS'.
use awc::http::Method;
use ollama_sim::{SimConfig, SimModel, SimNode};
use scheduler::NodeState;
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, error_of, eventually, fast_node, header_of, node, spawn_app,
    spawn_app_with, stream_body,
};
use crate::scripted::{CHAT_END, ScriptedNode, Step, chat_answer, chat_event, chunk, last_chunk, plain, stream_head};

pub async fn add(app: &TestApp, body: Value) -> Reply {
    app.post("/admin/nodes", ADMIN_KEY, body).await
}

pub async fn act(app: &TestApp, name: &str, what: &str) -> Reply {
    app.post(&format!("/admin/nodes/{name}/{what}"), ADMIN_KEY, json!({})).await
}

pub async fn patch(app: &TestApp, name: &str, body: Value) -> Reply {
    app.send(Method::PATCH, &format!("/admin/nodes/{name}"), Some(ADMIN_KEY), body.to_string()).await
}

pub async fn listed(app: &TestApp) -> Vec<(String, String)> {
    let reply = app.get("/admin/nodes", ADMIN_KEY).await.json();
    let text = |node: &Value, key: &str| node[key].as_str().unwrap().to_owned();
    reply["data"].as_array().unwrap().iter().map(|node| (text(node, "name"), text(node, "source"))).collect()
}

pub fn states(app: &TestApp) -> Vec<(String, NodeState)> {
    app.dispatcher.read(|scheduler| scheduler.nodes().into_iter().map(|node| (node.name, node.state)).collect())
}

pub async fn until_up(app: &TestApp, name: &str) {
    let is_up = || states(app).iter().any(|(other, state)| other == name && *state == NodeState::Up);
    eventually("the node is up", is_up).await;
}

pub async fn node_of(app: &TestApp, key: &str, model: &str) -> String {
    let reply = app.chat(key, model, "hi").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-gateway-node").unwrap().to_owned()
}

#[actix_rt::test]
async fn a_node_that_is_added_serves_survives_a_restart_and_can_be_removed() {
    for database in TestDatabase::each().await {
        let (first, second) = (
            fast_node().await,
            SimNode::start(SimConfig { models: vec![SimModel::chat("other:1b", 1.0)], ..SimConfig::fast() })
                .await
                .unwrap(),
        );
        let app = spawn_app_with(vec![node("a", first.url(), 1)], database, |_| {}).await;
        let key = app.user("ann").await;
        assert_eq!(app.chat(&key, "other:1b", "hi").await.status, 404);

        let added = add(&app, json!({"name": "b", "url": second.url(), "slots": 3})).await;

        assert_eq!((added.status.as_u16(), added.json()), (201, json!({"name": "b", "done": "added"})));
        until_up(&app, "b").await;
        assert_eq!(node_of(&app, &key, "other:1b").await, "b");
        let shown = app.get("/admin/nodes/b", ADMIN_KEY).await.json();
        assert_eq!((&shown["url"], &shown["source"]), (&json!(second.url()), &json!("added")));
        for name in ["a", "b"] {
            assert_eq!(
                error_of(&add(&app, json!({"name": name, "url": second.url()})).await, 409)["code"],
                "already_exists"
            );
        }
        let app = app.restart().await;
        until_up(&app, "b").await;
        assert_eq!(listed(&app).await, [("a".into(), "file".into()), ("b".into(), "added".into())]);
        assert_eq!(node_of(&app, &key, "other:1b").await, "b");

        assert_eq!(app.delete("/admin/nodes/b", ADMIN_KEY).await.status, 200);

        assert_eq!(listed(&app).await, [("a".into(), "file".into())]);
        assert_eq!(app.chat(&key, "other:1b", "hi").await.status, 404);
        assert_eq!(app.get("/admin/nodes/b", ADMIN_KEY).await.status, 404);
        assert_eq!(app.delete("/admin/nodes/b", ADMIN_KEY).await.status, 404);
        let app = app.restart().await;
        assert_eq!(listed(&app).await.len(), 1);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn what_runs_on_a_node_that_leaves_may_end() {
    let gate = std::rc::Rc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let scripted = ScriptedNode::always(move || {
        vec![stream_head(), chunk(chat_event("a")), Step::Pass(held.clone()), chunk(CHAT_END), last_chunk()]
    })
    .await;
    let app = spawn_app(vec![node("idle", "http://127.0.0.1:1".into(), 1)]).await;
    let key = app.user("ann").await;
    add(&app, json!({"name": "b", "url": scripted.url()})).await;
    until_up(&app, "b").await;
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    stream.next().await.unwrap();

    assert_eq!(app.delete("/admin/nodes/b", ADMIN_KEY).await.status, 200);
    gate.add_permits(1);

    assert_eq!(stream.rest().await.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(app.rows_once(&key, 1).await[0]["status"], "completed");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_of_the_file_can_be_drained_and_not_be_changed() {
    let (first, second) = (fast_node().await, fast_node().await);
    let nodes = vec![node("a", first.url(), 4), node("b", second.url(), 4)];
    let app = spawn_app(nodes).await;
    let key = app.user("ann").await;
    for reply in [patch(&app, "a", json!({"slots": 2})).await, app.delete("/admin/nodes/a", ADMIN_KEY).await] {
        let error = error_of(&reply, 409);
        assert_eq!(error["code"], "not_changeable");
        assert!(error["message"].as_str().unwrap().contains("gateway.yaml"));
    }

    let drained = act(&app, "a", "drain").await.json();
    assert_eq!((&drained["name"], &drained["done"]), (&json!("a"), &json!("draining")));

    for _ in 0..4 {
        assert_eq!(node_of(&app, &key, "llama3.2").await, "b");
    }
    assert_eq!(states(&app)[0], ("a".to_owned(), NodeState::Draining));
    let metrics = app.get("/metrics", ADMIN_KEY).await;
    assert!(metrics.text().contains("gateway_node_state{node=\"a\",state=\"draining\"} 1"), "{}", metrics.text());
    let app = app.restart().await;
    eventually("it drains again", || states(&app).contains(&("a".to_owned(), NodeState::Draining))).await;
    assert_eq!(act(&app, "b", "drain").await.status, 200);
    assert_eq!(act(&app, "a", "undrain").await.status, 200);
    until_up(&app, "a").await;
    assert_eq!(node_of(&app, &key, "llama3.2").await, "a");
    assert_eq!(act(&app, "c", "drain").await.status, 404);
    app.stop().await;
}

#[actix_rt::test]
async fn a_changed_node_is_the_same_node_until_its_address_changes() {
    let guarded = SimConfig { api_key: Some("right".to_owned()), ..SimConfig::fast() };
    let (guarded, other) = (SimNode::start(guarded).await.unwrap(), fast_node().await);
    let app = spawn_app(vec![node("idle", "http://127.0.0.1:1".into(), 1)]).await;
    let key = app.user("ann").await;
    add(&app, json!({"name": "b", "url": guarded.url(), "api_key": "wrong"})).await;
    let denied = || app.dispatcher.read(|scheduler| scheduler.nodes()[1].last_error.clone().unwrap_or_default());
    eventually("it is denied", || denied().contains("401")).await;

    assert_eq!(patch(&app, "b", json!({"api_key": "right", "slots": 7})).await.status, 200);

    until_up(&app, "b").await;
    assert_eq!(node_of(&app, &key, "llama3.2").await, "b");
    let shown = app.get("/admin/nodes/b", ADMIN_KEY).await;
    assert_eq!((&shown.json()["slots"], &shown.json()["completed"]), (&json!(7), &json!(1)));
    assert!(!shown.text().contains("right"));
    assert_eq!(patch(&app, "b", json!({"slots": null, "api_key": null, "url": other.url()})).await.status, 200);
    until_up(&app, "b").await;
    assert_eq!(node_of(&app, &key, "llama3.2").await, "b");
    let chats = |node: &SimNode| node.requests().iter().filter(|seen| seen.path == "/v1/chat/completions").count();
    assert_eq!((chats(&guarded), chats(&other)), (1, 1));
    assert_ne!(app.get("/admin/nodes/b", ADMIN_KEY).await.json()["slots"], 7);
    app.stop().await;
}

#[actix_rt::test]
async fn every_field_of_a_node_that_is_added_reaches_it() {
    let scripted = ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]).await;
    let app = spawn_app(vec![node("idle", "http://127.0.0.1:1".into(), 1)]).await;
    let key = app.user("ann").await;
    let body = json!({"name": "b", "url": scripted.url(), "username": "u", "password": "p", "vram_gb": 8.5,
        "headers": {"x-tenant": "lab"}, "connect_ms": 900, "first_byte_seconds": 1, "chunk_gap_seconds": 1,
        "probe_timeout_ms": 900, "discover": "off"});
    assert_eq!(add(&app, body).await.status, 201);
    until_up(&app, "b").await;
    assert_eq!(node_of(&app, &key, "llama3.2").await, "b");
    let head = &scripted.received()[0].head;
    assert_eq!((header_of(head, "authorization"), header_of(head, "x-tenant")), (Some("basic dtpw"), Some("lab")));
    let app = app.restart().await;
    until_up(&app, "b").await;
    assert_eq!(node_of(&app, &key, "llama3.2").await, "b");
    assert_eq!(header_of(&scripted.received()[1].head, "x-tenant"), Some("lab"));
    app.stop().await;
}

#[actix_rt::test]
async fn bad_nodes_are_refused_with_the_field_that_is_wrong() {
    let app = spawn_app(vec![node("idle", "http://127.0.0.1:1".into(), 1)]).await;
    let good = json!({"name": "b", "url": "http://127.0.0.1:2"});
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    let cases = [
        (with("name", json!("a b")), Some("name")),
        (with("url", json!("ftp://x")), Some("url")),
        (with("slots", json!(0)), Some("slots")),
        (with("vram_gb", json!(-1)), Some("vram_gb")),
        (with("connect_ms", json!(0)), Some("connect_ms")),
        (with("headers", json!({"host": "x"})), Some("headers")),
        (with("password", json!("geheim")), Some("password")),
        (with("discover", json!("mdns")), Some("discover")),
        (with("api_key_file", json!("/etc/passwd")), Some("api_key_file")),
        (with("ca_file", json!("/etc/passwd")), Some("ca_file")),
        (json!({"name": "b"}), Some("url")),
        (json!([]), None),
    ];
    for (body, param) in cases {
        let reply = add(&app, body.clone()).await;
        assert_eq!(error_of(&reply, 400)["param"], json!(param), "{body}");
        assert!(!reply.text().contains("geheim"));
    }
    assert_eq!(listed(&app).await.len(), 1);
    let key = app.user("ann").await;
    for (method, path) in [
        (Method::POST, "/admin/nodes"),
        (Method::PATCH, "/admin/nodes/idle"),
        (Method::DELETE, "/admin/nodes/idle"),
        (Method::POST, "/admin/nodes/idle/drain"),
        (Method::POST, "/admin/nodes/idle/undrain"),
        (Method::POST, "/admin/reload"),
    ] {
        assert_eq!(app.send(method, path, Some(&key), good.to_string()).await.status, 403, "{path}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn what_one_gateway_changes_the_others_on_its_database_take_up() {
    let (first, second) = (fast_node().await, fast_node().await);
    let quick = |config: &mut ollama_gateway::config::Config| config.health.fleet_interval_seconds = 1;
    let one = spawn_app_with(vec![node("a", first.url(), 1)], TestDatabase::sqlite(), quick).await;
    let shared = one.database.as_ref().unwrap().again();
    let other = spawn_app_with(vec![node("a", first.url(), 1)], shared, quick).await;

    add(&one, json!({"name": "b", "url": second.url()})).await;
    act(&one, "a", "drain").await;

    until_up(&other, "b").await;
    eventually("it drains, too", || states(&other).contains(&("a".to_owned(), NodeState::Draining))).await;
    one.delete("/admin/nodes/b", ADMIN_KEY).await;
    eventually("it is gone", || states(&other).len() == 1).await;
    other.stop().await;
    one.stop().await;
}

#[actix_rt::test]
async fn where_the_file_and_the_database_have_a_name_the_file_counts() {
    let (first, second) = (fast_node().await, fast_node().await);
    let app = spawn_app(vec![node("a", first.url(), 1)]).await;
    let key = app.user("ann").await;
    add(&app, json!({"name": "b", "url": second.url()})).await;
    let database = app.stop().await;
    let both = vec![node("a", first.url(), 1), node("b", first.url(), 1)];

    let app = spawn_app_with(both, database, |_| {}).await;

    assert_eq!(listed(&app).await[1], ("b".into(), "file".into()));
    act(&app, "a", "drain").await;
    assert_eq!(node_of(&app, &key, "llama3.2").await, "b");
    assert!(second.requests().is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn the_metrics_of_a_node_begin_and_end_with_it() {
    let (first, second) = (fast_node().await, fast_node().await);
    let app = spawn_app(vec![node("a", first.url(), 1)]).await;
    let key = app.user("ann").await;
    let series = async || {
        let text = app.get("/metrics", ADMIN_KEY).await;
        text.text().lines().filter(|line| line.contains("node=\"b\"")).count()
    };
    assert_eq!(series().await, 0);
    add(&app, json!({"name": "b", "url": second.url()})).await;
    until_up(&app, "b").await;
    act(&app, "a", "drain").await;
    node_of(&app, &key, "llama3.2").await;
    assert!(series().await > 40);
    app.delete("/admin/nodes/b", ADMIN_KEY).await;
    assert_eq!(series().await, 0);
    add(&app, json!({"name": "b", "url": second.url()})).await;
    let text = app.get("/metrics", ADMIN_KEY).await;
    assert!(text.text().contains("gateway_node_requests_total{node=\"b\",outcome=\"ok\"} 0"), "counters begin anew");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_says_since_when_it_is_what_it_is_and_what_it_runs() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    until_up(&app, "a").await;
    let read = async || app.get("/admin/nodes/a", ADMIN_KEY).await.json();
    // It is told right after the listing that made it so; the next probe is later.
    let mut up = read().await;
    while up["since"].is_null() || up["last_probe"].as_str() < up["since"].as_str() {
        up = read().await;
    }
    assert!(up["version"].as_str().is_some_and(|version| version.contains('.')), "{up}");
    let since = up["since"].as_str().unwrap().to_owned();

    simulated.stop().await;
    eventually("the node is down", || states(&app)[0].1 == NodeState::Down).await;
    let mut down = read().await;
    while down["since"] == since.as_str() {
        down = read().await;
    }
    assert!(down["state"] == "down" && down["since"].as_str().unwrap() > since.as_str(), "{down}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_is_given_another_address_is_not_sent_what_was_secret_before() {
    let answers = || ScriptedNode::always(|| vec![plain(&chat_answer("hi"))]);
    let (first, second) = (answers().await, answers().await);
    let app = spawn_app(vec![node("idle", "http://127.0.0.1:1".into(), 1)]).await;
    let key = app.user("ann").await;
    add(&app, json!({"name": "b", "url": first.url(), "api_key": "secret", "headers": {"x-tenant": "lab"}})).await;
    until_up(&app, "b").await;
    assert_eq!(patch(&app, "b", json!({"url": format!("{}/", first.url())})).await.status, 200);
    until_up(&app, "b").await;
    node_of(&app, &key, "llama3.2").await;
    assert_eq!(header_of(&first.received()[0].head, "authorization"), Some("bearer secret"), "the same machine");

    assert_eq!(patch(&app, "b", json!({"url": second.url()})).await.status, 200);
    until_up(&app, "b").await;
    node_of(&app, &key, "llama3.2").await;
    let head = &second.received()[0].head;
    assert_eq!((header_of(head, "authorization"), header_of(head, "x-tenant")), (None, None));
    app.stop().await;
}
