//! Which models may a key be used for?
use serde_json::{Value, json};

use crate::harness::{Reply, TestDatabase, chat_body, error_of, fast_node, node, spawn_app, spawn_app_with, wait_for};
use crate::keys::make;

/// A body for any route that makes a node work.
fn body(model: &str) -> Value {
    let mut body = chat_body(model, "hi");
    for (field, value) in [("max_tokens", json!(5)), ("prompt", json!("hi")), ("input", json!("hi"))] {
        body[field] = value;
    }
    body
}

#[actix_rt::test]
async fn a_key_is_only_for_its_models_on_every_route_and_in_every_list() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let free = app.user("ann").await;
    let (_, key) = make(&app, "ann", json!({"allowed_models": ["llama3.2", "all-minilm:latest", "notyet"]})).await;
    for path in
        ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"]
    {
        for (model, expected) in
            [("llama3.2", 200), ("llama3.2:latest", 200), ("llama3.2:1b", 403), ("nothere", 404), ("notyet", 404)]
        {
            let reply = app.post(path, &key, body(model)).await;
            assert_eq!(reply.status, expected, "{path} {model}: {}", reply.text());
            assert_eq!(app.post(path, &free, body("llama3.2:1b")).await.status, 200);
        }
    }
    for path in ["/v1/embeddings", "/api/embed", "/api/embeddings"] {
        assert_eq!(app.post(path, &key, body("all-minilm")).await.status, 200, "{path}");
        assert_eq!(app.post(path, &key, body("llama3.2:1b")).await.status, 403, "{path}");
    }
    // What each dialect hears.
    let error = error_of(&app.post("/v1/chat/completions", &key, body("llama3.2:1b")).await, 403);
    assert_eq!((&error["type"], &error["code"]), (&json!("permission_error"), &json!("model_not_allowed")));
    assert_eq!(error["param"], "model");
    let error = app.post("/v1/messages", &key, body("llama3.2:1b")).await.json();
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("permission_error")));
    assert!(app.post("/api/chat", &key, body("llama3.2:1b")).await.json()["error"].is_string());
    let idle = json!({"model": "llama3.2:1b", "prompt": ""});
    assert_eq!(app.post("/api/generate", &key, idle).await.status, 403);
    for (model, expected) in [("llama3.2", 200), ("llama3.2:1b", 403), ("nothere", 404)] {
        assert_eq!(app.post("/api/show", &key, json!({"model": model})).await.status, expected, "{model}");
        assert_eq!(app.get(&format!("/v1/models/{model}"), &key).await.status, expected, "{model}");
    }

    let listed = |reply: &Reply, list: &str, name: &str| -> Vec<String> {
        let models = reply.json()[list].as_array().unwrap().clone();
        let mut names: Vec<String> = models.iter().map(|model| model[name].as_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(listed(&app.get("/v1/models", &key).await, "data", "id"), ["all-minilm:latest", "llama3.2:latest"]);
    assert_eq!(listed(&app.get("/api/tags", &key).await, "models", "name"), ["all-minilm:latest", "llama3.2:latest"]);
    wait_for("the loaded models are seen", async || {
        let all = listed(&app.get("/api/ps", &free).await, "models", "name");
        let own = listed(&app.get("/api/ps", &key).await, "models", "name");
        all.contains(&"llama3.2:1b".to_owned()) && !own.is_empty() && own.iter().all(|name| name != "llama3.2:1b")
    })
    .await;
    assert!(listed(&app.get("/v1/models", &free).await, "data", "id").len() > 2);
    app.stop().await;
}

#[actix_rt::test]
async fn other_names_and_stand_ins_do_not_go_around_the_models_of_a_key() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 4)], TestDatabase::sqlite(), |config| {
        let aliases = [("small", "llama3.2:1b"), ("chat", "llama3.2"), ("lost", "gone")];
        config.models.aliases = aliases.map(|(alias, model)| (alias.to_owned(), model.to_owned())).into();
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        config.models.fallbacks =
            [("gone".to_owned(), text(&["llama3.2:1b", "llama3.2"])), ("llama3.2:1b".to_owned(), text(&["llama3.2"]))]
                .into();
    })
    .await;
    app.user("ann").await;
    let (_, by_model) = make(&app, "ann", json!({"allowed_models": ["llama3.2"]})).await;
    let (_, by_alias) = make(&app, "ann", json!({"allowed_models": ["small", "lost"]})).await;
    let ran = |reply: &Reply| (reply.status.as_u16(), reply.json()["model"].as_str().unwrap_or_default().to_owned());
    for (key, asked, status, model) in [
        (&by_model, "chat", 200, "llama3.2"),
        (&by_model, "small", 403, ""),
        // The first stand-in is not for this key, the second is.
        (&by_model, "gone", 200, "llama3.2"),
        (&by_model, "lost", 200, "llama3.2"),
        // It is there, so that nothing stands in for it.
        (&by_model, "llama3.2:1b", 403, ""),
        (&by_alias, "small", 200, "llama3.2:1b"),
        (&by_alias, "lost", 200, "llama3.2:1b"),
        (&by_alias, "llama3.2:1b", 403, ""),
        (&by_alias, "chat", 403, ""),
        (&by_alias, "gone", 403, ""),
    ] {
        let reply = app.chat(key, asked, "hi").await;
        assert_eq!(ran(&reply), (status, model.to_owned()), "{asked}: {}", reply.text());
    }
    for (key, expected) in [(&by_model, vec!["chat", "llama3.2:latest", "lost"]), (&by_alias, vec!["lost", "small"])] {
        let list = app.get("/v1/models", key).await.json();
        let mut names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
        let tags = app.get("/api/tags", key).await.json();
        let mut names: Vec<&str> =
            tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
    }
    assert_eq!(app.get("/v1/models/small", &by_alias).await.json()["id"], "small");
    assert_eq!(app.get("/v1/models/small", &by_model).await.status, 403);
    app.stop().await;
}
