//! Do named administrators' keys open, end, rotate and go as users' keys do, at every gateway?
use std::time::Duration;

use awc::http::Method;
use sea_orm::{ConnectionTrait, Database, DatabaseBackend, Statement};
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, error_of, node, spawn_app_with, wait_for};

async fn app_on(database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)], database, |config| {
        config.keys.pepper = Some("a pepper that is long".to_owned());
    })
    .await
}

async fn make(app: &TestApp, body: Value) -> String {
    let reply = app.post("/admin/admins", ADMIN_KEY, body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["api_key"].as_str().unwrap().to_owned()
}

async fn status(app: &TestApp, key: &str) -> u16 {
    app.get("/admin/admins", key).await.status.as_u16()
}

#[actix_rt::test]
async fn an_administrators_key_is_shown_once_and_works_until_it_goes() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let made = app.post("/admin/admins", ADMIN_KEY, json!({"name": "eve", "role": "operator"})).await;
        let (key, shown) = (made.json()["api_key"].as_str().unwrap().to_owned(), made.json());
        assert!(key.starts_with("sk-admin-eve-") && key.ends_with(shown["last_four"].as_str().unwrap()), "{shown}");
        assert_eq!((&shown["role"], &shown["expires_at"]), (&json!("operator"), &Value::Null));
        assert_eq!(status(&app, &key).await, 200);
        for path in ["/admin/admins", "/admin/admins/eve"] {
            let reply = app.get(path, &key).await;
            assert!(reply.status == 200 && !reply.text().contains(&key) && reply.text().contains("eve"), "{path}");
        }
        let again = app.post("/admin/admins", ADMIN_KEY, json!({"name": "eve", "role": "viewer"})).await;
        assert!(error_of(&again, 409)["message"].as_str().unwrap().contains("eve"));

        // As a user's key, it is none.
        let message = error_of(&app.get("/v1/models", &key).await, 401)["message"].as_str().unwrap().to_owned();
        assert!(message.contains("no user key"), "{message}");

        let app = app.restart().await;
        assert_eq!(status(&app, &key).await, 200, "it is kept");
        let changed = app.send(Method::PATCH, "/admin/admins/eve", Some(ADMIN_KEY), r#"{"role":"admin"}"#).await;
        assert_eq!((changed.status.as_u16(), &changed.json()["role"]), (200, &json!("admin")));
        assert_eq!(app.post("/admin/users", &key, json!({"user_id": "ann"})).await.status, 201);
        let gone = app.delete("/admin/admins/eve", &key).await;
        assert_eq!((gone.status.as_u16(), gone.json()), (200, json!({"name": "eve", "deleted": true})));
        assert_eq!(status(&app, &key).await, 401);
        for (method, path) in [(Method::GET, ""), (Method::PATCH, ""), (Method::DELETE, ""), (Method::POST, "/rotate")]
        {
            error_of(&app.send(method, &format!("/admin/admins/eve{path}"), Some(ADMIN_KEY), "{}").await, 404);
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_rotated_key_overlaps_as_long_as_is_asked_and_a_body_is_not_needed() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let first = make(&app, json!({"name": "eve", "role": "viewer"})).await;
        let rotate = async |body: &str| {
            let reply = app.send(Method::POST, "/admin/admins/eve/rotate", Some(ADMIN_KEY), body.to_owned()).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            (reply.json()["api_key"].as_str().unwrap().to_owned(), reply.json())
        };
        let (second, shown) = rotate(r#"{"grace_seconds":600}"#).await;
        assert_eq!(shown["previous"]["last_four"], first[first.len() - 4..]);
        assert_eq!((status(&app, &first).await, status(&app, &second).await), (200, 200));
        let (third, _) = rotate(r#"{"grace_seconds":1}"#).await;
        assert_eq!(status(&app, &first).await, 401, "one that was rotated out before stops");
        wait_for("the overlap ends", async || status(&app, &second).await == 401).await;
        let app = app.restart().await;
        let rotated = app.send(Method::POST, "/admin/admins/eve/rotate", Some(ADMIN_KEY), "").await;
        let fourth = rotated.json()["api_key"].as_str().unwrap().to_owned();
        assert_eq!((status(&app, &third).await, status(&app, &fourth).await), (401, 200), "without a body at once");
        let refused = app.post("/admin/admins/eve/rotate", ADMIN_KEY, json!({"grace_seconds": 604_801})).await;
        assert_eq!(error_of(&refused, 400)["param"], "grace_seconds");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_key_that_has_ended_opens_nothing_until_it_is_given_another_end() {
    let app = app_on(TestDatabase::sqlite()).await;
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(1);
    let end = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let key = make(&app, json!({"name": "eve", "role": "viewer", "expires_at": end})).await;
    let cookie = app.send_with(Method::POST, "/console/session", &[], json!({"api_key": key}).to_string()).await;
    let cookie = cookie.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    wait_for("the key ends", async || status(&app, &key).await == 401).await;
    let message = error_of(&app.get("/admin/users", &key).await, 401)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("expired"), "{message}");
    let seen = app.send_with(Method::GET, "/admin/users", &[("cookie", &cookie)], "").await;
    assert_eq!(seen.status, 401, "its sessions end with it");
    app.send(Method::PATCH, "/admin/admins/eve", Some(ADMIN_KEY), r#"{"expires_at":null}"#).await;
    assert_eq!(status(&app, &key).await, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn what_cannot_be_an_administrator_is_named() {
    let app = app_on(TestDatabase::sqlite()).await;
    for (body, param) in [
        (json!({"name": "a b", "role": "viewer"}), "name"),
        (json!({"name": "..", "role": "viewer"}), "name"),
        (json!({"name": "eve", "role": "owner"}), "role"),
        (json!({"name": "eve", "role": "viewer", "expires_at": "2020-01-01"}), "expires_at"),
        (json!({"name": "eve", "role": "viewer", "models": []}), "models"),
    ] {
        assert_eq!(error_of(&app.post("/admin/admins", ADMIN_KEY, body).await, 400)["param"], param);
    }
    app.stop().await;
}

#[actix_rt::test]
async fn other_gateways_take_up_what_becomes_of_administrators() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let other = app_on(database.again()).await;
    let app = app_on(database).await;
    let key = make(&app, json!({"name": "eve", "role": "viewer"})).await;
    wait_for("the other gateway knows the key", async || status(&other, &key).await == 200).await;
    let rotated = app.send(Method::POST, "/admin/admins/eve/rotate", Some(ADMIN_KEY), "").await;
    let new = rotated.json()["api_key"].as_str().unwrap().to_owned();
    wait_for("the other gateway knows the new key", async || status(&other, &new).await == 200).await;
    assert_eq!(status(&other, &key).await, 401);
    app.send(Method::PATCH, "/admin/admins/eve", Some(ADMIN_KEY), r#"{"role":"operator"}"#).await;
    wait_for("the other gateway knows the role", async || {
        other.get("/admin/admins/eve", ADMIN_KEY).await.json()["role"] == "operator"
    })
    .await;
    app.delete("/admin/admins/eve", ADMIN_KEY).await;
    wait_for("the other gateway refuses the key", async || status(&other, &new).await == 401).await;
    app.stop().await;
    other.stop().await;
}

#[actix_rt::test]
async fn without_postgres_administrators_who_were_known_can_read_and_nobody_changes_anything() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let app = app_on(database).await;
    app.user("ann").await;
    let key = make(&app, json!({"name": "eve", "role": "admin"})).await;
    let outbox = format!("sqlite://{}", app.database.as_ref().unwrap().folder.path().join("outbox.db").display());
    let outbox = Database::connect(outbox).await.unwrap();
    wait_for("administrators and users are copied", async || {
        let count =
            |table: &str| Statement::from_string(DatabaseBackend::Sqlite, format!("SELECT count(*) FROM {table}"));
        let mut counts = Vec::new();
        for table in ["admin_digests", "users"] {
            let row = outbox.query_one_raw(count(table)).await.unwrap().unwrap();
            counts.push(row.try_get_by_index::<i64>(0).unwrap());
        }
        counts == [1, 1]
    })
    .await;
    outbox.close().await.unwrap();
    let mut database = app.stop().await;
    let real = std::mem::replace(&mut database.url, "postgres://postgres@127.0.0.1:1/gone".to_owned());

    let app = app_on(database).await;
    assert_eq!(status(&app, &key).await, 200);
    assert_eq!(error_of(&app.get("/admin/admins", "sk-admin-eve-unknown").await, 503)["code"], "storage_unavailable");
    error_of(&app.post("/admin/reload", &key, json!({})).await, 503);
    let mut database = app.stop().await;

    database.url = real;
    let app = app_on(database).await;
    assert_eq!((status(&app, &key).await, status(&app, "sk-admin-eve-unknown").await), (200, 401));
    app.stop().await;
}
