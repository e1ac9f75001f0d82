//! Does anything grow, or drift apart, while two gateways with one Postgres serve for long?
//!
//! By default for seconds; all of it is
//! `PAIR_SECONDS=1800 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos pair:: -- --nocapture`.
use std::collections::HashSet;
use std::time::{Duration, Instant};

use ollama_sim::{SimConfig, SimNode};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::address::free_address;
use crate::gateway::{ADMIN_KEY, Gateway, Home, wait_for};
use crate::harm::build;
use crate::load::Load;
use crate::postgres::Postgres;
use crate::run::{Random, keep, number};
use crate::soak::slope;

const SLOTS: usize = 8;
/// Of each user at each gateway.
const CLIENTS: u64 = 4;
const USERS: [&str; 2] = ["ann", "bob"];
/// More than its clients need at both gateways together, so that nothing is refused.
const MAX_CONCURRENCY: u64 = 40;
/// Between two looks.
const STEP: Duration = Duration::from_secs(60);
/// By how much the memory of a gateway may grow with 100,000 requests in the second half of a long run, MiB.
const GROWTH: f64 = 2.0;
/// In a run that is too short for that.
const SHORT_GROWTH: f64 = 64.0;

/// One look while no request runs.
#[derive(Clone, Debug, serde::Serialize)]
struct Look {
    /// All so far, at both gateways.
    requests: u64,
    rss_mib: [f64; 2],
    descriptors: [usize; 2],
    /// Of the users' concurrency, in the table of leases: what the gateways keep in reserve.
    leased: i64,
    rows: i64,
}

async fn count(db: &DatabaseConnection, question: &str) -> i64 {
    let question = Statement::from_string(db.get_database_backend(), question);
    db.query_one_raw(question).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

/// The sum of a metric over its labels.
async fn sum(gateway: &Gateway, name: &str) -> f64 {
    let text = gateway.ask("GET", "/metrics", "", &Value::Null).await.body;
    let of = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit_once(' ')?.1.parse().ok()
    };
    text.lines().filter_map(of).sum::<f64>()
}

/// Nothing is counted any more as running, waiting or unwritten; nothing stays so for long.
async fn until_idle(gateways: &[Gateway; 2], node: &SimNode) {
    wait_for("the node is idle", async || node.stats().in_flight == 0).await;
    for gateway in gateways {
        for name in ["requests_in_flight", "usage_rows_waiting", "usage_outbox_rows", "usage_parked_rows"] {
            let name = format!("gateway_{name}");
            wait_for(&format!("{name} is 0"), async || sum(gateway, &name).await == 0.0).await;
        }
        wait_for("the queue and the nodes are idle", async || {
            let answer = gateway.ask("GET", "/admin/queue", ADMIN_KEY, &Value::Null).await;
            let queue: Value = serde_json::from_str(&answer.body).unwrap();
            queue["queued"] == 0 && queue["in_flight"] == 0 && queue["scope"] == "all"
        })
        .await;
    }
}

fn process(gateway: &Gateway) -> (f64, usize) {
    let process = format!("/proc/{}", gateway.id());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
    (resident.unwrap().parse::<f64>().unwrap() / 1024.0, descriptors)
}

async fn start(node: &SimNode, database: &str, folder: &tempfile::TempDir) -> Gateway {
    let mut home = Home::new(folder.path(), &[], database);
    let link = free_address();
    home.set("NODES", &json!([{"name": "node-0", "url": node.url(), "slots": SLOTS}]).to_string());
    home.set("CLUSTER__BIND", &link.to_string());
    home.set("CLUSTER__ADVERTISE", &format!("http://{link}"));
    home.set("LOG__LEVEL", "warn");
    let gateway = home.start().await;
    gateway.settle().await;
    gateway
}

/// Two gateways over a node, and the keys of users that both know.
async fn pair(node: &SimNode, database: &str, folders: &[tempfile::TempDir; 2]) -> ([Gateway; 2], Vec<String>) {
    let gateways = [start(node, database, &folders[0]).await, start(node, database, &folders[1]).await];
    let mut keys = Vec::new();
    for user in USERS {
        let limits = json!({"max_concurrency": MAX_CONCURRENCY, "tokens_per_day": 1_000_000_000_u64});
        keys.push(gateways[0].user_with(user, limits).await);
    }
    for key in &keys {
        let knows = async || gateways[1].ask("GET", "/v1/models", key, &Value::Null).await.status == 200;
        wait_for("both know the key", knows).await;
    }
    (gateways, keys)
}

/// Looks at both gateways, and at what is stored.
async fn look(gateways: &[Gateway; 2], db: &DatabaseConnection, requests: u64) -> Look {
    let [(first, files), (second, other_files)] = [process(&gateways[0]), process(&gateways[1])];
    Look {
        requests,
        rss_mib: [first, second],
        descriptors: [files, other_files],
        leased: count(db, "SELECT coalesce(sum(running), 0)::bigint FROM leases").await,
        rows: count(db, "SELECT count(*) FROM usage").await,
    }
}

/// The ids of the rows of whole answers.
async fn completed(db: DatabaseConnection) -> Vec<Uuid> {
    let ids = "SELECT request_id FROM usage WHERE status = 'completed'";
    let found = db.query_all_raw(Statement::from_string(db.get_database_backend(), ids)).await.unwrap();
    db.close().await.unwrap();
    found.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

/// What the looks say, for the page of what was measured.
fn told(looks: &[Look]) -> Value {
    // Until then caches fill.
    let warm = &looks[looks.len() / 4..];
    let points = |at: usize| warm.iter().map(|look| (look.requests, look.rss_mib[at])).collect::<Vec<_>>();
    let growth = [slope(&points(0)), slope(&points(1))];
    let leased = || looks.iter().map(|look| look.leased);
    let series = |of: fn(&Look) -> Value| looks.iter().map(of).collect::<Vec<_>>();
    json!({
        "looks": looks.len(), "leased": {"first": leased().next(), "last": leased().next_back(), "most": leased().max()},
        "memory": {"first_mib": series(|look| json!(look.rss_mib[0])), "second_mib": series(|look| json!(look.rss_mib[1])),
            "mib_per_100000": growth},
        "descriptors": {"first": series(|look| json!(look.descriptors[0])),
            "second": series(|look| json!(look.descriptors[1]))},
    })
}

/// Holds the memory of each gateway to its bounds.
fn assert_steady(looks: &[Look], requests: u64, seed: u64) {
    for at in 0..2 {
        // The stories of requests, which fill 32 MiB, are complete by then.
        let late: Vec<_> = looks[looks.len() / 2..].iter().map(|look| (look.requests, look.rss_mib[at])).collect();
        let grown = looks[looks.len() - 1].rss_mib[at] - looks[0].rss_mib[at];
        let is_steady = if requests >= 200_000 { slope(&late) < GROWTH } else { grown < SHORT_GROWTH };
        assert!(is_steady, "CHAOS_SEED={seed}: {looks:?}");
    }
}

#[actix_rt::test]
async fn a_pair_that_serves_for_long_neither_grows_nor_drifts() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let (seed, seconds) = (Random::seed(), number("PAIR_SECONDS").unwrap_or(6));
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let speed = SimConfig { tokens_per_second: 400.0, slots: SLOTS, batch_slowdown: 0.0, ..SimConfig::warm() };
    let node = SimNode::start(speed).await.unwrap();
    let database = postgres.new_database().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (gateways, keys) = pair(&node, &database, &folders).await;
    until_idle(&gateways, &node).await;
    let db = Database::connect(&database).await.unwrap();
    let (began, step) = (Instant::now(), STEP.min(Duration::from_secs(seconds) / 3));
    let (mut requests, mut acknowledged, mut looks) = (0, HashSet::<Uuid>::new(), Vec::<Look>::new());
    while began.elapsed() < Duration::from_secs(seconds) {
        let loads: Vec<Load> = (gateways.iter().flat_map(|gateway| keys.iter().map(move |key| (gateway, key))))
            .map(|(gateway, key)| Load::start(gateway.address, key, CLIENTS, &mut random))
            .collect();
        tokio::time::sleep(step).await;
        for load in loads {
            let sent = load.finish().await;
            requests += sent.len() as u64;
            acknowledged.extend(sent.iter().filter(|sent| sent.is_acknowledged).map(|sent| sent.id));
        }
        until_idle(&gateways, &node).await;
        // What is not used any more is given back within a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        looks.push(look(&gateways, &db, requests).await);
        println!("{:.0?} {:?}", began.elapsed(), looks.last());
    }
    let seconds = began.elapsed().as_secs();
    let rows = completed(db).await;
    let distinct: HashSet<Uuid> = rows.iter().copied().collect();
    let lost = acknowledged.difference(&distinct).count();
    let of_looks = told(&looks);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    keep(
        "pair",
        &json!({
            "seed": seed.to_string(), "build": build(), "seconds": seconds, "requests": requests,
            "load_average": load.split(' ').next(), "peak_in_flight": node.stats().peak_in_flight, "slots": SLOTS,
            "rows": {"acknowledged": acknowledged.len(), "completed": rows.len(), "lost": lost,
                "doubled": rows.len() - distinct.len()},
            "looks": of_looks["looks"], "leased": of_looks["leased"], "memory": of_looks["memory"],
            "descriptors": of_looks["descriptors"],
        }),
    );
    assert_eq!((lost, rows.len()), (0, distinct.len()), "CHAOS_SEED={seed}");
    // Of each of two models.
    assert!(node.stats().peak_in_flight <= 2 * SLOTS, "CHAOS_SEED={seed}");
    // Only the reserve is held while nothing runs, 5 % of each limit at each gateway.
    let reserve = (2 * USERS.len() as u64 * (MAX_CONCURRENCY * 5).div_ceil(100)).cast_signed();
    assert!(looks.iter().all(|look| look.leased <= reserve), "CHAOS_SEED={seed}: {looks:?}");
    assert_steady(&looks, requests, seed);
    for gateway in gateways {
        gateway.stop().await;
    }
}
