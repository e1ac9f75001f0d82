//! Which key opens which route? Each route of the OpenAPI document with each kind of key, none missing.
use std::collections::{BTreeMap, BTreeSet};

use awc::http::Method;
use ollama_gateway::config::Config;
use ollama_gateway::http::openapi;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, TestApp, TestDatabase, client, error_of, fast_node, node, spawn_app_with};

/// Whom a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Anybody, with whatever key.
    Everybody,
    /// Anybody who has no key or a user's.
    NobodyElse,
    /// Users.
    Users,
    /// Administrators of every role.
    Viewers,
    /// Administrators who are operators, and above.
    Operators,
    /// Administrators of the highest role.
    Admins,
    /// It looks at a session, not at a key.
    Sessions,
}

use For::{Admins, Everybody, NobodyElse, Operators, Sessions, Users, Viewers};

/// A route, whom it is for, and a request's body.
type Route = (&'static str, &'static str, For, Value);

/// Each route.
fn table() -> Vec<Route> {
    [routes_of_users(), routes_of_administrators()].concat()
}

/// Those of users, and of everybody.
fn routes_of_users() -> Vec<Route> {
    let none = Value::Null;
    let chat = json!({"model": "none", "messages": [{"role": "user", "content": "hi"}]});
    vec![
        ("GET", "/", Everybody, none.clone()),
        ("GET", "/health", Everybody, none.clone()),
        ("GET", "/health/live", Everybody, none.clone()),
        ("GET", "/health/ready", Everybody, none.clone()),
        ("GET", "/metrics", Everybody, none.clone()),
        ("GET", "/api/status", NobodyElse, none.clone()),
        ("GET", "/api/version", NobodyElse, none.clone()),
        ("GET", "/api/ps", Users, none.clone()),
        ("GET", "/api/tags", Users, none.clone()),
        ("POST", "/api/show", Users, json!({"model": "none"})),
        ("POST", "/api/chat", Users, chat.clone()),
        ("POST", "/api/generate", Users, json!({"model": "none", "prompt": "hi"})),
        ("POST", "/api/embed", Users, json!({"model": "none", "input": "hi"})),
        ("POST", "/api/embeddings", Users, json!({"model": "none", "prompt": "hi"})),
        ("POST", "/v1/chat/completions", Users, chat.clone()),
        ("POST", "/v1/completions", Users, json!({"model": "none", "prompt": "hi"})),
        ("POST", "/v1/embeddings", Users, json!({"model": "none", "input": "hi"})),
        ("POST", "/v1/responses", Users, json!({"model": "none", "input": "hi"})),
        ("POST", "/v1/messages", Users, chat.clone()),
        ("POST", "/v1/messages/count_tokens", Users, chat),
        ("GET", "/v1/models", Users, none.clone()),
        ("GET", "/v1/models/{id}", Users, none.clone()),
        ("GET", "/v1/usage", Users, none.clone()),
        ("GET", "/v1/usage/summary", Users, none.clone()),
        ("GET", "/v1/me", Users, none.clone()),
        ("GET", "/v1/me/keys", Users, none.clone()),
        ("POST", "/v1/me/keys", Users, json!({})),
        ("DELETE", "/v1/me/keys/{key_id}", Users, none.clone()),
        ("GET", "/v1/me/requests", Users, none.clone()),
        ("DELETE", "/v1/me/requests/{request_id}", Users, none.clone()),
        ("GET", "/console/session", Sessions, none.clone()),
        ("POST", "/console/session", Everybody, json!({"api_key": ADMIN_KEY})),
        ("DELETE", "/console/session", Sessions, none),
    ]
}

/// Those below `/admin`.
fn routes_of_administrators() -> Vec<Route> {
    let (none, model) = (Value::Null, json!({"model": "none"}));
    vec![
        ("GET", "/admin/users", Viewers, none.clone()),
        ("POST", "/admin/users", Admins, json!({"user_id": "new"})),
        ("GET", "/admin/users/{id}", Viewers, none.clone()),
        ("PATCH", "/admin/users/{id}", Admins, json!({})),
        ("DELETE", "/admin/users/{id}", Admins, none.clone()),
        ("GET", "/admin/users/{id}/keys", Viewers, none.clone()),
        ("POST", "/admin/users/{id}/keys", Admins, json!({})),
        ("PATCH", "/admin/users/{id}/keys/{key_id}", Admins, json!({})),
        ("DELETE", "/admin/users/{id}/keys/{key_id}", Admins, none.clone()),
        ("POST", "/admin/users/{id}/keys/{key_id}/rotate", Admins, none.clone()),
        ("GET", "/admin/users/{id}/usage", Viewers, none.clone()),
        ("GET", "/admin/users/{id}/limits", Viewers, none.clone()),
        ("PUT", "/admin/users/{id}/limits", Admins, json!({})),
        ("GET", "/admin/groups", Viewers, none.clone()),
        ("POST", "/admin/groups", Admins, json!({"group_id": "new"})),
        ("GET", "/admin/groups/{id}", Viewers, none.clone()),
        ("PATCH", "/admin/groups/{id}", Admins, json!({})),
        ("DELETE", "/admin/groups/{id}", Admins, none.clone()),
        ("GET", "/admin/usage", Viewers, none.clone()),
        ("GET", "/admin/queue", Viewers, none.clone()),
        ("GET", "/admin/events", Viewers, none.clone()),
        ("GET", "/admin/series", Viewers, none.clone()),
        ("GET", "/admin/requests", Viewers, none.clone()),
        ("GET", "/admin/requests/{request_id}", Viewers, none.clone()),
        ("DELETE", "/admin/requests/{request_id}", Operators, none.clone()),
        ("GET", "/admin/nodes", Viewers, none.clone()),
        ("POST", "/admin/nodes", Operators, json!({"name": "a", "url": "http://127.0.0.1:1"})),
        ("GET", "/admin/nodes/{name}", Viewers, none.clone()),
        ("PATCH", "/admin/nodes/{name}", Operators, json!({})),
        ("DELETE", "/admin/nodes/{name}", Operators, none.clone()),
        ("POST", "/admin/nodes/{name}/drain", Operators, none.clone()),
        ("POST", "/admin/nodes/{name}/undrain", Operators, none.clone()),
        ("GET", "/admin/models", Viewers, none.clone()),
        ("POST", "/admin/models/pull", Operators, json!({"model": "none", "nodes": ["none"]})),
        ("POST", "/admin/models/load", Operators, model.clone()),
        ("POST", "/admin/models/unload", Operators, model),
        ("DELETE", "/admin/models/{model}", Operators, none.clone()),
        ("POST", "/admin/reload", Operators, none.clone()),
        ("GET", "/admin/admins", Viewers, none.clone()),
        ("POST", "/admin/admins", Admins, json!({"name": "viewer", "role": "viewer"})),
        ("GET", "/admin/admins/{name}", Viewers, none.clone()),
        ("PATCH", "/admin/admins/{name}", Admins, json!({})),
        ("DELETE", "/admin/admins/{name}", Admins, none.clone()),
        ("POST", "/admin/admins/{name}/rotate", Admins, none.clone()),
        ("GET", "/admin/audit", Viewers, none),
    ]
}

/// Kinds of callers, by their names.
const CALLERS: [&str; 6] = ["nobody", "user", "viewer", "operator", "admin", "configured"];

/// Whether the route lets the caller in, and if not, with which status it says so.
fn expected(whom: For, caller: &str) -> Result<(), u16> {
    let rank = ["viewer", "operator", "admin", "configured"].iter().position(|role| *role == caller);
    let needed = match whom {
        Everybody => return Ok(()),
        Sessions => return Err(401),
        NobodyElse => return if rank.is_some() { Err(401) } else { Ok(()) },
        Users => return if caller == "user" { Ok(()) } else { Err(401) },
        Viewers => 0,
        Operators => 1,
        Admins => 2,
    };
    match (rank, caller) {
        (Some(rank), _) if rank >= needed => Ok(()),
        (None, "nobody") => Err(401),
        _ => Err(403),
    }
}

async fn keys(app: &TestApp) -> BTreeMap<&'static str, Option<String>> {
    let mut keys = BTreeMap::from([("nobody", None), ("configured", Some(ADMIN_KEY.to_owned()))]);
    keys.insert("user", Some(app.user("ann").await));
    for role in ["viewer", "operator", "admin"] {
        let made = app.post("/admin/admins", ADMIN_KEY, json!({"name": role, "role": role})).await;
        assert_eq!(made.status, 201, "{}", made.text());
        keys.insert(role, Some(made.json()["api_key"].as_str().unwrap().to_owned()));
    }
    keys
}

#[test]
fn every_documented_route_has_a_row_in_the_table_and_no_other() {
    let document: Value = serde_json::from_str(&openapi::document().to_pretty_json().unwrap()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        documented
            .extend(methods.as_object().unwrap().keys().map(|method| (method.to_ascii_uppercase(), path.clone())));
    }
    let rows: Vec<_> = table().into_iter().map(|(method, path, ..)| (method.to_owned(), path.to_owned())).collect();
    let listed: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(listed, documented);
    assert_eq!(rows.len(), listed.len(), "each once");
}

#[actix_rt::test]
async fn each_route_lets_in_whom_it_is_for_and_nobody_else() {
    let simulated = fast_node().await;
    let own_keys = |config: &mut Config| config.keys.self_service = true;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), own_keys).await;
    let keys = keys(&app).await;
    for (method, path, whom, body) in table() {
        // What is named in the path is there for nobody, so that whoever is let in does no harm.
        let mut parts: Vec<&str> = path.split('/').collect();
        parts.iter_mut().filter(|part| part.starts_with('{')).for_each(|part| *part = "none");
        let path = parts.join("/");
        for caller in CALLERS {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let mut request = client().request(method.clone(), app.url(&path));
            if let Some(key) = &keys[caller] {
                request = request.bearer_auth(key);
            }
            // The head alone: some answers do not end by themselves.
            let status = request.send_body(body).await.unwrap().status().as_u16();
            match expected(whom, caller) {
                Ok(()) => assert!(!matches!(status, 401 | 403 | 405), "{status}: {caller} {method} {path}"),
                Err(refused) => assert_eq!(status, refused, "{caller} {method} {path}"),
            }
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_role_that_does_not_suffice_is_told_which_one_does() {
    let app = spawn_app_with(vec![], TestDatabase::sqlite(), |_| {}).await;
    let keys = keys(&app).await;
    let said = async |caller: &str, method: Method, path: &str| {
        let reply = app.send(method, path, keys[caller].as_deref(), "{}").await;
        error_of(&reply, 403)["message"].as_str().unwrap().to_owned()
    };
    let drained = said("viewer", Method::POST, "/admin/nodes/a/drain").await;
    assert!(drained.contains("`viewer`") && drained.contains("`operator`"), "{drained}");
    let made = said("operator", Method::POST, "/admin/users").await;
    assert!(made.contains("`operator`") && made.contains("`admin`"), "{made}");
    app.stop().await;
}
