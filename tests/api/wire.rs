//! HTTP as it comes over the wire: connections that are kept, bodies in chunks, versions.
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::dialects::spawn_over;
use crate::harness::{PATIENCE, chat_body, fast_node, header_of, parse_answer, stream_body};
use crate::paths::{CHAT, everything};

// Over the wire

/// Reads from a connection until the text so far holds this.
async fn read_until(connection: &mut tokio::net::TcpStream, text: &mut String, done: impl Fn(&str) -> bool) {
    let mut part = [0; 4096];
    while !done(text) {
        let size = tokio::time::timeout(PATIENCE, connection.read(&mut part)).await.expect("it comes in time").unwrap();
        assert!(size > 0, "the connection ended: {text}");
        text.push_str(std::str::from_utf8(&part[..size]).unwrap());
    }
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    match header_of(&head, "content-length") {
        Some(length) => body.len() == length.parse::<usize>().unwrap(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

// Line 28 of the clients' checklist: connections are used again.
#[actix_rt::test]
async fn one_connection_carries_many_requests_of_every_kind() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let mut connection = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let plain = everything().to_string();
    let stream = stream_body("llama3.2", "[[n=3]]").to_string();
    for (line, body, status) in [
        ("POST /v1/chat/completions", plain.as_str(), "200"),
        ("POST /v1/chat/completions", stream.as_str(), "200"),
        ("GET /v1/models", "", "200"),
        ("POST /v1/chat/completions", "{", "400"),
        ("POST /api/nothing", "", "404"),
        ("POST /api/generate", plain.as_str(), "200"),
        ("POST /v1/messages", plain.as_str(), "200"),
        ("POST /api/pull", "", "403"),
        ("POST /v1/chat/completions", plain.as_str(), "200"),
        ("POST /v1/nothing", plain.as_str(), "404"),
    ] {
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        read_until(&mut connection, &mut answer, is_whole).await;

        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        // Only where a body was not even read.
        assert_eq!(answer.contains("connection: close"), line == "POST /v1/nothing", "{line}: {answer}");
    }
    drop(connection);
    app.stop().await;
}

// Line 28 of the clients' checklist: a client may wait for leave to send its body.
#[actix_rt::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let body = everything().to_string();
    let mut connection = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    read_until(&mut connection, &mut answer, |text| text.contains("\r\n\r\n")).await;
    assert_eq!(answer, "HTTP/1.1 100 Continue\r\n\r\n");

    connection.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    read_until(&mut connection, &mut answer, is_whole).await;

    let (status, _, json) = parse_answer(&answer);
    assert_eq!((status, &json["object"]), (200, &json!("chat.completion")));
    app.stop().await;
}

// Line 28 of the clients' checklist: bodies in chunks.
#[actix_rt::test]
async fn a_body_in_chunks_is_a_body() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let prompt = "h\u{e9}llo \u{1f600} ".repeat(2000);
    for (path, body) in [
        (CHAT, chat_body("llama3.2", &prompt)),
        ("/api/generate", json!({"model": "llama3.2", "prompt": prompt, "stream": false})),
    ] {
        let body = body.to_string();
        for size in [1000, 7, 100_000] {
            let mut request = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
                 transfer-encoding: chunked\r\n\r\n"
            )
            .into_bytes();
            for part in body.as_bytes().chunks(size) {
                request.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                request.extend_from_slice(part);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");

            let (status, _, _) = parse_answer(&app.send_bytes(&request).await);

            assert_eq!(status, 200, "{path} in chunks of {size}");
            assert_eq!(simulated.requests().last().unwrap().body, body.as_bytes(), "{path} in chunks of {size}");
        }
    }
    app.stop().await;
}

// Line 28 of the clients' checklist: HTTP/2 is not spoken, and says so at once.
#[actix_rt::test]
async fn http_2_by_prior_knowledge_is_refused_at_once_and_an_upgrade_stays_with_http_1() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;

    let preface = app.send_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(preface.starts_with("HTTP/1.1 400 "), "{preface:?}");

    let body = everything().to_string();
    let upgrade = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\
         connection: upgrade, http2-settings\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = tokio::net::TcpStream::connect(app.address).await.unwrap();
    connection.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = String::new();
    read_until(&mut connection, &mut answer, is_whole).await;
    assert_eq!(parse_answer(&answer).0, 200, "{answer}");
    app.stop().await;
}
