//! One user sends what makes nodes fail: with a 500, by hanging up, with garbage, in mid-stream; mistakes that real Ollama
//! answers with 5xx; and a route that a node of an older version does not have.
use ollama_sim::{Fault, SimNode};
use scheduler::NodeState;
use serde_json::{Value, json};

use crate::good::{fleet, good_users, hold, marked, openings, states, steady_node, steady_node_with};
use crate::harness::{error_of, eventually};

const POISON: [(&str, Fault); 5] = [
    ("poison-crash", Fault::Status(500)),
    ("poison-hang-up", Fault::Refuse),
    ("poison-garbage", Fault::Garbage),
    ("poison-error", Fault::ErrorAfter(0)),
    ("poison-mid-stream", Fault::DieAfter(2)),
];

fn poison(simulated: &[SimNode]) {
    for (marker, fault) in POISON {
        simulated.iter().for_each(|node| node.poison(marker, fault.clone()));
    }
}

async fn steady(count: usize) -> Vec<SimNode> {
    let mut simulated = Vec::new();
    for _ in 0..count {
        simulated.push(steady_node().await);
    }
    simulated
}

#[actix_rt::test]
async fn whatever_one_user_sends_the_others_are_served() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    poison(&simulated);
    let poisoner = app.user("poisoner").await;
    let sent = std::cell::Cell::new(0);

    hold(&app, &keys, async || {
        // Each time another prompt, so that none is known from before.
        let four = [0, 1, 2, 3].map(|lane| {
            let number = sent.get();
            sent.set(number + 1);
            let body = marked(&format!("{} {number} {lane}", POISON[number % POISON.len()].0));
            app.post("/v1/chat/completions", &poisoner, body)
        });
        futures_util::future::join_all(four).await;
    })
    .await;

    assert_eq!(openings(&app), 0, "a breaker opened");
    assert!(sent.get() > 20, "{}", sent.get());
    app.stop().await;
}

#[actix_rt::test]
async fn accounts_that_only_ever_fail_take_no_node_out_however_many_they_are() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    poison(&simulated);
    let mut accounts = Vec::new();
    for number in 0..8 {
        accounts.push(app.user(&format!("account-{number}")).await);
    }
    let sent = std::cell::Cell::new(0_usize);

    hold(&app, &keys, async || {
        let number = sent.replace(sent.get() + 1);
        // All the same, and then each its own.
        let all = accounts.iter().enumerate().map(|(lane, key)| {
            let lane = if number.is_multiple_of(2) { 0 } else { lane };
            let body = marked(&format!("{} {number} {lane}", POISON[(number + lane) % POISON.len()].0));
            app.post("/v1/chat/completions", key, body)
        });
        futures_util::future::join_all(all).await;
    })
    .await;

    assert_eq!(openings(&app), 0, "a breaker opened");
    assert!(sent.get() > 20, "{}", sent.get());
    app.stop().await;
}

#[actix_rt::test]
async fn the_same_poison_fails_fast_the_next_time_and_no_node_sees_it() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    poison(&simulated);
    let poisoner = app.user("poisoner").await;
    let seen = || simulated.iter().map(|node| node.requests().len()).sum::<usize>();
    for (marker, fault) in POISON {
        // One that breaks in mid-stream is tried on one node at a time.
        for _ in 0..2 {
            app.post("/v1/chat/completions", &poisoner, marked(marker)).await;
        }
        // The nodes show that they work.
        assert_eq!(good_users(&app, &keys).await.failures, [] as [&str; 0]);
        let before = seen();

        let reply = app.post("/v1/chat/completions", &poisoner, marked(marker)).await;

        assert_eq!(error_of(&reply, 422)["code"], "request_makes_nodes_fail", "{fault:?}");
        assert_eq!((reply.header("x-should-retry"), seen()), (Some("false"), before), "{fault:?}");
        // Who sends something else, or is somebody else, is not meant.
        let other = app.post("/v1/chat/completions", &poisoner, marked("harmless")).await;
        assert_eq!(other.status, 200, "{fault:?}: {}", other.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_fails_every_user_is_taken_out() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    simulated[0].set_fault(Some(Fault::Status(500)));

    let seen = good_users(&app, &keys).await;

    assert_eq!(seen.failures, [] as [&str; 0], "the other node answers");
    assert!(openings(&app) > 0, "its breaker never opened");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_fails_the_only_user_is_taken_out_as_its_requests_work_elsewhere() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    simulated[0].set_fault(Some(Fault::Status(500)));
    for number in 0..6 {
        let reply = app.post("/v1/chat/completions", &keys[0], marked(&format!("one {number}"))).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    eventually("the node is out", || states(&app)[0] != NodeState::Up).await;
    assert!(openings(&app) > 0);
    app.stop().await;
}

fn mistakes() -> Vec<(&'static str, Value)> {
    let chat = |extra: Value| {
        let mut body = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "stream": false});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    vec![
        ("/api/chat", chat(json!({"options": {"temperature": "hot"}}))),
        ("/api/chat", chat(json!({"format": "xml"}))),
        ("/v1/embeddings", json!({"model": "llama3.2", "input": "hi"})),
        ("/api/embed", json!({"model": "llama3.2", "input": "hi"})),
        ("/api/embeddings", json!({"model": "llama3.2", "prompt": "hi"})),
    ]
}

#[actix_rt::test]
async fn a_users_mistakes_are_that_users_alone() {
    let simulated = [steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    let careless = app.user("careless").await;

    hold(&app, &keys, async || {
        for (path, body) in mistakes() {
            let reply = app.post(path, &careless, body).await;
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        }
    })
    .await;

    assert_eq!(openings(&app), 0);
    app.stop().await;
}

#[actix_rt::test]
async fn a_mistake_is_told_in_the_dialect_it_was_made_in_and_asked_of_one_node() {
    let simulated = [steady_node().await, steady_node().await];
    let (app, _) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    let careless = app.user("careless").await;
    for (path, body) in mistakes() {
        let before: usize = simulated.iter().map(|node| node.requests().len()).sum();

        let reply = app.post(path, &careless, body).await;

        let after: usize = simulated.iter().map(|node| node.requests().len()).sum();
        assert_eq!((reply.status.as_u16(), after - before), (400, 1), "{path}: {}", reply.text());
        assert_eq!(reply.header("x-should-retry"), Some("false"), "{path}");
        let error = &reply.json()["error"];
        let message = if path.starts_with("/api/") { error } else { &error["message"] };
        assert!(message.is_string(), "{path}: {}", reply.text());
    }
    let rows = app.rows_once(&careless, mistakes().len()).await;
    assert!(rows.iter().all(|row| row["total_tokens"] == 0 && row["attempts"] == 1), "{rows:?}");
    app.stop().await;
}

const PATH: &str = "/v1/responses";

fn question() -> Value {
    json!({"model": "llama3.2", "input": "hi", "max_output_tokens": 5})
}

#[actix_rt::test]
async fn a_route_that_is_nowhere_hides_no_model_from_anybody() {
    let old = |config: &mut ollama_sim::SimConfig| config.version = "0.12.0".to_owned();
    let simulated = [steady_node_with(old).await, steady_node_with(old).await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    let modern = app.user("modern").await;

    hold(&app, &keys, async || {
        let reply = app.post(PATH, &modern, question()).await;
        assert_eq!(error_of(&reply, 404)["code"], "unsupported_endpoint");
    })
    .await;

    assert_eq!(openings(&app), 0);
    let asked: usize = simulated.iter().map(|node| node.requests().iter().filter(|it| it.path == PATH).count()).sum();
    assert!(asked <= 2, "asked {asked} times what was known");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_has_the_route_is_found_and_remembered() {
    let old = steady_node_with(|config| config.version = "0.12.0".to_owned()).await;
    let new = steady_node().await;
    let (app, keys) = fleet(&[&old, &new]).await;
    for _ in 0..5 {
        let reply = app.post(PATH, &keys[0], question()).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-gateway-node")), (200, Some("b")), "{}", reply.text());
    }
    assert!(old.requests().iter().filter(|it| it.path == PATH).count() <= 1);
    app.stop().await;
}

#[actix_rt::test]
async fn a_model_that_a_node_does_not_have_is_missing_there() {
    let simulated = [steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    simulated[0].set_fault(Some(ollama_sim::Fault::Status(404)));
    let reply = app.chat(&keys[0], "llama3.2", "hi").await;
    assert_eq!(error_of(&reply, 404)["code"], "model_not_found");
    app.stop().await;
}
