//! One user's own mistakes, which real Ollama answers with 5xx.
use serde_json::{Value, json};

use crate::good::{fleet, hold, openings, steady_node};

fn mistakes() -> Vec<(&'static str, Value)> {
    let chat = |extra: Value| {
        let mut body = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "stream": false});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    vec![
        ("/api/chat", chat(json!({"options": {"temperature": "hot"}}))),
        ("/api/chat", chat(json!({"format": "xml"}))),
        ("/v1/embeddings", json!({"model": "llama3.2", "input": "hi"})),
        ("/api/embed", json!({"model": "llama3.2", "input": "hi"})),
        ("/api/embeddings", json!({"model": "llama3.2", "prompt": "hi"})),
    ]
}

#[actix_rt::test]
async fn a_users_mistakes_are_that_users_alone() {
    let simulated = [steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    let careless = app.user("careless").await;

    hold(&app, &keys, async || {
        for (path, body) in mistakes() {
            let reply = app.post(path, &careless, body).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        }
    })
    .await;

    assert_eq!(openings(&app), 0);
    app.stop().await;
}

#[actix_rt::test]
async fn a_mistake_is_told_in_the_dialect_it_was_made_in_and_asked_of_one_node() {
    let simulated = [steady_node().await, steady_node().await];
    let (app, _) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    let careless = app.user("careless").await;
    for (path, body) in mistakes() {
        let before: usize = simulated.iter().map(|node| node.requests().len()).sum();

        let reply = app.post(path, &careless, body).await;

        let after: usize = simulated.iter().map(|node| node.requests().len()).sum();
        assert_eq!((reply.status.as_u16(), after - before), (400, 1), "{path}: {}", reply.text());
        assert_eq!(reply.header("x-should-retry"), Some("false"), "{path}");
        let error = &reply.json()["error"];
        let message = if path.starts_with("/api/") { error } else { &error["message"] };
        assert!(message.is_string(), "{path}: {}", reply.text());
    }
    let rows = app.rows_once(&careless, mistakes().len()).await;
    assert!(rows.iter().all(|row| row["total_tokens"] == 0 && row["attempts"] == 1), "{rows:?}");
    app.stop().await;
}
