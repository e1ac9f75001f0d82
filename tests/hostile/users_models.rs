//! A user asks for one model after another, so that nodes unload what others use.
use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::{Either, join, join_all, select};
use ollama_gateway::fleet::NodeSettings;
use ollama_sim::{SimConfig, SimModel, SimNode};
use serde_json::Value;

use crate::harness::{TestApp, TestDatabase, chat_body, let_pass, node, spawn_app_with};

/// Each model takes this much memory, and half a second to load.
const MODEL_GB: f64 = 5.0;
const OTHERS: [&str; 4] = ["one", "two", "three", "four"];
/// How long the victim's answers are counted.
const WHILE: Duration = Duration::from_secs(10);
/// What is left to the victim at least, of what it gets alone.
const LEFT: f64 = 0.4;
/// How many times as long a quiet user's p99 may be: G5 of the scheduler's fleet test.
const QUIET: f64 = 3.5;
/// A request for a swap that takes longer is given up.
const SWAPPERS_PATIENCE: Duration = Duration::from_secs(5);
/// Requests of each user at a time.
const AT_A_TIME: usize = 4;

/// A node with room for so many models.
async fn node_with_room(models: u32) -> (SimNode, NodeSettings) {
    let memory_gb = f64::from(models) * MODEL_GB + 1.0;
    let names = OTHERS.iter().chain(["llama3.2"].iter());
    let config = SimConfig {
        tokens_per_second: 100.0,
        batch_slowdown: 0.0,
        slots: 2,
        vram_bytes: (memory_gb * 1e9) as u64,
        load_bytes_per_second: 10e9,
        load_overhead: Duration::ZERO,
        models: names.map(|name| SimModel::chat(&format!("{name}:latest"), MODEL_GB)).collect(),
        ..SimConfig::default()
    };
    let simulated = SimNode::start(config).await.unwrap();
    let settings = NodeSettings { vram_gb: Some(memory_gb), ..node("a", simulated.url(), 2) };
    (simulated, settings)
}

fn ask_for(model: &str, tokens: u32) -> Value {
    let mut body = chat_body(model, &format!("[[n={tokens}]]"));
    body["max_tokens"] = tokens.into();
    body
}

/// How many answers the victim gets in [`WHILE`].
async fn answers(app: &TestApp, key: &str) -> usize {
    let end = Instant::now() + WHILE;
    let ask = async || {
        let mut answered = 0;
        while Instant::now() < end {
            let reply = app.post("/v1/chat/completions", key, ask_for("llama3.2", 20)).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            answered += 1;
        }
        answered
    };
    join_all((0..AT_A_TIME).map(|_| ask())).await.into_iter().sum()
}

/// What a quiet user waits in [`WHILE`], who has one request at a time: the slowest but one.
async fn quiet(app: &TestApp, key: &str) -> Duration {
    let end = Instant::now() + WHILE;
    let mut times = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        let reply = app.post("/v1/chat/completions", key, ask_for("llama3.2", 5)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        times.push(began.elapsed());
        let_pass(Duration::from_millis(50)).await;
    }
    times.sort_unstable();
    times[times.len().saturating_sub(2)]
}

/// Asks for one token of one model after another, for ever.
async fn swap(app: &TestApp, key: &str, next: &Cell<usize>, answered: &Cell<usize>) -> std::convert::Infallible {
    loop {
        let turn = next.replace(next.get() + 1);
        let asking = app.post("/v1/chat/completions", key, ask_for(OTHERS[turn % OTHERS.len()], 1));
        // How long a swap waits is not what is measured here.
        if let Ok(reply) = tokio::time::timeout(SWAPPERS_PATIENCE, asking).await {
            answered.set(answered.get() + usize::from(reply.status == 200));
        }
    }
}

#[actix_rt::test]
async fn a_user_who_swaps_models_leaves_the_others_their_share() {
    let (simulated, settings) = node_with_room(2).await;
    let app = spawn_app_with(vec![settings], TestDatabase::sqlite(), |_| {}).await;
    let (victim, swapper) = (app.user("victim").await, app.user("swapper").await);
    let quiet_user = app.user("quiet").await;
    let (alone, quiet_alone) = join(answers(&app, &victim), quiet(&app, &quiet_user)).await;

    let (next, swapped) = (Cell::new(0), Cell::new(0));
    let swaps = join_all((0..AT_A_TIME).map(|_| swap(&app, &swapper, &next, &swapped)));
    let measuring = join(answers(&app, &victim), quiet(&app, &quiet_user));
    let (beside, quiet_beside) = match select(std::pin::pin!(measuring), std::pin::pin!(swaps)).await {
        Either::Left((measured, _)) => measured,
        Either::Right((never, _)) => match never.first() {
            Some(never) => match *never {},
            None => unreachable!("there are swappers"),
        },
    };

    println!("{alone} alone, {beside} beside {} swaps", swapped.get());
    assert!(beside as f64 >= LEFT * alone as f64, "{beside} of {alone} answers are left to the victim");
    println!("a quiet user waits {quiet_alone:?} alone, {quiet_beside:?} beside them");
    assert!(quiet_beside <= quiet_alone.mul_f64(QUIET), "{quiet_beside:?} beside the swaps, {quiet_alone:?} without");
    assert!(swapped.get() > 0 && simulated.stats().loads > 1, "nothing was swapped: {:?}", simulated.stats());
    app.stop().await;
}
