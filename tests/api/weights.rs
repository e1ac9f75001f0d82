//! Names that stand for the same weights: does the gateway treat them as the one model that Ollama makes of them?
use std::time::Duration;

use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{SimConfig, SimModel, SimNode};

use crate::harness::{TestApp, eventually, let_pass, node, spawn_app};

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
