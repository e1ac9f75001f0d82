//! What Ollama does not do: refused where the answer would be another one than the client asked for, and otherwise passed
//! on without effect. The rows are those of the table in docs/use.md.
use awc::http::Method;
use serde_json::{Value, json};

use crate::dialects::spawn_over;
use crate::harness::{error_of, events_of, fast_node};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

fn body() -> Value {
    json!({"model": "llama3.2", "max_tokens": 3, "stream": false, "prompt": "hi", "input": "hi",
        "messages": [{"role": "user", "content": "hi"}]})
}

fn with(field: &str, value: Value) -> Value {
    let mut body = body();
    body[field] = value;
    body
}

#[actix_rt::test]
async fn what_no_node_can_give_is_refused_by_its_name() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let remote = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]}]);
    let source = json!([{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}]}]);
    for (route, field, value) in [
        (CHAT, "n", json!(2)),
        (CHAT, "functions", json!([{"name": "f"}])),
        (CHAT, "modalities", json!(["text", "audio"])),
        (CHAT, "messages", remote),
        (CHAT, "_debug_render_only", json!(true)),
        (COMPLETIONS, "n", json!(2)),
        (COMPLETIONS, "best_of", json!(2)),
        (COMPLETIONS, "echo", json!(true)),
        (COMPLETIONS, "prompt", json!(["one", "two"])),
        (RESPONSES, "previous_response_id", json!("resp_1")),
        (RESPONSES, "conversation", json!("conv_1")),
        (RESPONSES, "background", json!(true)),
        (MESSAGES, "messages", source),
    ] {
        let reply = app.post(route, &key, with(field, value)).await;

        if route == MESSAGES {
            assert_eq!((reply.status.as_u16(), &reply.json()["error"]["type"]), (400, &json!("invalid_request_error")));
            continue;
        }
        let error = error_of(&reply, 400);
        assert_eq!(
            (&error["param"], &error["type"]),
            (&json!(field), &json!("invalid_request_error")),
            "{route}: {error}"
        );
        assert_eq!(reply.header("x-should-retry"), Some("false"), "another try cannot help");
    }
    assert!(simulated.requests().is_empty() && app.rows(&key).await.is_empty(), "it costs nothing");
    app.stop().await;
}

#[actix_rt::test]
async fn what_only_has_no_effect_passes_as_it_is() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let choice = json!({"type": "function", "function": {"name": "f"}});
    let mut count = 0;
    for (route, fields) in [
        (
            CHAT,
            json!({"n": 1, "tool_choice": choice, "parallel_tool_calls": false, "function_call": "none", "logit_bias": {"5": 1},
                "user": "u", "store": true, "metadata": {"a": "b"}, "service_tier": "auto", "keep_alive": 0,
                "options": {"num_ctx": 1}, "modalities": ["text"], "prediction": {"type": "content", "content": "x"},
                "web_search_options": {}, "verbosity": "low"}),
        ),
        (COMPLETIONS, json!({"n": 1, "best_of": 1, "echo": false, "logit_bias": {"5": 1}, "user": "u"})),
        (
            RESPONSES,
            json!({"store": true, "metadata": {}, "tool_choice": "required", "parallel_tool_calls": false, "include": [],
                "truncation": "auto", "user": "u", "service_tier": "auto", "background": false, "previous_response_id": null}),
        ),
        (MESSAGES, json!({"tool_choice": {"type": "any"}, "metadata": {"user_id": "u"}, "service_tier": "auto"})),
        ("/v1/embeddings", json!({"user": "u"})),
    ] {
        let mut body = body();
        if route == "/v1/embeddings" {
            body["model"] = "all-minilm".into();
        }
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());

        let reply = app.post(route, &key, body.clone()).await;

        assert_eq!(reply.status, 200, "{route}: {}", reply.text());
        assert_eq!(simulated.requests().last().unwrap().body, body.to_string(), "{route}");
        count += 1;
        assert_eq!(app.rows_once(&key, count).await[0]["status"], "completed", "{route}");
    }
    let mut stream = with("n", json!(1));
    stream["stream"] = true.into();
    let stream = app.post(CHAT, &key, stream).await;
    assert!(events_of(stream.text()).iter().all(|chunk| !chunk.contains("\"index\":1")), "one choice");
    app.stop().await;
}

#[actix_rt::test]
async fn sound_is_understood_in_a_chat_and_nowhere_else() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user_with("ann", json!({"tokens_per_day": 20_000})).await;
    let multipart = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nllama3.2\r\n--x--\r\n";
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=x")];
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/v1//audio/transcriptions/"]
    {
        let reply = app.send_with(Method::POST, path, &headers, multipart).await;

        let error = error_of(&reply, 404);
        assert_eq!((&error["code"], &error["type"]), (&json!("unsupported_endpoint"), &json!("invalid_request_error")));
        assert!(error["message"].as_str().unwrap().contains("input_audio"), "it says what works instead: {error}");
    }
    let keyless = app.send_with(Method::POST, "/v1/audio/transcriptions", &headers[1..], multipart).await;
    assert_eq!(error_of(&keyless, 401)["code"], "invalid_api_key");

    // Half a minute of speech as a client sends it: far more bytes than the day has tokens.
    let sound = json!({"type": "input_audio", "input_audio": {"data": "A".repeat(400_000), "format": "wav"}});
    let content = json!([{"type": "text", "text": "What is said?"}, sound]);
    let reply = app.post(CHAT, &key, with("messages", json!([{"role": "user", "content": content}]))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(simulated.requests().last().unwrap().body.len() > 400_000);
    app.stop().await;
}
