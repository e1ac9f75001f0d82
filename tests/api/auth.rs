//! Which key opens what, which networks need none, and what does everybody else hear?
mod guessing;

use awc::http::Method;
use ollama_gateway::http::TrustedNetwork;
use serde_json::json;

use crate::harness::{
    ADMIN_KEY, TestApp, TestDatabase, chat_body, error_of, fast_node, node, spawn_app, spawn_app_with,
};

/// A route for users and its method.
const USER_ROUTES: [(Method, &str); 10] = [
    (Method::POST, "/v1/chat/completions"),
    (Method::POST, "/v1/completions"),
    (Method::POST, "/v1/embeddings"),
    (Method::GET, "/v1/models"),
    (Method::GET, "/v1/models/llama3.2"),
    (Method::GET, "/v1/usage"),
    (Method::GET, "/v1/usage/summary"),
    (Method::GET, "/v1/me/keys"),
    (Method::POST, "/v1/me/keys"),
    (Method::DELETE, "/v1/me/keys/key_1"),
];

/// A route for the admin and its method.
const ADMIN_ROUTES: [(Method, &str); 14] = [
    (Method::GET, "/admin/users"),
    (Method::POST, "/admin/users"),
    (Method::GET, "/admin/users/ann"),
    (Method::PATCH, "/admin/users/ann"),
    (Method::DELETE, "/admin/users/ann"),
    (Method::GET, "/admin/users/ann/usage"),
    (Method::GET, "/admin/users/ann/limits"),
    (Method::PUT, "/admin/users/ann/limits"),
    (Method::GET, "/admin/users/ann/keys"),
    (Method::POST, "/admin/users/ann/keys"),
    (Method::DELETE, "/admin/users/ann/keys/key_1"),
    (Method::POST, "/admin/users/ann/keys/key_1/rotate"),
    (Method::PATCH, "/admin/users/ann/keys/key_1"),
    (Method::GET, "/admin/nodes"),
];

fn all_routes() -> impl Iterator<Item = (Method, &'static str)> {
    USER_ROUTES.into_iter().chain(ADMIN_ROUTES)
}

async fn app_without_nodes_that_are_up() -> TestApp {
    spawn_app(vec![node("a", "http://127.0.0.1:1".to_owned(), 1)]).await
}

#[actix_rt::test]
async fn a_key_is_taken_from_each_of_the_three_headers() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let key = app.user("ann").await;
    let bearers =
        ["Bearer ", "bearer ", "BEARER ", "bEaReR  "].map(|scheme| ("authorization", scheme.to_owned() + &key));
    let others = ["x-api-key", "api-key", "X-API-KEY"].map(|name| (name, key.clone()));

    for (name, value) in bearers.iter().chain(&others) {
        let listed = app.send_with(Method::GET, "/v1/models", &[(name, value)], "").await;
        let chat = chat_body("llama3.2", "hi").to_string();
        let answered = app.send_with(Method::POST, "/v1/chat/completions", &[(name, value)], chat).await;

        assert_eq!((listed.status, answered.status), (200.try_into().unwrap(), 200.try_into().unwrap()), "{name}");
    }
    assert_eq!(app.rows(&key).await.len(), bearers.len() + others.len());
    app.stop().await;
}

#[actix_rt::test]
async fn the_admin_key_too_is_taken_from_each_of_the_three_headers() {
    let app = app_without_nodes_that_are_up().await;
    let bearer = format!("Bearer {ADMIN_KEY}");
    for (name, value) in [("authorization", bearer.as_str()), ("x-api-key", ADMIN_KEY), ("api-key", ADMIN_KEY)] {
        let reply = app.send_with(Method::GET, "/admin/nodes", &[(name, value)], "").await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_same_key_in_several_headers_is_one_key_and_two_keys_are_a_mistake() {
    let app = app_without_nodes_that_are_up().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let bearer = format!("Bearer {ann}");

    let same = [("authorization", bearer.as_str()), ("x-api-key", &ann), ("api-key", &ann)];
    assert_eq!(app.send_with(Method::GET, "/v1/models", &same, "").await.status, 200);

    for second in
        [("x-api-key", bob.as_str()), ("api-key", &bob), ("api-key", "noop"), ("authorization", "Bearer noop")]
    {
        for (method, path) in all_routes() {
            let reply = app.send_with(method.clone(), path, &[("authorization", &bearer), second], "").await;
            let error = error_of(&reply, 400);
            assert_eq!(error["type"], "invalid_request_error", "{method} {path} {second:?}");
            assert_says_no_key(reply.text(), &[&ann, &bob]);
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn without_a_good_key_every_route_says_401_in_one_form() {
    let app = app_without_nodes_that_are_up().await;
    let key = app.user("ann").await;
    let (longer, shorter) = (format!("Bearer {key}0"), format!("Bearer {}", &key[..key.len() - 1]));
    let upper = format!("Bearer {}", key.to_ascii_uppercase());
    let bad: [&[(&str, &str)]; 14] = [
        &[],
        &[("authorization", "")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Bearer noop")],
        &[("authorization", "Bearer not-provided")],
        &[("authorization", "Basic dXNlcjpwYXNz")],
        &[("authorization", key.as_str())],
        &[("authorization", &longer)],
        &[("authorization", &shorter)],
        &[("authorization", &upper)],
        &[("x-api-key", "")],
        &[("api-key", "sk-ann-00000000000000000000000000000000")],
        &[("x-api-key", "{\"$ne\":null}' OR 1=1 --")],
    ];
    for headers in bad {
        for (method, path) in all_routes() {
            let reply = app.send_with(method.clone(), path, headers, "").await;
            let error = error_of(&reply, 401);
            assert_eq!(error["code"], "invalid_api_key", "{method} {path} {headers:?}");
            assert_eq!(error["type"], "authentication_error");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert_says_no_key(reply.text(), &[&key, "noop"]);
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn an_empty_key_or_a_proxys_own_scheme_beside_a_key_is_not_looked_at() {
    let app = app_without_nodes_that_are_up().await;
    let key = app.user("ann").await;
    let bearer = format!("Bearer {key}");
    for headers in [
        [("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", key.as_str())],
        [("authorization", "Bearer "), ("x-api-key", &key)],
        [("authorization", ""), ("api-key", &key)],
        [("authorization", &bearer), ("x-api-key", "")],
    ] {
        let reply = app.send_with(Method::GET, "/v1/models", &headers, "").await;
        assert_eq!(reply.status, 200, "{headers:?}: {}", reply.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn no_client_is_to_repeat_what_is_bound_to_fail_again() {
    let app = app_without_nodes_that_are_up().await;
    let key = app.user("ann").await;
    for (method, path, key, status) in [
        (Method::POST, "/v1/chat/completions", "noop", 401),
        (Method::POST, "/v1/messages", "noop", 401),
        (Method::POST, "/api/chat", "noop", 401),
        (Method::POST, "/v1/messages", key.as_str(), 400),
        (Method::POST, "/api/pull", &key, 403),
        (Method::GET, "/v1/nothing", &key, 404),
        (Method::GET, "/v1/messages", &key, 405),
    ] {
        let reply = app.send(method, path, Some(key), "{}").await;
        assert_eq!((reply.status.as_u16(), reply.header("x-should-retry")), (status, Some("false")), "{path}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_key_with_bytes_that_no_key_has_is_401() {
    let app = app_without_nodes_that_are_up().await;
    for header in [&b"Authorization: Bearer \xff\xfe"[..], b"x-api-key: \xc3\xa9"] {
        let mut request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_vec();
        request.extend_from_slice(header);
        request.extend_from_slice(b"\r\n\r\n");
        let answer = app.send_bytes(&request).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_admin_key_is_no_user_key_and_the_other_way_round() {
    let app = app_without_nodes_that_are_up().await;
    let key = app.user("ann").await;
    for (method, path) in USER_ROUTES {
        let reply = app.send(method.clone(), path, Some(ADMIN_KEY), "").await;
        assert_eq!(error_of(&reply, 401)["code"], "invalid_api_key", "{method} {path}");
        assert_says_no_key(reply.text(), &[ADMIN_KEY]);
    }
    for (method, path) in ADMIN_ROUTES {
        let reply = app.send(method.clone(), path, Some(&key), "").await;
        assert_eq!(error_of(&reply, 403)["type"], "permission_error", "{method} {path}");
        assert_says_no_key(reply.text(), &[&key]);
    }
    assert_eq!(app.get("/v1/models", &key).await.status, 200, "the user was not deleted by its own key");
    app.stop().await;
}

#[actix_rt::test]
async fn the_key_of_a_deleted_user_stops_at_once() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    assert_eq!(app.chat(&ann, "llama3.2", "hi").await.status, 200);

    assert_eq!(app.delete("/admin/users/ann", ADMIN_KEY).await.status, 200);

    for (method, path) in USER_ROUTES {
        error_of(&app.send(method, path, Some(&ann), "").await, 401);
    }
    assert_eq!(app.chat(&bob, "llama3.2", "hi").await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn a_request_with_a_bad_key_reaches_no_node_and_its_body_is_not_waited_for() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let request =
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer noop\r\n\
        Content-Length: 1000000\r\n\r\n{";

    let answer = app.send_bytes(request).await;

    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn what_is_public_needs_no_key_and_minds_no_bad_one() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    for path in ["/", "/health", "/health/live", "/health/ready", "/docs/", "/openapi.json", "/console", "/metrics"] {
        for headers in [&[][..], &[("authorization", "Bearer noop")]] {
            assert_eq!(app.send_with(Method::GET, path, headers, "").await.status, 200, "{path}");
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn an_admin_route_with_a_user_key_changes_nothing() {
    let app = app_without_nodes_that_are_up().await;
    let key = app.user("ann").await;

    app.post("/admin/users", &key, json!({"user_id": "eve"})).await;
    app.put("/admin/users/ann/limits", &key, json!({"requests_per_minute": 1})).await;
    app.delete("/admin/users/ann", &key).await;

    let users = app.get("/admin/users", ADMIN_KEY).await.json();
    assert_eq!(users["data"].as_array().unwrap().len(), 1);
    assert_eq!(users["data"][0]["requests_per_minute"], json!(null));
    app.stop().await;
}

#[track_caller]
fn assert_says_no_key(text: &str, keys: &[&str]) {
    for key in keys {
        assert!(!text.contains(key), "a key in {text}");
    }
}

#[actix_rt::test]
async fn a_trusted_network_needs_no_key_and_counts_for_its_user() {
    let simulated = fast_node().await;
    let trusted = TrustedNetwork { cidr: "127.0.0.0/8".parse().unwrap(), user: "lab".to_owned() };
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], TestDatabase::sqlite(), |config| {
        config.server.trusted_networks = vec![trusted];
        config.server.guesses_per_minute = 0;
    })
    .await;
    let body = chat_body("llama3.2", "hello").to_string();
    let post = || app.send(awc::http::Method::POST, "/v1/chat/completions", None, body.clone());

    assert_eq!(post().await.status, 401, "the user is not there yet");
    let key = app.user("lab").await;
    assert_eq!(post().await.status, 200);

    assert_eq!(app.rows(&key).await.len(), 1);
    let placeholder = app.chat("ollama", "llama3.2", "hello").await;
    assert_eq!(placeholder.status, 200, "what is no key at all is none here, and no guess");
    assert_eq!(app.rows_once(&key, 2).await.len(), 2);
    let other = app.user("ann").await;
    assert_eq!(app.chat(&other, "llama3.2", "hello").await.status, 200);
    assert_eq!(app.rows_once(&other, 1).await.len(), 1, "a key that is known counts for its own user");
    let admin = app.send(awc::http::Method::GET, "/admin/users", None, "").await;
    assert_eq!(admin.status, 401, "no network stands for the admin");
    assert_eq!(app.get("/admin/users", ADMIN_KEY).await.status, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn another_network_needs_a_key() {
    let simulated = fast_node().await;
    let trusted = TrustedNetwork { cidr: "10.0.0.0/8".parse().unwrap(), user: "lab".to_owned() };
    let app = spawn_app_with(vec![node("a", simulated.url(), 2)], TestDatabase::sqlite(), |config| {
        config.server.trusted_networks = vec![trusted];
    })
    .await;
    app.user("lab").await;

    let reply = app.send(awc::http::Method::GET, "/v1/models", None, "").await;

    assert_eq!(reply.status, 401);
    app.stop().await;
}
