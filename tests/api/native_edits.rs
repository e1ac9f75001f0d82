//! What of a request in Ollama's own words does not reach the node, because it would touch everybody?
use awc::http::Method;
use serde_json::json;

use crate::dialects::{directly, last_seen, spawn_over, with};
use crate::harness::{Reply, TestDatabase, fast_node, node, spawn_app_with};
use crate::native::{ROUTES, SPEAKING, body, body_for, error_string};

// What must not reach a node

#[actix_rt::test]
async fn what_would_reload_or_unload_a_model_for_everybody_never_reaches_a_node() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let stripped = json!({"num_ctx": 8192, "num_batch": 1, "num_gpu": 0, "main_gpu": 1, "use_mmap": true,
        "num_thread": 1, "draft_num_predict": 1, "Num_Ctx": 2});
    for route in ROUTES {
        let mut asked = body_for(route, "[[n=3]]");
        let kept =
            with(with(asked.clone(), "raw", json!(false)), "options", json!({"temperature": 0.5, "stop": ["x"]}));
        asked["keep_alive"] = 0.into();
        asked["template"] = "{{ .System }}".into();
        asked["shift"] = false.into();
        asked["Template"] = "x".into();
        asked["raw"] = false.into();
        asked["options"] = stripped.clone();
        asked["options"]["temperature"] = 0.5.into();
        asked["options"]["stop"] = json!(["x"]);

        let reply = app.post(route, &key, asked).await;

        assert_eq!(reply.status, 200, "{route}: {}", reply.text());
        assert_eq!(last_seen(&simulated), kept, "{route}");
    }
    assert!(simulated.stats().loaded.contains(&"llama3.2:latest".to_owned()), "the model is still loaded");
    app.stop().await;
}

#[actix_rt::test]
async fn the_rendered_prompt_with_the_operators_part_is_not_shown() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for route in SPEAKING {
        error_string(&app.post(route, &key, with(body("hi"), "_debug_render_only", json!(true))).await, 400);
    }
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn the_cap_of_a_user_with_tokens_per_day_is_num_predict_among_the_options() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.limits.default_max_output = 9;
    })
    .await;
    let limited = app.user_with("ann", json!({"tokens_per_day": 100_000})).await;
    let free = app.user("bob").await;
    for route in SPEAKING {
        for (options, sent) in [
            (None, json!({"num_predict": 9})),
            (Some(json!(null)), json!({"num_predict": 9})),
            (Some(json!({"seed": 1})), json!({"seed": 1, "num_predict": 9})),
            (Some(json!({"num_predict": -1, "num_ctx": 5})), json!({"num_predict": 9})),
            (Some(json!({"num_predict": 4})), json!({"num_predict": 4})),
        ] {
            let mut asked = with(body("[[n=30]]"), "stream", json!(false));
            if let Some(options) = options {
                asked["options"] = options;
            }
            let reply = app.post(route, &limited, asked.clone()).await;

            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(last_seen(&simulated)["options"], sent, "{route} {asked}");
            assert_eq!(
                (&reply.json()["eval_count"], &reply.json()["done_reason"]),
                (&sent["num_predict"], &json!("length"))
            );
        }
        let asked = body("[[n=30]]");
        app.post(route, &free, asked.clone()).await;
        assert_eq!(last_seen(&simulated), asked, "nothing is added without a limit");
    }
    let embed = body_for("/api/embed", "one");
    assert_eq!(app.post("/api/embed", &limited, embed.clone()).await.status, 200);
    assert_eq!(last_seen(&simulated), embed, "vectors have no length");
    app.stop().await;
}

#[actix_rt::test]
async fn a_second_num_predict_cannot_hide_behind_the_first() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user_with("ann", json!({"tokens_per_day": 1000})).await;
    let asked = r#"{"model":"llama3.2","prompt":"[[n=500]]","options":{"num_predict":1,"num_predict":500}}"#;

    let reply = app.send(Method::POST, "/api/generate", Some(&key), asked).await;

    error_string(&reply, 400);
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

// Requests without a prompt

#[actix_rt::test]
async fn a_request_without_a_prompt_is_acknowledged_and_no_node_hears_of_it() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user_with("ann", json!({"requests_per_minute": 1, "tokens_per_day": 1})).await;
    for (route, asked, reason) in [
        ("/api/generate", json!({}), "load"),
        ("/api/generate", json!({"prompt": ""}), "load"),
        ("/api/generate", json!({"prompt": null, "keep_alive": "5m"}), "load"),
        ("/api/generate", json!({"prompt": "", "keep_alive": -1, "stream": true}), "load"),
        ("/api/generate", json!({"keep_alive": 0}), "unload"),
        ("/api/generate", json!({"keep_alive": "0s", "stream": false}), "unload"),
        ("/api/chat", json!({}), "load"),
        ("/api/chat", json!({"messages": []}), "load"),
        ("/api/chat", json!({"messages": null, "options": {"num_ctx": 9}}), "load"),
        ("/api/chat", json!({"messages": [], "keep_alive": 0, "stream": true}), "unload"),
        ("/api/chat", json!({"keep_alive": "0"}), "unload"),
    ] {
        let asked = with(asked, "model", json!("llama3.2"));
        let direct = directly(&simulated, route, &asked).await;
        let reply = app.post(route, &key, asked.clone()).await;

        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")), "{asked}");
        let timeless = |reply: &Reply| with(reply.json(), "created_at", json!(null));
        assert_eq!(timeless(&reply), timeless(&direct), "as Ollama says it: {route} {asked}");
        assert_eq!((&reply.json()["done"], &reply.json()["done_reason"]), (&json!(true), &json!(reason)), "{asked}");
        let created = reply.json()["created_at"].as_str().unwrap().to_owned();
        time::OffsetDateTime::parse(&created, &time::format_description::well_known::Rfc3339).unwrap();
    }
    let asked_directly = 11;
    assert_eq!(simulated.requests().len(), asked_directly, "none came through the gateway");
    let missing = app.post("/api/generate", &key, json!({"model": "nothere"})).await;
    assert!(error_string(&missing, 404).contains("nothere"));
    error_string(&app.send(Method::POST, "/api/chat", None, r#"{"model":"llama3.2"}"#).await, 401);
    assert!(app.rows(&key).await.is_empty(), "it costs nothing");
    app.stop().await;
}

#[actix_rt::test]
async fn messages_that_hold_something_are_no_empty_list() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for (messages, status) in
        [("[\n\t]", 200), ("[ ]", 200), ("[[]]", 400), ("[[ ]]", 400), ("[{}]", 400), ("\"\"", 400)]
    {
        let asked = format!(r#"{{"model":"llama3.2","messages":{messages}}}"#);
        let reply = app.send(Method::POST, "/api/chat", Some(&key), asked).await;

        assert_eq!(reply.status, status, "{messages}: {}", reply.text());
    }
    assert!(simulated.requests().is_empty());
    app.stop().await;
}
