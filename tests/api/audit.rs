//! Does the audit log say what administrators did: each change, who, what was there before and afterwards, no secret, at any
//! number of gateways?
use std::collections::BTreeSet;

use awc::http::Method;
use ollama_gateway::config::Config;
use ollama_gateway::http::openapi;
use ollama_gateway::store::{AuditEntry, DatabaseSettings, Store, Verified, verify_audit};
use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, Reply, TestApp, TestDatabase, error_of, fast_node, node, spawn_app_with, wait_for};

async fn app_on(database: TestDatabase) -> TestApp {
    app_with(database, |_| {}).await
}

async fn app_with(database: TestDatabase, change: impl FnOnce(&mut Config)) -> TestApp {
    spawn_app_with(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)], database, change).await
}

async fn lines(app: &TestApp, query: &str) -> Vec<Value> {
    let reply = app.get(&format!("/admin/audit{query}"), ADMIN_KEY).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"].as_array().unwrap().clone()
}

/// The entries of one request, the oldest first.
async fn lines_of(app: &TestApp, reply: &Reply) -> Vec<Value> {
    let id = reply.header("x-request-id").unwrap();
    let mut lines: Vec<Value> = lines(app, "").await.into_iter().filter(|line| line["request_id"] == id).collect();
    lines.reverse();
    lines
}

fn settings(database: &TestDatabase) -> DatabaseSettings {
    DatabaseSettings {
        url: database.url.clone(),
        outbox: database.folder.path().join("other.db"),
        ..DatabaseSettings::default()
    }
}

#[track_caller]
fn assert_whole(verified: &Verified) -> u64 {
    let Verified::Whole { entries, .. } = verified else { panic!("{verified:?}") };
    *entries
}

#[actix_rt::test]
async fn each_route_that_changes_something_leaves_a_line_that_says_how_it_ended() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |_| {}).await;
    app.user("ann").await;
    let viewer = app.post("/admin/admins", ADMIN_KEY, json!({"name": "vic", "role": "viewer"})).await;
    let viewer = viewer.json()["api_key"].as_str().unwrap().to_owned();
    let key_id = app.get("/admin/users/ann/keys", ADMIN_KEY).await.json()["data"][0]["id"].as_str().unwrap().to_owned();
    let document: Value = serde_json::from_str(&openapi::document().to_pretty_json().unwrap()).unwrap();
    let mut seen = 0;
    // A stream of events ends only with its listener.
    let paths = document["paths"].as_object().unwrap().iter().filter(|(template, _)| *template != "/admin/events");
    for (template, methods) in paths {
        for method in methods.as_object().unwrap().keys().filter(|_| template.starts_with("/admin/")) {
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            let filled = [("{id}", "ann"), ("{key_id}", &*key_id), ("{model}", "llama3.2"), ("{name}", "a")];
            let path = filled.iter().fold(template.clone(), |path, (name, value)| path.replace(name, value));
            let body = match template.rsplit('/').next().unwrap() {
                "pull" | "load" | "unload" => json!({"model": "llama3.2"}),
                "users" => json!({"user_id": "ben"}),
                "admins" => json!({"name": "a", "role": "viewer"}),
                "nodes" => json!({"name": "b", "url": "http://127.0.0.1:1"}),
                _ => json!({}),
            };
            for (key, name) in [(&*viewer, "vic"), (ADMIN_KEY, "configured key")] {
                let reply = app.send(method.clone(), &path, Some(key), body.to_string()).await;
                let told = lines_of(&app, &reply).await;
                if method == Method::GET {
                    assert!(told.is_empty(), "{method} {path}: {told:?}");
                    continue;
                }
                seen += 1;
                let last = told.last().unwrap_or_else(|| panic!("no line of {method} {path}"));
                assert_eq!(last["status"], reply.status.as_u16(), "{method} {path}: {told:?}");
                assert_eq!((&last["admin"], &last["method"]), (&json!(name), &json!(method.as_str())), "{path}");
                let route = last["route"].as_str().unwrap().replace(":.+}", "}");
                assert_eq!(&route, template);
                let begun = told.len() == 2 && told[0]["status"].is_null();
                assert!(told.len() == 1 || begun, "{method} {path}: {told:?}");
            }
        }
    }
    assert!(seen > 40, "{seen}");
    let users = app.send(Method::DELETE, "/admin/users/ann", None, "").await;
    assert!(lines_of(&app, &users).await.is_empty(), "nobody is behind a request without a key");
    app.stop().await;
}

#[actix_rt::test]
async fn a_line_says_what_was_there_before_and_afterwards_and_no_secret() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let made = app.post("/admin/users", ADMIN_KEY, json!({"user_id": "ann", "requests_per_minute": 5})).await;
        let told = lines_of(&app, &made).await;
        assert_eq!((&told[0]["target"], &told[0]["before"]), (&json!("ann"), &Value::Null), "{told:?}");
        assert_eq!((&told[0]["after"]["limits"]["requests_per_minute"], &told[0]["status"]), (&json!(5), &json!(201)));
        let changed =
            app.put("/admin/users/ann/limits", ADMIN_KEY, json!({"requests_per_minute": null, "weight": 2})).await;
        let told = lines_of(&app, &changed).await;
        assert_eq!(
            told[0]["before"],
            json!({"weight": 1.0, "limits": {
            "requests_per_minute": 5, "tokens_per_minute": null, "tokens_per_day": null, "max_concurrency": null}})
        );
        assert_eq!(
            (&told[0]["after"]["weight"], &told[0]["after"]["limits"]["requests_per_minute"]),
            (&json!(2.0), &Value::Null)
        );

        let node = json!({"name": "n", "url": "http://ann:geheim@127.0.0.1:1", "api_key": "geheim", "slots": 2,
            "headers": {"x-token": "geheim"}});
        app.post("/admin/nodes", ADMIN_KEY, node).await;
        let node = json!({"name": "n", "url": "http://127.0.0.1:1", "api_key": "geheim", "slots": 2});
        let added = app.post("/admin/nodes", ADMIN_KEY, node).await;
        assert_eq!(added.status, 201, "{}", added.text());
        let told = lines_of(&app, &added).await;
        assert_eq!((&told[0]["target"], &told[0]["after"]["slots"]), (&json!("n"), &json!(2)), "{told:?}");
        let gone = app.delete("/admin/nodes/n", ADMIN_KEY).await;
        let told = lines_of(&app, &gone).await;
        assert_eq!((&told[0]["before"]["url"], &told[0]["after"]), (&json!("http://127.0.0.1:1"), &Value::Null));

        let rotated = app.post("/admin/admins", ADMIN_KEY, json!({"name": "eve", "role": "admin"})).await;
        let eve = rotated.json()["api_key"].as_str().unwrap().to_owned();
        let deleted = app.delete("/admin/users/ann", &eve).await;
        let told = lines_of(&app, &deleted).await;
        assert_eq!((&told[0]["admin"], &told[0]["role"]), (&json!("eve"), &json!("admin")));
        assert_eq!((&told[0]["before"]["user_id"], &told[0]["after"]), (&json!("ann"), &Value::Null));

        let all = app.get("/admin/audit?limit=1000", ADMIN_KEY).await.text().to_owned();
        for secret in ["geheim", &eve, ADMIN_KEY, made.json()["api_key"].as_str().unwrap()] {
            assert!(!all.contains(secret), "{secret}: {all}");
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn lines_are_found_page_by_page_and_as_a_table() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        for name in ["ann", "ben", "=cat"] {
            app.post("/admin/users", ADMIN_KEY, json!({"user_id": name})).await;
        }
        app.delete("/admin/users/ann", ADMIN_KEY).await;
        let first = app.get("/admin/audit?limit=3", ADMIN_KEY).await.json();
        let next = first["next"].as_str().unwrap();
        let second = app.get(&format!("/admin/audit?limit=3&after={next}"), ADMIN_KEY).await.json();
        let numbers = |page: &Value| -> Vec<i64> {
            page["data"].as_array().unwrap().iter().map(|line| line["seq"].as_i64().unwrap()).collect()
        };
        assert_eq!((numbers(&first), numbers(&second), &second["next"]), (vec![4, 3, 2], vec![1], &Value::Null));
        for (query, count) in [
            ("?target=ann", 2),
            ("?method=DELETE", 1),
            ("?route=/admin/users&target=ben", 1),
            ("?admin=configured%20key", 4),
            ("?admin=eve", 0),
            ("?from=2020-01-01&to=2021-01-01", 0),
            ("?from=2020-01-01", 4),
        ] {
            assert_eq!(lines(&app, query).await.len(), count, "{query}");
        }
        let table = app.get("/admin/audit?format=csv&method=POST", ADMIN_KEY).await;
        assert_eq!(table.header("content-type"), Some("text/csv; charset=utf-8"));
        let text = table.text().to_owned();
        assert!(text.starts_with("seq,at,admin,role,method,route,target,") && text.lines().count() == 4, "{text}");
        let accept = format!("Bearer {ADMIN_KEY}");
        let headers = [("authorization", &*accept), ("accept", "text/csv")];
        let accepted = app.send_with(Method::GET, "/admin/audit?method=POST", &headers, "").await;
        assert_eq!(accepted.text(), text);
        for (query, param) in
            [("format=xml", "format"), ("format=csv&limit=1", "limit"), ("after=x", "after"), ("limit=0", "limit")]
        {
            assert_eq!(error_of(&app.get(&format!("/admin/audit?{query}"), ADMIN_KEY).await, 400)["param"], param);
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_change_that_cannot_be_written_down_is_not_made() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let db = Database::connect(&app.database.as_ref().unwrap().url).await.unwrap();
        db.execute_unprepared("DELETE FROM audit_chain").await.unwrap();
        error_of(&app.post("/admin/users", ADMIN_KEY, json!({"user_id": "ann"})).await, 503);
        error_of(&app.post("/admin/admins", ADMIN_KEY, json!({"name": "eve", "role": "viewer"})).await, 503);
        error_of(&app.send(Method::POST, "/admin/nodes/gone/drain", Some(ADMIN_KEY), "").await, 503);
        error_of(&app.send(Method::POST, "/admin/reload", Some(ADMIN_KEY), "").await, 503);
        assert_eq!(app.get("/admin/users/ann", ADMIN_KEY).await.status, 404);
        assert_eq!(app.get("/admin/admins", ADMIN_KEY).await.json()["data"], json!([]));
        assert_ne!(app.get("/admin/nodes/gone", ADMIN_KEY).await.json()["state"], "draining");
        db.close().await.unwrap();
        app.stop().await;
    }
}

#[actix_rt::test]
async fn gateways_that_write_at_the_same_time_make_one_chain() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let (one, two) = (app_on(database.again()).await, app_on(database).await);
    let make = async |app: &TestApp, name: &str| {
        for index in 0..10 {
            let made = app.post("/admin/users", ADMIN_KEY, json!({"user_id": format!("{name}-{index}")})).await;
            assert_eq!(made.status, 201, "{}", made.text());
            let drained = app.send(Method::POST, "/admin/nodes/gone/drain", Some(ADMIN_KEY), "").await;
            assert_eq!(drained.status, 200, "{}", drained.text());
        }
    };
    futures_util::join!(make(&one, "a"), make(&one, "b"), make(&two, "c"), make(&two, "d"));
    let verified = verify_audit(&settings(two.database.as_ref().unwrap()), None).await.unwrap();
    assert_eq!(assert_whole(&verified), 80);
    let seqs: BTreeSet<i64> =
        lines(&one, "?limit=1000").await.iter().map(|line| line["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (1..=80).collect());
    one.stop().await;
    two.stop().await;
}

#[actix_rt::test]
async fn lines_are_kept_for_so_many_days_and_the_rest_is_whole() {
    for kept in [Some(1), Some(3), None] {
        for database in TestDatabase::each().await {
            let store = Store::open(&settings(&database)).await.unwrap();
            let now_ms = i64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap();
            for days in [5, 2, 0] {
                let entry = AuditEntry {
                    at_ms: now_ms - days * 86_400_000,
                    actor: "eve".to_owned(),
                    role: "admin",
                    method: "DELETE".to_owned(),
                    route: "/admin/users/{id}".to_owned(),
                    target: format!("{days} days ago"),
                    before: None,
                    after: None,
                    request_id: uuid::Uuid::now_v7(),
                    status: Some(200),
                };
                store.audit(entry).await.unwrap();
            }
            store.close().await;
            let app = app_with(database, |config| config.database.audit_retention_days = kept).await;
            let left = match kept {
                Some(1) => 1,
                Some(_) => 2,
                None => 3,
            };
            wait_for("old lines are gone", async || lines(&app, "").await.len() == left).await;
            let verified = verify_audit(&settings(app.database.as_ref().unwrap()), None).await.unwrap();
            assert_eq!(assert_whole(&verified), left as u64);
            app.stop().await;
        }
    }
}
