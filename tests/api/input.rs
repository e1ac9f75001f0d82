//! Does every bad request get a 4xx that says why, and cost nobody anything? And are models found by any of their names?
use std::io::Write;
use std::time::{Duration, Instant};

use awc::http::Method;
use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, chat_body, error_of, fast_node, node, parse_answer, spawn_app, spawn_app_with,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const ONE: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

async fn app_with_node() -> (SimNode, TestApp) {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    (simulated, app)
}

/// Nothing of what was sent reached the node or was recorded, and the gateway still answers.
async fn assert_cost_nothing(simulated: &SimNode, app: &TestApp, key: &str) {
    assert!(simulated.requests().is_empty(), "a bad request reached the node");
    assert!(app.rows(key).await.is_empty(), "a bad request has a row");
    assert_eq!(app.chat(key, "llama3.2", "hi").await.status, 200);
}

/// A path, a body that it does not take, and the parameter that is named.
type Bad = (&'static str, String, Value);

/// Bodies that no path takes.
fn bad_everywhere() -> Vec<Bad> {
    let no_json =
        ["", " ", "{", "[]", "\"x\"", "null", "7", "model=llama3.2", "{\"model\":\"llama3.2\"} x", "{'model':1}"];
    let mut bad: Vec<Bad> = Vec::new();
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        bad.extend(no_json.map(|body| (path, body.to_owned(), json!(null))));
        for model in ["null", "7", "\"\"", "[]", "{}", "true", r#""a b""#, r#""a\nb""#, r#""é""#, r#""\ud800""#] {
            bad.push((path, format!(r#"{{"model":{model},"prompt":"x","input":"x",{ONE}}}"#), json!("model")));
        }
        let long = "m".repeat(129);
        bad.push((path, format!(r#"{{"model":"{long}","prompt":"x","input":"x",{ONE}}}"#), json!("model")));
        bad.push((path, format!(r#"{{"prompt":"x","input":"x",{ONE}}}"#), json!("model")));
        for (field, value) in [
            ("stream", "\"yes\""),
            ("stream", "1"),
            ("stream_options", "true"),
            ("stream_options", r#"{"include_usage":"yes"}"#),
            ("max_tokens", "0"),
            ("max_tokens", "-2"),
            ("max_tokens", "1.5"),
            ("max_tokens", "\"9\""),
            ("max_tokens", "{}"),
            ("max_completion_tokens", "0"),
            ("max_completion_tokens", "-2"),
        ] {
            let body = format!(r#"{{"model":"llama3.2","prompt":"x","input":"x","{field}":{value},{ONE}}}"#);
            // What embeds has no such fields.
            if path != EMBEDDINGS {
                bad.push((path, body, json!(field)));
            }
        }
    }
    bad
}

/// Bodies without what is to be answered, or with something else in its place.
fn bad_contents() -> Vec<Bad> {
    let mut bad: Vec<Bad> = Vec::new();
    for messages in [
        "null",
        "\"string\"",
        "7",
        "{}",
        "[]",
        "[123]",
        "[null]",
        "[\"hi\"]",
        "[{}]",
        "[[]]",
        r#"[{"content":"hi"}]"#,
        r#"[{"role":null,"content":"hi"}]"#,
        r#"[{"role":7,"content":"hi"}]"#,
        r#"[{"role":"user","content":5}]"#,
        r#"[{"role":"user","content":{}}]"#,
        r#"[{"role":"user","content":[5]}]"#,
        r#"[{"role":"user","content":["hi"]}]"#,
        r#"[{"role":"user","content":"hi"},{}]"#,
    ] {
        bad.push((CHAT, format!(r#"{{"model":"llama3.2","messages":{messages}}}"#), json!("messages")));
    }
    bad.push((CHAT, r#"{"model":"llama3.2"}"#.to_owned(), json!("messages")));
    for prompt in ["", r#","prompt":null"#, r#","prompt":7"#, r#","prompt":["a","b"]"#, r#","prompt":{}"#] {
        bad.push((COMPLETIONS, format!(r#"{{"model":"llama3.2"{prompt}}}"#), json!("prompt")));
    }
    for input in ["", r#","input":null"#, r#","input":7"#, r#","input":{}"#, r#","input":true"#] {
        bad.push((EMBEDDINGS, format!(r#"{{"model":"all-minilm"{input}}}"#), json!("input")));
    }
    bad
}

#[actix_rt::test]
async fn bodies_that_are_no_requests_are_400_and_name_the_field() {
    let (simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"requests_per_minute": 1})).await;
    for (path, body, param) in bad_everywhere().into_iter().chain(bad_contents()) {
        let reply = app.send(Method::POST, path, Some(&key), body.clone()).await;
        let error = error_of(&reply, 400);
        assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &param), "{path} {body}");
    }
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

#[actix_rt::test]
async fn bytes_that_are_no_text_are_400_and_say_what_they_are() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for (body, says) in [
        (&b"{\"model\":\"llama\xc3\x28\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"[..], "`model`"),
        (b"\xef\xbb\xbf{}", "`model`"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b"{\0}\0", "UTF-16"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x00\x01\x02", "not a JSON object"),
    ] {
        let error = error_of(&app.send(Method::POST, CHAT, Some(&key), body).await, 400);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

#[actix_rt::test]
async fn text_is_repaired_as_go_does_it() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for (body, content) in [
        (&b"{\"model\":\"llama3.2\",\"messages\":[{\"role\":\"user\",\"content\":\"caf\xe9\"}]}"[..], "caf\u{fffd}"),
        (b"\xef\xbb\xbf{\"model\":\"llama3.2\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "hi"),
        (br#"{"model":"llama3.2","messages":[{"role":"user","content":"\ud83d"}],"\ud83d":1}"#, "\u{fffd}"),
        (b"{\"\xc0\xaf\":1,\"model\":\"llama3.2\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "x"),
    ] {
        let reply = app.send(Method::POST, CHAT, Some(&key), body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen: Value = serde_json::from_slice(&simulated.requests().last().unwrap().body).unwrap();
        assert_eq!(seen["messages"][0]["content"], content);
    }
    app.stop().await;
}

#[actix_rt::test]
async fn another_spelling_of_a_field_that_the_gateway_reads_is_400() {
    let (simulated, app) = app_with_node().await;
    let key = app.user_with("ann", json!({"tokens_per_day": 10_000})).await;
    for (twin, param) in [
        (r#""Stream":true"#, "stream"),
        (r#""STREAM":true"#, "stream"),
        (r#""\u0053tream":true"#, "stream"),
        (r#""ſtream":true"#, "stream"),
        (r#""MODEL":"llama3.2:1b""#, "model"),
        (r#""Model":"llama3.2:1b""#, "model"),
        (r#""model":"llama3.2:1b""#, "model"),
        (r#""Max_Tokens":9"#, "max_tokens"),
        (r#""max_to\u212aens":9"#, "max_tokens"),
        (r#""MAX_COMPLETION_TOKENS":9"#, "max_completion_tokens"),
        (r#""Messages":[]"#, "messages"),
        (r#""Stream_Options":{}"#, "stream_options"),
        (r#""Tools":[]"#, "tools"),
        (r#""Response_Format":{}"#, "response_format"),
        (r#""_debug_render_only":true"#, "_debug_render_only"),
        (r#""_DEBUG_render_only":true"#, "_debug_render_only"),
    ] {
        let body = format!(r#"{{"model":"llama3.2",{ONE},{twin}}}"#);
        let reply = app.send(Method::POST, CHAT, Some(&key), body).await;
        assert_eq!(error_of(&reply, 400)["param"], param, "{twin}");
    }
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

#[actix_rt::test]
async fn images_by_address_are_400_and_images_as_data_pass() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    let image = |image: Value| {
        let parts = json!([{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": image}]);
        json!({"model": "llava", "messages": [{"role": "user", "content": parts}]})
    };
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "https://example.org/cat.png",
        "HTTP://example.org/cat.png",
        "file:///etc/passwd",
        "ftp://x/y",
        "//example.org/cat.png",
        "cat.png",
        "",
        " data:image/png;base64,AA",
    ] {
        for given in [json!({"url": url}), json!(url)] {
            assert_eq!(error_of(&app.post(CHAT, &key, image(given)).await, 400)["param"], "messages", "{url}");
        }
    }
    for given in [json!({}), json!({"url": null}), json!({"url": 7}), json!(7), json!([]), json!({"url": ["data:"]})] {
        assert_eq!(error_of(&app.post(CHAT, &key, image(given.clone())).await, 400)["param"], "messages", "{given}");
    }
    let data = json!({"url": "data:image/png;base64,iVBORw0KGgo="});
    let parts: Vec<Value> = (0..129).map(|_| json!({"type": "image_url", "image_url": data})).collect();
    let too_many = json!({"model": "llava", "messages": [{"role": "user", "content": parts}]});
    assert_eq!(error_of(&app.post(CHAT, &key, too_many).await, 400)["param"], "messages");
    assert!(simulated.requests().is_empty() && app.rows(&key).await.is_empty());

    let reply = app.post(CHAT, &key, image(data)).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_that_no_node_has_is_404() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for model in ["no-such-model", "llama3.2:70b", "other/llama3.2:1b", "../llama3.2", "llama3.2:", ":"] {
        for (path, mut body) in [
            (CHAT, chat_body(model, "hi")),
            (COMPLETIONS, json!({"prompt": "hi"})),
            (EMBEDDINGS, json!({"input": "hi"})),
        ] {
            body["model"] = model.into();
            let error = error_of(&app.post(path, &key, body).await, 404);
            assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")), "{model}");
            assert!(error["message"].as_str().unwrap().contains(model), "{error}");
        }
    }
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

#[actix_rt::test]
async fn names_are_matched_as_ollama_matches_them() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for model in ["Llama3.2:1B", "library/llama3.2:1b", "registry.ollama.ai/library/LLAMA3.2:1b"] {
        let reply = app.post(CHAT, &key, chat_body(model, "hi")).await;
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        let seen: Value = serde_json::from_slice(&simulated.requests().last().unwrap().body).unwrap();
        assert_eq!(seen["model"], "llama3.2:1b", "{model}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn an_empty_model_stands_for_none_and_its_older_name_counts() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    let go = json!({"model": "", "system": "", "template": "", "verbose": false, "options": null, "name": "llama3.2"});
    let reply = app.post("/api/show", &key, go).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let none = app.post("/api/show", &key, json!({"model": "", "name": ""})).await;
    assert_eq!(none.status, 400, "{}", none.text());
    app.stop().await;
}

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

#[actix_rt::test]
async fn a_wrong_method_is_405_with_those_that_work() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for (path, allow) in [
        (CHAT, "POST"),
        (COMPLETIONS, "POST"),
        (EMBEDDINGS, "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/models/llama3.2", "GET, HEAD"),
        ("/v1/usage", "GET, HEAD"),
        ("/v1/usage/summary", "GET, HEAD"),
        ("/admin/users", "GET, HEAD, POST"),
        ("/admin/users/ann", "GET, HEAD, PATCH, DELETE"),
        ("/admin/users/ann/usage", "GET, HEAD"),
        ("/admin/users/ann/limits", "GET, HEAD, PUT"),
        ("/admin/nodes", "GET, HEAD, POST"),
        ("/admin/nodes/up", "GET, HEAD, PATCH, DELETE"),
        ("/admin/nodes/up/drain", "POST"),
        ("/admin/nodes/up/undrain", "POST"),
        ("/admin/reload", "POST"),
        ("/admin/models", "GET, HEAD"),
        ("/admin/models/llama3.2", "DELETE"),
        ("/", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/health/live", "GET, HEAD"),
        ("/health/ready", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/console", "GET, HEAD"),
        ("/console/0123456789abcdef/app.js", "GET, HEAD"),
        ("/docs/", "GET, HEAD"),
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if allow.split(", ").any(|allowed| allowed == method.as_str()) {
                continue;
            }
            let reply = app.send(method.clone(), path, Some(&key), "{}").await;
            let error = error_of(&reply, 405);
            assert_eq!(
                (reply.header("allow"), &error["code"]),
                (Some(allow), &json!("method_not_allowed")),
                "{method} {path}"
            );
        }
    }
    assert_cost_nothing(&simulated, &app, &key).await;
    app.stop().await;
}

#[actix_rt::test]
async fn an_unknown_path_is_404_in_json_with_any_method() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for path in [
        "/nope",
        "/v1",
        "/v1/",
        "/v2/chat/completions",
        "/v1/chat",
        "/v1/chat/completions/more",
        "/admin",
        "/admin/users/ann/secrets",
        "/admin/users/ann/limits/more",
        "/health/other",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%00",
        "/%ff",
        "/favicon.ico",
        "/.env",
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let reply = app.send(method.clone(), path, Some(&key), "").await;
            assert_eq!(error_of(&reply, 404)["type"], "not_found_error", "{method} {path}");
        }
    }
    app.stop().await;
}

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

#[actix_rt::test]
async fn models_are_the_union_over_the_nodes_each_once_as_the_nodes_name_them() {
    let start = async |models| SimNode::start(SimConfig { models, ..SimConfig::warm() }).await.unwrap();
    let mut untagged = SimModel::chat("custom", 1.0);
    untagged.name = "custom".to_owned();
    let first =
        start(vec![SimModel::chat("llama3.2", 2.0), SimModel::chat("hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M", 1.0)]).await;
    let second =
        start(vec![SimModel::chat("llama3.2:latest", 2.0), SimModel::chat("llama3.2:1b", 1.0), untagged]).await;
    let app = spawn_app(vec![node("a", first.url(), 1), node("b", second.url(), 1)]).await;
    let key = app.user("ann").await;

    let list = app.get("/v1/models", &key).await.json();

    let mut ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["custom", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M", "llama3.2:1b", "llama3.2:latest"]);
    assert_eq!(list["object"], "list");
    for model in list["data"].as_array().unwrap() {
        assert_eq!((&model["object"], model.as_object().unwrap().len()), (&json!("model"), 4), "{model}");
        assert!(model["created"].as_i64().unwrap() > 1_000_000_000 && model["owned_by"].is_string(), "{model}");
    }
    for (asked, id) in [
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:latest", "llama3.2:latest"),
        ("llama3.2%3Alatest", "llama3.2:latest"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("llama3%2e2%3a1b", "llama3.2:1b"),
        ("custom", "custom"),
        ("custom:latest", "custom"),
        ("hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M"),
        ("hf.co%2Fbartowski%2FQwen_2.5-GGUF%3AQ4_K_M", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M"),
    ] {
        let reply = app.get(&format!("/v1/models/{asked}"), &key).await;
        assert_eq!(reply.status, 200, "{asked}: {}", reply.text());
        let listed = list["data"].as_array().unwrap().iter().find(|model| model["id"] == id).unwrap();
        assert_eq!(&reply.json(), listed, "{asked}");
    }
    for asked in ["llama3.2", "llama3.2:latest", "custom", "custom:latest", "hf.co/bartowski/Qwen_2.5-GGUF:Q4_K_M"] {
        assert_eq!(app.chat(&key, asked, "hi").await.status, 200, "{asked}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_that_is_not_there_cannot_be_retrieved() {
    let (_simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    for id in ["nope", "llama3.2:", "llama", "x/llama3.2", "%00", "%0d%0aX-Evil:1", "a%20b", "%ff"] {
        let reply = app.get(&format!("/v1/models/{id}"), &key).await;
        let error = error_of(&reply, 404);
        assert!(reply.header("x-evil").is_none(), "{error}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_list_of_models_is_empty_and_not_null_while_no_node_has_been_heard() {
    let app = spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.get("/v1/models", &key).await;

    assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({"object": "list", "data": []})));
    error_of(&app.get("/v1/models/llama3.2", &key).await, 404);
    // Whether the model exists nobody knows yet.
    assert_eq!(error_of(&app.chat(&key, "llama3.2", "hi").await, 503)["code"], "no_node_available");
    app.stop().await;
}

#[actix_rt::test]
async fn the_list_of_models_comes_at_once_while_a_node_hangs() {
    let (simulated, app) = app_with_node().await;
    let key = app.user("ann").await;
    let before = app.get("/v1/models", &key).await.json();
    simulated.freeze_probes(true);

    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(app.get("/v1/models", &key).await.json(), before);
    }

    let each = begun.elapsed() / 20;
    assert!(each < Duration::from_millis(100), "{each:?}");
    simulated.freeze_probes(false);
    app.stop().await;
}
