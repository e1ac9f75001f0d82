//! The queue as operators see it, why a request went where it went, and what is learned of the nodes.
use std::time::Duration;

use ollama_sim::{Fault, SimConfig, SimNode};
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, chat_body, cold_node, error_of, eventually, fast_node, node, spawn_app,
    spawn_app_with, stream_body,
};

/// A gateway whose only slot is taken, and the stream that takes it.
async fn full_app() -> (SimNode, TestApp, String, crate::harness::EventReader) {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    simulated.fault_next([Fault::HangAfter(1)]);
    let mut busy = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    busy.next().await;
    (simulated, app, key, busy)
}

async fn story(app: &TestApp, request_id: &str) -> Value {
    let reply = app.get(&format!("/admin/requests/{request_id}"), ADMIN_KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn whats(story: &Value) -> Vec<&str> {
    story["steps"].as_array().unwrap().iter().map(|step| step["what"].as_str().unwrap()).collect()
}

#[actix_rt::test]
async fn the_queue_tells_who_waits_in_which_place_and_for_what() {
    let (_node, app, key, busy) = full_app().await;
    let bob = app.user("bob").await;
    let first = app.send_and_hold(&key, &chat_body("llama3.2", "one")).await;
    eventually("one waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;
    let second = app.send_and_hold(&bob, &chat_body("llama3.2:latest", "two")).await;
    eventually("two wait", || app.dispatcher.read(|scheduler| scheduler.queued()) == 2).await;

    let queue = app.get("/admin/queue", ADMIN_KEY).await.json();

    assert_eq!((&queue["queued"], &queue["in_flight"], &queue["object"]), (&json!(2), &json!(1), &json!("list")));
    let waiting = queue["data"].as_array().unwrap();
    // Ann has something running already.
    let users: Vec<&str> = waiting.iter().map(|each| each["user"].as_str().unwrap()).collect();
    assert_eq!(users, ["bob", "ann"]);
    for (index, each) in waiting.iter().enumerate() {
        assert_eq!((&each["model"], &each["position"]), (&json!("llama3.2:latest"), &json!(index + 1)));
        let waits_for = &each["waits_for"];
        assert_eq!((&waits_for["node"], &waits_for["kind"]), (&json!("a"), &json!("wait")));
        assert!(waits_for["total_seconds"].as_f64().unwrap() > 0.0, "{waits_for}");
        assert_eq!(whats(&story(&app, each["request_id"].as_str().unwrap()).await), ["waits"]);
    }
    let shortened = app.get("/admin/queue?limit=1", ADMIN_KEY).await.json();
    assert_eq!((shortened["data"].as_array().unwrap().len(), &shortened["queued"]), (1, &json!(2)));
    for bad in ["limit=0", "limit=1001", "limit=x", "other=1"] {
        error_of(&app.get(&format!("/admin/queue?{bad}"), ADMIN_KEY).await, 400);
    }
    error_of(&app.get("/admin/queue", &key).await, 403);
    drop((first, second, busy));
    app.stop().await;
}

#[actix_rt::test]
async fn a_request_can_be_explained_with_the_alternatives_and_their_seconds() {
    let (first, second) = (cold_node().await, fast_node().await);
    let app = spawn_app(vec![node("cold", first.url(), 1), node("warm", second.url(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.chat(&key, "llama3.2", "hi").await;

    let story = story(&app, reply.header("x-request-id").unwrap()).await;
    assert_eq!((whats(&story), &story["ahead"]), (vec!["dispatched", "ended"], &json!(0)));
    let dispatched = &story["steps"][0];
    assert_eq!((&dispatched["node"], &dispatched["attempt"]), (&json!("warm"), &json!(1)));
    let options = dispatched["options"].as_array().unwrap();
    assert_eq!((&options[0]["node"], &options[0]["kind"]), (&json!("warm"), &json!("now")));
    for option in options {
        let parts = ["wait", "load", "regret", "prefill", "decode"]
            .map(|part| option[format!("{part}_seconds")].as_f64().unwrap());
        assert!((parts.iter().sum::<f64>() - option["total_seconds"].as_f64().unwrap()).abs() < 0.01, "{option}");
    }
    assert_eq!(story["steps"][1]["why"], "completed");
    assert!(story["expected_first_token_ms"].is_u64(), "{story}");
    assert_eq!(reply.header("x-gateway-queue-position"), Some("0"));
    let expected: u64 = reply.header("x-gateway-expected-ms").unwrap().parse().unwrap();
    assert_eq!(Some(expected.abs_diff(story["expected_first_token_ms"].as_u64().unwrap()) <= 1), Some(true));
    app.stop().await;
}

#[actix_rt::test]
async fn a_failed_attempt_and_a_load_are_part_of_the_explanation() {
    let (first, second) = (cold_node().await, cold_node().await);
    let app = spawn_app(vec![node("a", first.url(), 1), node("b", second.url(), 1)]).await;
    let key = app.user("ann").await;

    let loaded = app.chat(&key, "llama3.2", "hi").await;
    let (has_it, other) = if first.stats().loads > 0 { (&first, "b") } else { (&second, "a") };
    has_it.fault_next([Fault::Status(500)]);
    let retried = app.chat(&key, "llama3.2", "hi").await;

    let loading = story(&app, loaded.header("x-request-id").unwrap()).await;
    assert_eq!(whats(&loading), ["asked_for_load", "dispatched", "ended"]);
    assert_eq!(loading["steps"][0]["options"][0]["kind"], "load");
    let failing = story(&app, retried.header("x-request-id").unwrap()).await;
    assert_eq!(whats(&failing), ["dispatched", "failed", "asked_for_load", "dispatched", "ended"]);
    assert_eq!((&failing["steps"][1]["why"], &failing["steps"][3]["node"]), (&json!("crashed"), &json!(other)));
    app.stop().await;
}

#[actix_rt::test]
async fn what_never_came_cannot_be_explained() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    for id in ["01a2129b-6c8e-7360-b2ad-1b1a28d1f8d7", "nonsense"] {
        assert_eq!(error_of(&app.get(&format!("/admin/requests/{id}"), ADMIN_KEY).await, 404)["code"], "not_found");
    }
    error_of(&app.get("/admin/requests/x", &key).await, 403);
    app.stop().await;
}

#[actix_rt::test]
async fn what_was_learned_of_a_node_outlives_a_restart() {
    let slow = SimConfig { tokens_per_second: 200.0, slots: 1, ..SimConfig::warm() };
    let simulated = SimNode::start(slow).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let speed = |app: &TestApp| app.dispatcher.read(|scheduler| scheduler.nodes()[0].tokens_per_second);
    assert_eq!(speed(&app), None);
    app.exchange(&key, &stream_body("llama3.2", "[[n=200]]")).await;
    let learned = speed(&app).expect("it was measured");
    assert!((100.0..300.0).contains(&learned), "{learned}");

    let app = app.restart().await;

    let recalled = speed(&app).expect("it was kept");
    assert!((recalled / learned - 1.0).abs() < 0.01, "{recalled} after {learned}");
    let listed = app.get("/admin/nodes", ADMIN_KEY).await.json();
    let listed = listed["data"][0]["tokens_per_second"].as_f64().unwrap();
    // Its last digit may be lost in reading the JSON.
    assert!((listed / recalled - 1.0).abs() < 1e-9, "{listed} for {recalled}");
    app.stop().await;
}

#[actix_rt::test]
async fn a_session_that_begins_is_a_hint_to_load_where_there_is_room() {
    let simulated = cold_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.post("/api/generate", &key, json!({"model": "llama3.2"})).await;

    assert_eq!(reply.json()["done_reason"], "load");
    eventually("it is loaded", || simulated.stats().loaded == ["llama3.2:latest"]).await;
    assert_eq!(app.post("/api/generate", &key, json!({"model": "llama3.2", "keep_alive": 0})).await.status, 200);
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    assert_eq!(simulated.stats().loads, 1, "the end of a session unloads nothing");
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_with_another_context_than_expected_is_flagged() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.models.context_length = [("llama3.2".to_owned(), 123), ("llama3.2:1b".to_owned(), 4096)].into();
    })
    .await;

    let nodes = app.get("/admin/nodes", ADMIN_KEY).await.json();

    let loaded = nodes["data"][0]["loaded"].as_array().unwrap();
    let of = |name: &str| loaded.iter().find(|each| each["name"] == name).unwrap();
    let said = of("llama3.2:1b")["context_length"].as_u64().expect("the node says it");
    assert_eq!(
        (&of("llama3.2:latest")["context_drift"], &of("llava:latest")["context_drift"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(of("llama3.2:1b")["context_drift"], json!(said != 4096));
    app.stop().await;
}

#[actix_rt::test]
async fn what_the_gateway_loads_stays_as_long_as_is_configured_and_no_user_says_how_long() {
    let simulated = cold_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.relay.model_keep_alive_minutes = 7;
    })
    .await;
    let key = app.user("ann").await;

    let body = json!({"model": "llama3.2", "prompt": "hi", "keep_alive": "1s", "options": {"num_ctx": 9}});
    assert_eq!(app.post("/api/generate", &key, body).await.status, 200);

    let seen = simulated.requests();
    let bodies: Vec<Value> = seen.iter().map(|each| serde_json::from_slice(&each.body).unwrap()).collect();
    assert_eq!((bodies.len(), &bodies[0]["keep_alive"]), (2, &json!("420s")), "the gateway's own, then the user's");
    assert!(bodies[1]["keep_alive"].is_null() && bodies[1]["options"]["num_ctx"].is_null(), "{}", bodies[1]);
    app.stop().await;
}

#[actix_rt::test]
async fn a_load_that_takes_too_long_is_given_up() {
    let slow = SimConfig { load_overhead: Duration::from_secs(600), ..SimConfig::fast() };
    let simulated = SimNode::start(slow).await.unwrap();
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.relay.load_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;

    let reply = app.chat(&key, "llama3.2", "hi").await;

    let error = error_of(&reply, 504);
    assert_eq!(error["code"], "timeout", "{error}");
    app.stop().await;
}
