//! Two gateways share a day's tokens, and one of them is killed again and again.
use std::time::Duration;

use ollama_sim::{SimConfig, SimNode};
use sea_orm::{ConnectionTrait, Database, Statement};
use serde_json::json;

use crate::gateway::{Gateway, Home, wait_for};
use crate::load::{Load, chat};
use crate::postgres::Postgres;
use crate::run::{Random, number};

const LIMIT: u64 = 100_000;
const LEASE_SECONDS: u64 = 10;

async fn tokens_used(database: &str) -> u64 {
    let db = Database::connect(database).await.unwrap();
    let sum = "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint FROM usage";
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sum)).await.unwrap().unwrap();
    let sum: i64 = row.try_get_by_index(0).unwrap();
    db.close().await.unwrap();
    sum.try_into().unwrap()
}

/// Lets clients ask until one is refused, for now or for today.
async fn exhaust(gateway: &Gateway, key: &str, random: &mut Random, is_for_today: bool) {
    let load = Load::start(gateway.address, key, 8, random);
    let mut body = chat("hi");
    body["max_tokens"] = 1000.into();
    wait_for("the limit is used up", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answer = gateway.ask("POST", "/v1/chat/completions", key, &body).await;
        answer.status == 429 && (!is_for_today || answer.body.contains("insufficient_quota"))
    })
    .await;
    load.finish().await;
}

#[actix_rt::test]
async fn two_gateways_of_which_one_is_killed_again_and_again_never_go_over_a_limit_together() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let seed = Random::seed();
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let speed = SimConfig { tokens_per_second: 2_000.0, slots: 8, batch_slowdown: 0.0, ..SimConfig::fast() };
    let node = SimNode::start(speed).await.unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let database = postgres.new_database().await;
    let homes = folders.each_ref().map(|folder| {
        let mut home = Home::new(folder.path(), &[node.url()], &database);
        home.set("DATABASE__LEASE_SECONDS", &LEASE_SECONDS.to_string());
        home
    });
    let steady = homes[0].start().await;
    let key = steady.user_with("ann", json!({"tokens_per_day": LIMIT})).await;
    let mut killed = homes[1].start().await;
    // Few enough that much of the limit is left for what comes after them.
    let kills = number("CHAOS_KILLS").unwrap_or(6).div_ceil(3).min(10);
    let steady_load = Load::start(steady.address, &key, 1, &mut random);
    for _ in 0..kills {
        let load = Load::start(killed.address, &key, 2, &mut random);
        tokio::time::sleep(Duration::from_millis(200 + random.below(500))).await;
        killed.kill();
        load.finish().await;
        killed = homes[1].start().await;
    }
    // Once more, and for longer than its lease lasts.
    let load = Load::start(killed.address, &key, 4, &mut random);
    tokio::time::sleep(Duration::from_millis(500)).await;
    killed.kill();
    load.finish().await;
    exhaust(&steady, &key, &mut random, false).await;
    let before = tokens_used(&database).await;
    tokio::time::sleep(Duration::from_secs(LEASE_SECONDS + 2)).await;
    exhaust(&steady, &key, &mut random, false).await;
    let given_back = tokens_used(&database).await - before;
    // What the dead one had declared, and has still in its file, is known when it is back.
    let killed = homes[1].start().await;
    exhaust(&steady, &key, &mut random, true).await;
    steady_load.finish().await;
    for gateway in [&steady, &killed] {
        wait_for("the outbox is empty", async || gateway.metric("gateway_usage_outbox_rows").await == 0.0).await;
    }
    let used = tokens_used(&database).await;
    println!("{used} of {LIMIT} tokens, {given_back} of them given back by the dead; {} kills", kills + 1);
    assert!(used <= LIMIT, "CHAOS_SEED={seed}: {used}");
    // Less is left than one more request would need.
    assert!(used >= LIMIT * 97 / 100, "CHAOS_SEED={seed}: {used}");
    assert!(given_back > 0, "CHAOS_SEED={seed}");
    killed.stop().await;
    steady.stop().await;
}
