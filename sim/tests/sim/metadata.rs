use ollama_sim::{Outcome, SimConfig, SimNode};
use serde_json::json;

use crate::client::{Call, call, post};
use crate::fast_node;

#[actix_web::test]
async fn probes_answer_get_and_head() {
    let node = fast_node().await;
    assert_eq!(call(&node, "GET", "/", "").await.body, "Ollama is running");
    assert_eq!(call(&node, "GET", "/api/version", "").await.body, r#"{"version":"0.33.0"}"#);
    for path in ["/", "/api/version", "/api/tags"] {
        assert_eq!(call(&node, "HEAD", path, "").await.status, 200, "{path}");
    }
    let tags = call(&node, "GET", "/api/tags", "").await.json();
    assert_eq!(tags["models"][0]["name"], "llama3.2:latest");
    assert_eq!(tags["models"][2]["capabilities"], json!(["completion", "vision"]));
    assert!(node.requests().is_empty(), "probes are not logged");
}

#[actix_web::test]
async fn unknown_paths_and_methods_are_refused() {
    let node = fast_node().await;
    let missing = call(&node, "GET", "/metrics", "").await;
    assert_eq!((missing.status, missing.body.as_str()), (404, "404 page not found"));
    assert_eq!(call(&node, "GET", "/api/chat", "").await.status, 405);
    assert_eq!(call(&node, "HEAD", "/api/ps", "").await.status, 405);
    assert_eq!(node.requests().len(), 3, "a probe with the wrong method is logged as any other request");
}

#[actix_web::test]
async fn openai_lists_models() {
    let node = fast_node().await;
    let list = call(&node, "GET", "/v1/models", "").await.json();
    assert_eq!(list["data"][0]["id"], "llama3.2:latest");
    assert_eq!(call(&node, "GET", "/v1/models/llama3.2", "").await.json()["id"], "llama3.2");
    let missing = call(&node, "GET", "/v1/models/nope", "").await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["error"]["type"], "not_found_error");

    let empty = SimNode::start(SimConfig { models: Vec::new(), ..SimConfig::fast() }).await.unwrap();
    assert_eq!(call(&empty, "GET", "/v1/models", "").await.body, r#"{"object":"list","data":null}"#);
}

#[actix_web::test]
async fn errors_speak_the_dialect_of_the_route() {
    let node = fast_node().await;
    let chat = r#"{"model":"nope","messages":[{"role":"user","content":"hi"}]}"#;
    let native = post(&node, "/api/chat", chat).await;
    assert_eq!((native.status, native.body.as_str()), (404, r#"{"error":"model 'nope' not found"}"#));
    let openai = post(&node, "/v1/chat/completions", chat).await;
    assert_eq!(
        openai.body,
        r#"{"error":{"message":"model 'nope' not found","type":"not_found_error","param":null,"code":null}}"#
    );
    let embed = post(&node, "/api/embed", r#"{"model":"nope","input":"a"}"#).await;
    assert_eq!(embed.body, r#"{"error":"model \"nope\" not found, try pulling it first"}"#);
    assert_eq!(post(&node, "/api/chat", "").await.body, r#"{"error":"missing request body"}"#);
    assert_eq!(post(&node, "/api/chat", "{}").await.body, r#"{"error":"model is required"}"#);
    assert_eq!(post(&node, "/api/generate", "{}").await.body, r#"{"error":"model '' not found"}"#);
    let empty = post(&node, "/v1/chat/completions", r#"{"model":"llama3.2","messages":[]}"#).await;
    assert_eq!((empty.status, &empty.json()["error"]["message"]), (400, &json!("[] is too short - 'messages'")));
    let embedding = chat.replace("nope", "all-minilm");
    let refused = post(&node, "/api/chat", &embedding).await;
    assert_eq!(refused.body, r#"{"error":"\"all-minilm\" does not support chat"}"#);
    assert!(node.requests().iter().all(|request| request.outcome == Outcome::Completed));
    assert_eq!((node.stats().completed, node.stats().cancelled, node.stats().in_flight), (0, 0, 0));
}

#[actix_web::test]
async fn a_key_is_demanded_of_every_request() {
    let config = SimConfig { api_key: Some("secret".to_owned()), ..SimConfig::fast() };
    let node = SimNode::start(config).await.unwrap();
    let refused = call(&node, "GET", "/api/tags", "").await;
    assert_eq!((refused.status, refused.body.as_str()), (401, r#"{"error":"unauthorized"}"#));
    let header = "authorization: Bearer secret\r\n";
    let allowed = Call::send_with(node.addr(), "GET", "/api/tags", header, "").await;
    assert_eq!(allowed.reply("GET").await.unwrap().status, 200);
}

#[actix_web::test]
async fn requests_are_logged_as_they_arrived() {
    let node = fast_node().await;
    let body = r#"{"model":"llama3.2","prompt":"[[n=7]]","stream":false}"#;
    let headers = "x-request-id: abc\r\nX-Other: 1\r\n";
    let sent = Call::send_with(node.addr(), "POST", "/api/generate", headers, body).await;
    sent.reply("POST").await.unwrap();

    let requests = node.requests();
    let [seen] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!((seen.path.as_str(), seen.request_id.as_deref()), ("/api/generate", Some("abc")));
    assert_eq!(seen.body, body);
    assert!(seen.headers.contains(&("x-other".to_owned(), "1".to_owned())));
    assert_eq!((seen.tokens_generated, seen.prompt_tokens, seen.outcome), (7, 12, Outcome::Completed));
    assert_eq!(node.stats().completed, 1);
}

#[actix_web::test]
async fn frozen_probes_answer_once_thawed() {
    let node = fast_node().await;
    node.freeze_probes(true);
    let mut probe = Call::send(node.addr(), "GET", "/api/tags", "").await;
    assert!(probe.is_silent().await);
    assert_eq!(call(&node, "GET", "/", "").await.status, 200);
    node.freeze_probes(false);
    assert_eq!(probe.reply("GET").await.unwrap().status, 200);
}

#[actix_web::test]
async fn show_describes_a_model() {
    let node = fast_node().await;
    let shown = post(&node, "/api/show", r#"{"model":"llava"}"#).await.json();
    assert_eq!(shown["capabilities"], json!(["completion", "vision"]));
    let missing = post(&node, "/api/show", r#"{"model":"x"}"#).await;
    assert_eq!((missing.status, missing.body.as_str()), (404, r#"{"error":"model 'x' not found"}"#));
}
