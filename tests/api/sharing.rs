//! Do several gateways on one Postgres divide the nodes' slots among them, so that together they never use more?
use std::time::Duration;

use futures_util::future::join_all;
use ollama_sim::{SimConfig, SimNode};
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, chat_body, eventually, node, spawn_app_with, stream_body, wait_long_for,
};

/// A node whose requests take a while: so many tokens a second.
async fn slow_node(slots: u32, tokens_per_second: f64) -> SimNode {
    let config = SimConfig { slots: slots as usize, tokens_per_second, batch_slowdown: 0.0, ..SimConfig::warm() };
    SimNode::start(config).await.unwrap()
}

async fn gateway(simulated: &SimNode, slots: u32, database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("a", simulated.url(), slots)], database, |config| {
        config.database.lease_seconds = 10;
    })
    .await
}

/// What `GET /admin/queue` says about who schedules.
async fn scheduling(app: &TestApp) -> Value {
    let said = app.get("/admin/queue", ADMIN_KEY).await.json()["scheduling"].clone();
    json!({"role": said["role"], "gateways": said["gateways"], "is_settled": said["is_settled"]})
}

async fn until_shared(apps: [&TestApp; 2]) {
    for app in apps {
        let shared = json!({"role": "sharing", "gateways": 2, "is_settled": true});
        wait_long_for("both share", async || scheduling(app).await == shared).await;
    }
}

/// Two gateways in front of a node with so many slots, and a user's key; `None` without Postgres.
async fn two(simulated: &SimNode, slots: u32) -> Option<([TestApp; 2], String)> {
    let database = TestDatabase::postgres().await?;
    let again = database.again();
    let first = gateway(simulated, slots, database).await;
    let second = gateway(simulated, slots, again).await;
    let key = first.user("ann").await;
    wait_long_for("both know the key", async || second.get("/v1/models", &key).await.status == 200).await;
    Some(([first, second], key))
}

async fn ask_again_and_again(app: &TestApp, key: &str, times: usize) {
    for _ in 0..times {
        let reply = app.post("/v1/chat/completions", key, chat_body("llama3.2", "[[n=10]] hi")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

#[actix_rt::test]
async fn two_gateways_under_load_never_run_more_than_the_slots_and_use_all_of_them() {
    let simulated = slow_node(3, 200.0).await;
    let Some(([first, second], key)) = two(&simulated, 3).await else { return };
    until_shared([&first, &second]).await;
    let clients = (0..12).map(|client| ask_again_and_again([&first, &second][client % 2], &key, 8));
    join_all(clients).await;
    assert_eq!(simulated.stats().peak_in_flight, 3);
    for app in [&first, &second] {
        let metrics = app.get("/metrics", ADMIN_KEY).await.text().to_owned();
        assert!(metrics.contains("\ngateway_sharing_gateways 2\n"), "{metrics}");
        assert!(metrics.contains("\ngateway_sharing_settled 1\n"), "{metrics}");
    }
    second.stop().await;
    first.stop().await;
}

#[actix_rt::test]
async fn a_gateway_that_joins_has_no_slot_until_the_other_has_given_some_up_and_all_once_it_is_alone() {
    let simulated = slow_node(2, 20.0).await;
    let Some(database) = TestDatabase::postgres().await else { return };
    let again = database.again();
    let first = gateway(&simulated, 2, database).await;
    assert_eq!(scheduling(&first).await, json!({"role": "alone", "gateways": 1, "is_settled": true}));
    let key = first.user("ann").await;
    let long = stream_body("llama3.2", "[[n=10000]] hi");
    let held = [first.send_and_hold(&key, &long).await, first.send_and_hold(&key, &long).await];
    eventually("both run", || simulated.stats().in_flight == 2).await;
    let second = gateway(&simulated, 2, again).await;
    wait_long_for("both know the key", async || second.get("/v1/models", &key).await.status == 200).await;
    let waits = second.send_and_hold(&key, &long).await;
    let unsettled = json!({"role": "sharing", "gateways": 2, "is_settled": false});
    wait_long_for("it is seen", async || scheduling(&first).await == unsettled).await;
    assert_eq!(second.dispatcher.read(|scheduler| (scheduler.queued(), scheduler.in_flight())), (1, 0));
    let [left, kept] = held;
    drop(left);
    eventually("the other one's runs", || second.dispatcher.read(|scheduler| scheduler.in_flight()) == 1).await;
    let peak = simulated.stats().peak_in_flight;
    drop(kept);
    first.stop().await;
    let more = second.send_and_hold(&key, &long).await;
    wait_long_for("both slots are its own", async || simulated.stats().in_flight == 2).await;
    assert_eq!((peak, simulated.stats().peak_in_flight), (2, 2));
    drop((waits, more));
    eventually("nothing runs", || second.dispatcher.read(|scheduler| scheduler.in_flight()) == 0).await;
    second.stop().await;
}

#[actix_rt::test]
async fn the_only_slot_of_a_node_serves_the_clients_of_both_gateways_in_turn() {
    let simulated = slow_node(1, 1000.0).await;
    let Some(([first, second], key)) = two(&simulated, 1).await else { return };
    until_shared([&first, &second]).await;
    let both = async { tokio::join!(ask_again_and_again(&first, &key, 2), ask_again_and_again(&second, &key, 2)) };
    tokio::time::timeout(Duration::from_secs(25), both).await.expect("both are served");
    assert_eq!(simulated.stats().peak_in_flight, 1);
    second.stop().await;
    first.stop().await;
}

#[actix_rt::test]
async fn a_model_that_is_wanted_through_the_gateway_that_does_not_load_there_is_loaded_all_the_same() {
    let simulated = SimNode::start(SimConfig { slots: 2, ..SimConfig::fast() }).await.unwrap();
    let Some(([first, second], key)) = two(&simulated, 2).await else { return };
    until_shared([&first, &second]).await;
    for (app, model) in [(&first, "llama3.2:1b"), (&second, "llava")] {
        let answer = app.post("/v1/chat/completions", &key, chat_body(model, "hi"));
        let reply = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("it is served");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    second.stop().await;
    first.stop().await;
}
