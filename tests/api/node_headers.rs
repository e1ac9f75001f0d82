//! Which headers does a node get, and whose?
use awc::http::Method;
use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{SimConfig, SimModel, SimNode};

use crate::harness::{chat_body, fast_node, node, spawn_app, stream_body};

// Headers

#[actix_rt::test]
async fn a_node_sees_none_of_the_clients_headers() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-api-key", &key),
        ("origin", "https://evil.example"),
        ("cookie", "session=secret"),
        ("x-request-id", "the-clients-own"),
        ("x-forwarded-for", "10.1.2.3"),
        ("forwarded", "for=10.1.2.3"),
        ("user-agent", "secret-agent"),
        ("accept", "text/secret"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/json; charset=utf-8"),
        ("te", "trailers"),
        ("x-stainless-lang", "python"),
        ("idempotency-key", "1"),
        ("anthropic-version", "2023-06-01"),
    ];
    for body in [chat_body("llama3.2", "hi"), stream_body("llama3.2", "hi")] {
        let reply = app.send_with(Method::POST, "/v1/chat/completions", &headers, body.to_string()).await;

        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = simulated.requests().pop().unwrap();
        let mut names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let value = |wanted: &str| seen.headers.iter().find(|(name, _)| name == wanted).unwrap().1.as_str();
        assert_eq!(names, ["accept-encoding", "content-length", "content-type", "host", "x-request-id"]);
        assert_eq!(value("host"), simulated.addr().to_string());
        assert_eq!(value("content-type"), "application/json");
        assert_eq!(value("accept-encoding"), "identity");
        assert_eq!(value("x-request-id"), reply.header("x-request-id").unwrap());
    }
    app.stop().await;
}

// Line 23 of the clients' checklist: `anthropic-version` is forwarded.
#[actix_rt::test]
async fn a_node_hears_which_version_of_anthropics_api_is_spoken() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let key = app.user("ann").await;
    let headers = [
        ("x-api-key", key.as_str()),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "one-2025-01-01"),
        ("anthropic-beta", "two-2025-01-01"),
        ("anthropic-dangerous-direct-browser-access", "true"),
    ];
    let mut body = chat_body("llama3.2", "hi");
    body["max_tokens"] = 5.into();

    let reply = app.send_with(Method::POST, "/v1/messages", &headers, body.to_string()).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = simulated.requests().pop().unwrap();
    let of_anthropic = |(name, _): &&(String, String)| name.starts_with("anthropic");
    let seen: Vec<(&str, &str)> =
        seen.headers.iter().filter(of_anthropic).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [headers[2], headers[3], headers[1]]);
    app.stop().await;
}

#[actix_rt::test]
async fn a_nodes_own_key_goes_to_that_node_alone() {
    let guarded = SimConfig {
        api_key: Some("node-secret".to_owned()),
        models: vec![SimModel::chat("guarded:1b", 1.0)],
        ..SimConfig::warm()
    };
    let guarded = SimNode::start(guarded).await.unwrap();
    let open = fast_node().await;
    let with_key = NodeSettings { api_key: Some("node-secret".to_owned()), ..node("guarded", guarded.url(), 1) };
    let app = spawn_app(vec![with_key, node("open", open.url(), 1)]).await;
    let key = app.user("ann").await;
    for (model, name) in [("guarded:1b", "guarded"), ("llama3.2", "open")] {
        let reply = app.chat(&key, model, "hi").await;

        assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some(name)), "{}", reply.text());
    }
    let authorization = |node: &SimNode| {
        let seen = node.requests().pop().unwrap();
        seen.headers.into_iter().find(|(name, _)| name == "authorization").map(|(_, value)| value)
    };
    assert_eq!(authorization(&guarded).as_deref(), Some("Bearer node-secret"));
    assert_eq!(authorization(&open), None);
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_wants_another_key_is_not_used() {
    let guarded = SimConfig { api_key: Some("right".to_owned()), ..SimConfig::warm() };
    let (guarded, open) = (SimNode::start(guarded).await.unwrap(), fast_node().await);
    let wrong_key = NodeSettings { api_key: Some("wrong".to_owned()), ..node("guarded", guarded.url(), 1) };
    let app = spawn_app(vec![wrong_key, node("open", open.url(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.chat(&key, "llama3.2", "hi").await;

    assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some("open")));
    assert_eq!(reply.header("x-gateway-attempts"), Some("1"));
    let view = app.dispatcher.read(|scheduler| scheduler.nodes().remove(0));
    assert!(view.last_error.as_deref().unwrap().contains("401"), "{view:?}");
    app.stop().await;
}
