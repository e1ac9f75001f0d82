//! A user who is refused again and again costs a few rows, and waits for the answer.
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestDatabase, error_of, fast_node, node, spawn_app, spawn_app_with};

fn refused(rows: &[Value]) -> Vec<&Value> {
    rows.iter().filter(|row| row["status"] == "refused").collect()
}

#[actix_rt::test]
async fn a_flood_of_refusals_leaves_ten_rows_and_one_for_the_rest_and_all_are_counted() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 1})).await;
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);

        let replies = join_all((0..300).map(|_| app.chat(&key, "llama3.2", "hi"))).await;

        assert!(replies.iter().all(|reply| reply.status == 429));
        let rows = app.rows(&key).await;
        assert!((10..=20).contains(&refused(&rows).len()), "at most ten a minute: {}", refused(&rows).len());
        let app = app.restart().await;
        let rows = app.rows(&key).await;
        let of_several: Vec<&Value> = rows.iter().filter(|row| row["requests"] != 1).collect();
        assert!((1..=2).contains(&of_several.len()), "{of_several:?}");
        assert_eq!(refused(&rows).iter().map(|row| row["requests"].as_u64().unwrap()).sum::<u64>(), 300);
        for row in of_several {
            assert_eq!((&row["code"], &row["limit"]), (&json!("rate_limit_exceeded"), &json!("requests_per_minute")));
            assert_eq!((&row["model"], &row["http_status"]), (&json!(""), &json!(429)));
        }
        let report = app.get("/admin/usage?group_by=user", ADMIN_KEY).await.json();
        assert_eq!((&report["total"]["refused"], &report["total"]["requests"]), (&json!(300), &json!(1)), "{report}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn whoever_is_refused_again_and_again_waits_for_it_and_nobody_else_does() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let (key, other) = (app.user_with("ann", json!({"requests_per_minute": 0})).await, app.user("ben").await);
    let began = Instant::now();
    for _ in 0..10 {
        error_of(&app.chat(&key, "llama3.2", "hi").await, 429);
    }
    let at_once = began.elapsed();

    let began = Instant::now();
    for _ in 0..10 {
        error_of(&app.chat(&key, "llama3.2", "hi").await, 429);
    }
    let slowed = began.elapsed();
    let began = Instant::now();
    assert_eq!(app.chat(&other, "llama3.2", "hi").await.status, 200);

    // 20 + 40 + ... + 200 ms.
    assert!(slowed >= Duration::from_millis(1_100), "{slowed:?}, and {at_once:?} before");
    assert!(began.elapsed() < slowed / 2, "{:?} for another user", began.elapsed());
    app.stop().await;
}

#[actix_rt::test]
async fn a_request_that_a_node_rejects_counts_towards_the_limit_of_requests() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        simulated.set_fault(Some(ollama_sim::Fault::Status(400)));
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 5})).await;
        let statuses: Vec<u16> =
            join_all((0..9).map(|_| async { app.chat(&key, "llama3.2", "hi").await.status.as_u16() })).await;

        assert_eq!(statuses.iter().filter(|status| **status == 400).count(), 5, "{statuses:?}");
        assert_eq!(app.rows(&key).await.iter().filter(|row| row["code"] == "node_refused").count(), 5);
        let app = app.restart().await;
        error_of(&app.chat(&key, "llama3.2", "hi").await, 429);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn whoever_sends_wrong_keys_beyond_the_limit_waits_for_each_answer() {
    let app = spawn_app_with(Vec::new(), TestDatabase::sqlite(), |config| config.server.guesses_per_minute = 2).await;
    let key = app.user("ann").await;
    for expected in [401, 401] {
        assert_eq!(app.get("/v1/models", "sk-ann-wrong").await.status, expected);
    }
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(app.get("/v1/models", "sk-ann-wrong").await.status, 429);
    }
    assert!(began.elapsed() >= Duration::from_millis(1_100), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(app.get("/v1/models", &key).await.status, 200);
    assert!(began.elapsed() < Duration::from_millis(500), "a good key from the same network is not held up");
    app.stop().await;
}
