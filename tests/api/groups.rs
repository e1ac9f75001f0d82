//! Do groups of users keep to their limits together, and does everybody see which group that is?
use awc::http::Method;
use entity::usage::{Entity, Model};
use ollama_sim::{Fault, SimConfig, SimNode};
use sea_orm::{Database, EntityTrait, IntoActiveModel};
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, chat_body, error_of, fast_node, node, spawn_app_with, wait_for,
    wait_long_for,
};

async fn app_on(database: TestDatabase) -> (SimNode, TestApp) {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
    (simulated, app)
}

async fn made(app: &TestApp, body: Value) -> Value {
    let reply = app.post("/admin/groups", ADMIN_KEY, body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

async fn patch(app: &TestApp, path: &str, body: Value) -> Reply {
    app.send(Method::PATCH, path, Some(ADMIN_KEY), body.to_string()).await
}

async fn patched(app: &TestApp, path: &str, body: Value) -> Value {
    let reply = patch(app, path, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn read(app: &TestApp, path: &str) -> Value {
    let reply = app.get(path, ADMIN_KEY).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

/// How a limit of a group stands.
async fn standing(app: &TestApp, group: &str, limit: &str) -> Value {
    let read = read(app, &format!("/admin/groups/{group}")).await;
    let limits = read["limits"].as_array().unwrap();
    limits.iter().find(|standing| standing["limit"] == limit).cloned().unwrap_or_else(|| panic!("{limit}: {read}"))
}

async fn used(app: &TestApp, group: &str, limit: &str) -> u64 {
    standing(app, group, limit).await["used"].as_u64().unwrap()
}

fn names(list: &Value, field: &str) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

/// A request for an answer of so many tokens.
async fn ask(app: &TestApp, key: &str, tokens: u64) -> Reply {
    let mut body = chat_body("llama3.2", &format!("[[n={tokens}]] hi"));
    body["max_tokens"] = tokens.into();
    app.post("/v1/chat/completions", key, body).await
}

#[actix_rt::test]
async fn a_group_is_made_read_changed_and_listed() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        let group = made(&app, json!({"group_id": "lab", "tokens_per_month": 5000, "weight": 2})).await;
        let expected = json!({
            "group_id": "lab", "created_at": group["created_at"], "requests_per_minute": null, "tokens_per_minute": null,
            "tokens_per_day": null, "max_concurrency": null, "tokens_per_month": 5000, "weight": 2.0,
            "allowed_models": null, "user_count": 0, "tokens_today": 0, "tokens_this_month": 0, "warnings": [],
        });
        assert_eq!(group, expected);
        error_of(&app.post("/admin/groups", ADMIN_KEY, json!({"group_id": "lab"})).await, 409);
        for (body, param) in [
            (json!({"group_id": "a b"}), "group_id"),
            (json!({"group_id": "b", "tokens_per_month": 2_000_000_000_000_000_u64}), "tokens_per_month"),
            (json!({"group_id": "b", "weight": 0}), "weight"),
            (json!({"group_id": "b", "allowed_models": []}), "allowed_models"),
        ] {
            assert_eq!(error_of(&app.post("/admin/groups", ADMIN_KEY, body).await, 400)["param"], param);
        }

        let changed =
            patched(&app, "/admin/groups/lab", json!({"tokens_per_day": 700, "allowed_models": ["nope"]})).await;
        assert_eq!((&changed["tokens_per_day"], &changed["tokens_per_month"]), (&json!(700), &json!(5000)));
        assert_eq!(changed["warnings"], json!(["No node has the model `nope`, and no alias is called so."]));
        let cleared = json!({"tokens_per_month": null, "allowed_models": null});
        let changed = patched(&app, "/admin/groups/lab", cleared).await;
        assert_eq!((&changed["tokens_per_month"], &changed["weight"]), (&Value::Null, &json!(2.0)));
        assert_eq!(patch(&app, "/admin/groups/nobody", json!({})).await.status, 404);

        made(&app, json!({"group_id": "Ops"})).await;
        let app = app.restart().await;
        let first = read(&app, "/admin/groups?limit=1").await;
        assert_eq!(names(&first, "group_id"), ["Ops"]);
        let next = format!("/admin/groups?limit=1&after={}", first["next"].as_str().unwrap());
        let second = read(&app, &next).await;
        assert_eq!((names(&second, "group_id"), &second["next"]), (vec!["lab".to_owned()], &Value::Null));
        assert_eq!(second["data"][0]["tokens_per_day"], 700);
        assert_eq!(names(&read(&app, "/admin/groups?search=OP").await, "group_id"), ["Ops"]);

        let audit = read(&app, "/admin/audit?limit=100").await;
        let entries = audit["data"].as_array().unwrap();
        let of_lab = entries.iter().filter(|entry| entry["target"] == "lab" && entry["status"] != 409);
        let of_lab: Vec<&Value> = of_lab.collect();
        assert_eq!(of_lab.len(), 3, "made and changed twice, newest first: {audit}");
        assert_eq!(of_lab[0]["before"]["allowed_models"], json!(["nope"]));
        assert_eq!((&of_lab[0]["after"]["allowed_models"], &of_lab[0]["after"]["weight"]), (&Value::Null, &json!(2.0)));
        assert_eq!((&of_lab[2]["before"], &of_lab[2]["after"]["tokens_per_month"]), (&Value::Null, &json!(5000)));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_group_with_users_is_not_deleted_unless_they_leave_and_one_made_again_inherits_nothing() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        made(&app, json!({"group_id": "lab", "tokens_per_month": 5000, "tokens_per_day": 4000})).await;
        let ann = app.user_with("ann", json!({"group": "lab"})).await;
        app.user("bob").await;
        app.user("eve").await;
        assert_eq!(patched(&app, "/admin/users/bob", json!({"group": "lab"})).await["group"], "lab");
        let unknown = error_of(&patch(&app, "/admin/users/bob", json!({"group": "nope"})).await, 400);
        assert_eq!(
            (&unknown["param"], unknown["message"].as_str()),
            (&json!("group"), Some("There is no group `nope`."))
        );
        assert_eq!(names(&read(&app, "/admin/users?group=lab").await, "user_id"), ["ann", "bob"]);
        assert_eq!(names(&read(&app, "/admin/users?group=").await, "user_id"), ["eve"]);
        assert_eq!(read(&app, "/admin/groups/lab").await["user_count"], 2);
        assert_eq!(ask(&app, &ann, 50).await.status, 200);
        assert!(used(&app, "lab", "tokens_per_month").await >= 50);

        let refused = error_of(&app.delete("/admin/groups/lab", ADMIN_KEY).await, 409);
        assert!(refused["message"].as_str().unwrap().contains("`lab` still has 2 users"), "{refused}");
        let deleted = app.delete("/admin/groups/lab?members=release", ADMIN_KEY).await;
        assert_eq!(deleted.json(), json!({"group_id": "lab", "deleted": true, "released": 2}));
        assert_eq!(read(&app, "/admin/users/ann").await["group"], Value::Null);
        assert_eq!(app.get("/admin/groups/lab", ADMIN_KEY).await.status, 404);
        assert_eq!(ask(&app, &ann, 5).await.status, 200);

        made(&app, json!({"group_id": "lab", "tokens_per_month": 5000})).await;
        patched(&app, "/admin/users/ann", json!({"group": "lab"})).await;
        assert_eq!(used(&app, "lab", "tokens_per_month").await, 0);
        assert_eq!(ask(&app, &ann, 20).await.status, 200);
        let rows = app.rows_once(&ann, 3).await;
        let groups: Vec<&Value> = rows.iter().map(|row| &row["group_id"]).collect();
        assert_eq!(groups, [&json!("lab~2"), &Value::Null, &json!("lab")]);
        let report = read(&app, "/admin/usage?group_by=group").await;
        let sums = report["data"].as_array().unwrap().iter().map(|row| (&row["group_id"], row["requests"].as_u64()));
        assert_eq!(
            sums.collect::<Vec<_>>(),
            [(&Value::Null, Some(1)), (&json!("lab"), Some(1)), (&json!("lab~2"), Some(1))]
        );
        assert_eq!(read(&app, "/admin/usage?group=lab").await["total"]["requests"], 1);
        let app = app.restart().await;
        let month = used(&app, "lab", "tokens_per_month").await;
        assert!((20..50).contains(&month), "{month}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn the_last_minute_of_a_key_a_user_and_a_group_outlasts_a_restart() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        made(&app, json!({"group_id": "lab", "requests_per_minute": 2})).await;
        let of_group = app.user_with("ann", json!({"group": "lab"})).await;
        let of_user = app.user_with("bob", json!({"requests_per_minute": 2})).await;
        let without = app.user("dan").await;
        let of_key = app.post("/admin/users/dan/keys", ADMIN_KEY, json!({"requests_per_minute": 2})).await.json();
        let of_key = of_key["api_key"].as_str().unwrap().to_owned();
        for key in [&of_group, &of_user, &of_key, &without] {
            for _ in 0..2 {
                assert_eq!(ask(&app, key, 1).await.status, 200);
            }
        }
        let app = app.restart().await;
        for key in [&of_group, &of_user, &of_key] {
            let error = error_of(&ask(&app, key, 1).await, 429);
            assert!(error["message"].as_str().unwrap().contains("2 requests per minute"), "{error}");
        }
        assert_eq!(ask(&app, &without, 1).await.status, 200);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_request_must_fit_into_the_limits_of_the_key_the_user_and_the_group() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        made(&app, json!({"group_id": "lab", "requests_per_minute": 3})).await;
        let ann = app.user_with("ann", json!({"group": "lab", "requests_per_minute": 2})).await;
        let bob = app.user_with("bob", json!({"group": "lab"})).await;
        for key in [&ann, &bob, &ann] {
            assert_eq!(ask(&app, key, 1).await.status, 200);
        }
        let of_user = error_of(&ask(&app, &ann, 1).await, 429);
        assert!(!of_user["message"].as_str().unwrap().contains("group"), "her own comes first: {of_user}");
        let of_group = error_of(&ask(&app, &bob, 1).await, 429);
        let message = of_group["message"].as_str().unwrap();
        assert!(
            message.starts_with("Rate limit reached: 3 requests per minute for your group `lab`, all"),
            "{message}"
        );
        let row = app.rows_once(&bob, 2).await.remove(0);
        assert_eq!((&row["limit"], &row["group_id"]), (&json!("group.requests_per_minute"), &json!("lab")));

        patched(&app, "/admin/groups/lab", json!({"requests_per_minute": null, "tokens_per_month": 300})).await;
        let over = error_of(&ask(&app, &bob, 400).await, 429);
        assert_eq!(over["code"], "insufficient_quota", "{over}");
        assert!(over["message"].as_str().unwrap().contains("of its 300 tokens per month"), "{over}");
        let me = app.get("/v1/me", &bob).await.json();
        assert_eq!(me["group"], "lab");
        let limits = me["limits"].as_array().unwrap();
        let month = limits.iter().find(|standing| standing["limit"] == "tokens_per_month").unwrap();
        assert_eq!((&month["of"], &month["name"], &month["allowed"]), (&json!("group"), &json!("lab"), &json!(300)));
        let of_all = app.rows(&ann).await.into_iter().chain(app.rows(&bob).await);
        let total: u64 = of_all.map(|row| row["total_tokens"].as_u64().unwrap()).sum();
        assert_eq!((month["used"].as_u64(), month["left"].as_u64()), (Some(total), Some(300 - total)), "both of them");
        assert!(month["resets_in_ms"].as_u64().unwrap() <= 31 * 86_400_000, "{month}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_request_counts_for_the_group_that_it_was_admitted_under() {
    let (simulated, app) = app_on(TestDatabase::sqlite()).await;
    for group in ["old", "new"] {
        made(&app, json!({"group_id": group, "tokens_per_month": 5000})).await;
    }
    let key = app.user_with("ann", json!({"group": "old"})).await;
    simulated.set_fault(Some(Fault::HangAfter(3)));
    let stream = crate::harness::stream_body("llama3.2", "[[n=9]] hi");
    let mut events = app.open_stream(&key, &stream).await;
    events.next().await.unwrap();
    patched(&app, "/admin/users/ann", json!({"group": "new"})).await;
    assert!(standing(&app, "old", "tokens_per_month").await["reserved"].as_u64().unwrap() > 0);
    drop(events);
    wait_for("it is settled", async || used(&app, "old", "tokens_per_month").await > 0).await;
    assert_eq!(standing(&app, "old", "tokens_per_month").await["reserved"], 0);
    assert_eq!(used(&app, "new", "tokens_per_month").await, 0);
    assert_eq!(app.rows_once(&key, 1).await[0]["group_id"], "old");
    simulated.set_fault(None);
    assert_eq!(ask(&app, &key, 5).await.status, 200);
    assert!(used(&app, "new", "tokens_per_month").await >= 5);
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_must_be_allowed_by_the_key_and_by_the_group() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |config| {
        config.models.aliases = [("fast".to_owned(), "llama3.2".to_owned())].into();
    })
    .await;
    made(&app, json!({"group_id": "lab", "allowed_models": ["all-minilm"]})).await;
    let key = app.user_with("ann", json!({"group": "lab"})).await;
    let status = async |model: &str| app.chat(&key, model, "hi").await.status.as_u16();
    let list = async || names(&app.get("/v1/models", &key).await.json(), "id");
    assert_eq!((status("llama3.2").await, list().await), (403, vec!["all-minilm:latest".to_owned()]));
    assert_eq!(app.get("/v1/me", &key).await.json()["allowed_models"], json!(["all-minilm"]));
    patched(&app, "/admin/groups/lab", json!({"allowed_models": ["llama3.2"]})).await;
    assert_eq!(status("fast").await, 200);
    let id = app.get("/v1/me", &key).await.json()["key_id"].as_str().unwrap().to_owned();
    patched(&app, &format!("/admin/users/ann/keys/{id}"), json!({"allowed_models": ["fast", "all-minilm"]})).await;
    // The key allows the model by its alias alone.
    assert_eq!((status("fast").await, status("llama3.2").await, list().await), (200, 403, vec!["fast".to_owned()]));
    assert_eq!(app.get("/v1/me", &key).await.json()["allowed_models"], json!(["fast"]));
    app.stop().await;
}

/// A row of 100 tokens of a day.
fn row(day: i32, number: u128) -> Model {
    let id = u128::try_from(i64::from(day) * 86_400_000 + 3_600_000).unwrap() << 80 | number;
    Model {
        request_id: uuid::Uuid::from_u128(id),
        user_id: "ann".to_owned(),
        key_id: None,
        created_at_ms: i64::from(day) * 86_400_000 + 3_600_000,
        day,
        model: "m".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        node: None,
        stream: false,
        status: "completed".to_owned(),
        prompt_tokens: 60,
        completion_tokens: 40,
        tokens_from: "reported".to_owned(),
        attempts: 1,
        queue_ms: 0,
        time_to_first_token_ms: None,
        duration_ms: 1,
        load_ms: None,
        prefill_ms: None,
        decode_ms: None,
        code: None,
        limit_name: None,
        http_status: Some(200),
        requests: 1,
        group_id: Some("lab".to_owned()),
    }
}

#[actix_rt::test]
async fn a_restart_counts_the_days_of_this_month_and_no_other() {
    for database in TestDatabase::each().await {
        let (_simulated, app) = app_on(database).await;
        made(&app, json!({"group_id": "lab", "tokens_per_month": 5000, "tokens_per_day": 5000})).await;
        app.user_with("ann", json!({"group": "lab"})).await;
        // Stopped, and started again with rows that came in meanwhile.
        let database = app.stop().await;
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let today = i32::try_from(now_ms / 86_400_000).unwrap();
        let first = limits::Month::of_day(today).first_day();
        let rows = [row(first - 1, 1), row(first, 2), row(today, 3)];
        let db = Database::connect(&database.url).await.unwrap();
        Entity::insert_many(rows.map(IntoActiveModel::into_active_model)).exec_without_returning(&db).await.unwrap();
        db.close().await.unwrap();
        let (_simulated, app) = app_on(database).await;
        let today_alone = if first == today { 200 } else { 100 };
        assert_eq!(used(&app, "lab", "tokens_per_month").await, 200);
        assert_eq!(used(&app, "lab", "tokens_per_day").await, today_alone);
        let listed = read(&app, "/admin/groups").await["data"][0].clone();
        assert_eq!(listed["tokens_this_month"], 200, "{listed}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn two_gateways_keep_the_month_of_a_group_together_whichever_of_its_users_ask() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let again = database.again();
    let simulated = SimNode::start(SimConfig { slots: 16, ..SimConfig::warm() }).await.unwrap();
    let on = async |database| spawn_app_with(vec![node("a", simulated.url(), 16)], database, |_| {}).await;
    let (first, second) = (on(database).await, on(again).await);
    made(&first, json!({"group_id": "lab", "tokens_per_month": 10_000})).await;
    let ann = first.user_with("ann", json!({"group": "lab"})).await;
    let bob = first.user_with("bob", json!({"group": "lab"})).await;
    let otto = first.user_with("otto", json!({"requests_per_minute": 1000})).await;
    wait_long_for("both know the users", async || second.get("/v1/models", &otto).await.status == 200).await;
    wait_long_for("both share", async || ask(&second, &otto, 1).await.status == 200).await;
    let drain = async |app: &TestApp, key: &str| {
        let mut answered = 0_u64;
        loop {
            match ask(app, key, 50).await {
                reply if reply.status == 200 => answered += 1,
                reply if reply.header("x-should-retry") == Some("false") => return answered,
                _ => crate::harness::let_pass(std::time::Duration::from_millis(200)).await,
            }
        }
    };
    let (of_first, of_second) = tokio::join!(drain(&first, &ann), drain(&second, &bob));
    assert!(of_first > 0 && of_second > 0, "both had a part: {of_first} and {of_second}");
    let total = async |app: &TestApp, key: &str| {
        app.get("/v1/usage/summary", key).await.json()["total"]["total_tokens"].as_u64().unwrap()
    };
    let all = total(&first, &ann).await + total(&second, &bob).await;
    assert!((9_700..=10_000).contains(&all), "{all}");
    for app in [&first, &second] {
        let month = standing(app, "lab", "tokens_per_month").await;
        assert!(month["left"].as_u64().unwrap() <= 300, "{month}");
    }
    // What one of them has used stays used when it is gone.
    second.stop().await;
    let refused = error_of(&ask(&first, &ann, 400).await, 429);
    assert!(refused["message"].as_str().unwrap().contains("of its 10000 tokens per month"), "{refused}");
    first.stop().await;
}
