//! Does the document say what the server does? And do errors stay as clients know them?
//!
//! `BLESS=1 cargo test --test api openapi` writes the snapshots anew.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use awc::http::Method;
use ollama_gateway::http::openapi;
use ollama_sim::Fault;
use scheduler::NodeState;
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, chat_body, client, error_of, eventually, fast_node, node, read, spawn_app,
    spawn_app_with,
};

/// Compares with a file beside this one, or writes it where `BLESS` is set.
#[track_caller]
fn assert_snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/snapshots").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = stored.lines().zip(text.lines()).find(|(stored, now)| stored != now);
    assert!(
        stored == text,
        "{} is not what it was; look at the change, then BLESS=1. The first line that differs: {differs:?}",
        path.display()
    );
}

fn document() -> Value {
    serde_json::from_str(&openapi::document().to_pretty_json().unwrap()).unwrap()
}

/// Method, path and operation of everything in the document.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            operations.push((method, path.clone(), operation.clone()));
        }
    }
    operations
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The paths that the handlers are registered at, as the source says them, with the methods that they take.
fn registered() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (call, methods) in [("get(\"/", "GET"), ("post(\"/", "POST"), ("readable(\"/", "GET"), ("resource(\"/", "")]
        {
            for (at, _) in text.match_indices(call) {
                let mut quoted = text[at..].split('"');
                let path = quoted.nth(1).unwrap().replace(":.+}", "}").replace(":.*}", "}");
                // The second string of `resource` names its methods.
                let methods = if methods.is_empty() { quoted.nth(1).unwrap() } else { methods };
                for method in methods.split(", ").filter(|method| *method != "HEAD") {
                    found.insert((method.to_owned(), path.clone()));
                }
            }
        }
    }
    found
}

#[test]
fn the_document_changes_only_on_purpose() {
    assert_snapshot("openapi.json", &(openapi::document().to_pretty_json().unwrap() + "\n"));
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    // Pages and their files are no API, nor is what only the demo has.
    let apart =
        ["/docs", "/docs/{file}", "/openapi.json", "/console", "/console/", "/console/{digest}/{file}", "/admin/demo"];
    let routes: BTreeSet<_> = registered().into_iter().filter(|(_, path)| !apart.contains(&path.as_str())).collect();
    let documented: BTreeSet<_> =
        operations(&document()).into_iter().map(|(method, path, _)| (method.to_string(), path)).collect();

    assert!(routes.len() > 15, "the source is not read as it is written: {routes:?}");
    assert_eq!(routes, documented);
}

#[test]
fn each_path_takes_its_own_kind_of_key() {
    let document = document();
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    for (method, path, operation) in operations(&document) {
        let security = match path.as_str() {
            "/console/session" if method != Method::POST => json!([{"session": []}]),
            _ if path.starts_with("/admin/") => json!([{"admin_key": []}]),
            "/api/version" | "/api/status" => json!(null),
            _ if path.starts_with("/v1/") || path.starts_with("/api/") => json!([{"user_key": []}]),
            _ => json!(null),
        };
        assert_eq!(operation["security"], security, "{method} {path}");
        for scheme in security.as_array().into_iter().flatten() {
            assert!(scheme.as_object().unwrap().keys().all(|name| schemes.contains_key(name)), "{scheme}");
        }
        let summary = operation["summary"].as_str().unwrap_or_default();
        assert!(!summary.is_empty() && operation["tags"].as_array().is_some_and(|tags| !tags.is_empty()), "{path}");
    }
}

#[test]
fn the_document_refers_only_to_what_it_holds() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[actix_rt::test]
async fn the_server_answers_every_operation_with_a_documented_status() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let key = app.user("ann").await;
    for (method, path, operation) in operations(&document()) {
        let documented = |status: u16| operation["responses"].get(status.to_string()).is_some();
        let secured = operation["security"].is_array();
        let real = path.replace("/models/{id}", "/models/llama3.2").replace("{id}", "ann").replace("{key_id}", "key_1");
        let own = if path.starts_with("/admin/") { ADMIN_KEY } else { &key };
        let other = if path.starts_with("/admin/") { &key } else { ADMIN_KEY };
        let nobody = real.replace("ann", "nobody").replace("llama3.2", "nobody");
        // The user goes last, as every other operation needs it.
        if method == Method::DELETE {
            continue;
        }
        for (target, key) in [(&real, own), (&nobody, own), (&real, other), (&real, "")] {
            // What has no end is not read to it.
            if path == "/admin/events" && key == own {
                continue;
            }
            let reply = app.send(method.clone(), target, Some(key).filter(|key| !key.is_empty()), "{}").await;
            let status = reply.status.as_u16();
            assert!(documented(status), "{method} {target}: {status} is not documented: {}", reply.text());
            assert!(!reply.text().contains("There is nothing at this path"), "{method} {target}");
            assert_eq!(secured && key.is_empty(), status == 401 && key.is_empty(), "{method} {target}: {status}");
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn the_document_is_served_as_it_is() {
    let app = spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await;

    let reply = app.send(Method::GET, "/openapi.json", None, "").await;

    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")));
    assert_eq!(reply.json(), document());
    app.stop().await;
}

#[actix_rt::test]
async fn the_documentation_can_be_read_without_the_internet() {
    let app = spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await;
    let bare = app.send(Method::GET, "/docs", None, "").await;
    assert!(bare.status.is_redirection(), "{}", bare.status);
    assert_eq!(bare.header("location"), Some("docs/"));

    let page = app.send(Method::GET, "/docs/", None, "").await;

    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    assert!(!page.text().contains("<style"), "what stands in the page itself needs no exception");
    let mut links: Vec<&str> = Vec::new();
    for attribute in ["href=\"", "src=\"", "url(", "@import"] {
        links.extend(page.text().split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()));
    }
    assert!(links.len() >= 3, "{links:?}");
    for link in links {
        assert!(!link.contains("//"), "{link} is on another machine");
        let asset = app.send(Method::GET, &format!("/docs/{}", link.trim_start_matches("./")), None, "").await;
        assert_eq!(asset.status, 200, "{link}");
        assert_eq!(asset.header("x-content-type-options"), Some("nosniff"), "{link}");
    }
    let initializer = app.send(Method::GET, "/docs/swagger-initializer.js", None, "").await;
    assert!(initializer.text().contains("\"../openapi.json\""), "{}", initializer.text());
    assert!(!initializer.text().contains("http"), "{}", initializer.text());
    app.stop().await;
}

#[actix_rt::test]
async fn what_is_long_is_compressed_for_those_who_take_it() {
    let app = spawn_app(vec![node("gone", "http://127.0.0.1:1".to_owned(), 1)]).await;
    for (path, kind) in [
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/openapi.json", "application/json"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
    ] {
        let length_of = async |coding: &str| {
            let request = client().get(app.url(path)).no_decompress().insert_header(("accept-encoding", coding));
            let reply = read(request.send().await.unwrap()).await;
            assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some(kind)), "{path}");
            assert_eq!(reply.header("vary"), Some("accept-encoding"), "{path}");
            assert_eq!(reply.header("content-encoding"), (coding == "gzip").then_some("gzip"), "{path}");
            let unpacked = match reply.header("content-encoding") {
                Some(_) => std::io::read_to_string(flate2::read::GzDecoder::new(&reply.body[..])).unwrap(),
                None => reply.text().to_owned(),
            };
            assert!(unpacked.len() > 5_000, "{path}: {unpacked}");
            reply.body.len()
        };
        assert!(3 * length_of("gzip").await < length_of("identity").await, "{path}");
    }
    app.stop().await;
}

/// What a client sees of an error, without what differs from run to run.
fn seen(reply: &Reply) -> Value {
    let mut error = error_of(reply, reply.status.as_u16());
    error["message"] = redacted(error["message"].as_str().unwrap()).into();
    let mut seen = json!({"status": reply.status.as_u16(), "error": error});
    for name in ["allow", "retry-after", "retry-after-ms", "www-authenticate", "x-should-retry"] {
        if let Some(value) = reply.header(name) {
            let value = if name.starts_with("retry-after") { "<number>" } else { value };
            seen["headers"][name] = value.into();
        }
    }
    seen
}

/// Delays and ports differ.
fn redacted(message: &str) -> String {
    let mut redacted = message.to_owned();
    for (before, after) in [("try again in ", "s."), ("127.0.0.1:", "")] {
        if let Some(at) = redacted.find(before) {
            let from = at + before.len();
            let digits =
                redacted[from..].find(|letter: char| !letter.is_ascii_digit()).unwrap_or(redacted.len() - from);
            assert!(redacted[from + digits..].starts_with(after), "{message}");
            redacted.replace_range(from..from + digits, "<number>");
        }
    }
    redacted
}

/// What administrators, and users who ask for their usage, may do wrong.
async fn note_mistakes_of_administration(app: &TestApp, key: &str, note: &mut impl FnMut(&'static str, Reply)) {
    note("bad user", app.post("/admin/users", ADMIN_KEY, json!({"user_id": "a b"})).await);
    note("bad limit", app.post("/admin/users", ADMIN_KEY, json!({"user_id": "a", "requests_per_minute": -1})).await);
    note("unknown field", app.post("/admin/users", ADMIN_KEY, json!({"user_id": "a", "x": 1})).await);
    note("user exists", app.post("/admin/users", ADMIN_KEY, json!({"user_id": "ann"})).await);
    note("unknown key of a user", app.delete("/admin/users/ann/keys/key_1", ADMIN_KEY).await);
    note("unknown user", app.get("/admin/users/nobody", ADMIN_KEY).await);
    note("bad page", app.get("/v1/usage?limit=0", key).await);
    note("bad cursor", app.get("/v1/usage?after=x", key).await);
    note("bad time", app.get("/v1/usage/summary?from=x", key).await);
}

#[actix_rt::test]
async fn errors_change_only_on_purpose() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = 4000;
    })
    .await;
    let key = app.user("ann").await;
    let limited = app.user_with("limited", json!({"requests_per_minute": 0})).await;
    let poor = app.user_with("poor", json!({"tokens_per_day": 100})).await;
    let chat = "/v1/chat/completions";
    let bearer = format!("Bearer {key}");
    let mut errors: BTreeMap<&str, Value> = BTreeMap::new();
    let mut note = |name, reply: Reply| assert!(errors.insert(name, seen(&reply)).is_none(), "{name} twice");

    note("no key", app.send(Method::GET, "/v1/models", None, "").await);
    note("unknown key", app.get("/v1/models", "noop").await);
    note("unknown admin key", app.get("/admin/users", "noop").await);
    note("other scheme", app.send_with(Method::GET, "/v1/models", &[("authorization", "Basic eA==")], "").await);
    note("admin key as user key", app.get("/v1/models", ADMIN_KEY).await);
    note("user key as admin key", app.get("/admin/users", &key).await);
    let two = [("authorization", bearer.as_str()), ("x-api-key", "other")];
    note("two keys", app.send_with(Method::GET, "/v1/models", &two, "").await);
    note("unknown path", app.get("/nope", &key).await);
    note("wrong method", app.delete("/admin/users", ADMIN_KEY).await);
    note("no JSON", app.send(Method::POST, chat, Some(&key), "{").await);
    note("no model", app.post(chat, &key, json!({"messages": []})).await);
    note("no messages", app.post(chat, &key, json!({"model": "llama3.2"})).await);
    let made = app.post("/admin/users/ann/keys", ADMIN_KEY, json!({"allowed_models": ["llava"]})).await.json();
    note("forbidden model", app.chat(made["api_key"].as_str().unwrap(), "llama3.2", "hi").await);
    note("unknown model", app.chat(&key, "nope", "hi").await);
    note("large body", app.chat(&key, "llama3.2", &"x".repeat(5000)).await);
    let gzip = [("authorization", bearer.as_str()), ("content-encoding", "gzip")];
    note("compressed body", app.send_with(Method::POST, chat, &gzip, "x").await);
    note_mistakes_of_administration(&app, &key, &mut note).await;
    note("requests per minute", app.chat(&limited, "llama3.2", "hi").await);
    note(
        "tokens per day",
        app.post(
            chat,
            &poor,
            json!({"max_tokens": 500, "model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}),
        )
        .await,
    );
    simulated.fault_next([Fault::Status(500), Fault::Status(500), Fault::Status(500)]);
    note("a node that fails", app.chat(&key, "llama3.2", "hi").await);
    simulated.stop().await;
    eventually("the node is down", || app.dispatcher.read(|scheduler| scheduler.nodes()[0].state == NodeState::Down))
        .await;
    note("no node up", app.post(chat, &key, chat_body("llama3.2", "hi")).await);

    assert_snapshot("errors.json", &(serde_json::to_string_pretty(&errors).unwrap() + "\n"));
    app.stop().await;
}
