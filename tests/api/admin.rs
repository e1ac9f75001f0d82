//! What can the operator do: users, their limits, and a look at the nodes?
use awc::http::Method;
use futures_util::future::join_all;
use ollama_sim::Fault;
use scheduler::NodeState;
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, chat_body, cold_node, error_of, eventually, fast_node, node, spawn_app,
    spawn_app_with, wait_for,
};

/// A gateway whose only node is not there.
pub async fn app_on(database: TestDatabase) -> TestApp {
    spawn_app_with(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)], database, |_| {}).await
}

pub async fn app_on_sqlite() -> TestApp {
    app_on(TestDatabase::sqlite()).await
}

pub async fn names_of_users(app: &TestApp) -> Vec<String> {
    let users = app.get("/admin/users?limit=1000", ADMIN_KEY).await.json();
    users["data"].as_array().unwrap().iter().map(|user| user["user_id"].as_str().unwrap().to_owned()).collect()
}

/// What stands in every answer about a user.
pub const LIMITS: [&str; 5] =
    ["max_concurrency", "requests_per_minute", "tokens_per_day", "tokens_per_minute", "weight"];

/// What is used of the limits while nothing runs and none of a minute's tokens holds.
pub fn used_of(requests: u32, tokens: Value) -> Value {
    json!({
        "requests_last_minute": requests, "tokens_last_minute": 0, "tokens_today": tokens, "tokens_reserved": 0,
        "concurrency": 0,
    })
}

pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[actix_rt::test]
async fn a_new_user_gets_a_key_of_the_documented_form_that_works_at_once() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;

        let reply = app.post("/admin/users", ADMIN_KEY, json!({"user_id": "user-123"})).await;

        assert_eq!(reply.status, 201, "{}", reply.text());
        let user = reply.json();
        assert_eq!(
            keys(&user),
            [
                "api_key",
                "created_at",
                "display_name",
                "email",
                "group",
                "key_count",
                "key_id",
                "last_seen",
                "max_concurrency",
                "note",
                "requests_per_minute",
                "suspended",
                "suspended_at",
                "tokens_per_day",
                "tokens_per_minute",
                "tokens_this_month",
                "tokens_today",
                "user_id",
                "weight",
            ]
        );
        let key = user["api_key"].as_str().unwrap();
        let random = key.strip_prefix("sk-user-123-").unwrap();
        let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(random.len() == 32 && random.bytes().all(is_lower_hex), "{key}");
        assert_eq!(app.get("/v1/models", key).await.status, 200);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_key_is_shown_once_and_never_again() {
    let database = TestDatabase::sqlite();
    let file = database.url.strip_prefix("sqlite://").unwrap().to_owned();
    let app = app_on(database).await;
    let key = app.user("ann").await;
    let random = key.strip_prefix("sk-ann-").unwrap();
    app.chat(&key, "llama3.2", "hi").await;

    for path in [
        "/admin/users",
        "/admin/users/ann",
        "/admin/users/ann/limits",
        "/admin/users/ann/usage",
        "/admin/nodes",
        "/metrics",
        "/health",
    ] {
        let reply = app.get(path, ADMIN_KEY).await;
        assert!(reply.status == 200 || path == "/health", "{path}");
        assert!(!reply.text().contains(random), "{path}");
    }
    let again = app.post("/admin/users", ADMIN_KEY, json!({"user_id": "ann"})).await;
    assert!(!again.text().contains(random));
    let _database = app.stop().await;
    for part in ["", "-wal"] {
        let stored = std::fs::read(format!("{file}{part}")).unwrap_or_default();
        assert!(!stored.windows(32).any(|window| window == random.as_bytes()), "the key stands in {file}{part}");
    }
}

#[actix_rt::test]
async fn a_user_who_exists_is_a_conflict_that_no_retry_cures() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 7})).await;

        let reply = app.post("/admin/users", ADMIN_KEY, json!({"user_id": "ann", "requests_per_minute": 9})).await;

        assert_eq!(error_of(&reply, 409)["code"], "already_exists");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert_eq!(app.get("/admin/users/ann", ADMIN_KEY).await.json()["requests_per_minute"], 7);
        assert_eq!(app.get("/v1/models", &key).await.status, 200);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn of_many_who_make_one_user_exactly_one_succeeds_over_two_gateways() {
    for database in TestDatabase::each().await {
        let second = app_on(database.again()).await;
        let first = app_on(database).await;
        let make = |app| async move { TestApp::post(app, "/admin/users", ADMIN_KEY, json!({"user_id": "ann"})).await };

        let replies = join_all((0..20).map(|turn| make(if turn % 2 == 0 { &first } else { &second }))).await;

        let (made, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
        assert_eq!(made.len(), 1);
        for reply in refused {
            error_of(reply, 409);
        }
        second.stop().await;
        first.stop().await;
    }
}

#[actix_rt::test]
async fn names_of_users_keep_to_the_documented_letters() {
    let app = app_on_sqlite().await;
    let longest = "x".repeat(64);
    for good in ["user-123", "a", "A.b_c@d-e", "0", "-", longest.as_str()] {
        let reply = app.post("/admin/users", ADMIN_KEY, json!({"user_id": good})).await;
        assert_eq!(reply.status, 201, "{good}: {}", reply.text());
        let read = app.get(&format!("/admin/users/{}", good.replace('@', "%40")), ADMIN_KEY).await;
        assert_eq!(read.json()["user_id"], good);
    }
    let before = names_of_users(&app).await;
    let too_long = "x".repeat(65);
    for bad in [
        "",
        " ",
        "a b",
        " a",
        "a\n",
        "a\r\nX: y",
        "a\t",
        "a\0",
        "a/b",
        "../a",
        "a\\b",
        "a:b",
        "a,b",
        "a;b",
        "a'b",
        "a\"b",
        "a%20b",
        "a+b",
        "a#b",
        "a?b",
        "ä",
        "ａ",
        "а",
        "😀",
        "a\u{200b}",
        "\u{feff}a",
        &too_long,
    ] {
        let reply = app.post("/admin/users", ADMIN_KEY, json!({"user_id": bad})).await;
        assert_eq!(error_of(&reply, 400)["param"], "user_id", "{bad:?}");
    }
    assert_eq!(names_of_users(&app).await, before);
    app.stop().await;
}

#[actix_rt::test]
async fn who_does_not_exist_is_404_on_every_route() {
    let app = app_on_sqlite().await;
    app.user("ann").await;
    for id in ["bob", "Ann", "ann%20", "%2e%2e", "a%2Fb", "ann%00", "%F0%9F%98%80", &"x".repeat(300)] {
        for (method, path, body) in [
            (Method::GET, format!("/admin/users/{id}"), ""),
            (Method::DELETE, format!("/admin/users/{id}"), ""),
            (Method::GET, format!("/admin/users/{id}/usage"), ""),
            (Method::GET, format!("/admin/users/{id}/limits"), ""),
            (Method::PUT, format!("/admin/users/{id}/limits"), "{}"),
        ] {
            error_of(&app.send(method, &path, Some(ADMIN_KEY), body).await, 404);
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_deleted_user_keeps_the_usage_history_and_nothing_else() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 2)], database, |_| {}).await;
        let key = app.user("ann").await;
        let answered = app.chat(&key, "llama3.2", "hi").await;

        let deleted = app.delete("/admin/users/ann", ADMIN_KEY).await;

        assert_eq!((deleted.status.as_u16(), deleted.json()), (200, json!({"user_id": "ann", "deleted": true})));
        error_of(&app.get("/admin/users/ann", ADMIN_KEY).await, 404);
        error_of(&app.get("/admin/users/ann/limits", ADMIN_KEY).await, 404);
        error_of(&app.delete("/admin/users/ann", ADMIN_KEY).await, 404);
        assert!(names_of_users(&app).await.is_empty());
        let app = app.restart().await;
        error_of(&app.get("/v1/usage", &key).await, 401);
        let usage = app.get("/admin/users/ann/usage", ADMIN_KEY).await.json();
        assert_eq!(usage["data"][0]["request_id"], answered.header("x-request-id").unwrap());
        assert_eq!(usage["summary"]["total"]["total_tokens"], answered.json()["usage"]["total_tokens"]);
        app.stop().await;
    }
}

pub fn send_in_background(app: &TestApp, key: &str) -> actix_rt::task::JoinHandle<()> {
    let (url, key) = (app.url("/v1/chat/completions"), key.to_owned());
    actix_rt::spawn(async move {
        let request = crate::harness::client().post(url).bearer_auth(key);
        drop(request.send_body(chat_body("llama3.2", "hi").to_string()).await);
    })
}

/// What is said of each node, by name.
const NODE_KEYS: [&str; 21] = [
    "completed",
    "failed",
    "in_flight",
    "last_error",
    "last_probe",
    "loaded",
    "loading",
    "loads",
    "maintenance",
    "models",
    "name",
    "queue",
    "same_engine_as",
    "settings",
    "since",
    "slots",
    "source",
    "state",
    "tokens_per_second",
    "url",
    "version",
];

#[actix_rt::test]
async fn nodes_are_listed_with_their_state_load_and_models() {
    let simulated = cold_node().await;
    let nodes = vec![node("up", simulated.url(), 1), node("gone", "http://127.0.0.1:1".to_owned(), 3)];
    let app = spawn_app(nodes).await;
    let key = app.user("ann").await;
    app.chat(&key, "llama3.2", "hi").await;
    eventually("the model is seen in memory", || {
        app.dispatcher.read(|scheduler| !scheduler.nodes()[0].loaded.is_empty())
    })
    .await;
    eventually("the node that is not there is down", || {
        app.dispatcher.read(|scheduler| scheduler.nodes()[1].state == NodeState::Down)
    })
    .await;
    simulated.set_fault(Some(Fault::HangBeforeHead));
    let waiting = [send_in_background(&app, &key), send_in_background(&app, &key)];
    eventually("one request runs and one waits", || {
        app.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued()) == (1, 1))
    })
    .await;

    let reply = app.get("/admin/nodes", ADMIN_KEY).await;

    assert_eq!(reply.status, 200);
    let list = reply.json();
    assert_eq!(keys(&list), ["data", "object", "queued", "scope"]);
    assert_eq!((&list["object"], &list["queued"], &list["scope"]), (&json!("list"), &json!(1), &json!("all")));
    let [up, gone] = list["data"].as_array().unwrap().as_slice() else { panic!("two nodes: {list}") };
    for node in [up, gone] {
        assert_eq!(keys(node), NODE_KEYS);
    }
    assert_eq!((&up["name"], &up["state"], &up["slots"]), (&json!("up"), &json!("up"), &json!(1)));
    assert_eq!((&up["in_flight"], &up["queue"], &up["completed"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(up["last_error"], json!(null));
    let mut loaded = up["loaded"].clone();
    let speed = loaded[0].as_object_mut().unwrap().remove("tokens_per_second").unwrap();
    assert!(speed.is_null() || speed.as_f64().unwrap() > 0.0, "{speed}");
    assert_eq!(
        loaded,
        json!([{"name": "llama3.2:latest", "vram_bytes": 2_000_000_000_u64, "context_length": null, "context_drift": false}])
    );
    let models = up["models"].as_array().unwrap();
    assert_eq!(models.len(), 4);
    let model = models.iter().find(|model| model["name"] == "llama3.2:latest").unwrap();
    assert_eq!(keys(model), ["digest", "name", "size_bytes"]);
    assert_eq!(model["size_bytes"], 2_000_000_000_u64);
    assert_eq!((&gone["name"], &gone["state"], &gone["slots"]), (&json!("gone"), &json!("down"), &json!(3)));
    assert_eq!((&gone["models"], &gone["loaded"]), (&json!([]), &json!([])));
    assert!(gone["last_error"].as_str().unwrap().contains("/api/version"), "{gone}");
    for request in waiting {
        request.abort();
    }
    app.stop().await;
}

#[actix_rt::test]
async fn users_keys_and_limits_outlast_a_restart() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 12})).await;
        let before = app.get("/admin/users", ADMIN_KEY).await.json();

        let app = app.restart().await;

        assert_eq!(app.get("/admin/users", ADMIN_KEY).await.json(), before);
        assert_eq!(app.get("/v1/models", &key).await.status, 200);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_second_gateway_on_the_same_database_takes_up_what_the_first_changes() {
    for database in TestDatabase::each().await {
        let second_database = database.again();
        let first = app_on(database).await;
        let (gone, _kept) = (first.user("gone").await, first.user("kept").await);
        let second = app_on(second_database).await;
        let status = async |app: &TestApp, key: &str| app.get("/v1/models", key).await.status.as_u16();
        assert_eq!(status(&second, &gone).await, 200);

        first.delete("/admin/users/gone", ADMIN_KEY).await;
        first.put("/admin/users/kept/limits", ADMIN_KEY, json!({"requests_per_minute": 3})).await;
        let (new, other) = (first.user("new").await, second.user("other").await);

        wait_for("each has heard of what the other changed", async || {
            let limits = second.get("/admin/users/kept/limits", ADMIN_KEY).await.json();
            limits["requests_per_minute"] == 3
                && (status(&second, &gone).await, status(&second, &new).await, status(&first, &other).await)
                    == (401, 200, 200)
        })
        .await;
        assert_eq!(names_of_users(&second).await, ["kept", "new", "other"]);
        second.stop().await;
        first.stop().await;
    }
}
