//! Good users: do they get their answers, and how fast?
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use ollama_gateway::config::Config;
use ollama_sim::{SimConfig, SimModel, SimNode};
use scheduler::NodeState;
use serde_json::Value;

use crate::harness::{Reply, TestApp, TestDatabase, node, spawn_app_with, stream_body};

/// Their requests in one measurement, and how many of them run at a time.
const REQUESTS: usize = 60;
const AT_A_TIME: usize = 4;
/// Tokens of each answer: a quarter of a second at the speed of these nodes.
const TOKENS: u32 = 60;
/// How many times as long their p99 may be beside the harm.
const SLOWER: f64 = 1.5;
/// How often that is measured at most.
const TURNS: usize = 3;
/// Rounds of a comparison, of which the best counts.
const ROUNDS: usize = 5;
/// Held while a test measures.
static TURNS_OF_ALL: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node that takes its time, with everything in memory.
pub async fn steady_node() -> SimNode {
    steady_node_with(|_| {}).await
}

/// The same with settings of its own.
pub async fn steady_node_with(change: impl FnOnce(&mut SimConfig)) -> SimNode {
    let models = vec![SimModel::chat("llama3.2:latest", 5.0), SimModel::embedding("all-minilm:latest", 0.05)];
    let mut config = SimConfig { tokens_per_second: 250.0, batch_slowdown: 0.0, slots: 8, models, ..SimConfig::warm() };
    change(&mut config);
    SimNode::start(config).await.unwrap()
}

/// A gateway over these nodes, named `a`, `b` and so on, with eight slots each, and the keys of two good users.
pub async fn fleet(simulated: &[&SimNode]) -> (TestApp, Vec<String>) {
    fleet_at(simulated.iter().map(|simulated| simulated.url()), |_| {}).await
}

/// The same with nodes at these addresses, and settings of its own.
pub async fn fleet_at(
    urls: impl IntoIterator<Item = String>,
    change: impl FnOnce(&mut Config),
) -> (TestApp, Vec<String>) {
    let nodes = ["a", "b", "c", "d"].iter().zip(urls).map(|(name, url)| node(name, url, 8)).collect();
    let app = spawn_app_with(nodes, TestDatabase::sqlite(), change).await;
    let keys = vec![app.user("ann").await, app.user("bob").await];
    (app, keys)
}

/// A gateway, in this process or in one of its own.
pub trait Door {
    async fn ask(&self, path: &str, key: &str, body: Value) -> Reply;
}

impl Door for TestApp {
    async fn ask(&self, path: &str, key: &str, body: Value) -> Reply {
        self.post(path, key, body).await
    }
}

/// What the good users saw.
#[derive(Debug)]
pub struct Seen {
    pub failures: Vec<String>,
    pub p50: Duration,
    pub p99: Duration,
    pub worst: Duration,
}

/// Sends their requests.
pub async fn good_users(app: &impl Door, keys: &[String]) -> Seen {
    let requests = (0..REQUESTS).map(|index| ask(app, &keys[index % keys.len()], index));
    let asked: Vec<Result<Duration, String>> =
        futures_util::stream::iter(requests).buffer_unordered(AT_A_TIME).collect().await;
    let failures = asked.iter().filter_map(|asked| asked.clone().err()).collect();
    let mut times: Vec<Duration> = asked.into_iter().flatten().collect();
    times.sort_unstable();
    // Of so few it is the slowest but one.
    let p99 = times.len().checked_sub(2).map_or(Duration::MAX, |index| times[index]);
    let worst = times.last().copied().unwrap_or(Duration::MAX);
    let p50 = times.get(times.len() / 2).copied().unwrap_or(Duration::MAX);
    Seen { failures, p50, p99, worst }
}

async fn ask(app: &impl Door, key: &str, index: usize) -> Result<Duration, String> {
    let mut body = stream_body("llama3.2", &format!("a good question, number {index}"));
    body["max_tokens"] = TOKENS.into();
    let began = Instant::now();
    let asked = tokio::time::timeout(PATIENCE, app.ask("/v1/chat/completions", key, body)).await;
    let reply = asked.map_err(|_| format!("{index}: no answer in time"))?;
    let text = reply.text();
    if reply.status != 200 || !text.ends_with("data: [DONE]\n\n") {
        return Err(format!("{index}: {} {text}", reply.status));
    }
    Ok(began.elapsed())
}

/// Good users alone, and then beside the harm, which goes on as long as they do. Every one of their requests must succeed.
/// Whatever else the machine does hits one turn or the other, so there are more turns where the first was too slow.
pub async fn hold(app: &impl Door, keys: &[String], harm: impl AsyncFn()) {
    hold_to(app, keys, harm, |alone, beside| beside.p99 <= alone.p99.mul_f64(SLOWER)).await;
}

/// The same with a gate of its own, which compares what they saw alone and beside the harm.
pub async fn hold_to(app: &impl Door, keys: &[String], harm: impl AsyncFn(), is_within: impl Fn(&Seen, &Seen) -> bool) {
    let _turn = TURNS_OF_ALL.read().await;
    measure(app, keys, async || good_users(app, keys).await, async || beside(app, keys, &harm).await, is_within).await;
}

/// As [`hold`], where `with` brings the harm about, asks the good users, and ends the harm.
pub async fn hold_by(app: &impl Door, keys: &[String], with: impl AsyncFn() -> Seen) {
    let _turn = TURNS_OF_ALL.read().await;
    let is_within = |alone: &Seen, beside: &Seen| beside.p99 <= alone.p99.mul_f64(SLOWER);
    measure(app, keys, async || good_users(app, keys).await, with, is_within).await;
}

/// The same for harm that keeps the machine busy: no other test measures beside it, and good users are not alone before, but
/// beside `control`, which costs the machine as much and this gateway nothing.
pub async fn hold_against(
    app: &impl Door,
    keys: &[String],
    control: impl AsyncFn(),
    harm: impl AsyncFn(),
    is_within: impl Fn(&Seen, &Seen) -> bool,
) {
    let _turn = TURNS_OF_ALL.write().await;
    let with = async || beside(app, keys, &harm).await;
    measure(app, keys, async || beside(app, keys, &control).await, with, is_within).await;
}

async fn measure(
    app: &impl Door,
    keys: &[String],
    without: impl AsyncFn() -> Seen,
    with: impl AsyncFn() -> Seen,
    is_within: impl Fn(&Seen, &Seen) -> bool,
) {
    // Speeds are learned first.
    good_users(app, keys).await;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        let alone = without().await;
        let beside = with().await;
        assert_eq!(alone.failures, [] as [&str; 0], "alone");
        assert_eq!(beside.failures, [] as [&str; 0], "beside the harm");
        if is_within(&alone, &beside) {
            return;
        }
        turns.push((alone, beside));
    }
    panic!("alone and beside the harm, turn by turn: {turns:?}");
}

/// Times of good users beside the harm and alone, in rounds that alternate. The best round of each counts: whatever else
/// the machine does only ever adds to a time, while the harm goes on in every round beside it. No other test measures at
/// the time. Every request must succeed.
pub async fn compare<T>(app: &impl Door, keys: &[String], harm: impl Fn() -> T) -> Compared {
    let _turn = TURNS_OF_ALL.write().await;
    // Speeds are learned first.
    good_users(app, keys).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let alone = good_users(app, keys).await;
        let beside = {
            let _harm = harm();
            good_users(app, keys).await
        };
        assert_eq!(alone.failures, [] as [&str; 0], "alone");
        assert_eq!(beside.failures, [] as [&str; 0], "beside the harm");
        rounds.push((alone, beside));
    }
    println!("alone and beside the harm: {rounds:?}");
    let best = |of: fn(&Seen) -> Duration| {
        let alone = rounds.iter().map(|(alone, _)| of(alone)).min().unwrap();
        let beside = rounds.iter().map(|(_, beside)| of(beside)).min().unwrap();
        (beside, beside.as_secs_f64() / alone.as_secs_f64())
    };
    Compared { p50: best(|seen| seen.p50).1, p99: best(|seen| seen.p99).1, worst: best(|seen| seen.worst).0 }
}

/// The best round of a comparison.
#[derive(Debug)]
pub struct Compared {
    /// How many times as long as alone.
    pub p50: f64,
    pub p99: f64,
    /// The slowest answer beside the harm.
    pub worst: Duration,
}

/// Good users beside the harm.
pub async fn beside(app: &impl Door, keys: &[String], harm: impl AsyncFn()) -> Seen {
    let for_ever = std::pin::pin!(async {
        loop {
            harm().await;
        }
    });
    match select(std::pin::pin!(good_users(app, keys)), for_ever).await {
        Either::Left((seen, _)) => seen,
        Either::Right((never, _)) => never,
    }
}

/// The states of the nodes.
pub fn states(app: &TestApp) -> Vec<NodeState> {
    app.dispatcher.read(|scheduler| scheduler.nodes().iter().map(|node| node.state).collect())
}

/// How often the breakers of the nodes opened.
pub fn openings(app: &TestApp) -> u64 {
    app.dispatcher.read(|scheduler| scheduler.nodes().iter().map(|node| node.transitions.open).sum())
}

/// A chat with something in it that a test looks for.
pub fn marked(marker: &str) -> Value {
    let mut body = stream_body("llama3.2", marker);
    body["max_tokens"] = 5.into();
    body
}
