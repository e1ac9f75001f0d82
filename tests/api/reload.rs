//! A changed configuration, taken over without a restart.
use std::path::PathBuf;

use ollama_gateway::config;
use ollama_sim::{SimConfig, SimNode};
use scheduler::NodeState;
use serde_json::json;

use crate::events::Events;
use crate::harness::{ADMIN_KEY, Reply, TestApp, TestDatabase, error_of, eventually, fast_node};

/// A gateway on a file of its own.
struct Filed {
    app: TestApp,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

/// What the tests' gateways need beside what a test writes.
fn with_basics(database: &str, text: &str) -> String {
    format!("database:\n  url: {database}\n  outbox: {database}-outbox\nhealth:\n  probe_interval_ms: 50\n{text}")
        .replace("outbox: sqlite://", "outbox: ")
}

impl Filed {
    async fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.yaml");
        let database = TestDatabase::sqlite();
        let url = database.url.clone();
        std::fs::write(&file, with_basics(&url, text)).unwrap();
        let named = file.clone();
        let read =
            move || config::load(Some(&named), []).map(|document| document.value).map_err(|error| error.to_string());
        let mut config = read().unwrap();
        config.server.bind = "127.0.0.1:0".to_owned();
        let app = TestApp::start_with(config, database, ollama_gateway::fleet::Resolver::system(), read).await;
        Self { app, file, _folder: folder }
    }

    fn write(&self, text: &str) {
        let url = &self.app.database.as_ref().unwrap().url;
        std::fs::write(&self.file, with_basics(url, text)).unwrap();
    }

    async fn reload(&self) -> Reply {
        self.app.post("/admin/reload", ADMIN_KEY, json!({})).await
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.app.get("/metrics", ADMIN_KEY).await;
        let line = text.text().lines().find(|line| line.starts_with(name)).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

#[actix_rt::test]
async fn nodes_names_and_limits_change_at_once_and_the_rest_is_named() {
    let (first, second) = (fast_node().await, fast_node().await);
    let filed = Filed::start(&format!("nodes:\n  - {{name: a, url: \"{}\"}}\n", first.url())).await;
    let app = &filed.app;
    let key = app.user("ann").await;
    filed.write(&format!(
        "nodes:\n  - {{name: b, url: \"{}\", slots: 3}}\nmodels:\n  aliases: {{gpt-4o: llama3.2}}\n\
         limits:\n  requests_per_minute: 7\nqueue:\n  max_queued: 5\nlog:\n  level: warn\n",
        second.url()
    ));

    let said = filed.reload().await;

    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(
        said.json(),
        json!({
            "applied": ["limits.requests_per_minute", "models.aliases", "nodes"],
            // The test gives the address to listen on in its own way.
            "needs_restart": ["log.level", "queue.max_queued", "server.bind"],
            "nodes": {"joined": ["b"], "left": ["a"], "changed": []},
        })
    );
    eventually("it is up", || app.dispatcher.read(|scheduler| scheduler.nodes()[0].state == NodeState::Up)).await;
    let reply = app.chat(&key, "gpt-4o", "hi").await;
    assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some("b")), "{}", reply.text());
    let new = app.post("/admin/users", ADMIN_KEY, json!({"user_id": "bob"})).await.json();
    assert_eq!(new["requests_per_minute"], 7);
    let again = filed.reload().await.json();
    assert_eq!(again["applied"], json!([]));
    assert_eq!(again["needs_restart"], json!(["log.level", "queue.max_queued", "server.bind"]), "still");
    filed.app.stop().await;
}

#[actix_rt::test]
async fn a_mistake_changes_nothing_and_is_named() {
    let simulated = fast_node().await;
    let filed = Filed::start(&format!("nodes:\n  - {{name: a, url: \"{}\"}}\n", simulated.url())).await;
    let loaded = filed.metric("gateway_config_last_reload_timestamp_seconds ").await;
    assert_eq!(filed.metric("gateway_config_last_reload_successful ").await, 1.0);
    let mut events = Events::of(&filed.app).await;
    filed.write("nodes:\n  - {name: b, url: \"ftp://x\", api_key: \"geheim geheim\"}\nmodels:\n  aliases: {x: llama3.2}\nlog:\n  levl: x\n");

    let reply = filed.reload().await;

    let message = error_of(&reply, 400)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("nodes[0].url") && message.contains("log.levl"), "{message}");
    assert!(!message.contains("geheim"), "{message}");
    assert_eq!(events.change("reload_failed").await["why"], json!(message));
    let names: Vec<String> =
        filed.app.dispatcher.read(|scheduler| scheduler.nodes().into_iter().map(|node| node.name).collect());
    assert_eq!(names, ["a"]);
    assert_eq!(filed.metric("gateway_config_last_reload_successful ").await, 0.0);
    assert_eq!(filed.metric("gateway_config_last_reload_timestamp_seconds ").await, loaded);
    filed.write(&format!("nodes:\n  - {{name: a, url: \"{}\"}}\n", simulated.url()));
    assert_eq!(filed.reload().await.status, 200);
    assert_eq!(filed.metric("gateway_config_last_reload_successful ").await, 1.0);
    filed.app.stop().await;
}

#[actix_rt::test]
async fn a_key_in_a_file_is_read_again() {
    let simulated = SimNode::start(SimConfig { api_key: Some("new".to_owned()), ..SimConfig::fast() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("key");
    std::fs::write(&secret, "old").unwrap();
    let text = format!("nodes:\n  - {{name: a, url: \"{}\", api_key_file: {}}}\n", simulated.url(), secret.display());
    let filed = Filed::start(&text).await;
    let app = &filed.app;
    std::fs::write(&secret, "new").unwrap();

    let said = filed.reload().await.json();

    assert_eq!(said["nodes"], json!({"joined": [], "left": [], "changed": []}));
    eventually("it is up", || app.dispatcher.read(|scheduler| scheduler.nodes()[0].state == NodeState::Up)).await;
    filed.app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_refuses_a_key_gets_the_one_that_is_in_the_file_by_then() {
    let simulated = SimNode::start(SimConfig { api_key: Some("new".to_owned()), ..SimConfig::fast() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("key");
    std::fs::write(&secret, "old").unwrap();
    let text = format!("nodes:\n  - {{name: a, url: \"{}\", api_key_file: {}}}\n", simulated.url(), secret.display());
    let filed = Filed::start(&text).await;
    let app = &filed.app;
    let state = || app.dispatcher.read(|scheduler| scheduler.nodes()[0].state);
    assert_ne!(state(), NodeState::Up, "the old key is refused");

    std::fs::write(&secret, "new").unwrap();

    eventually("it is up, and nobody has asked for a reload", || state() == NodeState::Up).await;
    filed.app.stop().await;
}

#[actix_rt::test]
async fn secrets_that_are_read_only_at_the_start_are_named_once_they_change() {
    let simulated = fast_node().await;
    let folder = tempfile::tempdir().unwrap();
    let (key, pepper) = (folder.path().join("key"), folder.path().join("pepper"));
    std::fs::write(&key, "an-admin-key").unwrap();
    std::fs::write(&pepper, "0123456789abcdef").unwrap();
    let text = format!(
        "nodes:\n  - {{name: a, url: \"{}\"}}\nadmin:\n  key_file: {}\nkeys:\n  pepper_file: {}\n",
        simulated.url(),
        key.display(),
        pepper.display()
    );
    let filed = Filed::start(&text).await;
    assert_eq!(filed.reload().await.json()["needs_restart"], json!(["server.bind"]));

    std::fs::write(&key, "another-admin-key").unwrap();
    std::fs::write(&pepper, "fedcba9876543210").unwrap();

    for _ in 0..2 {
        let said = filed.reload().await;
        let expected = json!(["server.bind", "admin.key_file", "keys.pepper_file"]);
        assert_eq!(said.json()["needs_restart"], expected, "{}", said.text());
        assert!(!said.text().contains("another") && !said.text().contains("fedcba"), "{}", said.text());
    }
    filed.app.stop().await;
}

#[actix_rt::test]
async fn whoever_listens_hears_of_a_reload_and_of_what_it_did() {
    let simulated = fast_node().await;
    let filed = Filed::start(&format!("nodes:\n  - {{name: a, url: \"{}\"}}\n", simulated.url())).await;
    let mut events = Events::of(&filed.app).await;

    filed.write(&format!("nodes:\n  - {{name: b, url: \"{}\"}}\nlog:\n  format: json\n", simulated.url()));
    let reply = filed.reload().await;
    assert_eq!(reply.status, 200, "{}", reply.text());

    assert_eq!(events.change("node_left").await["node"], "a");
    let reloaded = events.change("reloaded").await;
    assert_eq!(
        (&reloaded["why"], &reloaded["node"]),
        (&json!("in force: nodes; takes a restart: log.format, server.bind"), &json!(null))
    );
    filed.app.stop().await;
}
