//! Ollama's own API for users: the node's bytes, errors as strings, and nothing that one user could do to all.
use awc::http::Method;
use ollama_sim::{Fault, Outcome, SimConfig, SimModel, SimNode};
use serde_json::{Value, json};

use crate::dialects::{assert_row_is_as_the_node_counted, directly, last_seen, lines_of, spawn_over, timeless, with};
use crate::harness::{
    ADMIN_KEY, Reply, TestApp, TestDatabase, answer_of, client, each_at_once, eventually, fast_node, node, spawn_app,
    spawn_app_with, stream_body,
};
use crate::scripted::{ScriptedNode, Step};

/// Those that make text.
const SPEAKING: [&str; 2] = ["/api/chat", "/api/generate"];
const ROUTES: [&str; 4] = ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"];

/// A request that any of the routes can answer.
fn body(prompt: &str) -> Value {
    json!({"model": "llama3.2", "messages": [{"role": "user", "content": prompt}], "prompt": prompt, "input": prompt})
}

/// The request for a route; vectors come from a model of their own.
fn body_for(route: &str, prompt: &str) -> Value {
    let embeds = route.contains("embed");
    with(body(prompt), "model", if embeds { json!("all-minilm") } else { json!("llama3.2") })
}

/// The message of an error, which must be a string and all there is.
#[track_caller]
fn error_string(reply: &Reply, status: u16) -> String {
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

// What must not reach a node

#[actix_rt::test]
async fn what_would_reload_or_unload_a_model_for_everybody_never_reaches_a_node() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let stripped = json!({"num_ctx": 8192, "num_batch": 1, "num_gpu": 0, "main_gpu": 1, "use_mmap": true,
        "num_thread": 1, "draft_num_predict": 1, "Num_Ctx": 2});
    for route in ROUTES {
        let mut asked = body_for(route, "[[n=3]]");
        let kept =
            with(with(asked.clone(), "raw", json!(false)), "options", json!({"temperature": 0.5, "stop": ["x"]}));
        asked["keep_alive"] = 0.into();
        asked["template"] = "{{ .System }}".into();
        asked["shift"] = false.into();
        asked["Template"] = "x".into();
        asked["raw"] = false.into();
        asked["options"] = stripped.clone();
        asked["options"]["temperature"] = 0.5.into();
        asked["options"]["stop"] = json!(["x"]);

        let reply = app.post(route, &key, asked).await;

        assert_eq!(reply.status, 200, "{route}: {}", reply.text());
        assert_eq!(last_seen(&simulated), kept, "{route}");
    }
    assert!(simulated.stats().loaded.contains(&"llama3.2:latest".to_owned()), "the model is still loaded");
    app.stop().await;
}

#[actix_rt::test]
async fn the_rendered_prompt_with_the_operators_part_is_not_shown() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for route in SPEAKING {
        error_string(&app.post(route, &key, with(body("hi"), "_debug_render_only", json!(true))).await, 400);
    }
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

#[actix_rt::test]
async fn the_cap_of_a_user_with_tokens_per_day_is_num_predict_among_the_options() {
    let simulated = fast_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.limits.default_max_output = 9;
    })
    .await;
    let limited = app.user_with("ann", json!({"tokens_per_day": 100_000})).await;
    let free = app.user("bob").await;
    for route in SPEAKING {
        for (options, sent) in [
            (None, json!({"num_predict": 9})),
            (Some(json!(null)), json!({"num_predict": 9})),
            (Some(json!({"seed": 1})), json!({"seed": 1, "num_predict": 9})),
            (Some(json!({"num_predict": -1, "num_ctx": 5})), json!({"num_predict": 9})),
            (Some(json!({"num_predict": 4})), json!({"num_predict": 4})),
        ] {
            let mut asked = with(body("[[n=30]]"), "stream", json!(false));
            if let Some(options) = options {
                asked["options"] = options;
            }
            let reply = app.post(route, &limited, asked.clone()).await;

            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(last_seen(&simulated)["options"], sent, "{route} {asked}");
            assert_eq!(
                (&reply.json()["eval_count"], &reply.json()["done_reason"]),
                (&sent["num_predict"], &json!("length"))
            );
        }
        let asked = body("[[n=30]]");
        app.post(route, &free, asked.clone()).await;
        assert_eq!(last_seen(&simulated), asked, "nothing is added without a limit");
    }
    let embed = body_for("/api/embed", "one");
    assert_eq!(app.post("/api/embed", &limited, embed.clone()).await.status, 200);
    assert_eq!(last_seen(&simulated), embed, "vectors have no length");
    app.stop().await;
}

#[actix_rt::test]
async fn a_second_num_predict_cannot_hide_behind_the_first() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user_with("ann", json!({"tokens_per_day": 1000})).await;
    let asked = r#"{"model":"llama3.2","prompt":"[[n=500]]","options":{"num_predict":1,"num_predict":500}}"#;

    let reply = app.send(Method::POST, "/api/generate", Some(&key), asked).await;

    error_string(&reply, 400);
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

// Requests without a prompt

#[actix_rt::test]
async fn a_request_without_a_prompt_is_acknowledged_and_no_node_hears_of_it() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user_with("ann", json!({"requests_per_minute": 1, "tokens_per_day": 1})).await;
    for (route, asked, reason) in [
        ("/api/generate", json!({}), "load"),
        ("/api/generate", json!({"prompt": ""}), "load"),
        ("/api/generate", json!({"prompt": null, "keep_alive": "5m"}), "load"),
        ("/api/generate", json!({"prompt": "", "keep_alive": -1, "stream": true}), "load"),
        ("/api/generate", json!({"keep_alive": 0}), "unload"),
        ("/api/generate", json!({"keep_alive": "0s", "stream": false}), "unload"),
        ("/api/chat", json!({}), "load"),
        ("/api/chat", json!({"messages": []}), "load"),
        ("/api/chat", json!({"messages": null, "options": {"num_ctx": 9}}), "load"),
        ("/api/chat", json!({"messages": [], "keep_alive": 0, "stream": true}), "unload"),
        ("/api/chat", json!({"keep_alive": "0"}), "unload"),
    ] {
        let asked = with(asked, "model", json!("llama3.2"));
        let direct = directly(&simulated, route, &asked).await;
        let reply = app.post(route, &key, asked.clone()).await;

        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")), "{asked}");
        let timeless = |reply: &Reply| with(reply.json(), "created_at", json!(null));
        assert_eq!(timeless(&reply), timeless(&direct), "as Ollama says it: {route} {asked}");
        assert_eq!((&reply.json()["done"], &reply.json()["done_reason"]), (&json!(true), &json!(reason)), "{asked}");
        let created = reply.json()["created_at"].as_str().unwrap().to_owned();
        time::OffsetDateTime::parse(&created, &time::format_description::well_known::Rfc3339).unwrap();
    }
    let asked_directly = 11;
    assert_eq!(simulated.requests().len(), asked_directly, "none came through the gateway");
    let missing = app.post("/api/generate", &key, json!({"model": "nothere"})).await;
    assert!(error_string(&missing, 404).contains("nothere"));
    error_string(&app.send(Method::POST, "/api/chat", None, r#"{"model":"llama3.2"}"#).await, 401);
    assert!(app.rows(&key).await.is_empty(), "it costs nothing");
    app.stop().await;
}

#[actix_rt::test]
async fn messages_that_hold_something_are_no_empty_list() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for (messages, status) in
        [("[\n\t]", 200), ("[ ]", 200), ("[[]]", 400), ("[[ ]]", 400), ("[{}]", 400), ("\"\"", 400)]
    {
        let asked = format!(r#"{{"model":"llama3.2","messages":{messages}}}"#);
        let reply = app.send(Method::POST, "/api/chat", Some(&key), asked).await;

        assert_eq!(reply.status, status, "{messages}: {}", reply.text());
    }
    assert!(simulated.requests().is_empty());
    app.stop().await;
}

// Lists of the fleet

fn names(reply: &Reply) -> Vec<String> {
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, Some("application/json")));
    let models = reply.json()["models"].as_array().unwrap().clone();
    models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

async fn two_nodes() -> (SimNode, SimNode, TestApp) {
    let with = |models: Vec<SimModel>| SimConfig { models, ..SimConfig::fast() };
    let first = SimNode::start(with(vec![SimModel::chat("llama3.2", 2.0), SimModel::chat("both", 1.0)])).await.unwrap();
    let second = SimNode::start(with(vec![SimModel::chat("both", 1.0), SimModel::chat("own", 1.0)])).await.unwrap();
    let nodes = vec![node("a", first.url(), 1), node("b", second.url(), 1)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), |config| config.health.loaded_interval_seconds = 1).await;
    (first, second, app)
}

#[actix_rt::test]
async fn tags_and_ps_are_those_of_all_nodes_each_model_once_and_in_the_nodes_words() {
    let (first, second, app) = two_nodes().await;
    let key = app.user("ann").await;

    let tags = app.get("/api/tags", &key).await;

    assert_eq!(names(&tags), ["llama3.2:latest", "both:latest", "own:latest"]);
    let said = crate::harness::read(client().get(second.url() + "/api/tags").send().await.unwrap()).await.json();
    assert_eq!(tags.json()["models"][2], said["models"][1]);

    assert!(names(&app.get("/api/ps", &key).await).is_empty());
    assert_eq!(app.chat(&key, "own", "hi").await.status, 200);
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);
    let loaded = async |count: usize| {
        answer_of("so many models are seen in memory", async || {
            let ps = app.get("/api/ps", &key).await;
            (names(&ps).len() == count).then_some(ps)
        })
        .await
    };
    let ps = loaded(2).await;
    assert_eq!(names(&ps), ["llama3.2:latest", "own:latest"]);
    let said = crate::harness::read(client().get(first.url() + "/api/ps").send().await.unwrap()).await.json();
    assert_eq!(ps.json()["models"][0]["size_vram"], said["models"][0]["size_vram"]);

    second.stop().await;
    assert_eq!(names(&loaded(1).await), ["llama3.2:latest"], "a node that is down has nothing in memory");
    app.stop().await;
}

// Line 19 of the clients' checklist: what Ollama's clients ask for before anything else.
#[actix_rt::test]
async fn the_door_and_the_version_are_open_and_the_lists_take_a_key() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    let said = crate::harness::read(client().get(simulated.url() + "/api/version").send().await.unwrap()).await;

    assert_eq!(app.send(Method::GET, "/api/version", None, "").await.json(), said.json());
    let wrong = app.get("/api/version", "sk-of-nobody").await;
    error_string(&wrong, 401);
    assert_eq!(app.get("/api/status", &key).await.json()["cloud"]["disabled"], true);
    assert!(app.send(Method::GET, "/", None, "").await.text().contains("Ollama is running"));
    let own = Some(key.as_str());
    for (path, key) in [
        ("/", None),
        ("/api/version", None),
        ("/api/tags", own),
        ("/api/ps", own),
        ("/v1/models", own),
        ("/v1/models/llama3.2", own),
        ("/v1/usage", own),
        ("/admin/nodes", Some(ADMIN_KEY)),
        ("/openapi.json", None),
    ] {
        let head = app.send(Method::HEAD, path, key, "").await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0), "{path}");
    }
    assert_eq!(app.send(Method::HEAD, "/api/tags", None, "").await.status, 401);
    for path in ["/api/tags", "/api/ps"] {
        error_string(&app.send(Method::GET, path, None, "").await, 401);
        error_string(&app.post(path, &key, json!({})).await, 405);
    }
    assert!(simulated.requests().is_empty(), "all of it is the gateway's own");
    app.stop().await;
}

#[actix_rt::test]
async fn a_gateway_that_has_heard_of_no_node_still_answers_the_lists() {
    let app = spawn_app(vec![node("a", "http://127.0.0.1:1".to_owned(), 1)]).await;
    let key = app.user("ann").await;

    assert!(names(&app.get("/api/tags", &key).await).is_empty());
    assert!(names(&app.get("/api/ps", &key).await).is_empty());
    let version = app.get("/api/version", &key).await.json()["version"].as_str().unwrap().to_owned();
    assert!(!version.starts_with("0.0."), "some clients refuse to talk to so old a server: {version}");
    for (path, asked) in [("/api/chat", body("hi")), ("/api/show", body("hi"))] {
        let reply = app.post(path, &key, asked).await;
        error_string(&reply, 503);
        assert!(reply.header("retry-after").is_some());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_is_shown_without_what_is_the_operators() {
    let simulated = fast_node().await;
    let app = spawn_over(&simulated).await;
    let key = app.user("ann").await;
    for asked in [
        json!({"model": "llama3.2"}),
        json!({"name": "llama3.2"}),
        json!({"model": "llama3.2:latest", "system": "x", "template": "y", "verbose": true, "options": {}}),
    ] {
        let direct = directly(&simulated, "/api/show", &asked).await.json();
        let reply = app.post("/api/show", &key, asked.clone()).await;

        assert_eq!(reply.status, 200, "{}", reply.text());
        let shown = reply.json();
        for kept in ["details", "model_info", "capabilities", "modified_at"] {
            assert_eq!(shown[kept], direct[kept], "{kept}");
        }
        for hidden in ["license", "template", "system", "modelfile", "parameters", "messages"] {
            assert!(shown.get(hidden).is_none(), "{hidden}");
        }
        assert!(direct.get("template").is_some() && direct.get("modelfile").is_some(), "the node does tell");
        let model = asked.get("model").or(asked.get("name")).unwrap();
        assert_eq!(last_seen(&simulated), json!({"model": model}), "and hears only the name");
    }
    let missing = error_string(&app.post("/api/show", &key, json!({"model": "nothere"})).await, 404);
    assert!(missing.contains("nothere"));
    for bad in ["", "[]", "{}", r#"{"model":7}"#] {
        error_string(&app.send(Method::POST, "/api/show", Some(&key), bad).await, 400);
    }
    error_string(&app.send(Method::POST, "/api/show", None, r#"{"model":"llama3.2"}"#).await, 401);
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_is_shown_by_the_next_node_when_one_fails() {
    let dead = ScriptedNode::always(|| vec![Step::Close]).await;
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", dead.url(), 1), node("b", simulated.url(), 1)]).await;
    let key = app.user("ann").await;

    let reply = app.post("/api/show", &key, json!({"model": "llama3.2"})).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["capabilities"], json!(["completion", "tools"]));
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
