//! What one user reads keeps nobody else from reading, least of all the operator.
use std::cell::Cell;

use futures_util::future::join_all;
use sea_orm::{ConnectionTrait, Database};
use serde_json::json;

use crate::good::{fleet, hold, steady_node};
use crate::harness::{ADMIN_KEY, TestDatabase, fast_node, node, spawn_app_with};

/// Reports at a time.
const REPORTS: usize = 12;
/// Rows of usage: `HOSTILE_ROWS=1500000` is the real size.
const ROWS: u64 = 40_000;

#[actix_rt::test]
async fn a_user_may_read_two_reports_at_a_time() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |_| {}).await;
    let (key, other) = (app.user("ann").await, app.user("ben").await);
    app.chat(&key, "llama3.2", "hi").await;

    let reading = join_all((0..24).map(|_| app.get("/v1/usage/summary", &key)));
    let others = join_all((0..2).map(|_| app.get("/v1/usage/summary", &other)));
    let operator = join_all((0..4).map(|_| app.get("/admin/usage?group_by=user", ADMIN_KEY)));
    let (replies, others, operator) = tokio::join!(reading, others, operator);

    let good = replies.iter().filter(|reply| reply.status == 200).count();
    assert!(good >= 2 && replies.iter().all(|reply| reply.status == 200 || reply.status == 429), "{good}");
    assert!(good < replies.len(), "some of so many at once are too many");
    assert!(others.iter().chain(&operator).all(|reply| reply.status == 200));
    assert_eq!(app.get("/v1/usage/summary", &key).await.json()["total"]["requests"], json!(1));
    app.stop().await;
}

/// Fills the database of a gateway that does not run: rows of the last ninety days, of a hundred users.
async fn fill(database: &TestDatabase, rows: u64) {
    let db = Database::connect(&database.url).await.unwrap();
    let day_ms = 86_400_000;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    db.execute_unprepared(&format!(
        "INSERT INTO usage (request_id, user_id, created_at_ms, day, model, endpoint, node, stream, status, prompt_tokens, \
         completion_tokens, tokens_from, attempts, queue_ms, duration_ms, requests) \
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows} - 1), \
         t(i, at) AS (SELECT i, {now} - (i * {day_ms} * 90) / {rows} FROM n) \
         SELECT unhex(printf('%012x7%03x8%015x', at, i % 4096, i)), 'user-' || (i % 100), at, at / {day_ms}, \
         'model-' || (i % 7), '/v1/chat/completions', 'node-' || (i % 3), 1, 'completed', 100, 20, 'reported', 1, 5, 900, 1 FROM t"
    ))
    .await
    .unwrap();
    db.close().await.unwrap();
}

#[actix_rt::test]
async fn a_dozen_reports_over_all_rows_at_a_time_leave_the_operator_theirs_and_the_others_their_answers() {
    let rows = std::env::var("HOSTILE_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(ROWS);
    let simulated = [steady_node().await, steady_node().await];
    let (app, _) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    let database = app.stop().await;
    fill(&database, rows).await;
    let nodes =
        ["a", "b"].into_iter().zip(&simulated).map(|(name, simulated)| node(name, simulated.url(), 8)).collect();
    let app = spawn_app_with(nodes, database, |_| {}).await;
    let keys = vec![app.user("cid").await, app.user("dot").await];
    let reader = app.user("user-1").await;
    let path = "/v1/usage/summary?from=2020-01-01";
    let (read, asked) = (Cell::new(0), Cell::new(0));

    hold(&app, &keys, async || {
        let of_user = join_all((0..REPORTS).map(|_| app.get(path, &reader)));
        let of_operator = join_all(
            ["user", "model", "day"]
                .map(async |by| app.get(&format!("/admin/usage?from=2020-01-01&group_by={by}"), ADMIN_KEY).await),
        );
        let (replies, of_operator) = tokio::join!(of_user, of_operator);
        for reply in of_operator {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        assert!(replies.iter().all(|reply| reply.status == 200 || reply.status == 429));
        asked.set(asked.get() + replies.len());
        read.set(read.get() + replies.iter().filter(|reply| reply.status == 200).count());
    })
    .await;
    let report = app.get("/admin/usage?from=2020-01-01&group_by=node&node=node-0", ADMIN_KEY).await.json();
    assert_eq!(report["total"]["requests"], json!(rows.div_ceil(3)), "every row was read: {report}");
    assert!(read.get() > 0 && read.get() < asked.get(), "{} of {}", read.get(), asked.get());
    app.stop().await;
}
