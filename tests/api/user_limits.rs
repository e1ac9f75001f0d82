//! Which limits does a user get, how are they changed, and what is said of them?
use awc::http::Method;
use ollama_sim::Fault;
use serde_json::{Value, json};

use crate::admin::{LIMITS, app_on, app_on_sqlite, keys, names_of_users, send_in_background, used_of};
use crate::harness::{ADMIN_KEY, TestDatabase, error_of, eventually, fast_node, node, spawn_app, spawn_app_with};
use crate::limits::{assert_says_when, body_with, chat_with, endless_node, last_body};

#[actix_rt::test]
async fn limits_of_a_new_user_are_the_defaults_unless_given() {
    for database in TestDatabase::each().await {
        let app = spawn_app_with(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)], database, |config| {
            config.limits.requests_per_minute = Some(30);
            config.limits.tokens_per_day = Some(5000);
        })
        .await;
        for (given, requests, tokens) in [
            (json!({}), json!(30), json!(5000)),
            (json!({"requests_per_minute": null}), json!(null), json!(5000)),
            (json!({"tokens_per_day": null}), json!(30), json!(null)),
            (json!({"requests_per_minute": null, "tokens_per_day": null}), json!(null), json!(null)),
            (json!({"requests_per_minute": 10, "tokens_per_day": 10000}), json!(10), json!(10000)),
            (json!({"requests_per_minute": 0, "tokens_per_day": 0}), json!(0), json!(0)),
            (
                json!({"requests_per_minute": 1_000_000, "tokens_per_day": 1_000_000_000_000_000_u64}),
                json!(1_000_000),
                json!(1_000_000_000_000_000_u64),
            ),
        ] {
            let mut body = given.clone();
            body["user_id"] = "ann".into();

            let made = app.post("/admin/users", ADMIN_KEY, body).await;

            assert_eq!(made.status, 201, "{given}: {}", made.text());
            for user in [made.json(), app.get("/admin/users/ann", ADMIN_KEY).await.json()] {
                assert_eq!((&user["requests_per_minute"], &user["tokens_per_day"]), (&requests, &tokens), "{given}");
            }
            app.delete("/admin/users/ann", ADMIN_KEY).await;
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn limits_that_are_no_limits_are_400_and_change_nothing() {
    let app = app_on_sqlite().await;
    app.user_with("ann", json!({"requests_per_minute": 5, "tokens_per_day": 500})).await;
    for field in ["requests_per_minute", "tokens_per_day"] {
        for bad in [
            "-1",
            "-0.5",
            "1.5",
            "1e30",
            "\"10\"",
            "\"\"",
            "true",
            "[]",
            "[1]",
            "{}",
            "99999999999999999999",
            "1000000000000001",
            "9223372036854775808",
            "NaN",
            "Infinity",
        ] {
            let given = format!("{{\"user_id\":\"bob\",\"{field}\":{bad}}}");
            error_of(&app.send(Method::POST, "/admin/users", Some(ADMIN_KEY), given).await, 400);
            let given = format!("{{\"{field}\":{bad}}}");
            error_of(&app.send(Method::PUT, "/admin/users/ann/limits", Some(ADMIN_KEY), given).await, 400);
        }
    }
    for body in ["", "{", "null", "[]", "7", r#"{"requests_per_minute":9,"burst":1}"#, r#"{"user_id":"ann"}"#] {
        error_of(&app.send(Method::PUT, "/admin/users/ann/limits", Some(ADMIN_KEY), body).await, 400);
    }
    let one_good_one_bad = json!({"requests_per_minute": 9, "tokens_per_day": -1});
    error_of(&app.put("/admin/users/ann/limits", ADMIN_KEY, one_good_one_bad).await, 400);
    let reply = app.put("/admin/users/ann/limits", ADMIN_KEY, json!({"requests_per_minute": 1_000_001})).await;
    assert_eq!(error_of(&reply, 400)["param"], "requests_per_minute");

    assert_eq!(names_of_users(&app).await, ["ann"]);
    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    assert_eq!((&limits["requests_per_minute"], &limits["tokens_per_day"]), (&json!(5), &json!(500)));
    app.stop().await;
}

#[actix_rt::test]
async fn a_change_of_limits_leaves_out_what_is_absent_and_lifts_what_is_null() {
    for database in TestDatabase::each().await {
        let app = app_on(database).await;
        app.user("ann").await;
        for (change, requests, tokens) in [
            (json!({"requests_per_minute": 10, "tokens_per_day": 10000}), json!(10), json!(10000)),
            (json!({}), json!(10), json!(10000)),
            (json!({"requests_per_minute": 20}), json!(20), json!(10000)),
            (json!({"tokens_per_day": 0}), json!(20), json!(0)),
            (json!({"requests_per_minute": null}), json!(null), json!(0)),
            (json!({"requests_per_minute": 3, "tokens_per_day": null}), json!(3), json!(null)),
        ] {
            let reply = app.put("/admin/users/ann/limits", ADMIN_KEY, change.clone()).await;

            assert_eq!(reply.status, 200, "{}", reply.text());
            for limits in [reply.json(), app.get("/admin/users/ann/limits", ADMIN_KEY).await.json()] {
                let names = keys(&limits);
                let own: Vec<&str> = names.into_iter().filter(|name| !LIMITS.contains(name)).collect();
                assert_eq!(own, ["left", "used", "user_id"]);
                assert_eq!(
                    (&limits["requests_per_minute"], &limits["tokens_per_day"]),
                    (&requests, &tokens),
                    "{change}"
                );
                assert_eq!(limits["left"], json!({"requests": requests, "tokens_this_minute": null, "tokens": tokens}));
                assert_eq!(limits["used"], used_of(0, json!(0)));
            }
        }
        let app = app.restart().await;
        let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
        assert_eq!((&limits["requests_per_minute"], &limits["tokens_per_day"]), (&json!(3), &json!(null)));
        app.stop().await;
    }
}

#[actix_rt::test]
async fn limits_say_what_is_used_reserved_and_left() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let key = app.user_with("ann", json!({"requests_per_minute": 10, "tokens_per_day": 10000})).await;
    let used = app.chat(&key, "llama3.2", "hi").await.json()["usage"]["total_tokens"].as_u64().unwrap();

    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    assert_eq!(limits["used"], used_of(1, json!(used)));
    assert_eq!(limits["left"], json!({"requests": 9, "tokens_this_minute": null, "tokens": 10000 - used}));

    simulated.set_fault(Some(Fault::HangBeforeHead));
    let hanging = send_in_background(&app, &key);
    eventually("the request is at the node", || simulated.stats().in_flight == 1).await;
    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    let reserved = limits["used"]["tokens_reserved"].as_u64().unwrap();
    assert!((2048..2300).contains(&reserved), "{reserved}");
    assert_eq!(limits["left"], json!({"requests": 8, "tokens_this_minute": null, "tokens": 10000 - used - reserved}));
    hanging.abort();
    app.stop().await;
}

#[actix_rt::test]
async fn limits_of_a_user_whom_another_gateway_has_just_deleted_are_404() {
    for database in TestDatabase::each().await {
        let second = app_on(database.again()).await;
        second.user("ann").await;
        let first = app_on(database).await;
        first.delete("/admin/users/ann", ADMIN_KEY).await;

        let reply = second.put("/admin/users/ann/limits", ADMIN_KEY, json!({"requests_per_minute": 3})).await;

        error_of(&reply, 404);
        second.stop().await;
        first.stop().await;
    }
}

#[actix_rt::test]
async fn a_key_has_limits_of_its_own_under_those_of_its_user() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let free = app.user_with("ann", json!({"requests_per_minute": 5, "tokens_per_day": 100_000})).await;
        let own = json!({"requests_per_minute": 2, "tokens_per_day": 300, "max_concurrency": 9});
        let made = app.post("/admin/users/ann/keys", ADMIN_KEY, own).await.json();
        let key = made["api_key"].as_str().unwrap();
        assert_eq!((&made["requests_per_minute"], &made["tokens_per_minute"]), (&json!(2), &json!(null)));
        assert_eq!((&made["tokens_per_day"], &made["max_concurrency"]), (&json!(300), &json!(9)));

        let reply = chat_with(&app, key, "[[n=50]]", json!({})).await;

        // The tighter one is told, and decides what is left for the answer.
        assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("2"));
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), Some("300"));
        let cap = last_body(&simulated)["max_tokens"].as_u64().unwrap();
        assert!(cap < 300, "{cap}");
        assert_says_when(&chat_with(&app, key, "hi", json!({"max_tokens": 299})).await, "insufficient_quota", "tokens");
        assert_eq!(app.chat(key, "llama3.2", "hi").await.status, 200);
        let app = app.restart().await;
        assert_says_when(&app.chat(key, "llama3.2", "hi").await, "rate_limit_exceeded", "requests");
        // The user has three more, for any other key.
        for expected in [200, 200, 200, 429] {
            assert_eq!(app.chat(&free, "llama3.2", "hi").await.status, expected);
        }
        app.stop().await;
    }
}

#[actix_rt::test]
async fn every_limit_of_new_users_is_a_setting() {
    let simulated = endless_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |config| {
        config.limits.tokens_per_minute = Some(70);
        config.limits.max_concurrency = Some(1);
    })
    .await;
    let (ann, bob) = (app.user("ann").await, app.user_with("bob", json!({"tokens_per_minute": null})).await);

    assert_says_when(&chat_with(&app, &ann, "hi", json!({"max_tokens": 71})).await, "insufficient_quota", "tokens");
    let stream = app.open_stream(&bob, &body_with("hi", json!({"stream": true, "max_tokens": 71}))).await;
    error_of(&app.chat(&bob, "llama3.2", "hi").await, 429);

    drop(stream);
    let limits = app.get("/admin/users/bob/limits", ADMIN_KEY).await.json();
    assert_eq!((&limits["tokens_per_minute"], &limits["max_concurrency"]), (&json!(null), &json!(1)));
    app.stop().await;
}

#[actix_rt::test]
async fn a_weight_is_kept_and_must_be_one() {
    for database in TestDatabase::each().await {
        let app = spawn_app_with(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)], database, |_| {}).await;
        app.user("ann").await;
        app.user_with("bob", json!({"weight": 0.5})).await;
        let set = async |weight: Value| app.put("/admin/users/ann/limits", ADMIN_KEY, json!({"weight": weight})).await;
        assert_eq!(app.get("/admin/users/ann", ADMIN_KEY).await.json()["weight"], 1.0);
        for bad in [json!(0), json!(-1), json!(1001), json!("2"), json!(0.0001)] {
            error_of(&set(bad).await, 400);
        }
        assert_eq!(set(json!(2.5)).await.json()["weight"], 2.5);
        // Another change leaves it alone.
        app.put("/admin/users/ann/limits", ADMIN_KEY, json!({"requests_per_minute": 3})).await;

        let app = app.restart().await;

        let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
        assert_eq!((&limits["weight"], &limits["requests_per_minute"]), (&json!(2.5), &json!(3)));
        assert_eq!(app.get("/admin/users/bob", ADMIN_KEY).await.json()["weight"], 0.5);
        app.stop().await;
    }
}
