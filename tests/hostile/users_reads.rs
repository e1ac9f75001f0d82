//! What one user reads keeps nobody else from reading, least of all the operator.
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{ADMIN_KEY, TestDatabase, fast_node, node, spawn_app_with};

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
