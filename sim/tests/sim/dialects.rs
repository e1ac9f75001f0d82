use serde_json::{Value, json};

use crate::client::{Reply, post};
use crate::fast_node;

const CHAT: &str = "/v1/chat/completions";

/// The data of every event, with everything that differs between runs zeroed.
fn masked(reply: &Reply) -> Vec<String> {
    let mask = |event: &&str| {
        let Ok(value) = serde_json::from_str::<Value>(event) else { return event.to_string() };
        let id = value["id"].as_str().unwrap();
        let number: u32 = id.rsplit('-').next().unwrap().parse().unwrap();
        assert!(number < 999);
        let created = value["created"].to_string();
        event.replace(&format!("-{number}\""), "-0\"").replace(&format!(":{created},"), ":0,")
    };
    reply.events().iter().map(mask).collect()
}

fn user(model: &str, content: &str, extra: Value) -> String {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": content}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body.to_string()
}

#[actix_web::test]
async fn a_chat_stream_has_the_shape_of_the_original() {
    let node = fast_node().await;

    let body = user("llama3.2:1b", "hi [[n=2]]", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let reply = post(&node, CHAT, &body).await;

    assert!(reply.head.contains("content-type: text/event-stream\r\n"), "{}", reply.head);
    let head = r#"{"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"llama3.2:1b","system_fingerprint":"fp_ollama","choices":["#;
    let expected = [
        format!(r#"{head}{{"index":0,"delta":{{"role":"assistant","content":"that"}},"finish_reason":null}}]}}"#),
        format!(r#"{head}{{"index":0,"delta":{{"content":" from"}},"finish_reason":null}}]}}"#),
        format!(r#"{head}{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}"#),
        format!(r#"{head}],"usage":{{"prompt_tokens":13,"completion_tokens":2,"total_tokens":15}}}}"#),
        "[DONE]".to_owned(),
    ];
    assert_eq!(masked(&reply), expected);
}

#[actix_web::test]
async fn without_include_usage_a_stream_has_none() {
    let node = fast_node().await;
    let reply = post(&node, CHAT, &user("llama3.2", "hi", json!({"stream": true}))).await;
    assert!(!reply.body.contains("usage"));
    assert!(reply.body.ends_with("data: [DONE]\n\n"));
}

#[actix_web::test]
async fn the_same_prompt_has_the_same_answer_on_every_node_and_route() {
    let (one, other) = (fast_node().await, fast_node().await);
    let body = user("llama3.2", "why is the sky blue?", json!({"stream": false}));

    let openai = post(&one, CHAT, &body).await.json();
    let native = post(&other, "/api/chat", &body).await.json();

    assert_eq!(openai["choices"][0]["message"]["content"], native["message"]["content"]);
    assert_eq!(openai["usage"]["completion_tokens"], native["eval_count"]);
    assert_eq!(openai["usage"]["prompt_tokens"], native["prompt_eval_count"]);
    let tokens = native["eval_count"].as_u64().unwrap();
    assert!((20..=120).contains(&tokens), "{tokens}");
}

#[actix_web::test]
async fn max_tokens_cuts_and_max_completion_tokens_is_ignored() {
    let node = fast_node().await;

    let cut = post(&node, CHAT, &user("llama3.2", "[[n=9]]", json!({"max_tokens": 4}))).await.json();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["usage"]["completion_tokens"], 4);

    let whole = post(&node, CHAT, &user("llama3.2", "[[n=9]]", json!({"max_completion_tokens": 4}))).await.json();
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["usage"]["completion_tokens"], 9);

    let native = user("llama3.2", "[[n=9]]", json!({"stream": false, "options": {"num_predict": 4}}));
    assert_eq!(post(&node, "/api/chat", &native).await.json()["done_reason"], "length");
}

#[actix_web::test]
async fn native_lines_end_with_metrics() {
    let node = fast_node().await;

    let reply = post(&node, "/api/chat", &user("llama3.2", "[[n=3]]", json!({}))).await;

    assert!(reply.head.contains("content-type: application/x-ndjson\r\n"), "{}", reply.head);
    let lines = reply.lines();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["done"], false);
    let last = reply.body.lines().last().unwrap();
    let keys = [
        "model",
        "created_at",
        "message",
        "done",
        "done_reason",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ];
    let places: Vec<_> = keys.iter().map(|key| last.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{last}");
    assert_eq!(lines[3]["message"], json!({"role": "assistant", "content": ""}));
    assert_eq!(lines[3]["eval_count"], 3);
}

#[actix_web::test]
async fn generate_returns_a_context_unless_raw() {
    let node = fast_node().await;
    let plain = post(&node, "/api/generate", r#"{"model":"llama3.2","prompt":"hi","stream":false}"#).await.json();
    assert!(plain["context"].is_array() && plain["response"].is_string() && plain.get("message").is_none());
    let raw = r#"{"model":"llama3.2","prompt":"hi","stream":false,"raw":true}"#;
    assert!(post(&node, "/api/generate", raw).await.json().get("context").is_none());
}

#[actix_web::test]
async fn text_completions_carry_zero_usage_until_the_last_chunk() {
    let node = fast_node().await;
    let body = r#"{"model":"llama3.2","prompt":"[[n=1]]","stream":true,"stream_options":{"include_usage":true}}"#;
    let zero = r#""usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#;

    let events = masked(&post(&node, "/v1/completions", body).await);

    assert_eq!(events.len(), 4);
    assert!(events[0].starts_with(r#"{"id":"cmpl-0","object":"text_completion","created":0,"choices":[{"text":""#));
    assert!(events[0].ends_with(&format!(r#","model":"llama3.2","system_fingerprint":"fp_ollama",{zero}}}"#)));
    assert!(
        events[1].contains(r#""choices":[{"text":"","index":0,"finish_reason":"stop"}]"#) && events[1].contains(zero)
    );
    assert!(events[2].contains(r#""choices":[]"#) && events[2].contains(r#""completion_tokens":1"#));
    assert_eq!(events[3], "[DONE]");
    let list = post(&node, "/v1/completions", r#"{"model":"llama3.2","prompt":["a"]}"#).await;
    assert_eq!(list.status, 400);
}

#[actix_web::test]
async fn a_tool_is_called_once_when_the_user_asks_for_it() {
    let node = fast_node().await;
    let tool = json!({"type": "function", "function": {"name": "get_weather", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}}}});
    let body = user("llama3.2", "what weather?", json!({"stream": true, "tools": [tool]}));

    let events = masked(&post(&node, CHAT, &body).await);
    assert_eq!(events.len(), 3);
    assert!(
        events[0].contains(r#""function":{"name":"get_weather","arguments":"{\"city\":\"sample\"}"}"#),
        "{}",
        events[0]
    );
    assert!(events[1].contains(r#""finish_reason":"tool_calls""#));

    let native = post(&node, "/api/chat", &body.replace("\"stream\":true", "\"stream\":false")).await.json();
    assert_eq!(native["message"]["tool_calls"][0]["function"]["arguments"], json!({"city": "sample"}));
    assert_eq!(native["done_reason"], "stop");

    let refused = post(&node, "/api/chat", &body.replace("llama3.2", "llava")).await;
    assert_eq!(refused.body, r#"{"error":"registry.ollama.ai/library/llava:latest does not support tools"}"#);
}

#[actix_web::test]
async fn a_response_format_is_answered_with_a_json_object() {
    let node = fast_node().await;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    for (format, expected) in [
        (json!({"type": "json_object"}), json!({"answer": "yes"})),
        (json!({"type": "json_schema", "json_schema": {"schema": schema}}), json!({"n": 1})),
    ] {
        let reply = post(&node, CHAT, &user("llama3.2", "hi", json!({"response_format": format}))).await.json();
        let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(content).unwrap(), expected);
    }
}

#[actix_web::test]
async fn images_are_counted_by_models_that_see() {
    let node = fast_node().await;
    let image =
        |url: &str| json!([{"type": "text", "text": "[[n=6]]"}, {"type": "image_url", "image_url": {"url": url}}]);
    let ask = |model: &str, url: &str| json!({"model": model, "messages": [{"role": "user", "content": image(url)}]});

    let seen = post(&node, CHAT, &ask("llava", "data:image/png;base64,AAAA").to_string()).await.json();
    assert!(seen["choices"][0]["message"]["content"].as_str().unwrap().starts_with("I see 1 image:"));
    assert_eq!(seen["usage"]["prompt_tokens"], 2 + 10 + 10 + 256);

    let web = post(&node, CHAT, &ask("llava", "https://example.com/a.png").to_string()).await;
    assert_eq!(web.status, 400);
    assert_eq!(
        web.body,
        r#"{"error":{"message":"image URLs are not currently supported, please use base64 encoded data instead","type":"invalid_request_error","param":null,"code":null}}"#
    );
    assert_eq!(post(&node, CHAT, &ask("llama3.2", "data:image/png;base64,AAAA").to_string()).await.status, 400);

    let native = r#"{"model":"llava","prompt":"[[n=6]]","images":["AAAA","BBBB"],"stream":false}"#;
    let native = post(&node, "/api/generate", native).await.json();
    assert!(native["response"].as_str().unwrap().starts_with("I see 2 images:"));
}

#[actix_web::test]
async fn a_thinking_model_reasons_first_and_counts_it() {
    let node = fast_node().await;
    let body = user("qwen3", "[[n=8]]", json!({"stream": true, "stream_options": {"include_usage": true}}));

    let events = masked(&post(&node, CHAT, &body).await);
    assert!(events[0].contains(r#""delta":{"role":"assistant","reasoning":""#), "{}", events[0]);
    assert!(events[2].contains(r#""delta":{"content":""#));
    assert!(events[9].contains(r#""completion_tokens":8"#));

    let quiet = post(&node, "/api/chat", &user("qwen3", "[[n=8]]", json!({"think": false}))).await;
    assert!(!quiet.body.contains("thinking"));
    let refused = post(&node, "/api/chat", &user("llama3.2", "hi", json!({"think": true}))).await;
    assert_eq!((refused.status, refused.body.as_str()), (400, r#"{"error":"\"llama3.2\" does not support thinking"}"#));
}

#[actix_web::test]
async fn a_trailing_assistant_message_is_continued() {
    let node = fast_node().await;
    let whole = post(&node, CHAT, &user("llama3.2", "[[n=10]]", json!({}))).await.json();
    let whole = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let (start, end) = whole.split_at(whole.match_indices(' ').nth(3).unwrap().0);
    let messages = json!([{"role": "user", "content": "[[n=10]]"}, {"role": "assistant", "content": start}]);

    let rest = post(&node, CHAT, &json!({"model": "llama3.2", "messages": messages}).to_string()).await.json();

    assert_eq!(rest["choices"][0]["message"]["content"], end);
    assert_eq!(rest["usage"]["completion_tokens"], 6);
}

#[actix_web::test]
async fn embeddings_are_the_same_in_every_shape() {
    let node = fast_node().await;
    let floats = post(&node, "/v1/embeddings", r#"{"model":"all-minilm","input":["a","b"]}"#).await.json();
    let native = post(&node, "/api/embed", r#"{"model":"all-minilm","input":["a","b"]}"#).await.json();
    let old = post(&node, "/api/embeddings", r#"{"model":"all-minilm","prompt":"a"}"#).await.json();
    let base64 = r#"{"model":"all-minilm","input":"a","encoding_format":"base64"}"#;
    let base64 = post(&node, "/v1/embeddings", base64).await.json();

    assert_eq!(floats["data"][1]["embedding"], native["embeddings"][1]);
    assert_eq!(floats["data"][0]["embedding"], old["embedding"]);
    assert_eq!(old["embedding"].as_array().unwrap().len(), 384);
    assert_eq!(base64["data"][0]["embedding"].as_str().unwrap().len(), 384 * 4 / 3 * 4);
    assert_eq!(floats["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
    for input in ["[]", "null", "[[1,2]]", "3"] {
        let body = format!(r#"{{"model":"all-minilm","input":{input}}}"#);
        assert_eq!(post(&node, "/v1/embeddings", &body).await.status, 400, "{input}");
    }
}

#[actix_web::test]
async fn responses_are_named_events_that_end_in_completed() {
    let node = fast_node().await;
    let reply = post(&node, "/v1/responses", r#"{"model":"llama3.2","input":"[[n=2]]","stream":true}"#).await;
    let names: Vec<_> = reply.body.lines().filter_map(|line| line.strip_prefix("event: response.")).collect();
    assert_eq!(
        names,
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed"
        ]
    );
    let last: Value = serde_json::from_str(reply.events().last().unwrap()).unwrap();
    assert_eq!(last["response"]["usage"]["output_tokens"], 2);
    let plain = post(&node, "/v1/responses", r#"{"model":"llama3.2","input":"[[n=2]]"}"#).await.json();
    let text = |response: &Value| response["output"][0]["content"][0]["text"].clone();
    assert_eq!(text(&plain), text(&last["response"]));
    assert!(text(&plain).is_string());
    assert_eq!(plain["usage"], last["response"]["usage"]);
}

#[actix_web::test]
async fn messages_tell_the_true_counts_in_message_delta() {
    let node = fast_node().await;
    let body = user("llama3.2", "[[n=2]]", json!({"max_tokens": 100, "stream": true}));
    let reply = post(&node, "/v1/messages", &body).await;
    let names: Vec<_> = reply.body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let delta: Value = serde_json::from_str(reply.events()[5]).unwrap();
    assert_eq!(delta["usage"], json!({"input_tokens": 12, "output_tokens": 2}));
    assert_eq!(delta["delta"]["stop_reason"], "end_turn");
    let refused = post(&node, "/v1/messages", &user("llama3.2", "hi", json!({}))).await;
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (400, Some("invalid_request_error")));
}
