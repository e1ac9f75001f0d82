//! How many tokens may an answer have if its user has a limit of tokens, and what if the node ignores that?
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestDatabase, chat_body, eventually, fast_node, node, spawn_app, spawn_app_with};
use crate::limits::{app_with_node, assert_says_when, body_with, chat_with, last_body};
use crate::scripted::{CHAT_END, ScriptedNode, chat_answer, chat_event, chunk, last_chunk, plain, stream_head};

#[actix_rt::test]
async fn a_request_without_max_tokens_is_capped_at_the_default_or_at_what_is_left() {
    let (simulated, app) = app_with_node().await;
    let rich = app.user_with("rich", json!({"tokens_per_day": 100_000})).await;
    let poor = app.user_with("poor", json!({"tokens_per_day": 300})).await;

    for fields in [json!({}), json!({"stream": true}), json!({"max_tokens": null})] {
        assert_eq!(chat_with(&app, &rich, "hi", fields).await.status, 200);
        assert_eq!(last_body(&simulated)["max_tokens"], 2048);
    }
    let completion = json!({"model": "llama3.2", "prompt": "hi"});
    assert_eq!(app.post("/v1/completions", &rich, completion).await.status, 200);
    assert_eq!(last_body(&simulated)["max_tokens"], 2048);

    let reply = chat_with(&app, &poor, "[[n=1000]]", json!({})).await;
    let cap = last_body(&simulated)["max_tokens"].as_u64().unwrap();
    assert!((100..300).contains(&cap), "{cap}");
    let reply = reply.json();
    assert_eq!(
        (&reply["choices"][0]["finish_reason"], &reply["usage"]["completion_tokens"]),
        (&json!("length"), &json!(cap))
    );
    assert!(reply["usage"]["total_tokens"].as_u64().unwrap() <= 300);
    app.stop().await;
}

#[actix_rt::test]
async fn the_default_output_is_a_setting() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |config| {
        config.limits.default_max_output = 7;
    })
    .await;
    let key = app.user_with("ann", json!({"tokens_per_day": 100_000})).await;

    let reply = chat_with(&app, &key, "[[n=50]]", json!({})).await;

    assert_eq!(last_body(&simulated)["max_tokens"], 7);
    assert_eq!(reply.json()["usage"]["completion_tokens"], 7);
    let asked = chat_with(&app, &key, "[[n=50]]", json!({"max_tokens": 20})).await;
    assert_eq!(asked.json()["usage"]["completion_tokens"], 20);
    app.stop().await;
}

#[actix_rt::test]
async fn an_explicit_max_tokens_that_does_not_fit_is_refused_for_today() {
    let (simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"tokens_per_day": 1000})).await;
    for field in ["max_tokens", "max_completion_tokens"] {
        let reply = chat_with(&app, &key, "hi", json!({field: 1000})).await;

        let seconds = assert_says_when(&reply, "insufficient_quota", "tokens");
        assert!(seconds <= 86_400, "{seconds}");
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), Some("1000"));
        assert_eq!(reply.header("x-ratelimit-remaining-tokens"), Some("1000"));
    }
    assert!(simulated.requests().is_empty());
    assert_eq!(chat_with(&app, &key, "hi", json!({"max_tokens": 500})).await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn the_newer_name_of_max_tokens_is_honoured_and_wins() {
    let (simulated, app) = app_with_node().await;
    for (user, limits) in [("free", json!({})), ("bound", json!({"tokens_per_day": 10_000}))] {
        let key = app.user_with(user, limits).await;
        for fields in [
            json!({"max_completion_tokens": 5}),
            json!({"max_completion_tokens": 5, "max_tokens": 50}),
            json!({"max_completion_tokens": 5, "max_tokens": null}),
        ] {
            let reply = chat_with(&app, &key, "[[n=90]]", fields.clone()).await;
            assert_eq!(last_body(&simulated)["max_tokens"], 5, "{fields}");
            assert_eq!(reply.json()["usage"]["completion_tokens"], 5, "{fields}");
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_stream_of_a_node_that_ignores_its_cap_ends_at_the_reservation() {
    let scripted = ScriptedNode::always(|| {
        let mut steps = vec![stream_head()];
        steps.extend((0..500).map(|_| chunk(chat_event("word "))));
        steps.extend([chunk(CHAT_END), last_chunk()]);
        steps
    })
    .await;
    let app = spawn_app(vec![node("a", scripted.url(), 4)]).await;
    let limited = app.user_with("ann", json!({"tokens_per_day": 400})).await;
    let free = app.user("bob").await;
    let body = body_with("hi", json!({"stream": true, "max_tokens": 20}));

    let events = app.open_stream(&limited, &body).await.rest().await;

    assert_eq!(events.iter().filter(|event| event.contains("word ")).count(), 20);
    let [.., last, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(done, "[DONE]");
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!((&last["object"], &last["id"]), (&json!("chat.completion.chunk"), &id_of(&events[0])));
    let row = &app.rows_once(&limited, 1).await[0];
    assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("completed"), &json!(20)));
    assert!(row["total_tokens"].as_u64().unwrap() <= 400);
    eventually("the node is left", || scripted.closed_connections() == 1).await;
    // Whoever has no limit gets what the node gives.
    let events = app.open_stream(&free, &body).await.rest().await;
    assert_eq!(events.iter().filter(|event| event.contains("word ")).count(), 500);
    app.stop().await;
}

#[actix_rt::test]
async fn a_plain_answer_whose_node_claims_more_than_its_cap_is_charged_its_cap_and_says_so() {
    let long = || {
        chat_answer("words")
            .replace("\"completion_tokens\":5,\"total_tokens\":16", "\"completion_tokens\":500,\"total_tokens\":511")
    };
    let scripted = ScriptedNode::always(move || vec![plain(&long())]).await;
    let app = spawn_app(vec![node("a", scripted.url(), 4)]).await;
    let key = app.user_with("ann", json!({"tokens_per_day": 400})).await;

    let reply = chat_with(&app, &key, "hi", json!({"max_tokens": 20})).await;

    assert_eq!((reply.status.as_u16(), &reply.json()["usage"]["completion_tokens"]), (200, &json!(500)));
    let row = &app.rows_once(&key, 1).await[0];
    assert_eq!(
        (&row["status"], &row["total_tokens"], &row["tokens_from"]),
        (&json!("completed"), &json!(31), &json!("estimated"))
    );
    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    assert_eq!((&limits["used"]["tokens_today"], &limits["left"]["tokens"]), (&json!(31), &json!(369)));
    let metrics = app.get("/metrics", ADMIN_KEY).await;
    assert!(metrics.text().contains("gateway_usage_claims_corrected_total{node=\"a\"} 1\n"), "{}", metrics.text());
    assert_eq!(chat_with(&app, &key, "hi", json!({"max_tokens": 1})).await.status, 200);
    app.stop().await;
}

fn id_of(event: &str) -> Value {
    serde_json::from_str::<Value>(event).unwrap()["id"].clone()
}

#[actix_rt::test]
async fn embeddings_take_tokens_and_get_no_cap() {
    let (simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"tokens_per_day": 60})).await;
    let body = json!({"model": "all-minilm", "input": "hi"});

    assert_eq!(app.post("/v1/embeddings", &key, body.clone()).await.status, 200);

    assert_eq!(last_body(&simulated), body);
    let long = json!({"model": "all-minilm", "input": "a ".repeat(100)});
    assert_says_when(&app.post("/v1/embeddings", &key, long).await, "insufficient_quota", "tokens");
    app.stop().await;
}

#[actix_rt::test]
async fn a_user_without_limits_hears_nothing_of_limits_and_nothing_is_added_to_the_request() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;

    let reply = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!(reply.status, 200);
    assert!(!reply.headers.keys().any(|name| name.as_str().starts_with("x-ratelimit")));
    assert_eq!(last_body(&simulated), chat_body("llama3.2", "hi"));
    app.stop().await;
}
