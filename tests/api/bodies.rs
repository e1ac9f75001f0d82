//! How large may a body be, how late, and in which coding and of which type?
use std::io::Write;
use std::time::{Duration, Instant};

use awc::http::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestDatabase, chat_body, error_of, fast_node, node, parse_answer, spawn_app_with};
use crate::input::{CHAT, COMPLETIONS, EMBEDDINGS, app_with_node, assert_cost_nothing};

#[actix_rt::test]
async fn a_body_above_the_limit_is_413_however_it_is_sent() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = 2000;
    })
    .await;
    let key = app.user("ann").await;
    let of_size = |size: usize| {
        let shortest = chat_body("llama3.2", "").to_string().len();
        chat_body("llama3.2", &"x".repeat(size - shortest)).to_string()
    };
    let fits = of_size(2000);
    assert_eq!(fits.len(), 2000);

    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let reply = app.send(Method::POST, path, Some(&key), of_size(2001)).await;
        let error = error_of(&reply, 413);
        assert_eq!(error["code"], "request_too_large");
        assert!(error["message"].as_str().unwrap().contains("2000"), "{error}");
    }
    error_of(&app.send(Method::POST, "/admin/users", Some(ADMIN_KEY), of_size(2001)).await, 413);
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n");
    // Only promised: the gateway does not wait for what it will not take.
    let promised = app.send_bytes(format!("{head}Content-Length: 99999999999\r\n\r\n{{").as_bytes()).await;
    assert_eq!(parse_answer(&promised).0, 413, "{promised}");
    let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(3));
    assert_eq!(parse_answer(&app.send_bytes(chunked.as_bytes()).await).0, 413);
    assert!(simulated.requests().is_empty() && app.rows(&key).await.is_empty());

    assert_eq!(app.send(Method::POST, CHAT, Some(&key), fits.clone()).await.status, 200);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n7d0\r\n{fits}\r\n0\r\n\r\n");
    assert!(app.send_bytes(chunked.as_bytes()).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(simulated.requests().last().unwrap().body, fits.as_bytes());
    app.stop().await;
}

#[actix_rt::test]
async fn a_body_that_does_not_come_in_time_is_408() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], TestDatabase::sqlite(), |config| {
        config.server.body_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;
    for (path, key) in [(CHAT, key.as_str()), ("/admin/users", ADMIN_KEY)] {
        let begun = Instant::now();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Length: 100\r\n\r\n{{"
        );

        let answer = app.send_bytes(request.as_bytes()).await;

        let (status, _, body) = parse_answer(&answer);
        assert_eq!((status, &body["error"]["code"]), (408, &json!("request_timeout")), "{answer}");
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    }
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

fn gzipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[actix_rt::test]
async fn a_compressed_body_reaches_the_node_unpacked_within_the_limit() {
    let simulated = fast_node().await;
    let nodes = vec![node("a", simulated.url(), 2)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), |config| config.server.max_body_bytes = 100_000).await;
    let key = app.user("ann").await;
    let bearer = format!("Bearer {key}");
    let send = async |coding: &str, body: Vec<u8>| {
        let headers = [("authorization", bearer.as_str()), ("content-encoding", coding)];
        app.send_with(Method::POST, CHAT, &headers, body).await
    };
    let plain = chat_body("llama3.2", &"hi ".repeat(10_000)).to_string().into_bytes();
    for (coding, body) in [("GZIP", gzipped(&plain)), ("zstd", zstd::encode_all(&plain[..], 3).unwrap())] {
        assert_eq!(send(coding, body).await.status, 200, "{coding}");
        let requests = simulated.requests();
        let seen: Value = serde_json::from_slice(&requests.last().unwrap().body).unwrap();
        assert_eq!(seen["messages"], serde_json::from_slice::<Value>(&plain).unwrap()["messages"], "{coding}");
    }
    let bomb = vec![b' '; 50_000_000];
    for (coding, body) in [("gzip", gzipped(&bomb)), ("zstd", zstd::encode_all(&bomb[..], 3).unwrap())] {
        assert!(body.len() < 60_000, "{coding}: small on the way");
        assert_eq!(send(coding, body).await.status, 413, "{coding}");
    }
    assert_eq!(send("gzip", plain).await.status, 400);
    app.stop().await;
}

#[actix_rt::test]
async fn a_body_in_another_coding_is_415() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    let bearer = format!("Bearer {key}");
    for encoding in ["br", "deflate", "gzip, zstd", "gzip, gzip", "x"] {
        let headers = [("authorization", bearer.as_str()), ("content-encoding", encoding)];
        let reply = app.send_with(Method::POST, CHAT, &headers, chat_body("llama3.2", "hi").to_string()).await;
        assert_eq!(error_of(&reply, 415)["code"], "unsupported_encoding", "{encoding}");
    }
    assert!(simulated.requests().is_empty() && app.rows(&key).await.is_empty());
    let headers = [("authorization", bearer.as_str()), ("content-encoding", "identity")];
    let reply = app.send_with(Method::POST, CHAT, &headers, chat_body("llama3.2", "hi").to_string()).await;
    assert_eq!(reply.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn the_content_type_of_a_request_does_not_matter() {
    let (_simulated, app) = app_with_node().await;
    let bearer = format!("Bearer {}", app.user("ann").await);
    for content_type in ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8", "x"] {
        let headers = [("authorization", bearer.as_str()), ("content-type", content_type)];
        let reply = app.send_with(Method::POST, CHAT, &headers, chat_body("llama3.2", "hi").to_string()).await;
        assert_eq!(reply.status, 200, "{content_type}: {}", reply.text());
    }
    app.stop().await;
}
