//! One engine under two names is noticed, and two engines that are much alike are not taken for one. Two names of the same
//! weights are the one model that Ollama makes of them.
use std::time::Duration;

use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::cli::{Program, run};
use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, eventually, fast_node, free_address, let_pass, node, spawn_app, spawn_app_with,
    wait_for, wait_long_for,
};

async fn spawn(urls: [String; 2]) -> (TestApp, String) {
    let nodes = ["a", "b"].into_iter().zip(urls).map(|(name, url)| node(name, url, 4)).collect();
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), |config| config.health.loaded_interval_seconds = 0).await;
    let key = app.user("ann").await;
    (app, key)
}

/// What each node says of the others.
async fn twins(app: &TestApp) -> Vec<Value> {
    let nodes = app.get("/admin/nodes", ADMIN_KEY).await.json();
    nodes["data"].as_array().unwrap().iter().map(|node| node["same_engine_as"].clone()).collect()
}

/// An engine at every address of this machine.
async fn engine_everywhere() -> SimNode {
    SimNode::start(SimConfig { listen: "0.0.0.0:0".parse().unwrap(), ..SimConfig::warm() }).await.unwrap()
}

fn at(host: &str, simulated: &SimNode) -> String {
    format!("http://{host}:{}", simulated.addr().port())
}

#[actix_rt::test]
async fn one_engine_at_two_addresses_is_known_by_what_it_keeps_and_until_when() {
    let simulated = engine_everywhere().await;
    let (app, key) = spawn([at("127.0.0.2", &simulated), at("127.0.0.3", &simulated)]).await;
    wait_for("each node says that the other is the same", async || {
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
        let_pass(std::time::Duration::from_millis(200)).await;
        twins(&app).await == [json!(["b"]), json!(["a"])]
    })
    .await;
    app.stop().await;
}

#[actix_rt::test]
async fn one_address_written_in_two_ways_is_one_engine() {
    let simulated = fast_node().await;
    let (app, _) = spawn([simulated.url(), format!("{}/", at("LOCALHOST", &simulated))]).await;
    assert_eq!(twins(&app).await, [json!(["b"]), json!(["a"])]);
    app.stop().await;
}

#[actix_rt::test]
async fn engines_with_the_same_models_and_requests_are_two() {
    let (one, two) = (engine_everywhere().await, engine_everywhere().await);
    let (app, key) = spawn([one.url(), two.url()].map(|url| url.replace("0.0.0.0", "127.0.0.1"))).await;
    for _ in 0..20 {
        let both = futures_util::future::join_all((0..8).map(|_| app.chat(&key, "llama3.2", "hi"))).await;
        assert!(both.iter().all(|reply| reply.status == 200));
        let_pass(std::time::Duration::from_millis(100)).await;
    }
    assert!(one.stats().completed > 0 && two.stats().completed > 0);
    assert_eq!(twins(&app).await, [json!([]), json!([])]);
    app.stop().await;
}

#[actix_rt::test]
async fn check_and_the_log_name_nodes_that_are_one_engine() {
    let (simulated, other) = (engine_everywhere().await, engine_everywhere().await);
    let folder = tempfile::tempdir().unwrap();
    let said = "nodes `a` and `b` are the same engine";
    for (one, two, are_one) in [
        (at("127.0.0.2", &simulated), at("127.0.0.3", &simulated), true),
        (at("127.0.0.2", &simulated), at("127.0.0.2", &other), false),
        ("http://127.0.0.1:9".to_owned(), "http://localhost:9".to_owned(), true),
        ("http://127.0.0.1:9".to_owned(), "http://127.0.0.1:9/other".to_owned(), false),
    ] {
        let nodes = json!([{"name": "a", "url": one}, {"name": "b", "url": two}]).to_string();
        let (good, out, err) = run(folder.path(), &["check"], &[("GATEWAY__NODES", nodes.as_str())]).await;
        assert!(good, "{out}{err}");
        assert_eq!(err.matches(said).count(), usize::from(are_one), "{one} {two}: {err}");
    }

    let (address, port) = (free_address().to_string(), simulated.addr().port());
    let url = |host| format!("http://{host}:{port}");
    let nodes = json!([{"name": "a", "url": url("127.0.0.1")}, {"name": "b", "url": url("localhost")}]).to_string();
    let environment = [("GATEWAY__SERVER__BIND", address.as_str()), ("GATEWAY__NODES", nodes.as_str())];
    let mut program = Program::start(folder.path(), &[], &environment);
    program.answers(&format!("http://{address}/health/live")).await;
    wait_long_for("it is in the log", async || program.err().contains("are the same engine")).await;
    assert_eq!(program.terminate().await.code(), Some(0));
    assert_eq!(program.err().matches("are the same engine").count(), 1, "{}", program.err());
}

/// A node with room for one of its models.
async fn narrow_node(models: Vec<SimModel>) -> (SimNode, NodeSettings) {
    let config = SimConfig {
        vram_bytes: 3_000_000_000,
        load_overhead: Duration::from_millis(10),
        load_bytes_per_second: f64::INFINITY,
        models,
        ..SimConfig::fast()
    };
    let simulated = SimNode::start(config).await.unwrap();
    let settings = NodeSettings { vram_gb: Some(3.0), ..node("only", simulated.url(), 2) };
    (simulated, settings)
}

/// Asks for one name after the other, with pauses in which each would have to make room for the next.
async fn alternate(app: &TestApp, names: [&str; 2]) {
    let key = app.user(names[1]).await;
    for name in names.into_iter().cycle().take(6) {
        let_pass(Duration::from_millis(60)).await;
        let reply = app.chat(&key, name, "[[n=3]]").await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
}

#[actix_rt::test]
async fn a_model_and_its_copy_are_loaded_once() {
    let base = SimModel::chat("base", 2.0);
    let (simulated, settings) = narrow_node(vec![base.copied_as("copy"), base, SimModel::chat("other", 2.0)]).await;
    let app = spawn_app(vec![settings]).await;

    alternate(&app, ["base", "copy"]).await;

    let stats = simulated.stats();
    assert_eq!((stats.loads, stats.evictions, stats.reloads), (1, 0, 0), "{stats:?}");
    alternate(&app, ["base", "other"]).await;
    assert!(simulated.stats().loads >= 6, "models with weights of their own take turns");
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_and_what_a_modelfile_derived_from_it_are_loaded_once() {
    let base = SimModel::chat("base", 2.0);
    let (simulated, settings) = narrow_node(vec![base.derived_as("assistant"), base]).await;
    let app = spawn_app(vec![settings]).await;
    eventually("the node has told of both", || {
        app.dispatcher.read(|scheduler| scheduler.models().iter().all(|model| !model.weights.is_empty()))
    })
    .await;

    alternate(&app, ["assistant", "base"]).await;

    let stats = simulated.stats();
    assert_eq!((stats.loads, stats.evictions, stats.reloads), (1, 0, 0), "{stats:?}");
    app.stop().await;
}
