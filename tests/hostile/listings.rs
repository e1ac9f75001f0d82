//! One node lists its models oddly, slowly, or invents them.
use std::time::Duration;

use ollama_sim::OddListing;
use scheduler::NodeState;
use serde_json::json;

use crate::good::{fleet, good_users, hold, states, steady_node};
use crate::harness::{ADMIN_KEY, TestDatabase, eventually, let_pass, node, spawn_app_with};

#[actix_rt::test]
async fn whatever_is_odd_in_an_entry_the_node_serves_what_is_not() {
    let odd = [json!(null), json!(-1), json!(0.5), json!("x"), json!({}), json!([])];
    let fields = ["digest", "size", "details.family", "details", "modified_at", "size_vram"];
    let mut listings: Vec<OddListing> = fields
        .into_iter()
        .flat_map(|field| odd.iter().map(move |value| OddListing::Field(field.to_owned(), Some(value.clone()))))
        .collect();
    listings.extend(fields.map(|field| OddListing::Field(field.to_owned(), None)));
    listings.extend(odd.into_iter().map(OddListing::Entry));
    listings.push(OddListing::Entry(json!({"name": "x".repeat(300)})));
    for listing in listings {
        let simulated = steady_node().await;
        simulated.set_listing(Some(listing.clone()));
        let (app, keys) = fleet(&[&simulated]).await;
        assert_eq!(states(&app), [NodeState::Up], "{listing:?}");
        let reply = app.chat(&keys[0], "llama3.2", "hi").await;
        assert_eq!(reply.status, 200, "{listing:?}: {}", reply.text());
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_listing_that_is_none_leaves_the_node_out_until_it_is_one() {
    let simulated = steady_node().await;
    simulated.set_listing(Some(OddListing::Body("<html>".to_owned())));
    let (app, _) = fleet(&[&simulated]).await;
    assert_eq!(states(&app), [NodeState::Down]);
    simulated.set_listing(None);
    eventually("the node is up", || states(&app) == [NodeState::Up]).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_slow_listing_is_waited_for_by_the_nodes_own_deadline() {
    let (patient, impatient) = (steady_node().await, steady_node().await);
    for simulated in [&patient, &impatient] {
        simulated.set_listing(Some(OddListing::Slow(Duration::from_secs(6))));
    }
    let nodes = vec![
        node("patient", patient.url(), 8),
        ollama_gateway::fleet::NodeSettings {
            listing_timeout_seconds: Some(1),
            ..node("impatient", impatient.url(), 8)
        },
    ];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), |_| {}).await;
    assert_eq!(states(&app), [NodeState::Up, NodeState::Down]);
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_invents_models_harms_nobody_and_its_names_are_forgotten() {
    let (good, inventive) = (steady_node().await, steady_node().await);
    let database = TestDatabase::sqlite();
    let nodes = vec![node("good", good.url(), 8), node("inventive", inventive.url(), 8)];
    let app = spawn_app_with(nodes, database, |config| config.health.models_interval_seconds = 1).await;
    let keys = vec![app.user("ann").await, app.user("bob").await];
    inventive.set_listing(Some(OddListing::Invented(2_000)));

    hold(&app, &keys, async || let_pass(Duration::from_millis(100)).await).await;

    let size = app.get("/metrics", ADMIN_KEY).await.body.len();
    assert!(size < 4 * 1024 * 1024, "{size} bytes of metrics");
    inventive.set_listing(None);
    eventually("invented names are forgotten", || app.dispatcher.read(|scheduler| scheduler.models().len()) <= 2).await;
    assert_eq!(good_users(&app, &keys).await.failures, [] as [&str; 0]);
    app.stop().await;
}
