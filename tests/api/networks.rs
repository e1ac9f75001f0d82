//! Networks that stand for a user, for clients that can send no key.
use ollama_gateway::http::TrustedNetwork;

use crate::harness::{ADMIN_KEY, TestDatabase, chat_body, fast_node, node, spawn_app_with};

#[actix_rt::test]
async fn a_trusted_network_needs_no_key_and_counts_for_its_user() {
    let simulated = fast_node().await;
    let trusted = TrustedNetwork { cidr: "127.0.0.0/8".parse().unwrap(), user: "lab".to_owned() };
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], TestDatabase::sqlite(), |config| {
        config.server.trusted_networks = vec![trusted];
        config.server.guesses_per_minute = 0;
    })
    .await;
    let body = chat_body("llama3.2", "hello").to_string();
    let post = || app.send(awc::http::Method::POST, "/v1/chat/completions", None, body.clone());

    assert_eq!(post().await.status, 401, "the user is not there yet");
    let key = app.user("lab").await;
    assert_eq!(post().await.status, 200);

    assert_eq!(app.rows(&key).await.len(), 1);
    let placeholder = app.chat("ollama", "llama3.2", "hello").await;
    assert_eq!(placeholder.status, 200, "what is no key at all is none here, and no guess");
    assert_eq!(app.rows_once(&key, 2).await.len(), 2);
    let other = app.user("ann").await;
    assert_eq!(app.chat(&other, "llama3.2", "hello").await.status, 200);
    assert_eq!(app.rows_once(&other, 1).await.len(), 1, "a key that is known counts for its own user");
    let admin = app.send(awc::http::Method::GET, "/admin/users", None, "").await;
    assert_eq!(admin.status, 401, "no network stands for the admin");
    assert_eq!(app.get("/admin/users", ADMIN_KEY).await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn another_network_needs_a_key() {
    let simulated = fast_node().await;
    let trusted = TrustedNetwork { cidr: "10.0.0.0/8".parse().unwrap(), user: "lab".to_owned() };
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], TestDatabase::sqlite(), |config| {
        config.server.trusted_networks = vec![trusted];
    })
    .await;
    app.user("lab").await;

    let reply = app.send(awc::http::Method::GET, "/v1/models", None, "").await;

    assert_eq!(reply.status, 401);
    app.stop().await;
}
