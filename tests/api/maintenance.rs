//! Nodes that are drained for a reason and until some time: who reads of it, how one waits for them, how they come back.
use std::time::Duration;

use awc::http::Method;
use ollama_gateway::config::Config;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::events::Events;
use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, answer_of, chat_body, error_of, eventually, fast_node, node, spawn_app,
    spawn_app_with, stream_body, wait_for,
};
use crate::shutdown::gated_node;

fn in_seconds(seconds: i64) -> String {
    let moment = OffsetDateTime::now_utc() + Duration::from_secs(seconds.unsigned_abs());
    moment.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
}

async fn drain(app: &TestApp, path: &str, body: Value) -> Reply {
    app.post(&format!("/admin/nodes/{path}"), ADMIN_KEY, body).await
}

async fn drained(app: &TestApp, path: &str, body: Value) -> Value {
    let reply = drain(app, path, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn shown(app: &TestApp, node: &str) -> Value {
    app.get(&format!("/admin/nodes/{node}"), ADMIN_KEY).await.json()
}

#[actix_rt::test]
async fn the_reason_and_the_end_are_kept_and_shown_wherever_somebody_looks() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, |_| {}).await;
        let mut events = Events::of(&app).await;
        let until = in_seconds(3600);

        let done = drained(&app, "a/drain", json!({"reason": " driver update ", "until": until})).await;

        assert_eq!((&done["name"], &done["done"], &done["running"]), (&json!("a"), &json!("draining"), &json!(0)));
        let is_it = |maintenance: &Value| {
            assert_eq!((&maintenance["reason"], &maintenance["until"]), (&json!("driver update"), &json!(until)));
            assert!(maintenance["since"].is_string(), "{maintenance}");
        };
        is_it(&done["maintenance"]);
        let change = events.change("node_draining").await;
        assert_eq!((&change["why"], &change["until"]), (&json!("driver update"), &json!(until)));
        is_it(&events.next_of("tick").await["nodes"][0]["maintenance"]);
        is_it(&app.get("/admin/nodes", ADMIN_KEY).await.json()["data"][0]["maintenance"]);
        let line = &app.get("/admin/audit", ADMIN_KEY).await.json()["data"][0];
        let after: Value = serde_json::from_str(&line["after"].to_string()).unwrap();
        is_it(&after["maintenance"]);
        assert_eq!((&line["target"], &line["before"]["maintenance"]), (&json!("a"), &json!(null)));

        let app = app.restart().await;
        let before = shown(&app, "a").await["maintenance"].clone();
        is_it(&before);
        let changed = drained(&app, "a/drain", json!({"reason": null})).await["maintenance"].clone();
        assert_eq!(changed, json!({"since": before["since"], "reason": null, "until": until}), "what is absent stays");
        assert_eq!(drained(&app, "a/drain", json!({})).await["maintenance"], changed);
        assert_eq!(app.post("/admin/nodes/a/undrain", ADMIN_KEY, json!({})).await.status, 200);
        assert_eq!(shown(&app, "a").await["maintenance"], json!(null));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn clients_that_find_only_drained_nodes_read_until_when() {
    let simulated = fast_node().await;
    let nodes = vec![node("a", simulated.url(), 1), node("b", simulated.url(), 1)];
    let app = spawn_app(nodes).await;
    let key = app.user("ann").await;
    let until = in_seconds(7200);
    drained(&app, "a/drain", json!({"reason": "driver update.", "until": until})).await;
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.header("x-gateway-node"), Some("b"));
    drained(&app, "b/drain", json!({"until": in_seconds(9000)})).await;

    let said = format!("Every node that has `llama3.2` is under maintenance until {until}: driver update. ");
    let body = chat_body("llama3.2", "hi");
    let mut anthropic = body.clone();
    anthropic["max_tokens"] = json!(5);
    for (path, body, place) in [
        ("/v1/chat/completions", &body, "/error/message"),
        ("/v1/messages", &anthropic, "/error/message"),
        ("/api/chat", &body, "/error"),
        ("/v1/chat/completions", &stream_body("llama3.2", "hi"), "/error/message"),
    ] {
        let reply = app.post(path, &key, body.clone()).await;
        assert_eq!(reply.status, 503, "{path}: {}", reply.text());
        let answer = reply.json();
        let message = answer.pointer(place).unwrap().as_str().unwrap();
        assert!(message.starts_with(&said), "{path}: {message}");
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((7100..=7200).contains(&seconds), "{path}: {seconds}");
    }
    let row = &app.rows_once(&key, 5).await[0];
    assert_eq!((&row["status"], &row["code"]), (&json!("refused"), &json!("node_maintenance")));

    // Without an end the client is to come back soon; with a node that is merely down, it may be there at any moment.
    drained(&app, "a/drain", json!({"until": null, "reason": null})).await;
    drained(&app, "b/drain", json!({"until": null})).await;
    let reply = app.chat(&key, "llama3.2", "hi").await;
    assert_eq!(reply.header("retry-after"), Some("5"));
    let message = error_of(&reply, 503)["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "Every node that has `llama3.2` is under maintenance. Please try again in 5s.");
    app.post("/admin/nodes/b/undrain", ADMIN_KEY, json!({})).await;
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.header("x-gateway-node"), Some("b"));
    app.stop().await;
}

#[actix_rt::test]
async fn a_request_that_waits_reads_of_the_maintenance_that_leaves_it_no_node() {
    let (scripted, gate) = gated_node().await;
    let app = spawn_app(vec![node("a", scripted.url(), 1)]).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let running = app.send_and_hold(&ann, &chat_body("llama3.2", "hi")).await;
    eventually("one runs", || app.dispatcher.read(|scheduler| scheduler.in_flight()) == 1).await;
    let (refused, _) = tokio::join!(app.chat(&bob, "llama3.2", "hi"), async {
        eventually("one waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;
        drained(&app, "a/drain", json!({"reason": "dust"})).await
    });
    let error = error_of(&refused, 503);
    assert_eq!(error["code"], "node_maintenance");
    assert!(error["message"].as_str().unwrap().contains("under maintenance: dust."), "{error}");
    gate.add_permits(1);
    drop(running);
    app.stop().await;
}

#[actix_rt::test]
async fn whoever_waits_is_told_once_nothing_runs_there_or_what_still_does() {
    let (scripted, gate) = gated_node().await;
    let app = spawn_app(vec![node("a", scripted.url(), 1)]).await;
    let key = app.user("ann").await;
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    stream.next().await.unwrap();

    let at_once = drained(&app, "a/drain", json!({})).await;
    let late = drained(&app, "a/drain?wait=1", json!({})).await;

    for seen in [at_once, late] {
        assert_eq!((&seen["running"], seen["requests"].as_array().unwrap().len()), (&json!(1), 1), "{seen}");
        assert_eq!((&seen["requests"][0]["user_id"], &seen["requests"][0]["node"]), (&json!("ann"), &json!("a")));
    }
    // Somebody who leaves while he waits takes nothing back.
    let left =
        tokio::time::timeout(Duration::from_millis(300), drain(&app, "a/drain?wait=600", json!({"reason": "x"})));
    assert!(left.await.is_err());
    assert_eq!(shown(&app, "a").await["maintenance"]["reason"], "x");
    let (empty, ()) = tokio::join!(drained(&app, "a/drain?wait=30", json!({})), async {
        gate.add_permits(1);
        stream.rest().await;
    });
    assert_eq!((&empty["running"], &empty["requests"]), (&json!(0), &json!([])));
    app.stop().await;
}

#[actix_rt::test]
async fn a_gateway_that_stops_keeps_nobody_waiting() {
    let (scripted, gate) = gated_node().await;
    let app = spawn_app(vec![node("a", scripted.url(), 1)]).await;
    let key = app.user("ann").await;
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    stream.next().await.unwrap();
    let (waited, ()) = tokio::join!(drained(&app, "a/drain?wait=600", json!({})), async {
        wait_for("it is drained", async || shown(&app, "a").await["state"] == "draining").await;
        app.begin_stop();
    });
    assert_eq!(waited["running"], 1);
    gate.add_permits(1);
    stream.rest().await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_comes_back_by_itself_and_says_so() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let quick = |config: &mut Config| config.health.fleet_interval_seconds = 1;
        let app = spawn_app_with(vec![node("a", simulated.url(), 1)], database, quick).await;
        let shared = app.database.as_ref().unwrap().again();
        let other = spawn_app_with(vec![node("a", simulated.url(), 1)], shared, quick).await;
        let (mut events, mut theirs) = (Events::of(&app).await, Events::of(&other).await);

        drained(&app, "a/drain", json!({"reason": "reboot", "until": in_seconds(4)})).await;

        for events in [&mut events, &mut theirs] {
            assert_eq!(events.change("node_draining").await["why"], "reboot");
            let back = events.change("node_undrained").await;
            assert_eq!((&back["why"], &back["state"]), (&json!("its maintenance is over"), &json!("up")));
        }
        assert_eq!(shown(&app, "a").await["maintenance"], json!(null));
        let app = app.restart().await;
        answer_of("it is up after a restart as well", async || (shown(&app, "a").await["state"] == "up").then_some(()))
            .await;
        other.stop().await;
        app.stop().await;
    }
}

#[actix_rt::test]
async fn what_is_wrong_with_a_drain_is_named() {
    let app = spawn_app(vec![node("idle", "http://127.0.0.1:1".into(), 1)]).await;
    for (path, body, param) in [
        ("idle/drain", json!({"until": "2020-01-01"}), Some("until")),
        ("idle/drain", json!({"until": "tomorrow"}), Some("until")),
        ("idle/drain", json!({"reason": "x".repeat(201)}), Some("reason")),
        ("idle/drain", json!({"resaon": "x"}), Some("resaon")),
        ("idle/drain?wait=601", json!({}), Some("wait")),
        ("idle/drain?wait=-1", json!({}), None),
    ] {
        assert_eq!(error_of(&drain(&app, path, body).await, 400)["param"], json!(param), "{path}");
    }
    assert_eq!(shown(&app, "idle").await["maintenance"], json!(null));
    let nothing = app.send(Method::POST, "/admin/nodes/idle/drain", Some(ADMIN_KEY), "").await;
    assert_eq!(nothing.json()["maintenance"]["until"], json!(null), "{}", nothing.text());
    app.stop().await;
}

#[actix_rt::test]
async fn a_form_is_filled_from_the_settings_as_they_were_given_and_secrets_are_not_in_it() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 3)]).await;
    let given = json!({"name": "b", "url": "http://127.0.0.1:1/v1", "kind": "openai", "health_path": "/health",
        "aliases": {"llama3.2": "meta/llama"}, "vram_gb": 8.5, "username": "geheim", "password": "geheim",
        "headers": {"x-tenant": "geheim"}, "connect_ms": 900, "first_byte_seconds": 1, "chunk_gap_seconds": 2,
        "probe_timeout_ms": 800, "listing_timeout_seconds": 3});
    assert_eq!(app.post("/admin/nodes", ADMIN_KEY, given.clone()).await.status, 201);

    let reply = app.get("/admin/nodes/b", ADMIN_KEY).await;

    assert!(!reply.text().contains("geheim"), "{}", reply.text());
    let settings = reply.json()["settings"].clone();
    for (name, value) in given.as_object().unwrap() {
        if !["username", "password", "headers"].contains(&name.as_str()) {
            assert_eq!(settings[name], *value, "{name}");
        }
    }
    let secrets = ["has_api_key", "has_username", "has_password", "header_names"].map(|name| settings[name].clone());
    assert_eq!(secrets, [json!(false), json!(true), json!(true), json!(["x-tenant"])]);
    assert_eq!((&settings["discover"], &settings["slots"]), (&json!("off"), &json!(null)));
    assert_eq!(shown(&app, "a").await["settings"]["slots"], 3);
    // Whatever is shown may be sent back.
    let mut form = settings.clone();
    for name in ["name", "has_api_key", "has_username", "has_password", "header_names"] {
        form.as_object_mut().unwrap().remove(name);
    }
    let kept = app.send(Method::PATCH, "/admin/nodes/b", Some(ADMIN_KEY), form.to_string()).await;
    assert_eq!(kept.status, 200, "{}", kept.text());
    assert_eq!(shown(&app, "b").await["settings"], settings);
    app.stop().await;
}
