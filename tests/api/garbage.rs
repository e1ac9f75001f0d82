//! Does anything that is no request, or is damaged, cost anybody else anything?
use awc::http::Method;
use serde_json::json;

use crate::harness::{ADMIN_KEY, error_of, parse_answer};
use crate::input::{CHAT, COMPLETIONS, EMBEDDINGS, ONE, app_with_node, assert_cost_nothing};

#[actix_rt::test]
async fn text_that_is_no_http_is_4xx_and_costs_nobody_else_anything() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(200_000));
    let many_headers = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(500));
    for request in [
        "nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        &long_path,
        &many_headers,
    ] {
        let answer = app.send_bytes(request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{:.60}: {answer}", request);
    }
    let broken_chunk = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\nZZ\r\n{{}}\r\n0\r\n\r\n"
    );
    assert_eq!(parse_answer(&app.send_bytes(broken_chunk.as_bytes()).await).0, 400);
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

/// splitmix64, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.below(256) as u8).collect()
    }
}

#[actix_rt::test]
async fn random_bytes_are_always_4xx_in_json() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    let mut random = Random(1);
    for turn in 0..300 {
        let (path, key) =
            [(CHAT, key.as_str()), (COMPLETIONS, &key), (EMBEDDINGS, &key), ("/admin/users", ADMIN_KEY)][turn % 4];
        let body = random.bytes(200);
        let reply = app.send(Method::POST, path, Some(key), body.clone()).await;
        assert!(reply.status.is_client_error(), "{path} {body:?}: {}", reply.text());
        error_of(&reply, reply.status.as_u16());
    }
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_good_request_with_random_damage_is_answered_or_4xx_and_never_worse() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"tokens_per_day": 1_000_000_000})).await;
    let good = format!(
        r#"{{"model":"llama3.2","stream":false,"max_tokens":7,"stream_options":{{"include_usage":true}},
        "tools":[],"response_format":null,"temperature":0.5,{ONE}}}"#
    );
    let mut random = Random(2);
    for turn in 0..400 {
        let mut body = good.clone().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(body.len());
            match random.below(4) {
                0 => body[at] = random.below(256) as u8,
                1 => drop(body.remove(at)),
                2 => body.insert(at, b"{}[]\",:\\ 0null-"[random.below(15)]),
                _ => body.truncate(at.max(1)),
            }
        }
        let reply = app.send(Method::POST, CHAT, Some(&key), body.clone()).await;
        let shown = String::from_utf8_lossy(&body);
        assert!(reply.status == 200 || reply.status.is_client_error(), "{turn} {shown}: {}", reply.text());
        if reply.status != 200 {
            error_of(&reply, reply.status.as_u16());
        }
    }
    let limits = app.get("/admin/users/ann/limits", ADMIN_KEY).await.json();
    assert_eq!(limits["used"]["tokens_reserved"], 0);
    app.stop().await;
}

#[actix_rt::test]
async fn deeply_nested_json_harms_nobody() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for depth in [1_000, 200_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        for body in [
            open.clone(),
            format!("{open}{close}"),
            format!(r#"{{"model":"llama3.2","messages":{open}{close}}}"#),
            format!(r#"{{"model":"llama3.2","messages":[{{"role":"user","content":{open}{close}}}]}}"#),
            format!(r#"{{"model":"llama3.2","stream_options":{open}{close},{ONE}}}"#),
        ] {
            error_of(&app.send(Method::POST, CHAT, Some(&key), body).await, 400);
        }
        let passed_on = format!(r#"{{"model":"llama3.2","x":{open}{close},{ONE}}}"#);
        let reply = app.send(Method::POST, CHAT, Some(&key), passed_on).await;
        assert!(reply.status == 200 || reply.status.is_client_error(), "{}", reply.text());
    }
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    app.stop().await;
}
