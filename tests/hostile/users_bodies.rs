//! The bodies of one user's requests take no more memory than is theirs, and none is read that leads nowhere.
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    TestApp, TestDatabase, chat_body, error_of, fast_node, node, spawn_app, spawn_app_with, stream_body,
};

const LARGE: usize = 4 * 1024 * 1024;

/// Promises a body of this length, and sends none of it.
async fn promise(app: &TestApp, key: &str, length: usize) -> TcpStream {
    let mut connection = TcpStream::connect(app.address).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
         content-length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection
}

/// What comes back within a second.
async fn answer(connection: &mut TcpStream) -> Option<String> {
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(1), connection.read(&mut answer)).await.ok()?.unwrap();
    Some(String::from_utf8_lossy(&answer[..read]).into_owned())
}

#[actix_rt::test]
async fn a_user_who_may_have_no_further_request_is_told_before_the_body_is_read() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let key = app.user_with("ann", json!({"max_concurrency": 1})).await;
    let mut first = promise(&app, &key, LARGE).await;
    assert_eq!(answer(&mut first).await, None, "there is room for one, which is waited for");

    let mut second = promise(&app, &key, LARGE).await;

    let refused = answer(&mut second).await.expect("an answer, though no body was sent");
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("running or waiting"), "{refused}");
    drop((first, second));
    let rows = app.rows_once(&key, 1).await;
    assert_eq!((&rows[0]["limit"], &rows[0]["model"]), (&json!("max_concurrency"), &json!("")));
    app.stop().await;
}

#[actix_rt::test]
async fn one_users_bodies_take_a_quarter_of_the_memory_and_leave_the_rest_to_others() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = LARGE;
        config.server.body_memory_bytes = 4 * LARGE;
    })
    .await;
    let mut keys = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        keys.push(app.user(name).await);
    }
    let mut held = promise(&app, &keys[0], LARGE).await;
    assert_eq!(answer(&mut held).await, None);

    let of_user = answer(&mut promise(&app, &keys[0], LARGE).await).await.expect("an answer");
    assert!(of_user.starts_with("HTTP/1.1 429 "), "{of_user}");
    let mut others = Vec::new();
    for key in &keys[1..4] {
        let mut other = promise(&app, key, LARGE).await;
        assert_eq!(answer(&mut other).await, None, "each of the others has a quarter");
        others.push(other);
    }
    let of_all = answer(&mut promise(&app, &keys[4], LARGE).await).await.expect("an answer");
    assert!(of_all.starts_with("HTTP/1.1 503 ") && of_all.contains("server_is_overloaded"), "{of_all}");
    drop((held, others));
    // A body that has gone has left its room.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let reply = app.chat(&keys[4], "llama3.2", &"x".repeat(LARGE / 2)).await;
        if reply.status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "{}", reply.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn bodies_that_wait_in_the_queue_count() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = LARGE;
        config.server.body_memory_bytes = LARGE;
    })
    .await;
    let (key, other) = (app.user("ann").await, app.user("ben").await);
    let mut running = app.open_stream(&other, &stream_body("llama3.2", "[[n=100000]]")).await;
    running.next().await;
    let waiting = app.send_and_hold(&key, &chat_body("llama3.2", &"x".repeat(LARGE - 1024))).await;
    crate::harness::eventually("it waits", || app.dispatcher.read(|scheduler| scheduler.queued() == 1)).await;

    let refused = app.chat(&other, "llama3.2", &"x".repeat(2048)).await;

    assert_eq!(error_of(&refused, 503)["code"], "server_is_overloaded");
    drop((waiting, running));
    crate::harness::eventually("nothing is left", || {
        app.dispatcher.read(|scheduler| scheduler.queued() + scheduler.in_flight() == 0)
    })
    .await;
    assert_eq!(app.chat(&other, "llama3.2", &"x".repeat(2048)).await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn a_body_that_is_dear_to_parse_is_refused_without_parsing_it() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let key = app.user("ann").await;
    let with =
        |field: &str| format!(r#"{{"model":"llama3.2","messages":[{{"role":"user","content":"hi"}}],"x":{field}}}"#);
    let members = with(&format!("{{{}\"a\":0}}", "\"a\":0,".repeat(200_000)));
    let deep = with(&("[".repeat(200) + &"]".repeat(200)));
    let fine = with(&format!("{{{}\"a\":0}}", "\"a\":0,".repeat(100_000)));

    for body in [members, deep] {
        let reply = app.send(awc::http::Method::POST, "/v1/chat/completions", Some(&key), body).await;
        let error = error_of(&reply, 400);
        assert!(error["message"].as_str().unwrap().starts_with("the body"), "{error}");
    }
    let reply = app.send(awc::http::Method::POST, "/v1/chat/completions", Some(&key), fine).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    app.stop().await;
}
