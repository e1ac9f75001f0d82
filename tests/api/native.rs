//! Ollama's own API for users: the node's bytes, errors as strings, and nothing that one user could do to all.
use awc::http::Method;
use ollama_sim::{Fault, Outcome, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::dialects::{assert_row_is_as_the_node_counted, directly, lines_of, spawn_over, timeless, with};
use crate::harness::{
    Reply, TestDatabase, client, each_at_once, eventually, fast_node, node, spawn_app_with, stream_body,
};

/// Those that make text.
pub const SPEAKING: [&str; 2] = ["/api/chat", "/api/generate"];

pub const ROUTES: [&str; 4] = ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"];

/// A request that any of the routes can answer.
pub fn body(prompt: &str) -> Value {
    json!({"model": "llama3.2", "messages": [{"role": "user", "content": prompt}], "prompt": prompt, "input": prompt})
}

/// The request for a route; vectors come from a model of their own.
pub fn body_for(route: &str, prompt: &str) -> Value {
    let embeds = route.contains("embed");
    with(body(prompt), "model", if embeds { json!("all-minilm") } else { json!("llama3.2") })
}

/// The message of an error, which must be a string and all there is.
#[track_caller]
pub fn error_string(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    uuid::Uuid::parse_str(reply.header("x-request-id").expect("a request id")).unwrap();
    let Value::Object(whole) = reply.json() else { panic!("no object: {}", reply.text()) };
    assert_eq!(whole.len(), 1, "{}", reply.text());
    let message = whole["error"].as_str().unwrap_or_else(|| panic!("no string: {}", reply.text()));
    assert!(!message.is_empty());
    message.to_owned()
}

// What the node says

#[actix_rt::test]
async fn whatever_is_asked_in_ollamas_words_the_gateway_answers_as_the_node_itself() {
    let models = ["llama3.2:latest", "qwen3:8b"].map(|name| SimModel::thinking(name, 2.0)).into_iter();
    let models = models.chain([SimModel::embedding("all-minilm", 0.05), SimModel::vision("llava", 4.7)]).collect();
    let simulated = SimNode::start(SimConfig { models, ..SimConfig::warm() }).await.unwrap();
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}}}});
    let image = json!([{"role": "user", "content": "what?", "images": ["iVBORw0KGgo="]}]);
    let mut requests: Vec<(&str, Value)> = Vec::new();
    for route in SPEAKING {
        for asked in [
            body("hello"),
            with(body("[[n=5]]"), "think", json!(false)),
            with(body("think [[n=40]]"), "model", json!("qwen3:8b")),
            with(body("the weather?"), "tools", json!([tool])),
            with(body("x"), "format", json!("json")),
            with(body("x"), "format", json!({"type": "object", "properties": {"age": {"type": "integer"}}})),
            with(body("x"), "options", json!({"num_predict": 3, "temperature": 0.0, "unknown": [1]})),
            with(with(body("x"), "model", json!("llava")), "images", json!(["iVBORw0KGgo="])),
        ] {
            requests.extend([true, false].map(|stream| (route, with(asked.clone(), "stream", json!(stream)))));
            requests.push((route, asked));
        }
    }
    requests.push(("/api/chat", with(with(body("x"), "model", json!("llava")), "messages", image)));
    requests.push(("/api/embed", body_for("/api/embed", "one")));
    requests.push(("/api/embed", with(body_for("/api/embed", "one"), "input", json!(["one", "two"]))));
    requests.push(("/api/embed", with(body_for("/api/embed", "one"), "dimensions", json!(8))));
    requests.push(("/api/embeddings", body_for("/api/embeddings", "one")));
    for (route, asked) in requests {
        let direct = directly(&simulated, route, &asked).await;
        let reply = app.post(route, &key, asked.clone()).await;

        assert_eq!((reply.status, reply.status.as_u16()), (direct.status, 200), "{asked}: {}", reply.text());
        assert_eq!(timeless(reply.text()), timeless(direct.text()), "{route} {asked}");
        let streams = SPEAKING.contains(&route) && asked["stream"] != false;
        let content_type = if streams { "application/x-ndjson" } else { "application/json" };
        assert_eq!(reply.header("content-type"), Some(content_type), "{route} {asked}");
        if streams {
            assert_eq!(lines_of(reply.text()).last().unwrap()["done"], true);
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn each_native_line_is_passed_on_before_the_next_one_exists() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for route in SPEAKING {
        simulated.fault_next([Fault::HangAfter(3)]);
        let request = client().post(app.url(route)).bearer_auth(&key);
        let mut response = request.send_body(body("[[n=20]]").to_string()).await.unwrap();
        let mut lines = String::new();
        while lines.lines().count() < 3 {
            let part = futures_util::StreamExt::next(&mut response).await.unwrap().unwrap();
            lines.push_str(std::str::from_utf8(&part).unwrap());
        }

        assert_eq!(lines_of(&lines).len(), 3);
        assert_eq!(simulated.stats().in_flight, 1, "{route}");
        drop(response);
        eventually("the node sees the client leave", || simulated.stats().in_flight == 0).await;
    }
    let rows = app.rows_once(&key, 2).await;
    assert!(rows.iter().all(|row| row["status"] == "cancelled" && row["completion_tokens"] == 3), "{rows:?}");
    assert!(rows.iter().all(|row| row["prompt_tokens"].as_u64() > Some(0)), "{rows:?}");
    app.stop().await;
}

#[actix_rt::test]
async fn every_native_route_leaves_a_row_with_the_nodes_numbers() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let mut count = 0;
    for (route, stream) in ROUTES.into_iter().flat_map(|route| [(route, true), (route, false)]) {
        let reply = app.post(route, &key, with(body_for(route, "[[n=7]]"), "stream", json!(stream))).await;

        assert_eq!(reply.status, 200, "{route}: {}", reply.text());
        count += 1;
        let row = &app.rows_once(&key, count).await[0];
        let speaks = SPEAKING.contains(&route);
        assert_eq!((&row["endpoint"], &row["stream"]), (&json!(route), &json!(stream && speaks)));
        assert_eq!(row["request_id"], reply.header("x-request-id").unwrap());
        if route == "/api/embeddings" {
            // Ollama reports nothing here.
            assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("completed"), &json!(0)));
            assert!(row["prompt_tokens"].as_u64() > Some(0), "{row}");
        } else {
            assert_row_is_as_the_node_counted(row, &simulated, if speaks { 7 } else { 0 });
        }
    }
    app.stop().await;
}

// Errors

// Line 18 of the clients' checklist, second half: an error is a string, in a body and as the last line.
#[actix_rt::test]
async fn a_native_stream_that_breaks_ends_with_an_error_line_and_never_with_done() {
    let faults = [Fault::DieAfter(5), Fault::ErrorAfter(5), Fault::EndAfter(5), Fault::GarbageAfter(5)];
    let cases = SPEAKING.into_iter().flat_map(|route| faults.clone().map(|fault| (route, fault)));
    each_at_once(cases, async |(route, fault)| {
        // Slow enough for each line to come by itself.
        let simulated = SimNode::start(SimConfig { tokens_per_second: 10.0, ..SimConfig::warm() }).await.unwrap();
        let app = spawn_over(&simulated).await;
        let key = app.user("ann").await;
        simulated.set_fault(Some(fault.clone()));

        let reply = app.post(route, &key, body("[[n=20]]")).await;

        assert_eq!(reply.status, 200, "{route} {fault:?}: {}", reply.text());
        let lines = lines_of(reply.text());
        let (last, before) = lines.split_last().unwrap();
        assert_eq!(before.len(), 5, "{route} {fault:?}: {}", reply.text());
        assert!(before.iter().all(|line| line["done"] == false && line.get("error").is_none()));
        assert!(last["error"].as_str().unwrap().contains("incomplete"), "{last}");
        assert_eq!(last.as_object().unwrap().len(), 1, "{last}");
        let row = &app.rows_once(&key, 1).await[0];
        assert_eq!((&row["status"], &row["completion_tokens"]), (&json!("upstream_error"), &json!(5)), "{row}");
        app.stop().await;
    })
    .await;
}

#[actix_rt::test]
async fn a_native_error_is_a_string_whatever_the_status() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.server.max_body_bytes = 10_000;
        config.queue.max_queued = 0;
    })
    .await;
    let key = app.user("ann").await;
    for route in ROUTES {
        let post = |body: String| app.send(Method::POST, route, Some(&key), body);
        error_string(&app.send(Method::POST, route, None, body_for(route, "hi").to_string()).await, 401);
        error_string(&app.post(route, "sk-ann-wrong", body_for(route, "hi")).await, 401);
        error_string(&post("{".to_owned()).await, 400);
        error_string(&post("[]".to_owned()).await, 400);
        error_string(&post(r#"{"prompt":"x"}"#.to_owned()).await, 400);
        let missing = error_string(&app.post(route, &key, with(body("hi"), "model", json!("nothere"))).await, 404);
        assert!(missing.contains("nothere"), "{missing}");
        error_string(&post("x".repeat(20_000)).await, 413);
        error_string(&app.get(route, &key).await, 405);
    }
    let limited = app.user_with("bob", json!({"requests_per_minute": 1})).await;
    assert_eq!(app.post("/api/embed", &limited, body_for("/api/embed", "hi")).await.status, 200);
    for route in ROUTES {
        let reply = app.post(route, &limited, body_for(route, "hi")).await;
        let message = error_string(&reply, 429);
        assert!(message.contains("try again in"), "{message}");
        assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() <= 60);
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some("0"));
    }
    let spent = app.user_with("eve", json!({"tokens_per_day": 1})).await;
    let reply = app.post("/api/chat", &spent, body("hi")).await;
    error_string(&reply, 429);
    assert_eq!(reply.header("x-should-retry"), Some("false"));

    simulated.fault_next([Fault::HangAfter(1)]);
    let mut busy = app.open_stream(&key, &stream_body("llama3.2", "hi")).await;
    busy.next().await.unwrap();
    for route in SPEAKING {
        let reply = app.post(route, &key, body("hi")).await;
        error_string(&reply, 503);
        assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() <= 120);
    }
    drop(busy);
    eventually("the node is free", || simulated.stats().in_flight == 0).await;

    simulated.set_fault(Some(Fault::Status(500)));
    for route in SPEAKING {
        error_string(&app.post(route, &key, body("hi")).await, 502);
    }
    simulated.set_fault(None);
    simulated.stop().await;
    eventually("the node is down", || app.dispatcher.read(|scheduler| scheduler.serving_nodes()) == 0).await;
    error_string(&app.post("/api/chat", &key, body("hi")).await, 503);
    app.stop().await;
}

#[actix_rt::test]
async fn the_nodes_own_no_to_a_native_request_is_handed_on_as_it_is() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for (route, asked) in [
        ("/api/chat", with(body("hi"), "think", json!(true))),
        ("/api/chat", with(body("hi"), "model", json!("all-minilm"))),
        ("/api/generate", with(body("hi"), "model", json!("all-minilm"))),
        ("/api/generate", with(body("hi"), "think", json!(true))),
        ("/api/embed", with(body_for("/api/embed", &"x".repeat(20_000)), "truncate", json!(false))),
    ] {
        let direct = directly(&simulated, route, &asked).await;
        let reply = app.post(route, &key, asked.clone()).await;

        assert_eq!(reply.text(), direct.text(), "{asked}");
        error_string(&reply, 400);
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    app.stop().await;
}

#[actix_rt::test]
async fn nothing_else_under_api_is_there_and_none_of_it_reaches_a_node() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for path in ["/api/nothing", "/api/chat/x", "/api/", "/api", "/api/signout", "/api/me"] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let reply = app.send(method.clone(), path, Some(&key), "").await;
            error_string(&reply, 404);
        }
    }
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn users_do_not_manage_models() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let digest = format!("/api/blobs/sha256:{}", "a".repeat(64));
    for (method, path) in [
        (Method::POST, "/api/pull"),
        (Method::POST, "/api/push"),
        (Method::POST, "/api/create"),
        (Method::POST, "/api/copy"),
        (Method::DELETE, "/api/delete"),
        (Method::POST, digest.as_str()),
        (Method::PUT, digest.as_str()),
        (Method::POST, "/api//pull/"),
    ] {
        let asked = json!({"model": "llama3.2", "name": "llama3.2", "source": "a", "destination": "b"}).to_string();
        let message = error_string(&app.send(method.clone(), path, Some(&key), asked.clone()).await, 403);
        assert!(message.contains("operator"), "{message}");
        error_string(&app.send(method, path, None, asked).await, 401);
    }
    assert_eq!(app.send(Method::HEAD, &digest, Some(&key), "").await.status, 403);
    assert!(simulated.requests().is_empty());
    assert_eq!(app.get("/api/tags", &key).await.json()["models"].as_array().unwrap().len(), 4);
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_leaves_a_native_request_stops_the_node() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for stream in [true, false] {
        simulated.fault_next([Fault::HangBeforeHead]);
        let (url, bearer) = (app.url("/api/chat"), key.clone());
        let asked = with(body("hi"), "stream", json!(stream)).to_string();
        let asking =
            actix_rt::spawn(async move { drop(client().post(url).bearer_auth(bearer).send_body(asked).await) });
        eventually("it is at the node", || simulated.stats().in_flight == 1).await;

        asking.abort();

        eventually("the node is free", || simulated.stats().in_flight == 0).await;
        assert_eq!(simulated.requests().last().unwrap().outcome, Outcome::Faulted);
    }
    let rows = app.rows_once(&key, 2).await;
    assert!(rows.iter().all(|row| row["status"] == "cancelled" && row["endpoint"] == "/api/chat"), "{rows:?}");
    app.stop().await;
}
