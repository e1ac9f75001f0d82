//! What opens the door, for how long, and to which models?
use std::time::Duration;

use awc::http::Method;
use ollama_sim::{Fault, SimNode};
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, client, error_of, eventually, fast_node, node, read, spawn_app,
    spawn_app_with, stream_body, wait_for,
};

pub const GONE: &str = "http://127.0.0.1:1";

pub async fn app_on(database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("gone", GONE.to_owned(), 1)], database, |_| {}).await
}

/// A gateway over a node that never ends an answer which it has begun.
async fn app_with_endless_node() -> (SimNode, TestApp) {
    let simulated = fast_node().await;
    simulated.set_fault(Some(Fault::HangAfter(3)));
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    (simulated, app)
}

/// Makes a key; its id and its secret.
pub async fn make(app: &TestApp, user: &str, body: Value) -> (String, String) {
    let reply = app.post(&format!("/admin/users/{user}/keys"), ADMIN_KEY, body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    id_and_secret(&reply)
}

fn id_and_secret(reply: &Reply) -> (String, String) {
    let made = reply.json();
    (made["id"].as_str().unwrap().to_owned(), made["api_key"].as_str().unwrap().to_owned())
}

pub async fn keys_of(app: &TestApp, user: &str) -> Vec<Value> {
    let reply = app.get(&format!("/admin/users/{user}/keys"), ADMIN_KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"].as_array().unwrap().clone()
}

pub async fn status(app: &TestApp, key: &str) -> u16 {
    app.get("/v1/models", key).await.status.as_u16()
}

async fn revoke(app: &TestApp, user: &str, id: &str) {
    let reply = app.delete(&format!("/admin/users/{user}/keys/{id}"), ADMIN_KEY).await;
    assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({"id": id, "deleted": true})));
}

pub async fn rotate(app: &TestApp, user: &str, id: &str, grace_seconds: u64) -> Value {
    let body = json!({"grace_seconds": grace_seconds});
    let reply = app.post(&format!("/admin/users/{user}/keys/{id}/rotate"), ADMIN_KEY, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[actix_rt::test]
async fn a_user_has_several_keys_that_are_listed_without_their_secrets() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let first = app.user("ann").await;
        let body = json!({"name": "laptop", "expires_at": "2999-01-01", "allowed_models": ["llama3.2", "a/b:c"]});

        let reply = app.post("/admin/users/ann/keys", ADMIN_KEY, body).await;

        assert_eq!(reply.status, 201, "{}", reply.text());
        let (id, second) = id_and_secret(&reply);
        let random = second.strip_prefix("sk-ann-").unwrap();
        assert!(id.starts_with("key_") && !id.contains(random) && random.len() == 32, "{id}");
        assert_eq!((status(&app, &first).await, status(&app, &second).await), (200, 200));
        let app = app.restart().await;
        assert_eq!((status(&app, &first).await, status(&app, &second).await), (200, 200));
        let keys = keys_of(&app, "ann").await;
        assert_eq!(keys.len(), 2);
        assert_eq!((&keys[0]["name"], &keys[0]["allowed_models"]), (&json!("default"), &json!(null)));
        assert_eq!((&keys[0]["expires_at"], &keys[0]["previous"]), (&json!(null), &json!(null)));
        assert_eq!((&keys[1]["name"], &keys[1]["user_id"]), (&json!("laptop"), &json!("ann")));
        assert_eq!(keys[1]["expires_at"], "2999-01-01T00:00:00Z");
        assert_eq!(keys[1]["allowed_models"], json!(["llama3.2", "a/b:c"]));
        assert_eq!((&keys[1]["prefix"], &keys[1]["last_four"]), (&json!("sk-ann-"), &json!(&random[28..])));
        let listed = json!(keys).to_string();
        assert!(!listed.contains(random) && !listed.contains(first.strip_prefix("sk-ann-").unwrap()), "{listed}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn it_is_remembered_when_a_key_was_last_used_to_the_minute() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let key = app.user("ann").await;
        assert_eq!(keys_of(&app, "ann").await[0]["last_used_at"], json!(null));
        assert_eq!(status(&app, &key).await, 200);

        let before = keys_of(&app, "ann").await[0]["last_used_at"].clone();
        let app = app.restart().await;

        assert!(before.as_str().unwrap().ends_with(":00Z"), "{before}");
        // At once from the database, and soon where the start did not wait for it.
        wait_for("it is read", async || keys_of(&app, "ann").await[0]["last_used_at"] == before).await;
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_rotated_key_overlaps_with_its_old_secret_for_the_grace_alone() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let first = app.user_with("ann", json!({"requests_per_minute": 5})).await;
        let id = keys_of(&app, "ann").await[0]["id"].as_str().unwrap().to_owned();

        let second = rotate(&app, "ann", &id, 3600).await;
        let second = second["api_key"].as_str().unwrap();
        assert_eq!((status(&app, &first).await, status(&app, second).await), (200, 200));
        let listed = &keys_of(&app, "ann").await[0];
        assert_eq!((&listed["id"], &listed["last_four"]), (&json!(id), &json!(&second[second.len() - 4..])));
        assert_eq!(listed["previous"]["last_four"], first[first.len() - 4..]);

        // The next rotation ends the first secret, and the second after its own grace.
        let third = rotate(&app, "ann", &id, 1).await;
        let third = third["api_key"].as_str().unwrap();
        assert_eq!((status(&app, &first).await, status(&app, third).await), (401, 200));
        wait_for("the grace is over", async || status(&app, second).await == 401).await;
        assert_eq!(keys_of(&app, "ann").await[0]["previous"], json!(null));

        let path = format!("/admin/users/ann/keys/{id}/rotate");
        let fourth = app.send(Method::POST, &path, Some(ADMIN_KEY), "").await.json();
        let fourth = fourth["api_key"].as_str().expect("a body is not needed, and no grace is the default");
        assert_eq!((status(&app, third).await, status(&app, fourth).await), (401, 200));
        let app = app.restart().await;
        for (secret, expected) in [(first.as_str(), 401), (second, 401), (third, 401), (fourth, 200)] {
            assert_eq!(status(&app, secret).await, expected);
        }
        assert_eq!(keys_of(&app, "ann").await.len(), 1);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn both_secrets_of_a_rotated_key_share_one_quota() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let first = app.user_with("ann", json!({"requests_per_minute": 2})).await;
    let id = keys_of(&app, "ann").await[0]["id"].as_str().unwrap().to_owned();
    let rotated = rotate(&app, "ann", &id, 3600).await;
    let second = rotated["api_key"].as_str().unwrap();

    for (secret, expected) in [(first.as_str(), 200), (second, 200), (&first, 429), (second, 429)] {
        assert_eq!(app.chat(secret, "llama3.2", "hi").await.status, expected);
    }
    app.stop().await;
}

#[actix_rt::test]
async fn an_expired_key_is_told_so() {
    let app = app_on(TestDatabase::sqlite()).await;
    app.user("ann").await;
    let soon = time::OffsetDateTime::now_utc() + Duration::from_millis(1500);
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let (_, key) = make(&app, "ann", json!({"expires_at": soon})).await;
    assert_eq!(status(&app, &key).await, 200);

    wait_for("the key has expired", async || status(&app, &key).await == 401).await;

    let error = error_of(&app.get("/v1/models", &key).await, 401);
    assert!(error["message"].as_str().unwrap().contains("expired"), "{error}");
    error_of(&app.get("/admin/nodes", &key).await, 403);
    app.stop().await;
}

#[actix_rt::test]
async fn a_revoked_key_stops_at_once_and_the_others_go_on() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let first = app.user("ann").await;
        let (id, second) = make(&app, "ann", json!({})).await;

        revoke(&app, "ann", &id).await;

        assert_eq!((status(&app, &first).await, status(&app, &second).await), (200, 401));
        assert_eq!(keys_of(&app, "ann").await.len(), 1);
        for path in [format!("/admin/users/ann/keys/{id}"), "/admin/users/nobody/keys/x".to_owned()] {
            error_of(&app.delete(&path, ADMIN_KEY).await, 404);
        }
        let app = app.restart().await;
        assert_eq!((status(&app, &first).await, status(&app, &second).await), (200, 401));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn the_streams_of_a_revoked_key_end_with_an_error_and_are_accounted() {
    let (_simulated, app) = app_with_endless_node().await;
    let other = app.user("ann").await;
    for (path, frame) in [
        ("/v1/chat/completions", "data: {\"error\":{"),
        ("/v1/messages", "event: error\n"),
        ("/v1/responses", "event: response.failed\n"),
        ("/api/chat", "{\"error\":\""),
    ] {
        let (id, key) = make(&app, "ann", json!({})).await;
        let mut body = stream_body("llama3.2", "hi");
        (body["max_tokens"], body["input"]) = (json!(50), json!("hi"));
        // The head comes with the first token.
        let stream = client().post(app.url(path)).bearer_auth(&key).send_body(body.to_string()).await.unwrap();

        revoke(&app, "ann", &id).await;

        let ending = tokio::time::timeout(Duration::from_secs(5), read(stream));
        let ended = ending.await.expect("the stream ends at once");
        let answer = ended.text();
        let last = answer.rfind(frame).unwrap_or_else(|| panic!("{path}: no error frame: {answer}"));
        assert!(answer[last..].contains("revoked") && !answer.contains("[DONE]"), "{path}: {answer}");
    }
    let rows = app.rows_once(&other, 4).await;
    for row in rows {
        assert_eq!(row["status"], "cancelled");
        assert!(row["total_tokens"].as_u64().unwrap() > 0, "{row}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_waiting_request_of_a_revoked_key_and_a_stream_of_a_deleted_user_end_too() {
    let (_simulated, app) = app_with_endless_node().await;
    let ann = app.user("ann").await;
    app.user("bob").await;
    let (id, bob) = make(&app, "bob", json!({})).await;
    let stream = app.open_stream(&ann, &stream_body("llama3.2", "hi")).await;
    let waiting = app.chat(&bob, "llama3.2", "hi");
    let revoking = async {
        eventually("one waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;
        revoke(&app, "bob", &id).await;
    };
    let (reply, ()) = tokio::join!(waiting, revoking);
    assert_eq!(error_of(&reply, 401)["code"], "invalid_api_key");

    app.delete("/admin/users/ann", ADMIN_KEY).await;

    let events = stream.rest().await;
    assert!(events.last().unwrap().contains("\"code\":\"invalid_api_key\""), "{events:?}");
    app.stop().await;
}

#[actix_rt::test]
async fn another_gateway_hears_of_a_revoked_key_within_five_seconds_and_ends_its_streams() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        simulated.set_fault(Some(Fault::HangAfter(3)));
        let second = spawn_app_with(vec![node("a", simulated.url(), 4)], database.again(), |_| {}).await;
        let first = app_on(database).await;
        first.user("ann").await;
        let (id, key) = make(&first, "ann", json!({})).await;
        wait_for("the other gateway knows the key", async || status(&second, &key).await == 200).await;
        let stream = second.open_stream(&key, &stream_body("llama3.2", "hi")).await;

        revoke(&first, "ann", &id).await;

        let events = tokio::time::timeout(Duration::from_secs(5), stream.rest()).await.expect("within 5 s");
        assert!(events.last().unwrap().contains("revoked"), "{events:?}");
        assert_eq!(status(&second, &key).await, 401);
        second.stop().await;
        first.stop().await;
    }
}

#[actix_rt::test]
async fn bodies_that_are_no_key_are_400_and_make_none() {
    let app = app_on(TestDatabase::sqlite()).await;
    app.user("ann").await;
    let id = keys_of(&app, "ann").await[0]["id"].as_str().unwrap().to_owned();
    let long = "x".repeat(65);
    for (field, bad) in [
        ("name", json!("")),
        ("name", json!("a\nb")),
        ("name", json!(long)),
        ("name", json!(7)),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!("2020-01-01")),
        ("expires_at", json!(7)),
        ("allowed_models", json!([])),
        ("allowed_models", json!([""])),
        ("allowed_models", json!(["a b"])),
        ("allowed_models", json!("llama3.2")),
        ("allowed_models", json!(vec!["a"; 101])),
        ("requests_per_minute", json!(1_000_001)),
        ("max_concurrency", json!(-1)),
        ("nmae", json!("x")),
    ] {
        let mut body = json!({});
        body[field] = bad;
        error_of(&app.post("/admin/users/ann/keys", ADMIN_KEY, body.clone()).await, 400);
        let path = format!("/admin/users/ann/keys/{id}");
        error_of(&app.send(Method::PATCH, &path, Some(ADMIN_KEY), body.to_string()).await, 400);
    }
    for path in ["/admin/users/nobody/keys/key_none".to_owned(), "/admin/users/ann/keys/key_none".to_owned()] {
        error_of(&app.send(Method::PATCH, &path, Some(ADMIN_KEY), "{}").await, 404);
    }
    assert_eq!(keys_of(&app, "ann").await[0]["name"], "default", "nothing has changed");
    for bad in [json!(-1), json!(604_801), json!(1.5), json!("1"), json!(null)] {
        let path = format!("/admin/users/ann/keys/{id}/rotate");
        error_of(&app.post(&path, ADMIN_KEY, json!({"grace_seconds": bad})).await, 400);
    }
    for path in ["/admin/users/nobody/keys", "/admin/users/ann/keys/key_none/rotate"] {
        error_of(&app.post(path, ADMIN_KEY, json!({})).await, 404);
    }
    error_of(&app.get("/admin/users/nobody/keys", ADMIN_KEY).await, 404);
    assert_eq!(keys_of(&app, "ann").await.len(), 1);

    for _ in 1..100 {
        make(&app, "ann", json!({})).await;
    }
    error_of(&app.post("/admin/users/ann/keys", ADMIN_KEY, json!({})).await, 400);
    app.stop().await;
}

#[actix_rt::test]
async fn a_key_is_rotated_without_a_body_too() {
    let app = crate::harness::spawn_app(Vec::new()).await;
    let old = app.user("ann").await;
    let keys = app.get("/admin/users/ann/keys", ADMIN_KEY).await.json();
    let path = format!("/admin/users/ann/keys/{}/rotate", keys["data"][0]["id"].as_str().unwrap());
    let reply = app.send(actix_web::http::Method::POST, &path, Some(ADMIN_KEY), "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let new = reply.json()["api_key"].as_str().unwrap().to_owned();
    assert_eq!(
        (app.get("/v1/models", &old).await.status.as_u16(), app.get("/v1/models", &new).await.status.as_u16()),
        (401, 200)
    );
    app.stop().await;
}
