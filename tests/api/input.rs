//! Does every bad request get a 4xx that says why, and cost nobody anything? And are models found by any of their names?
use awc::http::Method;
use ollama_sim::SimNode;
use serde_json::{Value, json};

use crate::harness::{TestApp, chat_body, error_of, fast_node, node, spawn_app};

pub const CHAT: &str = "/v1/chat/completions";

pub const COMPLETIONS: &str = "/v1/completions";

pub const EMBEDDINGS: &str = "/v1/embeddings";

pub const ONE: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

pub async fn app_with_node() -> (SimNode, TestApp) {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    (simulated, app)
}

/// Nothing of what was sent reached the node or was recorded, and the gateway still answers.
pub async fn assert_cost_nothing(simulated: &SimNode, app: &TestApp, key: &str) {
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
