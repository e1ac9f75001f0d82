//! Does anything grow while four requests in five are good and the fifth does harm?
//!
//! By default a few thousand requests; all of it is
//! `SOAK_REQUESTS=400000 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos soak -- --nocapture`.
//! `SOAK_SECONDS` ends it earlier, and the result says how many requests there were.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ollama_sim::{Fault, OddListing, SimConfig, SimNode, UsageClaim};
use sea_orm::{ConnectionTrait, Database, Statement};
use serde_json::json;
use uuid::Uuid;

use crate::gateway::{Gateway, Home};
use crate::harm::{self, Harm};
use crate::load::KINDS;
use crate::run::{Random, keep, number};

/// One request in so many does harm.
const ONE_IN: u64 = 5;
/// Good and bad clients at a time. The bad ones wait most of their time, as the gateway slows them down.
const GOOD_CLIENTS: usize = 6;
const BAD_CLIENTS: usize = 160;
const GOOD_USERS: [&str; 3] = ["ann", "bob", "cid"];
/// Requests between two looks at the process.
const STEP: u64 = 25_000;
/// The warm-up, which was fixed before the run that is judged: caches and pools fill until then. In a run that is not at
/// least twice as long it is a quarter.
const WARM_UP: u64 = 100_000;
/// By how much memory may grow with 100,000 requests after it, MiB.
const GROWTH: f64 = 1.0;
/// By how much it may grow in a run that is too short for a slope, MiB.
const SHORT_GROWTH: f64 = 64.0;
/// How long a good request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One look at the process, while no request runs.
#[derive(Clone, Debug, serde::Serialize)]
struct Look {
    requests: u64,
    rss_mib: f64,
    descriptors: usize,
    database_bytes: u64,
}

/// What the good users saw.
#[derive(Default)]
struct Seen {
    sent: u64,
    times_ms: Vec<f64>,
    acknowledged: HashSet<Uuid>,
    failures: Vec<String>,
}

struct Soak {
    gateway: Gateway,
    keys: Vec<String>,
    harm: Harm,
    seen: RefCell<Seen>,
    /// How often each kind of harm was done.
    done: RefCell<BTreeMap<&'static str, u64>>,
    random: RefCell<Random>,
}

/// Nodes that fail as they are told to, the first of an old version.
async fn nodes() -> Vec<SimNode> {
    let mut nodes = Vec::new();
    for version in ["0.12.0", "0.33.0", "0.33.0"] {
        let config = SimConfig { slots: 16, batch_slowdown: 0.0, version: version.to_owned(), ..SimConfig::warm() };
        let node = SimNode::start(config).await.unwrap();
        for (marker, fault) in harm::poisons() {
            node.poison(marker, fault);
        }
        let lie = UsageClaim::Counts { prompt: json!(i64::MAX), completion: json!(-1) };
        node.poison("lie-huge", Fault::Usage(lie));
        node.poison("lie-absent", Fault::Usage(UsageClaim::WithoutPrompt));
        node.poison("lie-twice", Fault::Usage(UsageClaim::Doubled));
        nodes.push(node);
    }
    nodes
}

impl Soak {
    async fn start(nodes: &[SimNode], database: &str, folder: &Path, seed: u64) -> (Self, Home) {
        let mut home = Home::new(folder, &nodes.iter().map(SimNode::url).collect::<Vec<_>>(), database);
        home.set("LOG__LEVEL", "error");
        home.set("SERVER__WORKERS", "2");
        home.set("RELAY__TOTAL_SECONDS", "60");
        home.set("HEALTH__PROBE_INTERVAL_MS", "500");
        home.set("HEALTH__MODELS_INTERVAL_SECONDS", "5");
        let gateway = home.start().await;
        let mut keys = Vec::new();
        for user in GOOD_USERS {
            keys.push(gateway.user(user).await);
        }
        let harm = Harm::by(&gateway).await;
        gateway.settle().await;
        let random = RefCell::new(Random::new(seed));
        let soak = Self { gateway, keys, harm, seen: RefCell::default(), done: RefCell::default(), random };
        (soak, home)
    }

    async fn good(&self, client: &awc::Client) {
        let (kind, user, tokens) = {
            let mut random = self.random.borrow_mut();
            (
                random.below(KINDS.len() as u64) as usize,
                random.below(GOOD_USERS.len() as u64) as usize,
                random.below(20),
            )
        };
        let (path, stream, end) = KINDS[kind];
        let body = if path == "/v1/embeddings" {
            json!({"model": "all-minilm", "input": ["one", "two"]})
        } else {
            let messages = json!([{"role": "user", "content": format!("[[n={}]] tell me", tokens + 1)}]);
            json!({"model": "llama3.2", "messages": messages, "stream": stream, "max_tokens": 1000})
        };
        let began = Instant::now();
        let request = client.post(format!("http://{}{path}", self.gateway.address)).bearer_auth(&self.keys[user]);
        let answer = match request.send_json(&body).await {
            Ok(mut response) => {
                let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()?.parse().ok());
                let body = response.body().limit(1 << 20).await.map_err(|error| error.to_string());
                body.map(|body| (response.status().as_u16(), id, String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => Err(error.to_string()),
        };
        let took = began.elapsed().as_secs_f64() * 1e3;
        let mut seen = self.seen.borrow_mut();
        seen.sent += 1;
        match answer {
            Ok((200, Some(id), text)) if text.contains(end) => {
                seen.acknowledged.insert(id);
                seen.times_ms.push(took);
            }
            other => seen.failures.push(format!("{path} after {took:.0} ms: {other:?}")),
        }
    }

    /// So many requests, `bad` of which do harm.
    async fn step(&self, good: u64, bad: u64) {
        let (good, bad) = (Cell::new(good), Cell::new(bad));
        let take = |left: &Cell<u64>| left.get().checked_sub(1).map(|rest| left.set(rest)).is_some();
        let asking = join_all((0..GOOD_CLIENTS).map(|_| async {
            let client = awc::Client::builder().timeout(PATIENCE).finish();
            while take(&good) {
                self.good(&client).await;
            }
        }));
        let harming = join_all((0..BAD_CLIENTS).map(|_| async {
            while take(&bad) {
                let mut random = Random::new(self.random.borrow_mut().next());
                let kind = self.harm.one(self.gateway.address, &mut random).await;
                *self.done.borrow_mut().entry(kind).or_default() += 1;
            }
        }));
        futures_util::future::join(asking, harming).await;
    }

    /// p50 and p99 of the good requests since the last call.
    fn times(&self) -> [f64; 2] {
        let mut times = std::mem::take(&mut self.seen.borrow_mut().times_ms);
        times.sort_by(f64::total_cmp);
        [0.5, 0.99].map(|part| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN))
    }

    async fn look(&self, requests: u64, home: &Home) -> Look {
        // What the last clients left behind is cleared away.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let process = format!("/proc/{}", self.gateway.id());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let files = std::fs::read_dir(&home.folder).unwrap().map(|file| file.unwrap());
        let of_database = files.filter(|file| file.file_name().to_string_lossy().contains(".db"));
        Look {
            requests,
            rss_mib: resident.unwrap().parse::<f64>().unwrap() / 1024.0,
            descriptors: std::fs::read_dir(format!("{process}/fd")).unwrap().count(),
            database_bytes: of_database.map(|file| file.metadata().unwrap().len()).sum(),
        }
    }
}

/// MiB per 100,000 requests, by least squares over pairs of requests and MiB.
pub fn slope(points: &[(u64, f64)]) -> f64 {
    let count = points.len() as f64;
    let x = |(requests, _): &(u64, f64)| *requests as f64 / 100_000.0;
    let (mean_x, mean_y) =
        (points.iter().map(x).sum::<f64>() / count, points.iter().map(|(_, mib)| mib).sum::<f64>() / count);
    let over = points.iter().map(|point| (x(point) - mean_x) * (point.1 - mean_y)).sum::<f64>();
    over / points.iter().map(|point| (x(point) - mean_x).powi(2)).sum::<f64>()
}

/// Rows of the good users: the ids, and how many that are not `completed`.
async fn rows(database: &str) -> (Vec<Uuid>, u64) {
    let db = Database::connect(database).await.unwrap();
    let good = GOOD_USERS.map(|user| format!("'{user}'")).join(",");
    let query = format!("SELECT request_id, status FROM usage WHERE user_id IN ({good})");
    let found = db.query_all_raw(Statement::from_string(db.get_database_backend(), query)).await.unwrap();
    db.close().await.unwrap();
    let completed = |row: &&sea_orm::QueryResult| row.try_get_by_index::<String>(1).unwrap() == "completed";
    let ids: Vec<Uuid> = found.iter().filter(completed).map(|row| row.try_get_by_index(0).unwrap()).collect();
    let others = found.len() - ids.len();
    (ids, others as u64)
}

/// By how much the database's files grew with each request.
fn bytes_per_request(looks: &[Look]) -> u64 {
    let (first, last) = (&looks[0], &looks[looks.len() - 1]);
    last.database_bytes.saturating_sub(first.database_bytes) / (last.requests - first.requests).max(1)
}

/// Holds the memory and the files of the process to their bounds; in a long run, memory by its slope.
fn assert_steady(warm: &[Look], is_long: bool) {
    let growth = slope(&warm.iter().map(|look| (look.requests, look.rss_mib)).collect::<Vec<_>>());
    let grown = warm[warm.len() - 1].rss_mib - warm[0].rss_mib;
    if is_long {
        assert!(growth < GROWTH, "{growth} MiB per 100,000 requests: {warm:?}");
    } else {
        assert!(grown < SHORT_GROWTH, "{grown} MiB: {warm:?}");
    }
    let [fewest, most] =
        [warm.iter().map(|look| look.descriptors).min(), warm.iter().map(|look| look.descriptors).max()];
    assert!(most <= fewest.map(|fewest| fewest + BAD_CLIENTS), "{warm:?}");
}

#[actix_rt::test]
async fn soak() {
    let total = number("SOAK_REQUESTS").unwrap_or(3_000);
    let until = Instant::now() + Duration::from_secs(number("SOAK_SECONDS").unwrap_or(3_600));
    let step = STEP.min(total / 5);
    let seed = Random::seed();
    println!("CHAOS_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes().await;
    let database = format!("sqlite://{}", folder.path().join("gateway.db").display());
    let (soak, home) = Soak::start(&nodes, &database, folder.path(), seed).await;
    // Speeds are learned first.
    soak.step(step / 10, 0).await;
    soak.times();
    soak.step(step / 5, 0).await;
    let [alone_p50, alone_p99] = soak.times();
    nodes[2].set_listing(Some(OddListing::Field("size".to_owned(), Some(json!(-0.5)))));
    let began = Instant::now();
    let (mut requests, mut looks, mut times) = (0, Vec::new(), Vec::new());
    while requests < total && Instant::now() < until {
        let bad = step / ONE_IN;
        soak.step(step - bad, bad).await;
        requests += step;
        times.push(soak.times());
        looks.push(soak.look(requests, &home).await);
        println!("{:?} {:?}", looks.last(), times.last());
        // Another oddity each time.
        let odd =
            [OddListing::Invented(500), OddListing::Entry(json!(null)), OddListing::Field("digest".to_owned(), None)];
        nodes[2].set_listing(Some(odd[looks.len() % odd.len()].clone()));
    }
    let seconds = began.elapsed().as_secs();
    let warm_up = if total >= 2 * WARM_UP { WARM_UP } else { total / 4 };
    let warm: Vec<Look> = looks.iter().filter(|look| look.requests > warm_up).cloned().collect();
    let growth = slope(&warm.iter().map(|look| (look.requests, look.rss_mib)).collect::<Vec<_>>());
    soak.gateway.stop().await;
    let seen = soak.seen.into_inner();
    let (ids, unfinished) = rows(&database).await;
    let distinct: HashSet<Uuid> = ids.iter().copied().collect();
    let lost = seen.acknowledged.difference(&distinct).count();
    let rows = json!({"acknowledged": seen.acknowledged.len(), "completed": ids.len(), "lost": lost,
        "doubled": ids.len() - distinct.len(), "others": unfinished});
    let worst = |at: usize| times.iter().map(|times| times[at]).fold(0.0, f64::max);
    let good = json!({"requests": seen.sent, "failures": seen.failures.len(),
        "p50_ms": {"alone": alone_p50, "worst": worst(0)}, "p99_ms": {"alone": alone_p99, "worst": worst(1)}});
    keep(
        "soak",
        &json!({
            "seed": seed.to_string(), "build": harm::build(), "seconds": seconds, "requests": requests,
            "harm": soak.done.into_inner(), "good": good, "rows": rows,
            "memory": {"rss_mib": looks.iter().map(|look| look.rss_mib).collect::<Vec<_>>(), "mib_per_100000": growth},
            "descriptors": looks.iter().map(|look| look.descriptors).collect::<Vec<_>>(),
            "database_bytes_per_request": bytes_per_request(&warm),
        }),
    );
    assert_eq!(seen.failures, [] as [&str; 0], "good users' requests");
    assert_eq!((lost, ids.len(), distinct.len()), (0, seen.acknowledged.len(), seen.acknowledged.len()), "rows");
    assert_eq!(unfinished, 0, "rows of good users");
    assert_steady(&warm, step == STEP);
}

#[test]
fn the_slope_is_that_of_a_line() {
    let point = |requests: u64| (requests, 50.0 + requests as f64 * 2.0 / 100_000.0);
    assert!((slope(&[100_000, 150_000, 400_000].map(point)) - 2.0).abs() < 1e-9);
}
