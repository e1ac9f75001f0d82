//! Which pages of other origins may call the API?
use awc::http::Method;
use ollama_gateway::config::Config;
use ollama_sim::SimNode;
use serde_json::json;

use crate::dialects::spawn_over;
use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, chat_body, fast_node, node, spawn_app_with, stream_body};
use crate::paths::CHAT;

// Pages of other origins

const ORIGIN: (&str, &str) = ("origin", "https://page.example");

const OPENAI_HEADERS: &str = "authorization content-type user-agent accept x-requested-with openai-beta x-stainless-arch \
    x-stainless-async x-stainless-custom-poll-interval x-stainless-helper-method x-stainless-lang x-stainless-os \
    x-stainless-package-version x-stainless-poll-helper x-stainless-retry-count x-stainless-runtime \
    x-stainless-runtime-version x-stainless-timeout";

const OTHER_HEADERS: &str =
    "x-api-key api-key anthropic-version anthropic-beta anthropic-dangerous-direct-browser-access";

fn preflight(origin: &'static str) -> [(&'static str, &'static str); 3] {
    [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, content-type"),
    ]
}

// Line 20 of the clients' checklist: a preflight needs no key, and an error can be read, too.
#[actix_rt::test]
async fn a_page_of_any_origin_may_ask_and_a_preflight_needs_no_key() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    for path in [CHAT, "/api/chat", "/v1/messages", "/v1/models", "/chat/completions", "/k/x/api/chat", "/nothing"] {
        let reply = app.send_with(Method::OPTIONS, path, &preflight(ORIGIN.1), "").await;

        assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0), "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{path}");
        assert!(reply.header("access-control-allow-credentials").is_none(), "there are no cookies");
        let list = |name: &str| -> Vec<String> {
            reply.header(name).unwrap().split(',').map(|word| word.trim().to_ascii_lowercase()).collect()
        };
        for method in ["get", "head", "post", "options"] {
            assert!(list("access-control-allow-methods").contains(&method.to_owned()), "{method}");
        }
        assert_eq!(list("access-control-allow-headers"), ["authorization", "content-type"], "as it asked");
        assert!(reply.header("access-control-allow-private-network").is_none());
    }
    let names: Vec<&str> =
        OPENAI_HEADERS.split_ascii_whitespace().chain(OTHER_HEADERS.split(' ')).chain(["x-of-some-plugin"]).collect();
    let names = names.join(",");
    let asking = [preflight(ORIGIN.1)[0], preflight(ORIGIN.1)[1], ("access-control-request-headers", names.as_str())];
    let reply = app.send_with(Method::OPTIONS, CHAT, &asking, "").await;
    assert_eq!(reply.header("access-control-allow-headers"), Some(names.as_str()));
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn every_answer_may_be_read_by_a_page_errors_too() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let limited = app.user_with("bob", json!({"requests_per_minute": 1})).await;
    assert_eq!(app.chat(&limited, "llama3.2", "hi").await.status, 200);
    let (good, spent) = (format!("Bearer {key}"), format!("Bearer {limited}"));
    let chat = chat_body("llama3.2", "hi").to_string();
    for (method, path, authorization, body, status) in [
        (Method::POST, CHAT, good.as_str(), chat.clone(), 200),
        (Method::POST, CHAT, good.as_str(), stream_body("llama3.2", "hi").to_string(), 200),
        (Method::POST, "/api/chat", good.as_str(), chat.clone(), 200),
        (Method::GET, "/v1/models", good.as_str(), String::new(), 200),
        (Method::POST, CHAT, "Bearer wrong", chat.clone(), 401),
        (Method::POST, "/v1/messages", "Bearer wrong", chat.clone(), 401),
        (Method::POST, "/api/chat", "Bearer wrong", chat.clone(), 401),
        (Method::POST, CHAT, good.as_str(), "{".to_owned(), 400),
        (Method::POST, CHAT, good.as_str(), chat_body("nothere", "hi").to_string(), 404),
        (Method::POST, "/nothing", good.as_str(), chat.clone(), 404),
        (Method::POST, "/api/pull", good.as_str(), chat.clone(), 403),
        (Method::DELETE, CHAT, good.as_str(), String::new(), 405),
        (Method::OPTIONS, CHAT, good.as_str(), String::new(), 405),
        (Method::POST, CHAT, spent.as_str(), chat.clone(), 429),
    ] {
        let headers = [ORIGIN, ("authorization", authorization)];
        let reply = app.send_with(method.clone(), path, &headers, body.clone()).await;

        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{method} {path}");
        let exposed = reply.header("access-control-expose-headers").unwrap();
        for header in
            ["x-request-id", "retry-after", "retry-after-ms", "x-ratelimit-remaining-requests", "x-gateway-node"]
        {
            assert!(exposed.contains(header), "{header}");
        }
        let without = app.send_with(method.clone(), path, &headers[1..], body).await;
        assert!(without.header("access-control-allow-origin").is_none(), "no page asks: {path}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn no_page_may_call_the_admin() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let bearer = format!("Bearer {ADMIN_KEY}");
    for path in ["/admin/users", "/admin", "//admin//users", "/admin/nodes/", "/k/x/admin/users"] {
        let asked = app.send_with(Method::OPTIONS, path, &preflight(ORIGIN.1), "").await;
        assert!(asked.status.is_client_error(), "{path}: {}", asked.status);
        let read = app.send_with(Method::GET, path, &[ORIGIN, ("authorization", &bearer)], "").await;
        for reply in [asked, read] {
            let names = reply.headers.keys().map(|name| name.as_str().to_owned());
            assert_eq!(names.filter(|name| name.starts_with("access-control")).collect::<Vec<_>>(), [""; 0], "{path}");
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_public_page_may_reach_a_private_network_only_if_the_operator_says_so() {
    let simulated = fast_node().await;
    for may in [false, true] {
        let change = |config: &mut Config| config.server.cors_private_network = may;
        let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), change).await;
        let asking =
            [preflight(ORIGIN.1)[0], preflight(ORIGIN.1)[1], ("access-control-request-private-network", "true")];
        let reply = app.send_with(Method::OPTIONS, CHAT, &asking, "").await;
        assert_eq!(reply.status, 204);
        assert_eq!(reply.header("access-control-allow-private-network"), may.then_some("true"));
        app.stop().await;
    }
}

async fn spawn_for(simulated: &SimNode, origins: &[&str]) -> TestApp {
    let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
    let change = |config: &mut Config| config.server.cors_origins = origins;
    spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), change).await
}

#[actix_rt::test]
async fn the_setting_narrows_the_origins_to_those_it_names() {
    let simulated = fast_node().await;
    let app = spawn_for(&simulated, &["https://page.example", "http://localhost:3000"]).await;
    for (origin, allowed) in [
        ("https://page.example", true),
        ("http://localhost:3000", true),
        ("http://page.example", false),
        ("https://page.example.evil", false),
        ("https://page.example:8443", false),
        ("null", false),
    ] {
        let asked = app.send_with(Method::OPTIONS, CHAT, &preflight(origin), "").await;
        let sent = app.send_with(Method::POST, CHAT, &[("origin", origin)], "").await;

        assert_eq!((asked.status == 204, sent.status.as_u16()), (allowed, 401), "{origin}");
        for reply in [asked, sent] {
            assert_eq!(reply.header("access-control-allow-origin"), allowed.then_some(origin));
            assert_eq!(reply.header("vary").is_some_and(|vary| vary.contains("origin")), allowed, "{origin}");
        }
    }
    app.stop().await;

    let app = spawn_for(&simulated, &[]).await;
    let asked = app.send_with(Method::OPTIONS, CHAT, &preflight(ORIGIN.1), "").await;
    assert!(asked.status == 405 && asked.header("access-control-allow-origin").is_none(), "none may");
    app.stop().await;
}
