//! What does the operator say of users, find of them, and how are users of one name told apart?
use awc::http::Method;
use ollama_sim::Fault;
use serde_json::{Value, json};

use crate::admin::{LIMITS, app_on, app_on_sqlite, keys, names_of_users};
use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, chat_body, error_of, fast_node, node, spawn_app_with, stream_body,
    wait_for,
};

async fn change(app: &TestApp, user: &str, body: Value) -> Reply {
    app.send(Method::PATCH, &format!("/admin/users/{user}"), Some(ADMIN_KEY), body.to_string()).await
}

async fn changed(app: &TestApp, user: &str, body: Value) -> Value {
    let reply = change(app, user, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn user(app: &TestApp, user: &str) -> Value {
    app.get(&format!("/admin/users/{user}"), ADMIN_KEY).await.json()
}

async fn names(app: &TestApp, query: &str) -> Vec<String> {
    let list = app.get(&format!("/admin/users?{query}"), ADMIN_KEY).await;
    assert_eq!(list.status, 200, "{}", list.text());
    list.json()["data"].as_array().unwrap().iter().map(|user| user["user_id"].as_str().unwrap().to_owned()).collect()
}

#[actix_rt::test]
async fn what_is_given_of_a_user_changes_the_rest_stays_and_null_clears() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 2)], database, |_| {}).await;
        app.user("ann").await;
        let mut expected = user(&app, "ann").await;
        for (field, value) in [
            ("display_name", json!("Ann É")),
            ("email", json!("ann@example.org")),
            ("note", json!("two\nlines")),
            ("display_name", json!(null)),
            ("note", json!("one")),
        ] {
            expected[field] = value.clone();
            assert_eq!(changed(&app, "ann", json!({field: value})).await, expected, "{field}");
        }
        assert_eq!(changed(&app, "ann", json!({})).await, expected);
        let app = app.restart().await;
        assert_eq!(user(&app, "ann").await, expected);
        error_of(&change(&app, "bob", json!({"note": "x"})).await, 404);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn what_cannot_be_said_of_a_user_is_refused_in_plain_words() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], TestDatabase::sqlite(), |_| {}).await;
    app.user("ann").await;
    let before = user(&app, "ann").await;
    for (body, field, message) in [
        (json!({"suspended": "yes"}), "suspended", "`suspended` must be true or false."),
        (json!({"emial": "a@b"}), "emial", "`emial` is not known here. What may be given: `suspended`, `display_name`"),
        (json!({"email": "ann"}), "email", "`email` must be an address"),
        (json!({"email": format!("a@{}", "x".repeat(254))}), "email", "`email` must be at most 254"),
        (json!({"display_name": "x".repeat(129)}), "display_name", "`display_name` must be at most 128"),
        (json!({"display_name": "a\nb"}), "display_name", "`display_name` must be at most 128 printable"),
        (json!({"note": "x".repeat(2_001), "suspended": true}), "note", "`note` must be at most 2000"),
    ] {
        let error = error_of(&change(&app, "ann", body).await, 400);
        assert_eq!(error["param"], field);
        assert!(error["message"].as_str().unwrap().starts_with(message), "{error}");
    }
    assert_eq!(user(&app, "ann").await, before);
    app.stop().await;
}

#[actix_rt::test]
async fn a_suspended_user_gets_a_403_in_their_dialect_while_running_requests_go_on() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let ann = app.user("ann").await;
        simulated.set_fault(Some(Fault::HangAfter(3)));
        let running = app.open_stream(&ann, &stream_body("llama3.2", "hi")).await;

        let shown = changed(&app, "ann", json!({"suspended": true})).await;
        assert!(shown["suspended"] == true && shown["suspended_at"].is_string(), "{shown}");

        let error = error_of(&app.chat(&ann, "llama3.2", "hi").await, 403);
        assert_eq!((&error["code"], &error["type"]), (&json!("user_suspended"), &json!("permission_error")));
        let message = error["message"].clone();
        let of_ollama = app.post("/api/chat", &ann, chat_body("llama3.2", "hi")).await;
        assert_eq!((of_ollama.status.as_u16(), of_ollama.json()), (403, json!({"error": message})));
        let of_anthropic = app.post("/v1/messages", &ann, chat_body("llama3.2", "hi")).await.json();
        assert_eq!(of_anthropic["error"], json!({"type": "permission_error", "message": message}));
        error_of(&app.get("/v1/me", &ann).await, 403);
        assert_eq!(app.dispatcher.read(|scheduler| scheduler.in_flight()), 1, "what runs goes on");
        drop(running);
        simulated.set_fault(None);

        // Said twice, it counts from the first time.
        assert_eq!(changed(&app, "ann", json!({"suspended": true})).await["suspended_at"], shown["suspended_at"]);
        let app = app.restart().await;
        error_of(&app.chat(&ann, "llama3.2", "hi").await, 403);
        assert_eq!(changed(&app, "ann", json!({"suspended": false})).await["suspended_at"], json!(null));
        assert_eq!(app.chat(&ann, "llama3.2", "hi").await.status, 200);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn another_gateway_hears_of_a_suspended_user_and_of_another_user_of_the_name() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let second = spawn_app_with(vec![node("a", simulated.url(), 4)], database.again(), |_| {}).await;
        let first = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let ann = first.user("ann").await;
        let status = async |key: &str| second.get("/v1/me", key).await.status.as_u16();
        wait_for("the other gateway knows the key", async || status(&ann).await == 200).await;
        assert_eq!(second.chat(&ann, "llama3.2", "hi").await.status, 200);

        changed(&first, "ann", json!({"suspended": true})).await;
        wait_for("the other gateway suspends too", async || status(&ann).await == 403).await;

        first.delete("/admin/users/ann", ADMIN_KEY).await;
        let new = first.user("ann").await;
        wait_for("the other gateway knows the new key", async || status(&new).await == 200).await;
        assert_eq!(status(&ann).await, 401);
        assert_eq!(second.get("/v1/usage", &new).await.json()["data"], json!([]));
        second.stop().await;
        first.stop().await;
    }
}

#[actix_rt::test]
async fn another_user_of_a_name_inherits_nothing_and_the_first_ones_history_can_be_asked_for() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let limits = json!({"requests_per_minute": 5, "tokens_per_day": 5000});
        let old = app.user_with("ann", limits.clone()).await;
        let first = app.chat(&old, "llama3.2", "hi").await;
        // One that has not ended when the name is used again.
        simulated.set_fault(Some(Fault::HangAfter(3)));
        let running = app.open_stream(&old, &stream_body("llama3.2", "hi")).await;

        app.delete("/admin/users/ann", ADMIN_KEY).await;
        let new = app.user_with("ann", limits).await;
        running.rest().await;
        simulated.set_fault(None);
        let app = app.restart().await;

        let me = app.get("/v1/me", &new).await.json();
        assert_eq!((&me["used"]["tokens_today"], &me["left"]["tokens"]), (&json!(0), &json!(5000)), "{me}");
        assert_eq!(app.get("/v1/usage", &new).await.json()["data"], json!([]));
        assert_eq!(app.get("/v1/me/requests", &new).await.json()["recent"], json!([]));
        assert_eq!(app.get("/v1/usage/summary", &new).await.json()["total"]["requests"], 0);
        assert_eq!(user(&app, "ann").await["tokens_today"], 0);
        let usage = async |id: &str| app.get(&format!("/admin/users/{id}/usage"), ADMIN_KEY).await.json();
        assert_eq!(usage("ann").await["summary"]["total"]["requests"], 0);
        let of_first = usage("ann~1").await;
        assert_eq!(of_first["data"].as_array().unwrap().len(), 2, "{of_first}");
        assert_eq!(of_first["data"][1]["request_id"], first.header("x-request-id").unwrap());

        let second = app.chat(&new, "llama3.2", "hi").await.json()["usage"]["total_tokens"].clone();
        assert_eq!(usage("ann").await["summary"]["total"]["total_tokens"], second);
        let found = app.get("/admin/requests?user=ann", ADMIN_KEY).await.json();
        assert_eq!((found["data"].as_array().unwrap().len(), &found["data"][0]["user_id"]), (1, &json!("ann")));
        let report = app.get("/admin/usage?user=ann", ADMIN_KEY).await.json();
        assert_eq!((&report["total"]["total_tokens"], &report["data"][0]["user_id"]), (&second, &json!("ann~2")));
        let app = app.restart().await;
        assert_eq!(app.get("/v1/me", &new).await.json()["used"]["tokens_today"], second);

        app.delete("/admin/users/ann", ADMIN_KEY).await;
        let usage = app.get("/admin/users/ann/usage", ADMIN_KEY).await.json();
        assert_eq!(usage["summary"]["total"]["total_tokens"], second, "of a deleted name the last one's");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn users_are_found_by_what_is_known_of_them_and_sorted_by_what_they_use() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let keys = [app.user("ann").await, app.user("bob").await, app.user("cem").await];
        changed(&app, "bob", json!({"display_name": "Robert Ångström", "email": "r@lab.example"})).await;
        changed(&app, "cem", json!({"note": "guest of ANN"})).await;
        app.post("/admin/users/cem/keys", ADMIN_KEY, json!({"name": "second"})).await;
        for (key, times) in [(&keys[1], 1), (&keys[2], 3)] {
            for _ in 0..times {
                assert_eq!(app.chat(key, "llama3.2", "hi").await.status, 200);
            }
        }

        for (query, expected) in [
            ("", vec!["ann", "bob", "cem"]),
            ("search=ann", vec!["ann", "cem"]),
            ("search=%C3%A5NG", vec!["bob"]),
            ("search=LAB.example", vec!["bob"]),
            ("search=nobody", vec![]),
            ("sort=user_id", vec!["ann", "bob", "cem"]),
            ("sort=tokens_today", vec!["cem", "bob", "ann"]),
            ("sort=tokens_this_month&search=ann", vec!["cem", "ann"]),
        ] {
            assert_eq!(names(&app, query).await, expected, "{query}");
        }
        assert_eq!(names(&app, "sort=last_seen").await[2], "ann", "whoever was never seen comes last");
        for sort in ["user_id", "created_at", "last_seen", "tokens_today"] {
            let all = names(&app, &format!("sort={sort}")).await;
            let (mut paged, mut after) = (Vec::new(), String::new());
            loop {
                let page = app.get(&format!("/admin/users?sort={sort}&limit=1{after}"), ADMIN_KEY).await.json();
                paged.push(page["data"][0]["user_id"].as_str().unwrap().to_owned());
                let Some(next) = page["next"].as_str() else { break };
                after = format!("&after={next}");
            }
            assert_eq!(paged, all, "{sort}");
        }
        let cem = user(&app, "cem").await;
        assert_eq!(cem["key_count"], 2);
        assert!(cem["last_seen"].is_string() && cem["tokens_today"].as_u64().unwrap() > 0, "{cem}");
        assert_eq!(cem["tokens_today"], cem["tokens_this_month"]);
        assert_eq!(user(&app, "ann").await["last_seen"], json!(null));
        for (query, field) in [("sort=size", None), ("search=%00&limit=0", Some("limit")), ("after=x", Some("after"))] {
            let error = error_of(&app.get(&format!("/admin/users?{query}"), ADMIN_KEY).await, 400);
            assert!(field.is_none_or(|field| error["param"] == field), "{error}");
        }
        let app = app.restart().await;
        assert_eq!(user(&app, "cem").await["last_seen"], cem["last_seen"], "it outlives a restart");
        app.stop().await;
    }
}

fn is_url_safe(cursor: &str) -> bool {
    !cursor.is_empty() && cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[actix_rt::test]
async fn bodies_that_are_no_user_are_400_and_make_none() {
    let app = app_on_sqlite().await;
    for body in [
        "",
        " ",
        "{",
        "null",
        "[]",
        "[\"ann\"]",
        "\"ann\"",
        "ann",
        "user_id=ann",
        "{}",
        r#"{"user_id":null}"#,
        r#"{"user_id":7}"#,
        r#"{"user_id":["ann"]}"#,
        r#"{"user_id":{"$ne":""}}"#,
        r#"{"user":"ann"}"#,
        r#"{"USER_ID":"ann"}"#,
        r#"{"user_id":"ann","admin":true}"#,
        r#"{"user_id":"ann","api_key":"sk-ann-00000000000000000000000000000000"}"#,
        r#"{"user_id":"ann","requests_per_minut":1}"#,
        r#"{"user_id":"ann","user_id":"bob"}"#,
        r#"{"user_id":"ann"} x"#,
        r#"{"user_id":"ann",}"#,
        "{\"user_id\":\"a\u{0}nn\"}",
    ] {
        let reply = app.send(Method::POST, "/admin/users", Some(ADMIN_KEY), body).await;
        assert_eq!(error_of(&reply, 400)["type"], "invalid_request_error", "{body}");
    }
    let invalid_utf_8 = &b"{\"user_id\":\"\xff\"}"[..];
    error_of(&app.send(Method::POST, "/admin/users", Some(ADMIN_KEY), invalid_utf_8).await, 400);
    let huge = format!("{{\"user_id\":\"{}\"}}", "x".repeat(1_000_000));
    let reply = app.send(Method::POST, "/admin/users", Some(ADMIN_KEY), huge).await;
    assert!(reply.status.is_client_error(), "{}", reply.text());
    assert!(names_of_users(&app).await.is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn users_are_paged_by_an_opaque_cursor_without_loss_or_repetition() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        let mut names: Vec<String> = ["b", "a.1", "a@x", "Z", "a-1", "_", "a"].map(str::to_owned).into();
        for name in &names {
            app.user(name).await;
        }
        names.sort();

        let mut seen: Vec<String> = Vec::new();
        let mut after = String::new();
        loop {
            let page = app.get(&format!("/admin/users?limit=3{after}"), ADMIN_KEY).await.json();
            assert_eq!(keys(&page), ["data", "next", "object"]);
            assert_eq!(page["object"], "list");
            for user in page["data"].as_array().unwrap() {
                let own: Vec<&str> = keys(user).into_iter().filter(|name| !LIMITS.contains(name)).collect();
                let known =
                    ["created_at", "display_name", "email", "group", "key_count", "last_seen", "note", "suspended"];
                assert_eq!(
                    own,
                    [&known[..], &["suspended_at", "tokens_this_month", "tokens_today", "user_id"]].concat()
                );
                seen.push(user["user_id"].as_str().unwrap().to_owned());
            }
            // Who goes or comes behind the cursor moves nobody from one page to another.
            app.delete(&format!("/admin/users/{}", seen.last().unwrap()), ADMIN_KEY).await;
            let Some(next) = page["next"].as_str() else { break };
            assert!(is_url_safe(next) && !next.contains(seen.last().unwrap().as_str()), "{next}");
            after = format!("&after={next}");
        }

        assert_eq!(seen, names);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn a_full_last_page_promises_no_further_one() {
    let app = app_on_sqlite().await;
    for name in ["a", "b"] {
        app.user(name).await;
    }
    assert!(app.get("/admin/users?limit=2", ADMIN_KEY).await.json()["next"].is_null());
    assert!(app.get("/admin/users?limit=1", ADMIN_KEY).await.json()["next"].is_string());
    assert_eq!(app.get("/admin/users?limit=1000", ADMIN_KEY).await.json()["data"].as_array().unwrap().len(), 2);
    app.stop().await;
}

#[actix_rt::test]
async fn pages_outside_the_bounds_and_foreign_cursors_are_400() {
    let app = app_on_sqlite().await;
    for (query, param) in [
        ("limit=0", json!("limit")),
        ("limit=1001", json!("limit")),
        ("limit=18446744073709551615", json!("limit")),
        ("limit=-1", json!(null)),
        ("limit=x", json!(null)),
        ("limit=", json!(null)),
        ("limit=1.5", json!(null)),
        ("limit=1&limit=2", json!("limit")),
        ("offset=3", json!("offset")),
        ("after=%21", json!("after")),
        ("after=a%20b", json!("after")),
        ("after=", json!("after")),
        // Not UTF-8, and no name.
        ("after=_w", json!("after")),
        ("after=AA", json!("after")),
    ] {
        for path in ["/admin/users", "/admin/users/ann/usage"] {
            let reply = app.get(&format!("{path}?{query}"), ADMIN_KEY).await;
            assert_eq!(error_of(&reply, 400)["param"], param, "{path}?{query}");
        }
    }
    app.stop().await;
}
