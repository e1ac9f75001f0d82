//! Paths as clients join them, keys in them, pages of other origins, and HTTP as it comes over the wire.
use std::process::{Command, Stdio};

use awc::http::Method;
use serde_json::{Value, json};

use crate::dialects::spawn_over;
use crate::harness::{
    ADMIN_KEY, Reply, TestApp, client, error_of, events_of, fast_node, free_address, read, stream_body, wait_long_for,
};

pub const CHAT: &str = "/v1/chat/completions";

pub fn everything() -> Value {
    json!({"model": "llama3.2", "max_tokens": 3, "stream": false, "prompt": "hi", "input": "hi",
        "messages": [{"role": "user", "content": "hi"}]})
}

// Paths

// Line 21 of the clients' checklist: doubled and trailing slashes, and base URLs without /v1.
#[actix_rt::test]
async fn a_path_means_the_same_however_carelessly_it_was_joined() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let posts = [
        (
            "/v1/chat/completions",
            "/v1//chat/completions /v1/chat/completions/ //v1///chat//completions// /chat/completions //chat/completions/",
        ),
        ("/v1/completions", "/completions /v1/completions/ /v1//completions"),
        ("/v1/responses", "/responses /v1//responses"),
        ("/v1/messages", "/messages /v1//messages/"),
        ("/api/chat", "/api//chat //api/chat/ /api/chat// /v1/api/chat /api/api/chat"),
        ("/api/generate", "/api/generate/ //api//generate"),
    ];
    let mut count = 0;
    for (route, spellings) in posts {
        for path in spellings.split(' ') {
            let reply = app.post(path, &key, everything()).await;

            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            count += 1;
            assert_eq!(app.rows_once(&key, count).await[0]["endpoint"], route, "{path}");
            assert_eq!(simulated.requests().last().unwrap().path, route, "the node hears the plain path");
        }
    }
    let embed = json!({"model": "all-minilm", "input": "hi", "prompt": "hi"});
    for path in ["/embeddings", "/v1//embeddings/", "/api/embed/", "/api//embeddings"] {
        assert_eq!(app.post(path, &key, embed.clone()).await.status, 200, "{path}");
    }
    let list = app.get("/v1/models", &key).await.json();
    for path in ["/v1/models/", "/models", "/models/", "//v1//models"] {
        assert_eq!(app.get(path, &key).await.json(), list, "{path}");
    }
    for path in ["/v1/models/llama3.2", "/models/llama3.2", "/v1//models/llama3.2/", "/v1/models/llama3.2%3Alatest"] {
        assert_eq!(app.get(path, &key).await.json()["object"], "model", "{path}");
    }
    assert_eq!(app.get("/v1//usage/?limit=2", &key).await.json()["data"].as_array().unwrap().len(), 2);
    for path in ["//health/", "//", "/docs/", "/openapi.json/"] {
        assert_eq!(app.send(Method::GET, path, None, "").await.status, 200, "{path}");
    }
    app.stop().await;
}

#[actix_rt::test]
async fn what_only_resembles_a_path_is_not_there() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for path in ["/v2/chat/completions", "/chat", "/chatx/completions", "/k", "/kk/x/api/tags", "/v1", "/V1/models"] {
        assert_eq!(app.post(path, &key, everything()).await.status, 404, "{path}");
    }
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

// Keys in paths

#[actix_rt::test]
async fn a_key_in_the_path_opens_what_it_would_open_in_a_header() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let none = |method: Method, path: String, body: Value| app_send(&app, method, path, body);

    for path in ["/", "", "//", "/api/version", "/api/tags", "/v1/models"] {
        let head_or_get = if path.contains("models") { Method::GET } else { Method::HEAD };
        let reply = none(head_or_get, format!("/k/{key}{path}"), json!(null)).await;
        assert_eq!(reply.status, 200, "{path}");
    }
    assert!(none(Method::GET, format!("/k/{key}/"), json!(null)).await.text().contains("Ollama is running"));
    for path in ["/api/chat", "/api/generate", CHAT, "/v1/messages", "/chat/completions", "//api//chat/"] {
        let reply = none(Method::POST, format!("/k/{key}{path}"), everything()).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    let doubled = none(Method::GET, format!("//k/{key}//api/tags"), json!(null)).await;
    assert_eq!(doubled.status, 200, "slashes before the key are doubled as easily");
    let rows = app.rows_once(&key, 6).await;
    assert!(rows.iter().all(|row| !row.to_string().contains(&key)), "{rows:?}");
    let shown = none(Method::POST, format!("/k/{key}/api/show"), json!({"model": "llama3.2"})).await;
    assert_eq!(shown.status, 200);
    let query = none(Method::GET, format!("/k/{key}/v1/usage?limit=1"), json!(null)).await;
    assert_eq!(query.json()["data"].as_array().unwrap().len(), 1, "what follows the path stays");
    assert!(simulated.requests().iter().all(|seen| !format!("{seen:?}").contains(&key)), "no node sees the key");
    app.stop().await;
}

async fn app_send(app: &TestApp, method: Method, path: String, body: Value) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    app.send(method, &path, None, body).await
}

#[actix_rt::test]
async fn a_wrong_key_in_the_path_is_401_and_no_answer_repeats_it() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let wrong = "sk-ann-0123456789abcdef0123456789abcdef";
    for (path, status) in [
        (format!("/k/{wrong}/api/chat"), 401),
        (format!("/k/{wrong}{CHAT}"), 401),
        ("/k//api/chat".to_owned(), 401),
        (format!("/k//{wrong}/api/chat"), 404),
        (format!("/k/{wrong}/nothing/{wrong}"), 404),
        (format!("/k/{key}/api/nothing"), 404),
        (format!("/k/{key}/admin/users"), 403),
        (format!("/k/{key}/api/pull"), 403),
        (format!("/k/{key}/k/{key}/api/chat"), 404),
    ] {
        let reply = app_send(&app, Method::POST, path.clone(), everything()).await;

        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let whole = format!("{} {:?}", reply.text(), reply.headers);
        assert!(!whole.contains(wrong) && !whole.contains(&key), "{path}: {whole}");
    }
    let right = app.send(Method::GET, &format!("/k/{key}/api/tags"), Some(wrong), "").await;
    assert_eq!(right.status, 200, "the path's key wins over a header, which may hold a placeholder");
    let other = app.send(Method::GET, &format!("/k/{wrong}/api/tags"), Some(&key), "").await;
    assert_eq!(other.status, 401, "and it does where it is wrong");
    let basic = [("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", "ollama"), ("api-key", "none")];
    let proxied = app.send_with(Method::GET, &format!("/k/{key}/api/tags"), &basic, "").await;
    assert_eq!(proxied.status, 200);
    let same = app.send(Method::GET, &format!("/k/{key}/api/tags"), Some(&key), "").await;
    assert_eq!(same.status, 200);
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn no_log_and_no_metric_of_any_level_holds_a_key_from_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let simulated = fast_node().await;
    let address = free_address().to_string();
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let nodes = json!([{"name": "a", "url": simulated.url()}]).to_string();
    let mut program = Command::new(env!("CARGO_BIN_EXE_ollama-gateway"))
        .env_clear()
        .envs([("GATEWAY__SERVER__BIND", address.as_str()), ("GATEWAY__ADMIN__KEY", ADMIN_KEY)])
        .envs([("GATEWAY__NODES", nodes.as_str()), ("GATEWAY__LOG__LEVEL", "trace")])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let url = format!("http://{address}");
    wait_long_for("the program is up", async || {
        assert!(program.try_wait().unwrap().is_none(), "it ended");
        client().get(format!("{url}/health")).send().await.is_ok_and(|reply| reply.status() == 200)
    })
    .await;
    let post = async |path: String, key: Option<&str>, body: Value| {
        let mut request = client().post(format!("{url}{path}"));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        read(request.send_body(body.to_string()).await.unwrap()).await
    };
    let key = post("/admin/users".to_owned(), Some(ADMIN_KEY), json!({"user_id": "ann"})).await.json()["api_key"]
        .as_str()
        .unwrap()
        .to_owned();
    let wrong = "sk-ann-fedcba9876543210fedcba9876543210";

    let mut statuses = Vec::new();
    for key in [key.as_str(), wrong] {
        for path in ["/api/chat", CHAT, "/v1/messages", "/nothing/here", "//api//pull", "/admin/users", "/%zz"] {
            statuses.push(post(format!("/k/{key}{path}"), None, everything()).await.status.as_u16());
        }
        let head = client().head(format!("{url}/k/{key}/")).send().await.unwrap();
        statuses.push(head.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 404, 403, 403, 404, 200, 401, 401, 401, 404, 401, 401, 404, 200]);
    let metrics = read(client().get(format!("{url}/metrics")).send().await.unwrap()).await;
    assert!(Command::new("kill").args(["-TERM", &program.id().to_string()]).status().unwrap().success());
    wait_long_for("the program ends", async || program.try_wait().unwrap().is_some()).await;

    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("request ended") && log.contains("TRACE"), "everything was logged: {log}");
    for secret in [key.as_str(), wrong, &key[key.len() - 32..], &wrong[wrong.len() - 32..]] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a key in the log");
        assert!(!metrics.text().contains(secret), "a key in a metric");
    }
}

// Azure's form

#[actix_rt::test]
async fn azures_form_names_the_model_in_the_path() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let azure = |path: &'static str, body: String| {
        let key = key.clone();
        let app = &app;
        async move { app.send_with(Method::POST, path, &[("api-key", key.as_str())], body).await }
    };
    let nameless = json!({"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"});
    let mut named = nameless.clone();
    named["model"] = "gpt-4o".into();
    let mut count = 0;
    for (path, route, model) in [
        ("/openai/deployments/llama3.2/chat/completions?api-version=2024-10-21", CHAT, "llama3.2"),
        ("/openai/deployments/llama3.2%3A1b/completions?api-version=2024-10-21", "/v1/completions", "llama3.2:1b"),
        ("/openai/deployments/all-minilm/embeddings?api-version=2024-10-21", "/v1/embeddings", "all-minilm"),
        ("//openai/deployments/llama3.2//chat/completions/", CHAT, "llama3.2"),
    ] {
        for body in [&nameless, &named] {
            let reply = azure(path, body.to_string()).await;

            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            let seen = simulated.requests().pop().unwrap();
            let mut expected = body.clone();
            expected["model"] = model.into();
            assert_eq!(seen.path, route, "{path}");
            assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap(), expected, "{path}");
            count += 1;
            let row = &app.rows_once(&key, count).await[0];
            assert_eq!((&row["model"], &row["endpoint"]), (&json!(model), &json!(route)), "{path}");
        }
    }
    let stream = stream_body("gpt-4o", "hi").to_string();
    let stream = azure("/openai/deployments/llama3.2/chat/completions?api-version=1", stream).await;
    assert_eq!(events_of(stream.text()).last(), Some(&"[DONE]"));
    // The newer form, which is OpenAI's behind another prefix.
    assert_eq!(azure("/openai/v1/chat/completions", everything().to_string()).await.status, 200);
    assert_eq!(app.get("/openai/models?api-version=1", &key).await.json(), app.get("/v1/models", &key).await.json());

    let missing = azure("/openai/deployments/nothere/chat/completions", nameless.to_string()).await;
    assert_eq!(error_of(&missing, 404)["code"], "model_not_found");
    let bad = azure("/openai/deployments/a%20b/chat/completions", nameless.to_string()).await;
    assert_eq!(error_of(&bad, 400)["param"], "model");
    let elsewhere = azure("/openai/deployments/llama3.2/nothing", nameless.to_string()).await;
    assert_eq!(error_of(&elsewhere, 404)["code"], "not_found");
    let keyless = app.send_with(Method::POST, "/openai/deployments/llama3.2/chat/completions", &[], "{}").await;
    assert_eq!(error_of(&keyless, 401)["code"], "invalid_api_key");
    app.stop().await;
}

#[actix_rt::test]
async fn an_escaped_path_is_treated_as_the_one_that_it_is_routed_to() {
    let app = crate::harness::spawn_app(Vec::new()).await;
    let origin = [("origin", "https://a.example"), ("authorization", "Bearer admin-secret-key")];
    for path in ["/admin/users", "/%61dmin/users", "/%61%64min/users", "//%61dmin/users"] {
        let reply = app.send_with(Method::GET, path, &origin, "").await;
        assert_eq!((reply.status.as_u16(), reply.header("access-control-allow-origin")), (200, None), "{path}");
    }
    let reply = app.send_with(Method::GET, "/%76%31/models", &origin[..1], "").await;
    assert_eq!((reply.status.as_u16(), reply.header("access-control-allow-origin")), (401, Some("*")));
    // Errors are in the dialect of the path, too.
    let reply = app.send_with(Method::POST, "/%61pi/chat", &[], "{}").await;
    assert!(reply.status == 401 && reply.json()["error"].is_string(), "{}", reply.text());
    app.stop().await;
}
