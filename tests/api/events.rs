//! Listening to what happens: the fleet as it stands, a tick each second, and changes as they happen.
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    ADMIN_KEY, PATIENCE, TestApp, TestDatabase, chat_body, cold_node, error_of, eventually, fast_node, let_pass, node,
    spawn_app, spawn_app_with, stream_body, wait_for,
};
use crate::shutdown::gated_node;

/// Somebody who listens.
pub struct Events {
    response: awc::ClientResponse,
    held: String,
    heard: VecDeque<(String, Value)>,
}

impl Events {
    pub async fn of(app: &TestApp) -> Self {
        let request = awc::Client::builder().timeout(PATIENCE).finish().get(app.url("/admin/events"));
        let response = request.bearer_auth(ADMIN_KEY).send().await.unwrap();
        assert_eq!(response.status(), 200);
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(response.headers().get(name).unwrap(), value);
        }
        Self { response, held: String::new(), heard: VecDeque::new() }
    }

    /// The next event and its data; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        while self.heard.is_empty() {
            let part = tokio::time::timeout(PATIENCE, self.response.next()).await.expect("an event comes in time")?;
            self.held.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
            while let Some(end) = self.held.find("\n\n") {
                let block: String = self.held.drain(..end + 2).collect();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let Some(name) = field("event") else { continue };
                let data: Value = serde_json::from_str(field("data").unwrap()).unwrap();
                if name == "change" {
                    assert_eq!(field("id").unwrap(), data["id"].to_string());
                }
                self.heard.push_back((name.to_owned(), data));
            }
        }
        self.heard.pop_front()
    }

    /// The data of the next event of this name.
    pub async fn next_of(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.next().await.unwrap_or_else(|| panic!("the stream ended before a {wanted}"));
            if name == wanted {
                return data;
            }
        }
    }

    /// The next change of this kind.
    pub async fn change(&mut self, kind: &str) -> Value {
        loop {
            let change = self.next_of("change").await;
            if change["kind"] == kind {
                return change;
            }
        }
    }
}

async fn post(app: &TestApp, path: &str) {
    assert_eq!(app.post(path, ADMIN_KEY, json!({})).await.status, 200);
}

#[actix_rt::test]
async fn a_listener_gets_the_fleet_first_and_then_ticks_with_what_runs_and_waits() {
    let (scripted, gate) = gated_node().await;
    let app = spawn_app(vec![node("a", scripted.url(), 1)]).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let mut running = app.open_stream(&ann, &stream_body("llama3.2", "hi")).await;
    running.next().await;
    let waiting = app.send_and_hold(&bob, &chat_body("llama3.2", "hi")).await;
    eventually("one waits", || app.dispatcher.read(|scheduler| scheduler.queued()) == 1).await;

    let mut events = Events::of(&app).await;
    let (name, snapshot) = events.next().await.unwrap();
    let tick = events.next_of("tick").await;

    assert_eq!(name, "snapshot");
    let kinds: Vec<&str> =
        snapshot["changes"].as_array().unwrap().iter().map(|change| change["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["node_joined", "node_up"]);
    assert!(tick.get("changes").is_none() && tick["tick"] == 1, "{tick}");
    for live in [&snapshot, &tick] {
        let node = &live["nodes"][0];
        let seen = ["name", "state", "running", "waiting", "slots_used", "last_error"].map(|field| node[field].clone());
        assert_eq!(seen, [json!("a"), json!("up"), json!(1), json!(1), json!(1), json!(null)]);
        assert!(node["since"].is_string(), "{node}");
        assert_eq!((&node["models"][0]["slots_used"], &node["models"][0]["slots_total"]), (&json!(1), &json!(1)));
        let (runs, waits) = (&live["running"][0], &live["waiting"][0]);
        assert_eq!((&runs["user_id"], &runs["node"], &runs["state"]), (&json!("ann"), &json!("a"), &json!("running")));
        assert_eq!((&waits["user_id"], &waits["position"], &waits["node"]), (&json!("bob"), &json!(1), &json!(null)));
        assert!(waits["waited_ms"].is_u64() && waits["summary"].as_str().unwrap().starts_with("waits"), "{waits}");
        assert_eq!((&live["running_left_out"], &live["waiting_left_out"]), (&json!(0), &json!(0)));
    }
    gate.add_permits(2);
    running.rest().await;
    drop(waiting);
    loop {
        let tick = events.next_of("tick").await;
        if tick["running"] == json!([]) && tick["waiting"] == json!([]) {
            break;
        }
    }
    app.stop().await;
}

#[actix_rt::test]
async fn changes_are_told_as_they_happen_with_what_was_before_and_why() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 1)]).await;
    let (mut events, mut other) = (Events::of(&app).await, Events::of(&app).await);
    let snapshot = events.next_of("snapshot").await;

    post(&app, "/admin/nodes/a/drain").await;
    let drained = events.change("node_draining").await;
    post(&app, "/admin/nodes/a/undrain").await;
    let back = events.change("node_undrained").await;
    let url = simulated.url();
    simulated.stop().await;
    let down = events.change("node_down").await;
    app.post("/admin/nodes", ADMIN_KEY, json!({"name": "b", "url": url})).await;
    let joined = events.change("node_joined").await;

    let last = snapshot["changes"].as_array().unwrap().last().unwrap()["id"].as_u64().unwrap();
    assert_eq!(drained["id"], last + 1, "none is missed and none told twice");
    let states = |change: &Value| [change["state_before"].clone(), change["state"].clone(), change["node"].clone()];
    assert_eq!(states(&drained), ["up", "draining", "a"]);
    assert_eq!(states(&back), ["draining", "up", "a"]);
    assert_eq!((&down["state"], &down["count"]), (&json!("down"), &json!(1)));
    assert!(!down["why"].as_str().unwrap().is_empty() && down["since"].is_string(), "{down}");
    assert_eq!((&joined["node"], &joined["state"]), (&json!("b"), &json!(null)));
    let listed = app.get("/admin/nodes/a", ADMIN_KEY).await.json();
    assert_eq!(listed["since"], down["since"], "since when a node is down is when it went down");
    let again = other.change("node_draining").await;
    assert_eq!(again, drained, "everybody hears the same");
    app.stop().await;
}

#[actix_rt::test]
async fn models_that_come_and_go_are_told() {
    let simulated = cold_node().await;
    let app = spawn_app_with(vec![node("a", simulated.url(), 1)], TestDatabase::sqlite(), |config| {
        config.health.models_interval_seconds = 1;
    })
    .await;
    let mut events = Events::of(&app).await;
    let gone = app.delete("/admin/models/llama3.2?nodes=a", ADMIN_KEY).await;
    assert!(gone.status.is_success(), "{}", gone.text());
    let change = events.change("models_gone").await;
    assert_eq!((&change["node"], &change["models"]), (&json!("a"), &json!(["llama3.2:latest"])));
    app.stop().await;
}

#[actix_rt::test]
async fn nothing_is_made_while_nobody_listens() {
    let app = spawn_app(vec![]).await;
    let mut events = Events::of(&app).await;
    let before = events.next_of("tick").await["tick"].as_u64().unwrap();
    drop(events);
    let_pass(Duration::from_millis(3500)).await;

    let mut events = Events::of(&app).await;

    let after = events.next_of("tick").await["tick"].as_u64().unwrap();
    assert!(after <= before + 2, "one may have been made before the first left: {before}, {after}");
    app.stop().await;
}

#[actix_rt::test]
async fn as_many_may_listen_as_there_are_places_for_and_who_leaves_makes_room() {
    let app = spawn_app(vec![]).await;
    let mut all = Vec::new();
    for _ in 0..32 {
        all.push(Events::of(&app).await);
    }
    let refused = app.get("/admin/events", ADMIN_KEY).await;
    assert_eq!(error_of(&refused, 503)["code"], "server_is_overloaded");
    assert_eq!(refused.header("retry-after"), Some("5"));
    all.pop();
    wait_for("there is room", async || {
        let request = awc::Client::new().get(app.url("/admin/events")).bearer_auth(ADMIN_KEY);
        request.send().await.unwrap().status() == 200
    })
    .await;
    let key = app.user("ann").await;
    error_of(&app.get("/admin/events", &key).await, 403);
    error_of(&app.send_with(awc::http::Method::GET, "/admin/events", &[], "").await, 401);
    app.stop().await;
}

#[actix_rt::test]
async fn whoever_does_not_read_holds_up_neither_others_nor_the_stop() {
    let app = spawn_app(vec![]).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut wedged = socket.connect(app.address).await.unwrap();
    let request = format!("GET /admin/events HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {ADMIN_KEY}\r\n\r\n");
    wedged.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    wedged.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");

    let mut events = Events::of(&app).await;
    events.next_of("tick").await;
    let began = Instant::now();
    for _ in 0..3 {
        events.next_of("tick").await;
    }

    let took = began.elapsed();
    assert!((2500..4500).contains(&took.as_millis()), "three ticks took {took:?}");
    app.stop().await;
    drop(wedged);
}

#[actix_rt::test]
async fn a_gateway_that_stops_says_so_to_whoever_listens() {
    let app = spawn_app_with(vec![], TestDatabase::sqlite(), |config| config.server.drain_seconds = 60).await;
    let mut all = [Events::of(&app).await, Events::of(&app).await];
    app.begin_stop();
    for events in &mut all {
        assert_eq!(events.next_of("end").await, json!({"reason": "server_shutting_down"}));
        assert_eq!(events.next().await, None);
    }
    app.stop().await;
}

#[actix_rt::test]
async fn of_a_thousand_open_requests_a_tick_shows_some_and_counts_the_others() {
    const RUNNING: usize = 300;
    const ALL: usize = 1_000;
    let (scripted, gate) = gated_node().await;
    let slots = u32::try_from(RUNNING).unwrap();
    let app = spawn_app_with(vec![node("a", scripted.url(), slots)], TestDatabase::sqlite(), |config| {
        config.queue.max_queued_per_user = ALL;
        config.server.drain_seconds = 1;
    })
    .await;
    let key = app.user("ann").await;
    let mut events = Events::of(&app).await;
    let mut open = Vec::new();
    for _ in 0..ALL {
        open.push(app.send_and_hold(&key, &stream_body("llama3.2", "hi")).await);
    }
    let counts = || app.dispatcher.read(|scheduler| (scheduler.in_flight(), scheduler.queued()));
    eventually("all are there", || counts() == (RUNNING, ALL - RUNNING)).await;
    events.heard.clear();
    let began = Instant::now();

    let mut tick = events.next_of("tick").await;
    while tick["running_left_out"].as_u64() != Some(RUNNING as u64 - 200)
        || tick["waiting_left_out"] != ALL - RUNNING - 200
    {
        assert!(began.elapsed() < PATIENCE, "{} {}", tick["running_left_out"], tick["waiting_left_out"]);
        tick = events.next_of("tick").await;
    }

    assert_eq!((tick["running"].as_array().unwrap().len(), tick["waiting"].as_array().unwrap().len()), (200, 200));
    let positions: Vec<u64> =
        tick["waiting"].as_array().unwrap().iter().filter_map(|it| it["position"].as_u64()).collect();
    assert_eq!(positions, (1..=200).collect::<Vec<u64>>());
    assert!(tick.to_string().len() < 300_000, "{}", tick.to_string().len());
    drop((open, gate));
    eventually("nothing is open", || counts() == (0, 0)).await;
    app.stop().await;
}
