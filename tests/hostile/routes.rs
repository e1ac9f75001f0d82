//! One user asks for a route that a node of an older version does not have.
use serde_json::{Value, json};

use crate::good::{fleet, hold, openings, steady_node, steady_node_with};
use crate::harness::error_of;

const PATH: &str = "/v1/responses";

fn question() -> Value {
    json!({"model": "llama3.2", "input": "hi", "max_output_tokens": 5})
}

#[actix_rt::test]
async fn a_route_that_is_nowhere_hides_no_model_from_anybody() {
    let old = |config: &mut ollama_sim::SimConfig| config.version = "0.12.0".to_owned();
    let simulated = [steady_node_with(old).await, steady_node_with(old).await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    let modern = app.user("modern").await;

    hold(&app, &keys, async || {
        let reply = app.post(PATH, &modern, question()).await;
        assert_eq!(error_of(&reply, 404)["code"], "unsupported_endpoint");
    })
    .await;

    assert_eq!(openings(&app), 0);
    let asked: usize = simulated.iter().map(|node| node.requests().iter().filter(|it| it.path == PATH).count()).sum();
    assert!(asked <= 2, "asked {asked} times what was known");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_has_the_route_is_found_and_remembered() {
    let old = steady_node_with(|config| config.version = "0.12.0".to_owned()).await;
    let new = steady_node().await;
    let (app, keys) = fleet(&[&old, &new]).await;
    for _ in 0..5 {
        let reply = app.post(PATH, &keys[0], question()).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some("b")), "{}", reply.text());
    }
    assert!(old.requests().iter().filter(|it| it.path == PATH).count() <= 1);
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_that_a_node_does_not_have_is_missing_there() {
    let simulated = [steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    simulated[0].set_fault(Some(ollama_sim::Fault::Status(404)));
    let reply = app.chat(&keys[0], "llama3.2", "hi").await;
    assert_eq!(error_of(&reply, 404)["code"], "model_not_found");
    app.stop().await;
}
