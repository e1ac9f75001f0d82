//! What opens the door, for how long, and to which models?
use std::time::Duration;

use awc::http::Method;
use migration::Migrator;
use ollama_gateway::store::{Changes, Store};
use ollama_sim::{Fault, SimConfig, SimNode};
use sea_orm::{ConnectionTrait, Database, DatabaseBackend, Statement};
use sea_orm_migration::MigratorTrait;
use serde_json::{Value, json};
use sha2::Digest;

use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, chat_body, client, error_of, eventually, fast_node, node, read, spawn_app,
    spawn_app_with, stream_body, wait_for,
};

const GONE: &str = "http://127.0.0.1:1";

async fn app_on(database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("gone", GONE.to_owned(), 1)], database, |_| {}).await
}

async fn app_with_pepper(database: TestDatabase, pepper: Option<&str>, previous: &[&str]) -> TestApp {
    spawn_app_with(vec![node("gone", GONE.to_owned(), 1)], database, |config| {
        config.keys.pepper = pepper.map(str::to_owned);
        config.keys.previous_peppers = previous.iter().map(|pepper| (*pepper).to_owned()).collect();
    })
    .await
}

/// A gateway over a node that never ends an answer which it has begun.
async fn app_with_endless_node() -> (SimNode, TestApp) {
    let simulated = fast_node().await;
    simulated.set_fault(Some(Fault::HangAfter(3)));
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    (simulated, app)
}

/// Makes a key; its id and its secret.
async fn make(app: &TestApp, user: &str, body: Value) -> (String, String) {
    let reply = app.post(&format!("/admin/users/{user}/keys"), ADMIN_KEY, body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    id_and_secret(&reply)
}

fn id_and_secret(reply: &Reply) -> (String, String) {
    let made = reply.json();
    (made["id"].as_str().unwrap().to_owned(), made["api_key"].as_str().unwrap().to_owned())
}

async fn keys_of(app: &TestApp, user: &str) -> Vec<Value> {
    let reply = app.get(&format!("/admin/users/{user}/keys"), ADMIN_KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"].as_array().unwrap().clone()
}

async fn status(app: &TestApp, key: &str) -> u16 {
    app.get("/v1/models", key).await.status.as_u16()
}

async fn revoke(app: &TestApp, user: &str, id: &str) {
    let reply = app.delete(&format!("/admin/users/{user}/keys/{id}"), ADMIN_KEY).await;
    assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({"id": id, "deleted": true})));
}

async fn rotate(app: &TestApp, user: &str, id: &str, grace_seconds: u64) -> Value {
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

#[actix_rt::test]
async fn a_pepper_can_be_added_and_changed_without_breaking_a_key() {
    let (old, new) = ("the pepper of last year", "the pepper of this year");
    for database in TestDatabase::each().await {
        let url = database.url.clone();
        let app = app_with_pepper(database, None, &[]).await;
        let plain = app.user("ann").await;
        let app = app_with_pepper(app.stop().await, Some(old), &[]).await;
        let (_, first) = make(&app, "ann", json!({})).await;
        let app = app_with_pepper(app.stop().await, Some(new), &[old]).await;
        let (_, second) = make(&app, "ann", json!({})).await;

        for key in [&plain, &first, &second] {
            assert_eq!(status(&app, key).await, 200);
        }
        // A pepper that is taken away takes its keys along, and no others.
        let app = app_with_pepper(app.stop().await, Some(new), &[]).await;
        assert_eq!(
            (status(&app, &plain).await, status(&app, &first).await, status(&app, &second).await),
            (200, 401, 200)
        );
        let database = app.stop().await;

        let db = Database::connect(&url).await.unwrap();
        let all = "SELECT digest, digest_version FROM key_digests ORDER BY created_at_ms";
        let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), all)).await.unwrap();
        let stored: Vec<(Vec<u8>, i16)> = rows
            .iter()
            .map(|row| (row.try_get("", "digest").unwrap(), row.try_get("", "digest_version").unwrap()))
            .collect();
        let sha = |key: &str| sha2::Sha256::digest(key.as_bytes()).to_vec();
        assert_eq!(stored[0], (sha(&plain), 1));
        assert!(stored[1].1 == 2 && stored[1].0 != sha(&first), "the database alone cannot tell the key");
        db.close().await.unwrap();
        drop(database);
    }
}

#[actix_rt::test]
async fn keys_of_the_first_schema_go_on_working() {
    for database in TestDatabase::each().await {
        let db = Database::connect(format!(
            "{}{}",
            database.url,
            if database.url.starts_with("sqlite") { "?mode=rwc" } else { "" }
        ))
        .await
        .unwrap();
        Migrator::up(&db, Some(1)).await.unwrap();
        for (name, key) in [("ann", "sk-ann-0"), ("bob", "sk-bob-0")] {
            let digest: String =
                sha2::Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            let digest = match db.get_database_backend() {
                DatabaseBackend::Postgres => format!("'\\x{digest}'"),
                _ => format!("x'{digest}'"),
            };
            db.execute_unprepared(&format!("INSERT INTO users VALUES ('{name}', 7, 9, NULL)")).await.unwrap();
            db.execute_unprepared(&format!("INSERT INTO api_keys VALUES ({digest}, 1, '{name}', 'last', 7)"))
                .await
                .unwrap();
        }
        db.close().await.unwrap();

        let app = app_on(database).await;

        for (name, key) in [("ann", "sk-ann-0"), ("bob", "sk-bob-0")] {
            assert_eq!(status(&app, key).await, 200);
            let keys = keys_of(&app, name).await;
            assert_eq!((keys.len(), &keys[0]["name"], &keys[0]["last_four"]), (1, &json!("default"), &json!("last")));
            assert_eq!(app.get(&format!("/admin/users/{name}"), ADMIN_KEY).await.json()["requests_per_minute"], 9);
            let rotated = rotate(&app, name, keys[0]["id"].as_str().unwrap(), 0).await;
            assert_eq!((status(&app, key).await, status(&app, rotated["api_key"].as_str().unwrap()).await), (401, 200));
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn whoever_guesses_keys_is_held_up_and_nobody_else() {
    let app = spawn_app_with(vec![node("gone", GONE.to_owned(), 1)], TestDatabase::sqlite(), |config| {
        config.server.guesses_per_minute = 10;
    })
    .await;
    let key = app.user("ann").await;
    for turn in 0..10 {
        // A missing key is no guess, and neither is a key in the wrong place.
        error_of(&app.send(Method::GET, "/v1/models", None, "").await, 401);
        error_of(&app.get("/v1/models", ADMIN_KEY).await, 401);
        error_of(&app.get("/admin/nodes", &key).await, 403);
        let path = if turn % 2 == 0 { "/v1/models" } else { "/admin/nodes" };
        error_of(&app.get(path, &format!("sk-ann-{turn}")).await, 401);
    }
    for path in ["/v1/models", "/v1/usage", "/admin/nodes"] {
        let reply = app.get(path, "sk-ann-x").await;
        assert_eq!(error_of(&reply, 429)["code"], "rate_limit_exceeded");
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert!(!reply.text().contains("sk-ann-x"));
    }
    let reply = app.get("/api/tags", "sk-ann-x").await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"].is_string()), (429, true), "{}", reply.text());

    assert_eq!((status(&app, &key).await, app.get("/admin/nodes", ADMIN_KEY).await.status.as_u16()), (200, 200));
    error_of(&app.send(Method::GET, "/v1/models", None, "").await, 401);
    app.stop().await;
}

/// A body for any route that makes a node work.
fn body(model: &str) -> Value {
    let mut body = chat_body(model, "hi");
    for (field, value) in [("max_tokens", json!(5)), ("prompt", json!("hi")), ("input", json!("hi"))] {
        body[field] = value;
    }
    body
}

#[actix_rt::test]
async fn a_key_is_only_for_its_models_on_every_route_and_in_every_list() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let free = app.user("ann").await;
    let (_, key) = make(&app, "ann", json!({"allowed_models": ["llama3.2", "all-minilm:latest", "notyet"]})).await;
    for path in
        ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"]
    {
        for (model, expected) in
            [("llama3.2", 200), ("llama3.2:latest", 200), ("llama3.2:1b", 403), ("nothere", 404), ("notyet", 404)]
        {
            let reply = app.post(path, &key, body(model)).await;
            assert_eq!(reply.status, expected, "{path} {model}: {}", reply.text());
            assert_eq!(app.post(path, &free, body("llama3.2:1b")).await.status, 200);
        }
    }
    for path in ["/v1/embeddings", "/api/embed", "/api/embeddings"] {
        assert_eq!(app.post(path, &key, body("all-minilm")).await.status, 200, "{path}");
        assert_eq!(app.post(path, &key, body("llama3.2:1b")).await.status, 403, "{path}");
    }
    // What each dialect hears.
    let error = error_of(&app.post("/v1/chat/completions", &key, body("llama3.2:1b")).await, 403);
    assert_eq!((&error["type"], &error["code"]), (&json!("permission_error"), &json!("model_not_allowed")));
    assert_eq!(error["param"], "model");
    let error = app.post("/v1/messages", &key, body("llama3.2:1b")).await.json();
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("permission_error")));
    assert!(app.post("/api/chat", &key, body("llama3.2:1b")).await.json()["error"].is_string());
    let idle = json!({"model": "llama3.2:1b", "prompt": ""});
    assert_eq!(app.post("/api/generate", &key, idle).await.status, 403);
    for (model, expected) in [("llama3.2", 200), ("llama3.2:1b", 403), ("nothere", 404)] {
        assert_eq!(app.post("/api/show", &key, json!({"model": model})).await.status, expected, "{model}");
        assert_eq!(app.get(&format!("/v1/models/{model}"), &key).await.status, expected, "{model}");
    }

    let listed = |reply: &Reply, list: &str, name: &str| -> Vec<String> {
        let models = reply.json()[list].as_array().unwrap().clone();
        let mut names: Vec<String> = models.iter().map(|model| model[name].as_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(listed(&app.get("/v1/models", &key).await, "data", "id"), ["all-minilm:latest", "llama3.2:latest"]);
    assert_eq!(listed(&app.get("/api/tags", &key).await, "models", "name"), ["all-minilm:latest", "llama3.2:latest"]);
    wait_for("the loaded models are seen", async || {
        let all = listed(&app.get("/api/ps", &free).await, "models", "name");
        let own = listed(&app.get("/api/ps", &key).await, "models", "name");
        all.contains(&"llama3.2:1b".to_owned()) && !own.is_empty() && own.iter().all(|name| name != "llama3.2:1b")
    })
    .await;
    assert!(listed(&app.get("/v1/models", &free).await, "data", "id").len() > 2);
    app.stop().await;
}

#[actix_rt::test]
async fn other_names_and_stand_ins_do_not_go_around_the_models_of_a_key() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |config| {
        let aliases = [("small", "llama3.2:1b"), ("chat", "llama3.2"), ("lost", "gone")];
        config.models.aliases = aliases.map(|(alias, model)| (alias.to_owned(), model.to_owned())).into();
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        config.models.fallbacks =
            [("gone".to_owned(), text(&["llama3.2:1b", "llama3.2"])), ("llama3.2:1b".to_owned(), text(&["llama3.2"]))]
                .into();
    })
    .await;
    app.user("ann").await;
    let (_, by_model) = make(&app, "ann", json!({"allowed_models": ["llama3.2"]})).await;
    let (_, by_alias) = make(&app, "ann", json!({"allowed_models": ["small", "lost"]})).await;
    let ran = |reply: &Reply| (reply.status.as_u16(), reply.json()["model"].as_str().unwrap_or_default().to_owned());
    for (key, asked, status, model) in [
        (&by_model, "chat", 200, "llama3.2"),
        (&by_model, "small", 403, ""),
        // The first stand-in is not for this key, the second is.
        (&by_model, "gone", 200, "llama3.2"),
        (&by_model, "lost", 200, "llama3.2"),
        // It is there, so that nothing stands in for it.
        (&by_model, "llama3.2:1b", 403, ""),
        (&by_alias, "small", 200, "llama3.2:1b"),
        (&by_alias, "lost", 200, "llama3.2:1b"),
        (&by_alias, "llama3.2:1b", 403, ""),
        (&by_alias, "chat", 403, ""),
        (&by_alias, "gone", 403, ""),
    ] {
        let reply = app.chat(key, asked, "hi").await;
        assert_eq!(ran(&reply), (status, model.to_owned()), "{asked}: {}", reply.text());
    }
    for (key, expected) in [(&by_model, vec!["chat", "llama3.2:latest", "lost"]), (&by_alias, vec!["lost", "small"])] {
        let list = app.get("/v1/models", key).await.json();
        let mut names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
        let tags = app.get("/api/tags", key).await.json();
        let mut names: Vec<&str> =
            tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
    }
    assert_eq!(app.get("/v1/models/small", &by_alias).await.json()["id"], "small");
    assert_eq!(app.get("/v1/models/small", &by_model).await.status, 403);
    app.stop().await;
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
