//! Where does a request run, and who moves models? The scheduler and its loader in front of simulated nodes, over real
//! sockets.
use std::time::Duration;

use futures_util::future::join_all;
use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{Fault, SeenRequest, SimConfig, SimModel, SimNode};
use scheduler::{Event, NodeId, NodeState, NodeView};
use serde_json::{Value, json};

use crate::harness::{
    TestApp, TestDatabase, chat_body, cold_node, error_of, eventually, fast_node, let_pass, node, spawn_app,
    spawn_app_with, stream_body,
};

/// A node that holds one of its models at a time; the answers of `a` and `b` take 10 ms a token.
async fn narrow_node(models: &[&str]) -> SimNode {
    let config = SimConfig {
        tokens_per_second: 40.0,
        slots: 2,
        vram_bytes: 3_000_000_000,
        load_overhead: Duration::from_millis(20),
        load_bytes_per_second: f64::INFINITY,
        models: models.iter().map(|name| SimModel::chat(name, 2.0)).collect(),
        ..SimConfig::default()
    };
    SimNode::start(config).await.unwrap()
}

fn narrow(name: &str, simulated: &SimNode, slots: u32) -> NodeSettings {
    NodeSettings { vram_gb: Some(3.0), ..node(name, simulated.url(), slots) }
}

fn is_own(request: &SeenRequest) -> bool {
    request.request_id.as_deref() == Some("gateway")
}

/// The gateway asks which models have the same weights.
fn is_question(request: &SeenRequest) -> bool {
    request.path == "/api/show"
}

/// What the gateway asked a node for by itself: `load` or `unload`, and the model.
fn errands(simulated: &SimNode) -> Vec<(&'static str, String)> {
    let errand = |request: &SeenRequest| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        (if body["keep_alive"] == 0 { "unload" } else { "load" }, body["model"].as_str().unwrap().to_owned())
    };
    simulated.requests().iter().filter(|request| is_own(request)).map(errand).collect()
}

/// What reached a node for its users. None of it may have waited for a model.
#[track_caller]
fn served(simulated: &SimNode) -> Vec<SeenRequest> {
    let is_served = |request: &SeenRequest| !is_own(request) && !is_question(request);
    let requests: Vec<_> = simulated.requests().into_iter().filter(is_served).collect();
    for request in &requests {
        assert!(request.found_loaded != Some(false), "a user's request waited for a model: {request:?}");
    }
    let stats = simulated.stats();
    assert_eq!((stats.evictions, stats.reloads), (0, 0), "the node chose what to unload: {stats:?}");
    requests
}

fn model_of(request: &SeenRequest) -> String {
    serde_json::from_slice::<Value>(&request.body).unwrap()["model"].as_str().unwrap().to_owned()
}

fn view(app: &TestApp, name: &str) -> NodeView {
    app.dispatcher.read(|scheduler| scheduler.nodes().into_iter().find(|node| node.name == name).unwrap())
}

fn queued(app: &TestApp) -> usize {
    app.dispatcher.read(|scheduler| scheduler.queued())
}

/// A streamed answer of so many tokens arrived as a whole.
#[track_caller]
fn assert_is_whole(events: &[String], tokens: usize) {
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{events:?}");
    let texts = events.iter().filter(|event| event.contains("\"content\":\"") && !event.contains("\"content\":\"\""));
    assert_eq!(texts.count(), tokens, "{events:?}");
}

#[actix_rt::test]
async fn a_model_makes_room_for_another_only_when_its_last_answer_has_ended() {
    let simulated = narrow_node(&["a", "b"]).await;
    let app = spawn_app(vec![narrow("only", &simulated, 1)]).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    assert_eq!(app.chat(&ann, "a", "[[n=1]]").await.status, 200);
    let mut stream = app.open_stream(&ann, &stream_body("a", "[[n=80]]")).await;
    let first = stream.next().await.unwrap();

    let other = app.chat(&bob, "b", "[[n=2]]");
    let (rest, other) = tokio::join!(stream.rest(), other);

    assert_eq!(other.status, 200, "{}", other.text());
    assert_is_whole(&[vec![first], rest].concat(), 80);
    let named = |kind, model: &str| (kind, model.to_owned());
    assert_eq!(
        errands(&simulated),
        [named("load", "a:latest"), named("unload", "a:latest"), named("load", "b:latest")]
    );
    let streamed = served(&simulated)[1].ended.unwrap();
    let unload = simulated.requests().into_iter().filter(is_own).nth(1).unwrap();
    assert!(unload.arrived >= streamed, "the model left {:?} before its answer ended", streamed - unload.arrived);
    app.stop().await;
}

// Ollama's own eviction waits for ever here: its victim goes on accepting requests.
#[actix_rt::test]
async fn a_model_that_is_asked_for_without_end_makes_room_after_half_a_minute_and_loses_nothing() {
    let (simulated, other) = (narrow_node(&["a", "b"]).await, narrow_node(&["a"]).await);
    let app = spawn_app(vec![narrow("both", &simulated, 1), narrow("other", &other, 1)]).await;
    // So many that some of them always wait.
    let keys =
        [app.user("u0").await, app.user("u1").await, app.user("u2").await, app.user("u3").await, app.user("u4").await];
    let stop = std::cell::Cell::new(false);
    let users = join_all(keys.iter().map(async |key| {
        let mut answered = 0;
        while !stop.get() {
            let events = app.open_stream(key, &stream_body("a", "[[n=50]]")).await.rest().await;
            assert_is_whole(&events, 50);
            answered += 1;
        }
        answered
    }));
    let bob = async {
        eventually("both nodes are busy", || {
            view(&app, "both").in_flight == 1 && view(&app, "other").in_flight == 1 && queued(&app) == 3
        })
        .await;
        let key = app.user("bob").await;
        let mut connection = app.send_and_hold(&key, &chat_body("b", "[[n=2]]")).await;
        let before = std::time::Instant::now();
        while view(&app, "both").loading.is_none() {
            assert!(before.elapsed() < Duration::from_secs(40), "it starves");
            let_pass(Duration::from_millis(50)).await;
        }
        let leaving = served(&simulated).len();
        let mut head = [0; 15];
        tokio::io::AsyncReadExt::read_exact(&mut connection, &mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        stop.set(true);
        (before.elapsed(), leaving)
    };
    let (answered, (waited, leaving)) = tokio::join!(users, bob);

    assert!(waited < Duration::from_secs(35), "{waited:?}");
    assert!(answered.iter().all(|count| *count > 3), "everybody was served all the time: {answered:?}");
    let here = served(&simulated);
    let models: Vec<String> = here.iter().skip(leaving).map(model_of).collect();
    assert_eq!(models.first().map(String::as_str), Some("b"), "nothing more went to what was to leave: {models:?}");
    let unload = simulated.requests().into_iter().filter(is_own).nth(1).unwrap();
    assert!(here[..leaving].iter().all(|request| request.ended.unwrap() <= unload.arrived), "it was drained first");
    served(&other);
    app.stop().await;
}

#[actix_rt::test]
async fn no_user_reloads_or_unloads_a_model_by_what_is_in_a_request_in_any_dialect() {
    let simulated = cold_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let key = app.user("ann").await;
    let base = json!({"model": "llama3.2", "max_tokens": 2, "prompt": "hi", "input": "hi", "stream": false,
        "messages": [{"role": "user", "content": "hi"}]});
    let wishes = [
        json!({"keep_alive": 0}),
        json!({"keep_alive": "1s"}),
        json!({"keep_alive": -1, "shift": false}),
        json!({"options": {"num_ctx": 8192}}),
        json!({"options": {"num_gpu": 1, "main_gpu": 1, "num_batch": 64, "num_thread": 3, "use_mmap": false}}),
        json!({"options": {"draft_num_predict": 3, "temperature": 0}}),
        json!({"num_ctx": 8192, "num_gpu": 1}),
    ];
    let generations =
        ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"];
    let embeddings = ["/v1/embeddings", "/api/embed", "/api/embeddings"];
    let routes = generations.map(|route| (route, "llama3.2")).into_iter();
    let routes = routes.chain(embeddings.map(|route| (route, "all-minilm")));
    for (route, model) in routes.collect::<Vec<_>>() {
        for wish in &wishes {
            let mut body = base.clone();
            body["model"] = model.into();
            body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
            let reply = app.post(route, &key, body).await;
            assert_eq!(reply.status, 200, "{route} {wish}: {}", reply.text());
        }
    }
    for idle in [json!({"keep_alive": 0}), json!({"options": {"num_ctx": 9}}), json!({"keep_alive": "1s"})] {
        for route in ["/api/chat", "/api/generate"] {
            let mut body = json!({"model": "llama3.2"});
            body.as_object_mut().unwrap().extend(idle.as_object().unwrap().clone());
            assert_eq!(app.post(route, &key, body).await.status, 200, "{route} {idle}");
        }
    }

    assert_eq!(served(&simulated).len(), 9 * wishes.len());
    assert_eq!((simulated.stats().loads, simulated.stats().loaded.len()), (2, 2), "each model was loaded once");
    app.stop().await;
}

#[actix_rt::test]
async fn every_load_is_the_gateways_own_also_that_of_a_model_that_only_embeds() {
    let models = vec![
        SimModel::chat("a", 2.0),
        SimModel::chat("b", 2.0),
        SimModel::embedding("embed", 2.0),
        SimModel::vision("c", 2.0),
    ];
    let config = SimConfig { vram_bytes: 3_000_000_000, models, ..SimConfig::fast() };
    let simulated = SimNode::start(SimConfig { load_overhead: Duration::from_millis(10), ..config }).await.unwrap();
    let app = spawn_app(vec![narrow("only", &simulated, 2)]).await;
    for round in 0..3 {
        let key = app.user(&format!("user-{round}")).await;
        for model in ["a", "embed", "b", "c"] {
            // Nobody has used the last one for two of its load times: it may go at once.
            let_pass(Duration::from_millis(60)).await;
            let reply = match model {
                "embed" => app.post("/v1/embeddings", &key, json!({"model": model, "input": "hi"})).await,
                _ => app.chat(&key, model, "[[n=3]]").await,
            };
            assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        }
    }

    assert_eq!(served(&simulated).len(), 12);
    let loads = errands(&simulated).into_iter().filter(|(kind, _)| *kind == "load");
    // A model that only embeds is asked twice: Ollama says that it does not generate.
    let loads = loads.filter(|(_, model)| !model.starts_with("embed")).count();
    assert_eq!((simulated.stats().loads, loads), (12, 9));
    app.stop().await;
}

#[actix_rt::test]
async fn a_load_that_fails_is_told_at_once_and_not_tried_again_for_a_while() {
    let simulated = cold_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let key = app.user("ann").await;
    simulated.fault_next([Fault::Status(500)]);

    for _ in 0..3 {
        let error = error_of(&app.chat(&key, "llama3.2", "hi").await, 502);
        assert_eq!(error["code"], "upstream_error");
        assert!(error["message"].as_str().unwrap().contains("could load the model"), "{error}");
    }

    assert_eq!(errands(&simulated).len(), 1, "the load was tried once");
    assert_eq!(served(&simulated).len(), 0);
    assert_eq!(app.chat(&key, "llama3.2:1b", "hi").await.status, 200, "other models are not affected");
    let error = view(&app, "a").last_error;
    assert!(error.is_none_or(|error| error.contains("load")));
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_that_one_node_cannot_load_is_loaded_by_another() {
    let (bad, good) = (cold_node().await, cold_node().await);
    let app = spawn_app(vec![node("bad", bad.url(), 1), node("good", good.url(), 1)]).await;
    let key = app.user("ann").await;
    bad.set_fault(Some(Fault::Status(500)));

    for _ in 0..3 {
        let reply = app.chat(&key, "llama3.2", "hi").await;
        assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some("good")), "{}", reply.text());
    }

    assert_eq!((bad.requests().len(), errands(&good).len()), (1, 1));
    app.stop().await;
}

#[actix_rt::test]
async fn one_user_with_a_hundred_requests_does_not_keep_another_waiting() {
    let config = SimConfig { tokens_per_second: 40.0, slots: 2, ..SimConfig::warm() };
    let simulated = SimNode::start(config).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let (flood, quiet) = (app.user("flood").await, app.user("quiet").await);
    let body = chat_body("llama3.2", "[[n=5]]");
    let flooding = join_all((0..100).map(|_| app.post("/v1/chat/completions", &flood, body.clone())));
    let asking = async {
        eventually("the flood is here", || queued(&app) >= 80).await;
        let mut overtaken = Vec::new();
        for _ in 0..3 {
            let before = served(&simulated).len();
            assert_eq!(app.chat(&quiet, "llama3.2", "[[n=6]] quiet").await.status, 200);
            let log = served(&simulated);
            let is_quiet = |request: &SeenRequest| String::from_utf8_lossy(&request.body).contains("quiet");
            let place = log[before..].iter().position(is_quiet);
            overtaken.push(place.expect("it was served"));
        }
        overtaken
    };
    let (replies, overtaken) = tokio::join!(flooding, asking);

    assert!(replies.iter().all(|reply| reply.status == 200), "the flood is served in its turn");
    // Two are running, and one may go first.
    assert!(overtaken.iter().all(|before| *before <= 4), "so many went before: {overtaken:?}");
    app.stop().await;
}

/// So many streams of one user at once; the most that were at the node at a time.
async fn peak_of(app: &TestApp, key: &str, simulated: &SimNode, streams: usize) -> usize {
    let done = std::cell::Cell::new(false);
    let asking = async {
        let body = stream_body("llama3.2", "[[n=20]]");
        let all = join_all((0..streams).map(async |_| app.open_stream(key, &body).await.rest().await)).await;
        all.iter().for_each(|events| assert_is_whole(events, 20));
        done.set(true);
    };
    let watching = async {
        let mut peak = 0;
        while !done.get() {
            peak = peak.max(simulated.stats().in_flight);
            let_pass(Duration::from_millis(2)).await;
        }
        peak
    };
    tokio::join!(asking, watching).1
}

#[actix_rt::test]
async fn slots_that_nobody_configured_are_found_one_by_one_and_never_overshot_by_more_than_one() {
    let config = SimConfig { tokens_per_second: 40.0, slots: 4, ..SimConfig::warm() };
    let simulated = SimNode::start(config).await.unwrap();
    let app = spawn_app(vec![NodeSettings::new("a", simulated.url())]).await;
    let key = app.user_with("user", json!({})).await;
    assert_eq!(view(&app, "a").slots, 1, "as Ollama without a setting");

    // Long enough to look for a fifth slot, also on a machine that has other things to do.
    peak_of(&app, &key, &simulated, 40).await;

    assert_eq!((view(&app, "a").slots, simulated.stats().peak_in_flight), (4, 5));
    // It goes on looking for one more.
    assert!([4, 5].contains(&peak_of(&app, &key, &simulated, 12).await));
    assert_eq!(view(&app, "a").slots, 4);
    app.stop().await;
}

#[actix_rt::test]
async fn configured_slots_are_all_used_and_never_exceeded() {
    let config = SimConfig { tokens_per_second: 40.0, slots: 4, ..SimConfig::warm() };
    let simulated = SimNode::start(config).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 3)]).await;
    let key = app.user_with("user", json!({})).await;

    peak_of(&app, &key, &simulated, 15).await;

    assert_eq!((simulated.stats().peak_in_flight, simulated.stats().queued), (3, 0));
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_drains_finishes_what_runs_and_takes_nothing_new_until_it_is_told_to() {
    let config = SimConfig { tokens_per_second: 40.0, slots: 4, ..SimConfig::warm() };
    let (simulated, other) = (SimNode::start(config).await.unwrap(), fast_node().await);
    let nodes = vec![node("a", simulated.url(), 4), node("b", other.url(), 4)];
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), |_| {}).await;
    let key = app.user("ann").await;
    let drain = |node, on| app.dispatcher.report(Event::Drain { node: NodeId(node), on });
    drain(1, true);
    let mut stream = app.open_stream(&key, &stream_body("llama3.2", "[[n=100]]")).await;
    let first = stream.next().await.unwrap();
    drain(1, false);

    drain(0, true);

    assert_eq!(view(&app, "a").state, NodeState::Draining);
    for _ in 0..6 {
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.header("x-gateway-node"), Some("b"));
    }
    assert_eq!(view(&app, "a").in_flight, 1, "what ran goes on");
    assert_is_whole(&[vec![first], stream.rest().await].concat(), 100);
    assert_eq!((served(&simulated).len(), view(&app, "a").in_flight), (1, 0));
    drain(1, true);
    let refused = app.chat(&key, "llama3.2", "hi").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    drain(0, false);
    assert_eq!(view(&app, "a").state, NodeState::Up);
    assert_eq!(app.chat(&key, "llama3.2", "[[n=1]]").await.header("x-gateway-node"), Some("a"));
    app.stop().await;
}
