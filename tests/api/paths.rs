//! Paths as clients join them, keys in them, pages of other origins, and HTTP as it comes over the wire.
use std::net::TcpListener;
use std::process::{Command, Stdio};

use awc::http::Method;
use ollama_gateway::config::Config;
use ollama_sim::SimNode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::dialects::spawn_over;
use crate::harness::{
    ADMIN_KEY, PATIENCE, Reply, TestApp, TestDatabase, chat_body, client, error_of, events_of, fast_node, header_of,
    node, parse_answer, read, spawn_app_with, stream_body, wait_long_for,
};

const CHAT: &str = "/v1/chat/completions";

fn everything() -> Value {
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
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
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

// Over the wire

/// Reads from a connection until the text so far holds this.
async fn read_until(connection: &mut tokio::net::TcpStream, text: &mut String, done: impl Fn(&str) -> bool) {
    let mut part = [0; 4096];
    while !done(text) {
        let size = tokio::time::timeout(PATIENCE, connection.read(&mut part)).await.expect("it comes in time").unwrap();
        assert!(size > 0, "the connection ended: {text}");
        text.push_str(std::str::from_utf8(&part[..size]).unwrap());
    }
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    match header_of(&head, "content-length") {
        Some(length) => body.len() == length.parse::<usize>().unwrap(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

// Line 28 of the clients' checklist: connections are used again.
#[actix_rt::test]
async fn one_connection_carries_many_requests_of_every_kind() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let mut connection = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let plain = everything().to_string();
    let stream = stream_body("llama3.2", "[[n=3]]").to_string();
    for (line, body, status) in [
        ("POST /v1/chat/completions", plain.as_str(), "200"),
        ("POST /v1/chat/completions", stream.as_str(), "200"),
        ("GET /v1/models", "", "200"),
        ("POST /v1/chat/completions", "{", "400"),
        ("POST /api/nothing", "", "404"),
        ("POST /api/generate", plain.as_str(), "200"),
        ("POST /v1/messages", plain.as_str(), "200"),
        ("POST /api/pull", "", "403"),
        ("POST /v1/chat/completions", plain.as_str(), "200"),
        ("POST /v1/nothing", plain.as_str(), "404"),
    ] {
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        read_until(&mut connection, &mut answer, is_whole).await;

        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        // Only where a body was not even read.
        assert_eq!(answer.contains("connection: close"), line == "POST /v1/nothing", "{line}: {answer}");
    }
    drop(connection);
    app.stop().await;
}

// Line 28 of the clients' checklist: a client may wait for leave to send its body.
#[actix_rt::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let body = everything().to_string();
    let mut connection = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    read_until(&mut connection, &mut answer, |text| text.contains("\r\n\r\n")).await;
    assert_eq!(answer, "HTTP/1.1 100 Continue\r\n\r\n");

    connection.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    read_until(&mut connection, &mut answer, is_whole).await;

    let (status, _, json) = parse_answer(&answer);
    assert_eq!((status, &json["object"]), (200, &json!("chat.completion")));
    app.stop().await;
}

// Line 28 of the clients' checklist: bodies in chunks.
#[actix_rt::test]
async fn a_body_in_chunks_is_a_body() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let prompt = "h\u{e9}llo \u{1f600} ".repeat(2000);
    for (path, body) in [
        (CHAT, chat_body("llama3.2", &prompt)),
        ("/api/generate", json!({"model": "llama3.2", "prompt": prompt, "stream": false})),
    ] {
        let body = body.to_string();
        for size in [1000, 7, 100_000] {
            let mut request = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
                 transfer-encoding: chunked\r\n\r\n"
            )
            .into_bytes();
            for part in body.as_bytes().chunks(size) {
                request.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                request.extend_from_slice(part);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");

            let (status, _, _) = parse_answer(&app.send_bytes(&request).await);

            assert_eq!(status, 200, "{path} in chunks of {size}");
            assert_eq!(simulated.requests().last().unwrap().body, body.as_bytes(), "{path} in chunks of {size}");
        }
    }
    app.stop().await;
}

// Line 28 of the clients' checklist: HTTP/2 is not spoken, and says so at once.
#[actix_rt::test]
async fn http_2_by_prior_knowledge_is_refused_at_once_and_an_upgrade_stays_with_http_1() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;

    let preface = app.send_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(preface.starts_with("HTTP/1.1 400 "), "{preface:?}");

    let body = everything().to_string();
    let upgrade = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\
         connection: upgrade, http2-settings\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = tokio::net::TcpStream::connect(app.address).await.unwrap();
    connection.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = String::new();
    read_until(&mut connection, &mut answer, is_whole).await;
    assert_eq!(parse_answer(&answer).0, 200, "{answer}");
    app.stop().await;
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
