//! Postgres is killed, frozen, restarted, cut off, or hangs up in the middle of a commit.
use std::time::{Duration, Instant};

use ollama_sim::SimNode;
use serde_json::json;

use crate::gateway::{Home, wait_for};
use crate::kills::{nodes, now_ms};
use crate::load::Load;
use crate::oracle::{Verdict, compare};
use crate::postgres::{Postgres, leave_out};
use crate::run::{Random, keep, number};

/// Outages on one database, before all of it is compared and a new one begins.
const ROUND: u64 = 20;

#[derive(Clone, Copy, Debug)]
enum Outage {
    Killed,
    Frozen,
    Restarted,
    Cut,
    HangingUp,
}

async fn pause(random: &mut Random, from: u64, to: u64) {
    tokio::time::sleep(Duration::from_millis(from + random.below(to - from))).await;
}

impl Outage {
    fn any(random: &mut Random, postgres: &Postgres) -> Self {
        let kinds = [Self::Killed, Self::Frozen, Self::Restarted, Self::HangingUp, Self::Cut];
        kinds[random.below(if postgres.is_apart() { 5 } else { 4 }) as usize]
    }

    /// From its beginning to its end; `longest` in milliseconds.
    async fn strike(self, postgres: &Postgres, random: &mut Random, longest: u64) {
        match self {
            Self::Killed => {
                postgres.kill();
                pause(random, 0, longest).await;
                postgres.up();
            }
            Self::Frozen => {
                postgres.freeze();
                pause(random, 100, longest).await;
                postgres.thaw();
            }
            Self::Restarted => {
                postgres.stop_at_once();
                pause(random, 0, longest).await;
                postgres.up();
            }
            Self::Cut => {
                postgres.cut(true);
                pause(random, 100, longest).await;
                postgres.cut(false);
            }
            Self::HangingUp => {
                for _ in 0..20 {
                    postgres.hang_up().await;
                    pause(random, 0, 20).await;
                }
            }
        }
    }
}

/// One gateway under load through so many outages, killed in the middle of some of them.
async fn round(seed: u64, outages: u64, longest: u64, postgres: &Postgres) -> (Verdict, u64) {
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(2).await;
    let urls: Vec<String> = nodes.iter().map(SimNode::url).collect();
    let database = postgres.new_database().await;
    let home = Home::new(folder.path(), &urls, &database);
    let mut gateway = home.start().await;
    let key = gateway.user("ann").await;
    // The copy of users, with which it starts when Postgres is away.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    let (mut sent, mut killed) = (Vec::new(), Vec::new());
    let mut load = Load::start(gateway.address, &key, 6, &mut random);
    for _ in 0..outages {
        pause(&mut random, 50, 300).await;
        let kills = random.below(4) == 0;
        Outage::any(&mut random, postgres).strike(postgres, &mut random, longest).await;
        assert!(gateway.is_ready().await, "CHAOS_SEED={seed}: an outage of Postgres is no reason to be left alone");
        if kills {
            gateway.kill();
            killed.push(now_ms());
            sent.extend(load.finish().await);
            gateway = home.start().await;
            load = Load::start(gateway.address, &key, 6, &mut random);
        }
    }
    sent.extend(load.finish().await);
    wait_for("the outbox is empty", async || gateway.metric("gateway_usage_outbox_rows").await == 0.0).await;
    let parked = gateway.metric("gateway_usage_parked_rows").await;
    gateway.stop().await;
    assert_eq!(parked, 0.0, "CHAOS_SEED={seed}: an outage is no refusal");
    (compare(&database, &nodes, &sent, &killed).await, killed.len() as u64)
}

#[actix_rt::test]
async fn outages_of_postgres_cost_no_row_and_no_request() {
    let outages = number("CHAOS_OUTAGES").unwrap_or(2);
    let longest = number("CHAOS_OUTAGE_MS").unwrap_or(1500);
    let Some(postgres) = Postgres::start(true).await else { return };
    if !postgres.is_apart() {
        leave_out("cutting Postgres off, which needs root and `ip`");
    }
    let seed = Random::seed();
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut total, mut killed, mut left, began) = (Verdict::default(), 0, outages, Instant::now());
    while left > 0 {
        let (verdict, kills) = round(random.next(), left.min(ROUND), longest, &postgres).await;
        total.add(&verdict);
        killed += kills;
        left -= left.min(ROUND);
        total.assert_clean(seed);
    }
    let seconds = began.elapsed().as_secs();
    let apart = postgres.is_apart();
    keep(
        "outages",
        &json!({"seed": seed.to_string(), "outages": outages, "longest_ms": longest, "cut_off_too": apart,
            "gateway_kills": killed, "seconds": seconds, "verdict": total}),
    );
    assert!(total.acknowledged > outages, "there was load: {total:?}");
}
