//! Are keys worth nothing to whoever has the database or guesses?
use awc::http::Method;
use migration::Migrator;
use sea_orm::{ConnectionTrait, Database, DatabaseBackend, Statement};
use sea_orm_migration::MigratorTrait;
use serde_json::json;
use sha2::Digest;

use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, error_of, node, spawn_app_with};
use crate::keys::{GONE, app_on, keys_of, make, rotate, status};

async fn app_with_pepper(database: TestDatabase, pepper: Option<&str>, previous: &[&str]) -> TestApp {
    spawn_app_with(vec![node("gone", GONE.to_owned(), 1)], database, |config| {
        config.keys.pepper = pepper.map(str::to_owned);
        config.keys.previous_peppers = previous.iter().map(|pepper| (*pepper).to_owned()).collect();
    })
    .await
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
