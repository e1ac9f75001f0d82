//! What happens when a node is killed, freezes or becomes slow under load? Nodes that are processes of their own, where
//! a signal is to hit them.
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ollama_sim::{SimConfig, SimNode};
use scheduler::{Event, NodeId, NodeState, NodeView};
use serde_json::Value;

use crate::harness::{
    PATIENCE, Reply, TestApp, TestDatabase, chat_body, eventually, fast_node, let_pass, node, spawn_app,
    spawn_app_with, stream_body,
};

/// Where a node listens that is a process of its own; the test binary runs as one where this is set.
const LISTEN: &str = "TEST_NODE_LISTEN";

/// Reads a prompt token in 0.4 ms and writes a token in 10 ms.
fn node_config() -> SimConfig {
    SimConfig { tokens_per_second: 40.0, slots: 4, batch_slowdown: 0.0, ..SimConfig::warm() }
}

/// The whole of a node process, which ends with its standard input.
#[actix_rt::test]
#[ignore = "it is no test, but the node that the tests of this module run as a process"]
async fn node_process() {
    let Ok(listen) = std::env::var(LISTEN) else { return };
    let simulated = SimNode::start(SimConfig { listen: listen.parse().unwrap(), ..node_config() }).await.unwrap();
    println!("\nlistening on {}", simulated.addr());
    let wait = || std::io::stdin().read_line(&mut String::new());
    tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
}

/// A simulated node in a process of its own. Dropping it kills it.
struct NodeProcess {
    child: Child,
    address: SocketAddr,
}

impl NodeProcess {
    async fn start(listen: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "grey::node_process"]).env(LISTEN, listen);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let listening = tokio::task::spawn_blocking(move || {
            let mut lines = output.lines().map(Result::unwrap);
            lines.find_map(|line| Some(line.strip_prefix("listening on ")?.parse().unwrap()))
        });
        let address = tokio::time::timeout(PATIENCE, listening).await.unwrap().unwrap().expect("the node listens");
        Self { child, address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGKILL, and the same node again, on the same port.
    fn kill(mut self) -> SocketAddr {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.address
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn view(app: &TestApp, name: &str) -> NodeView {
    app.dispatcher.read(|scheduler| scheduler.nodes().into_iter().find(|node| node.name == name).unwrap())
}

/// A gateway over a node that is a process, and one that is not and without delays.
async fn spawn_over(process: &NodeProcess, other: &SimNode) -> TestApp {
    let nodes = vec![node("process", process.url(), 4), node("other", other.url(), 4)];
    spawn_app_with(nodes, TestDatabase::sqlite(), |config| config.health.probe_timeout_ms = 300).await
}

/// Two streams that have begun and two plain answers that have not, on the first node; then `strike`. The answers that
/// had not begun, the last events of the streams, and how long it took until all knew.
async fn strike(app: &TestApp, key: &str, strike: impl FnOnce()) -> (Vec<Reply>, Vec<String>, Duration) {
    let drain = |on| app.dispatcher.report(Event::Drain { node: NodeId(1), on });
    drain(true);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = app.open_stream(key, &stream_body("llama3.2", "[[n=3000]]")).await;
        assert!(stream.next().await.is_some());
        streams.push(stream);
    }
    let plain = join_all((0..2).map(|_| app.chat(key, "llama3.2", "[[n=200]]")));
    let striking = async {
        eventually("all four run", || view(app, "process").in_flight == 4).await;
        drain(false);
        strike();
        Instant::now()
    };
    let ending = async { join_all(streams.into_iter().map(|stream| stream.rest())).await };
    let (plain, struck, streams) = tokio::join!(plain, striking, ending);
    let took = struck.elapsed();
    (plain, streams.into_iter().map(|mut events| events.pop().unwrap()).collect(), took)
}

#[track_caller]
fn assert_moved_or_told(plain: &[Reply], streams: &[String]) {
    for reply in plain {
        let how = (reply.header("x-gateway-node"), reply.header("x-gateway-attempts"));
        assert_eq!((reply.status.as_u16(), how), (200, (Some("other"), Some("2"))), "{}", reply.text());
    }
    for last in streams {
        let error: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("no error: {last}"));
        assert_eq!(error["error"]["code"], "upstream_error", "{last}");
    }
}

/// The first node is back: at first it gets one request at a time, and more as they are answered.
async fn assert_comes_back_slowly(app: &TestApp, key: &str) {
    eventually("it is back", || view(app, "process").state != NodeState::Down).await;
    app.dispatcher.report(Event::Drain { node: NodeId(1), on: true });
    // 600 ms to read.
    let body = chat_body("llama3.2", &format!("[[n=10]]{}", "word ".repeat(1200)));
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let asking = join_all((0..6).map(async |_| app.open_stream(key, &streamed).await.rest().await));
    let watching = async {
        eventually("one runs", || view(app, "process").in_flight == 1).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            assert_eq!(view(app, "process").in_flight, 1, "not all at once");
            let_pass(Duration::from_millis(10)).await;
        }
        eventually("several run", || view(app, "process").in_flight >= 2).await;
    };
    let (all, ()) = tokio::join!(asking, watching);
    assert!(all.iter().all(|events| events.last().unwrap() == "[DONE]"));
    assert_eq!(view(app, "process").state, NodeState::Up);
    app.dispatcher.report(Event::Drain { node: NodeId(1), on: false });
}

#[actix_rt::test]
async fn of_a_node_that_is_killed_what_had_not_begun_goes_elsewhere_and_streams_end_with_an_error() {
    let (process, other) = (NodeProcess::start("127.0.0.1:0").await, fast_node().await);
    let app = spawn_over(&process, &other).await;
    let key = app.user("ann").await;
    let mut killed = None;

    let (plain, streams, took) = strike(&app, &key, || killed = Some(process.kill())).await;

    assert_moved_or_told(&plain, &streams);
    assert!(took < Duration::from_secs(3), "{took:?}");
    eventually("it is down", || view(&app, "process").state == NodeState::Down).await;
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.header("x-gateway-attempts"), Some("1"));
    let again = NodeProcess::start(&killed.unwrap().to_string()).await;
    assert_comes_back_slowly(&app, &key).await;
    app.stop().await;
    drop(again);
}

#[actix_rt::test]
async fn of_a_node_that_freezes_what_had_not_begun_goes_elsewhere_and_streams_end_with_an_error_in_seconds() {
    let (process, other) = (NodeProcess::start("127.0.0.1:0").await, fast_node().await);
    let app = spawn_over(&process, &other).await;
    let key = app.user("ann").await;

    let (plain, streams, took) = strike(&app, &key, || process.signal("-STOP")).await;

    assert_moved_or_told(&plain, &streams);
    // Four seconds without a token of a node that answers no probes.
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(view(&app, "process").state, NodeState::Down);
    assert_eq!(app.chat(&key, "llama3.2", "hi").await.header("x-gateway-attempts"), Some("1"));
    process.signal("-CONT");
    assert_comes_back_slowly(&app, &key).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_client_that_does_not_read_its_stream_takes_no_node_from_the_others() {
    let simulated = SimNode::start(SimConfig { slots: 2, ..SimConfig::warm() }).await.unwrap();
    let app = spawn_app(vec![node("a", simulated.url(), 2)]).await;
    let (sleeper, ann) = (app.user("sleeper").await, app.user("ann").await);
    let unread = app.send_and_hold(&sleeper, &stream_body("llama3.2", "[[n=400000]]")).await;
    eventually("it runs", || view(&app, "a").in_flight == 1).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(13) {
        let_pass(Duration::from_millis(500)).await;
        let node = view(&app, "a");
        assert_eq!((node.state, node.in_flight), (NodeState::Up, 1), "after {:?}", began.elapsed());
    }
    assert_eq!(app.chat(&ann, "llama3.2", "hi").await.status, 200);
    drop(unread);
    eventually("its slot is free", || view(&app, "a").in_flight == 0).await;
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_becomes_ten_times_slower_while_it_serves_gets_less_of_the_new_work_and_fails_nobody() {
    let config = SimConfig { slots: 2, ..node_config() };
    let (grey, other) = (SimNode::start(config.clone()).await.unwrap(), SimNode::start(config).await.unwrap());
    let app = spawn_app(vec![node("grey", grey.url(), 2), node("other", other.url(), 2)]).await;
    let keys = [app.user("u0").await, app.user("u1").await, app.user("u2").await, app.user("u3").await];
    let stop = std::cell::Cell::new(false);
    let users = join_all(keys.iter().map(async |key| {
        while !stop.get() {
            let events = app.open_stream(key, &stream_body("llama3.2", "[[n=30]]")).await.rest().await;
            assert_eq!(events.last().unwrap(), "[DONE]", "{events:?}");
        }
    }));
    let watching = async {
        let counts = || (grey.requests().len() as f64, other.requests().len() as f64);
        let share_over = async |millis: u64| {
            let before = counts();
            let_pass(Duration::from_millis(millis)).await;
            let (grey, other) = (counts().0 - before.0, counts().1 - before.1);
            grey / (grey + other)
        };
        share_over(600).await;
        let healthy = share_over(2000).await;
        grey.slow_down(10.0);
        share_over(4000).await;
        let slow = share_over(3000).await;
        stop.set(true);
        (healthy, slow)
    };
    let ((healthy, slow), _) = tokio::join!(watching, users);

    assert!((0.3..0.7).contains(&healthy), "both are alike: {healthy}");
    assert!(slow < 0.25, "{slow} of {healthy}");
    assert_eq!((view(&app, "grey").state, view(&app, "grey").failed), (NodeState::Up, 0), "slow is not broken");
    app.stop().await;
}
