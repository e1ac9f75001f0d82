//! What changes about a key that is changed, and when do others hear of it?
use std::time::Duration;

use awc::http::Method;
use ollama_gateway::store::{Changes, Store};
use ollama_sim::{SimConfig, SimNode};
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, error_of, fast_node, node, spawn_app, spawn_app_with, stream_body, wait_for,
};
use crate::keys::{app_on, keys_of, make, status};

/// Changes a key; what it is then.
async fn change(app: &TestApp, user: &str, id: &str, body: Value) -> Value {
    let path = format!("/admin/users/{user}/keys/{id}");
    let reply = app.send(Method::PATCH, &path, Some(ADMIN_KEY), body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut key = reply.json();
    key.as_object_mut().unwrap().remove("warnings");
    key
}

#[actix_rt::test]
async fn what_is_given_of_a_key_changes_and_the_rest_stays() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        app.user("ann").await;
        let whole = json!({"name": "laptop", "expires_at": "2999-01-01", "allowed_models": ["llama3.2"],
            "requests_per_minute": 1, "tokens_per_minute": 2, "tokens_per_day": 3, "max_concurrency": 4});
        let (id, secret) = make(&app, "ann", whole.clone()).await;
        let mut expected = keys_of(&app, "ann").await[1].clone();
        for (field, value) in [
            ("name", json!("desk")),
            ("expires_at", json!("3000-02-03T00:00:00Z")),
            ("allowed_models", json!(["a", "b/c:d"])),
            ("requests_per_minute", json!(0)),
            ("tokens_per_minute", json!(20)),
            ("tokens_per_day", json!(30)),
            ("max_concurrency", json!(40)),
            ("expires_at", json!(null)),
            ("allowed_models", json!(null)),
            ("requests_per_minute", json!(null)),
            ("tokens_per_minute", json!(null)),
            ("tokens_per_day", json!(null)),
            ("max_concurrency", json!(null)),
        ] {
            expected[field] = value.clone();
            assert_eq!(change(&app, "ann", &id, json!({field: value})).await, expected);
        }
        expected["name"] = "default-2".into();
        assert_eq!(change(&app, "ann", &id, json!({"name": null})).await, expected);
        assert_eq!(change(&app, "ann", &id, json!({})).await, expected);

        let app = app.restart().await;

        wait_for("it is read", async || keys_of(&app, "ann").await.len() == 2).await;
        assert_eq!(keys_of(&app, "ann").await[1], expected);
        assert_eq!(status(&app, &secret).await, 200);
        let mut all = whole;
        all["name"] = "all at once".into();
        change(&app, "ann", &id, all).await;
        let key = &keys_of(&app, "ann").await[1];
        assert_eq!((&key["name"], &key["tokens_per_day"]), (&json!("all at once"), &json!(3)));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_changed_key_is_another_for_the_next_request_keeps_what_it_used_and_running_streams_go_on() {
    let config = SimConfig { tokens_per_second: 40.0, slots: 4, ..SimConfig::warm() };
    let simulated = SimNode::start(config).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    app.user("ann").await;
    let (id, key) = make(&app, "ann", json!({})).await;
    let used = app.chat(&key, "llama3.2", "[[n=20]] hi").await.json()["usage"]["total_tokens"].as_u64().unwrap();
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "[[n=50]]")).await;
    let first = stream.next().await.unwrap();

    change(&app, "ann", &id, json!({"allowed_models": ["llava"], "tokens_per_day": used})).await;

    error_of(&app.chat(&key, "llama3.2", "hi").await, 403);
    let error = error_of(&app.chat(&key, "llava", "hi").await, 429);
    assert_eq!(error["code"], "insufficient_quota", "what was used under no limit is used: {error}");
    let events = [vec![first], stream.rest().await].concat();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    change(&app, "ann", &id, json!({"allowed_models": null, "tokens_per_day": null, "max_concurrency": 0})).await;
    assert_eq!(error_of(&app.chat(&key, "llama3.2", "hi").await, 429)["code"], "rate_limit_exceeded");
    change(&app, "ann", &id, json!({"max_concurrency": 1})).await;
    assert_eq!(app.chat(&key, "llama3.2", "[[n=2]]").await.status, 200, "nothing is held by what has ended");
    app.stop().await;
}

#[actix_rt::test]
async fn an_expired_key_that_is_given_more_time_works_again() {
    let app = app_on(TestDatabase::sqlite()).await;
    app.user("ann").await;
    let (id, key) = make(&app, "ann", json!({})).await;
    let soon = time::OffsetDateTime::now_utc() + Duration::from_millis(700);
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    change(&app, "ann", &id, json!({"expires_at": soon})).await;
    assert_eq!(status(&app, &key).await, 200);
    wait_for("the key has expired", async || status(&app, &key).await == 401).await;

    change(&app, "ann", &id, json!({"expires_at": "2999-01-01"})).await;

    assert_eq!(status(&app, &key).await, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn another_gateway_hears_of_a_changed_key_within_five_seconds() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let nodes = || vec![node("a", simulated.url(), 4)];
        let second = spawn_app_with(nodes(), database.again(), |_| {}).await;
        let first = spawn_app_with(nodes(), database, |_| {}).await;
        first.user("ann").await;
        let (id, key) = make(&first, "ann", json!({})).await;
        wait_for("the other gateway knows the key", async || status(&second, &key).await == 200).await;
        assert_eq!(second.chat(&key, "llama3.2", "hi").await.status, 200);

        let body = json!({"name": "other", "allowed_models": ["llava"], "max_concurrency": 0});
        let changed = change(&first, "ann", &id, body).await;

        let before = std::time::Instant::now();
        let knows = async || second.chat(&key, "llama3.2", "hi").await.status == 403;
        wait_for("the other gateway knows of the change", knows).await;
        assert!(before.elapsed() < Duration::from_secs(5));
        error_of(&second.chat(&key, "llava", "hi").await, 429);
        assert_eq!(keys_of(&second, "ann").await[1]["name"], changed["name"]);

        // What one of them has not heard of yet is no error of the server's.
        let path = format!("/admin/users/ann/keys/{id}");
        let (revoked, late) = (first.delete(&path, ADMIN_KEY), async {
            let reply = second.send(Method::PATCH, &path, Some(ADMIN_KEY), json!({"name": "x"}).to_string()).await;
            reply.status.as_u16()
        });
        let (revoked, late) = tokio::join!(revoked, late);
        assert!(revoked.status == 200 && [200, 404].contains(&late), "{late}");
        second.stop().await;
        first.stop().await;
    }
}

#[actix_rt::test]
async fn postgres_tells_of_a_change_at_once() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let settings = ollama_gateway::store::DatabaseSettings { url: database.url.clone(), ..Default::default() };
    let app = app_on(database).await;
    app.user("ann").await;
    let mut changes = Changes::of(Store::open(&settings).await.unwrap());
    // The first wait ends when it begins to listen.
    changes.wait(Duration::from_secs(60)).await;
    for change in [json!({"requests_per_minute": 5}), json!({"requests_per_minute": null})] {
        let changing = app.put("/admin/users/ann/limits", ADMIN_KEY, change);
        let heard = async {
            let wait = changes.wait(Duration::from_secs(60));
            tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it is heard");
        };
        let (reply, ()) = tokio::join!(changing, heard);
        assert_eq!(reply.status, 200);
    }
    app.stop().await;
}
