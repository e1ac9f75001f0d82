//! The shortest way through everything.
use crate::harness::{TestDatabase, fast_node, node, spawn_app_with};

#[actix_rt::test]
async fn a_new_user_gets_an_answer_and_a_row_on_every_database() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 2)], database, |_| {}).await;
        let key = app.user("user-123").await;

        let reply = app.chat(&key, "llama3.2", "hello").await;

        assert_eq!(reply.status, 200, "{}", reply.text());
        let usage = &reply.json()["usage"];
        let rows = app.rows(&key).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["request_id"], reply.header("x-request-id").unwrap());
        assert_eq!(rows[0]["status"], "completed");
        assert_eq!(rows[0]["prompt_tokens"], usage["prompt_tokens"]);
        assert_eq!(rows[0]["completion_tokens"], usage["completion_tokens"]);
        app.stop().await;
    }
}
