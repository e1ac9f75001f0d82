//! The gateway dies at any instant.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ollama_sim::{SimConfig, SimNode};
use serde_json::json;

use crate::gateway::{Home, wait_for};
use crate::load::Load;
use crate::oracle::{TOKENS_PER_SECOND, Verdict, compare};
use crate::postgres::Postgres;
use crate::run::{Random, keep, number};

/// Kills on one database, before all of it is compared and a new one begins.
const ROUND: u64 = 25;

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Nodes that take a while for what they do.
pub async fn nodes(count: usize) -> Vec<SimNode> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        let config =
            SimConfig { tokens_per_second: TOKENS_PER_SECOND, slots: 8, batch_slowdown: 0.0, ..SimConfig::fast() };
        nodes.push(SimNode::start(config).await.unwrap());
    }
    nodes
}

/// One gateway, killed so many times.
async fn round(seed: u64, kills: u64, postgres: Option<&Postgres>) -> Verdict {
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(2).await;
    let urls: Vec<String> = nodes.iter().map(SimNode::url).collect();
    let database = match postgres {
        Some(postgres) => postgres.new_database().await,
        None => format!("sqlite://{}", folder.path().join("gateway.db").display()),
    };
    let home = Home::new(folder.path(), &urls, &database);
    let mut gateway = home.start().await;
    let key = gateway.user("ann").await;
    let (mut sent, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..kills {
        let load = Load::start(gateway.address, &key, 8, &mut random);
        tokio::time::sleep(Duration::from_millis(50 + random.below(700))).await;
        gateway.kill();
        killed.push(now_ms());
        sent.extend(load.finish().await);
        gateway = home.start().await;
    }
    if postgres.is_some() {
        wait_for("the outbox is empty", async || gateway.metric("gateway_usage_outbox_rows").await == 0.0).await;
    }
    gateway.stop().await;
    compare(&database, &nodes, &sent, &killed).await
}

async fn kill_many(name: &str, kills: u64, postgres: Option<&Postgres>) {
    let seed = Random::seed();
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut total, mut left, began) = (Verdict::default(), kills, Instant::now());
    while left > 0 {
        let verdict = round(random.next(), left.min(ROUND), postgres).await;
        total.add(&verdict);
        left -= left.min(ROUND);
        total.assert_clean(seed);
    }
    let seconds = began.elapsed().as_secs();
    keep(name, &json!({"seed": seed.to_string(), "kills": kills, "seconds": seconds, "verdict": total}));
    assert!(total.acknowledged > kills, "there was load: {total:?}");
}

fn kills() -> u64 {
    number("CHAOS_KILLS").unwrap_or(6)
}

#[actix_rt::test]
async fn a_gateway_that_is_killed_at_any_instant_loses_doubles_and_garbles_nothing() {
    kill_many("kills-sqlite", kills().div_ceil(2), None).await;
}

#[actix_rt::test]
async fn a_gateway_in_front_of_postgres_that_is_killed_at_any_instant_loses_doubles_and_garbles_nothing() {
    let Some(postgres) = Postgres::start(false).await else { return };
    kill_many("kills-postgres", kills() / 2, Some(&postgres)).await;
}

/// Requests a minute of the user who has that limit.
const LIMIT: usize = 30;

#[actix_rt::test]
async fn a_gateway_that_is_killed_gives_no_admission_back() {
    let seed = Random::seed();
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    // As fast as can be, so that the kill meets requests whose first byte is just out.
    let node = SimNode::start(SimConfig { slots: 8, ..SimConfig::fast() }).await.unwrap();
    let database = format!("sqlite://{}", folder.path().join("gateway.db").display());
    let home = Home::new(folder.path(), &[node.url()], &database);
    let mut gateway = home.start().await;
    let key = gateway.user_with("ann", json!({"requests_per_minute": LIMIT})).await;
    let began = Instant::now();
    let mut seen = 0;
    while began.elapsed() < Duration::from_secs(8) {
        let load = Load::start(gateway.address, &key, 2, &mut random);
        tokio::time::sleep(Duration::from_millis(150 + random.below(150))).await;
        gateway.kill();
        seen += load.finish().await.iter().filter(|sent| sent.has_begun).count();
        gateway = home.start().await;
    }
    gateway.settle().await;
    let left = gateway.ask("POST", "/v1/chat/completions", &key, &crate::load::chat("hi")).await;
    gateway.stop().await;
    assert!(seen <= LIMIT, "CHAOS_SEED={seed}: {seen} answers began within a minute");
    assert!(seen > LIMIT / 2 && left.status == 429, "there was load: {seen}, {}", left.body);
}
