//! Does a session at the console stand for its key: on the console's routes, from the console's own page, and no longer than
//! the key?
use awc::http::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, Reply, TestApp, chat_body, error_of, fast_node, node, spawn_app, spawn_app_with};

const GONE: &str = "http://127.0.0.1:1";

async fn app() -> TestApp {
    spawn_app(vec![node("gone", GONE.to_owned(), 1)]).await
}

/// Signs in; the cookie as a browser sends it back.
async fn sign_in(app: &TestApp, key: &str) -> String {
    let reply = sign_in_with(app, key, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    cookie_of(&reply)
}

async fn sign_in_with(app: &TestApp, key: &str, headers: &[(&str, &str)]) -> Reply {
    app.send_with(Method::POST, "/console/session", headers, json!({"api_key": key}).to_string()).await
}

fn cookie_of(reply: &Reply) -> String {
    reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

/// Sends as the console's own page does.
async fn from_console(app: &TestApp, method: Method, path: &str, cookie: &str, body: Value) -> Reply {
    let headers = [("cookie", cookie), ("x-console", "1"), ("sec-fetch-site", "same-origin")];
    app.send_with(method, path, &headers, if body.is_null() { String::new() } else { body.to_string() }).await
}

async fn status(app: &TestApp, path: &str, cookie: &str) -> u16 {
    app.send_with(Method::GET, path, &[("cookie", cookie)], "").await.status.as_u16()
}

#[actix_rt::test]
async fn a_session_of_the_admin_key_opens_what_the_key_opens_until_it_is_ended() {
    let app = app().await;
    let reply = sign_in_with(&app, ADMIN_KEY, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let said = reply.json();
    assert_eq!((&said["kind"], &said["role"]), (&json!("admin"), &json!("admin")), "{said}");
    assert!(said["expires_at"].as_str().unwrap().ends_with('Z') && said.as_object().unwrap().len() == 5, "{said}");
    assert_eq!(said["is_demo"], false);
    let set = reply.header("set-cookie").unwrap().to_owned();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure") && !set.contains("Domain"), "{set}");
    let cookie = cookie_of(&reply);

    assert_eq!(status(&app, "/admin/users", &cookie).await, 200);
    let made = from_console(&app, Method::POST, "/admin/users", &cookie, json!({"user_id": "ann"})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let shown = app.send_with(Method::GET, "/console/session", &[("cookie", &cookie)], "").await;
    assert_eq!(shown.json(), said);

    let other = sign_in(&app, ADMIN_KEY).await;
    let out = from_console(&app, Method::DELETE, "/console/session", &cookie, Value::Null).await;
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    for path in ["/console/session", "/admin/users", "/v1/me"] {
        let reply = app.send_with(Method::GET, path, &[("cookie", &cookie)], "").await;
        assert!(error_of(&reply, 401)["message"].as_str().unwrap().contains("sign in again"), "{path}");
    }
    assert_eq!(status(&app, "/admin/users", &other).await, 200, "another session goes on");
    error_of(&app.send_with(Method::GET, "/console/session", &[], "").await, 401);
    app.stop().await;
}

#[actix_rt::test]
async fn a_session_of_a_user_opens_their_own_routes_and_ends_with_the_key() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let key = app.user("ann").await;
    let cookie = sign_in(&app, &key).await;
    let said = app.send_with(Method::GET, "/console/session", &[("cookie", &cookie)], "").await.json();
    assert_eq!((&said["kind"], &said["name"], &said["role"]), (&json!("user"), &json!("ann"), &Value::Null));
    for path in ["/v1/me", "/v1/me/requests", "/v1/models", "/v1/usage", "/v1/usage/summary"] {
        assert_eq!(status(&app, path, &cookie).await, 200, "{path}");
    }
    let chat = chat_body("llama3.2", "hi");
    let answered = from_console(&app, Method::POST, "/v1/chat/completions", &cookie, chat.clone()).await;
    assert_eq!(answered.status, 200, "{}", answered.text());

    assert_eq!(status(&app, "/admin/users", &cookie).await, 403);
    // Where the console has no business, a session is nothing.
    for path in ["/api/tags", "/api/ps"] {
        assert_eq!(status(&app, path, &cookie).await, 401, "{path}");
    }
    let embedded =
        from_console(&app, Method::POST, "/v1/embeddings", &cookie, json!({"model": "m", "input": "x"})).await;
    error_of(&embedded, 401);

    let key_id = app.get("/v1/me", &key).await.json()["key_id"].as_str().unwrap().to_owned();
    let rotated = app.post(&format!("/admin/users/ann/keys/{key_id}/rotate"), ADMIN_KEY, json!({})).await;
    let (new, old) = (sign_in(&app, rotated.json()["api_key"].as_str().unwrap()).await, cookie);
    assert_eq!((status(&app, "/v1/me", &old).await, status(&app, "/v1/me", &new).await), (401, 200));
    app.delete("/admin/users/ann", ADMIN_KEY).await;
    assert_eq!(status(&app, "/v1/me", &new).await, 401);
    app.stop().await;
}

#[actix_rt::test]
async fn a_session_changes_something_only_from_the_consoles_own_page() {
    let app = app().await;
    let cookie = sign_in(&app, ADMIN_KEY).await;
    let host = app.address.to_string();
    let (own, other) = (format!("http://{host}"), "https://evil.example".to_owned());
    let make = async |headers: &[(&str, &str)], name: &str| {
        let headers: Vec<(&str, &str)> = [("cookie", cookie.as_str())].iter().chain(headers).copied().collect();
        let reply = app.send_with(Method::POST, "/admin/users", &headers, json!({"user_id": name}).to_string()).await;
        reply.status.as_u16()
    };
    let console = ("x-console", "1");
    for (index, headers) in [
        &[][..],
        &[console],
        &[("origin", &*own)],
        &[("sec-fetch-site", "same-origin")],
        &[console, ("origin", &*other)],
        &[console, ("sec-fetch-site", "cross-site"), ("origin", &*own)],
        &[console, ("sec-fetch-site", "same-site")],
        &[("x-console", "0"), ("origin", &*own)],
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(make(headers, &format!("no-{index}")).await, 403, "{headers:?}");
    }
    assert_eq!(make(&[console, ("origin", &own)], "yes-1").await, 201);
    assert_eq!(make(&[console, ("sec-fetch-site", "same-origin")], "yes-2").await, 201);
    // A key is the caller's own word, wherever the page comes from; it counts, and not the session beside it.
    let key = format!("Bearer {ADMIN_KEY}");
    assert_eq!(make(&[("authorization", &key)], "yes-3").await, 201);
    assert_eq!(make(&[("authorization", "Bearer wrong"), console, ("origin", &own)], "no").await, 401);
    let users = app.get("/admin/users", ADMIN_KEY).await.json();
    assert_eq!(users["data"].as_array().unwrap().len(), 3, "{users}");

    assert_eq!(app.send_with(Method::DELETE, "/console/session", &[("cookie", &cookie)], "").await.status, 403);
    assert_eq!(sign_in_with(&app, ADMIN_KEY, &[("origin", &other)]).await.status, 403, "nor does another page sign in");
    assert_eq!(sign_in_with(&app, ADMIN_KEY, &[("cookie", &cookie)]).await.status, 403);
    assert_eq!(status(&app, "/admin/users", &cookie).await, 200);
    app.stop().await;
}

#[actix_rt::test]
async fn no_page_of_another_origin_reads_what_the_console_reads() {
    let app = app().await;
    for path in ["/console/session", "/admin/users"] {
        let headers = [("origin", "https://other.example"), ("access-control-request-method", "POST")];
        let asked = app.send_with(Method::OPTIONS, path, &headers, "").await;
        assert_eq!((asked.status.as_u16(), asked.header("access-control-allow-origin")), (405, None), "{path}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn wrong_keys_at_the_sign_in_count_as_guesses() {
    let app = spawn_app_with(vec![], crate::harness::TestDatabase::sqlite(), |config| {
        config.server.guesses_per_minute = 2;
    })
    .await;
    for expected in [401, 401, 429] {
        error_of(&sign_in_with(&app, "wrong", &[]).await, expected);
    }
    assert_eq!(sign_in_with(&app, ADMIN_KEY, &[]).await.status, 200, "a good key is never held up");
    let reply = app.send_with(Method::POST, "/console/session", &[], "{\"api_key\":7}").await;
    let said = error_of(&reply, 400);
    assert_eq!(said["param"], "api_key");
    app.stop().await;
}

#[actix_rt::test]
async fn the_cookie_is_secure_where_a_proxy_speaks_tls() {
    let app = app().await;
    let reply = sign_in_with(&app, ADMIN_KEY, &[("x-forwarded-proto", "https")]).await;
    assert!(reply.header("set-cookie").unwrap().ends_with("; Secure"));
    app.stop().await;
}
