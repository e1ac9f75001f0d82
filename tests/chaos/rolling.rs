//! Do clients notice when three gateways are restarted one after the other under load?
//!
//! The clients are those that `docs/operate/upgrade.md` speaks of. They stand behind a TCP balancer that checks readiness. A
//! connection that is refused or reset before any byte of an answer goes to the next gateway. Everything else is an error.
//!
//! `CHAOS_ROLLS` says how often all three are restarted. The long run is
//! `CHAOS_ROLLS=20 CHAOS_RESULTS=tests/chaos/results cargo test --test chaos rolling:: -- --nocapture`.
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::gateway::{Gateway, Home, PATIENCE, home, nodes, until_in_order, until_known, wait_for};
use crate::harm::build;
use crate::load::{Answer, KINDS, exchange};
use crate::postgres::Postgres;
use crate::run::{Random, keep, number};

const GATEWAYS: usize = 3;
const SLOTS: [usize; 2] = [4, 5];
const CLIENTS: usize = 18;
/// Between two checks of the balancer, as in `deploy/haproxy.cfg`.
const CHECKED: Duration = Duration::from_millis(250);
/// For how long a gateway that stops serves all that comes, so that the balancer can notice.
const LAME_DUCK_SECONDS: u64 = 2;
/// How often a client of the balancer tries.
const TRIES: usize = 6;

/// The gateways as the balancer sees them.
struct Balancer {
    addresses: Vec<SocketAddr>,
    is_up: Vec<Cell<bool>>,
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answered: u64,
    /// Connections that went to the next gateway.
    refused: u64,
    longest: Duration,
    errors: Vec<String>,
}

enum Got {
    Answer,
    Refused,
    Error(String),
}

impl Balancer {
    async fn check(&self) {
        for (address, is_up) in self.addresses.iter().zip(&self.is_up) {
            let answer = exchange(*address, "GET", "/health/ready", "", "", Duration::from_secs(1)).await;
            is_up.set(answer.status == 200);
        }
    }

    /// The gateway for a connection: one that is up, unless none is; a try later, the next one.
    fn choose(&self, first: usize, tries: usize) -> SocketAddr {
        let turn = |offset: usize| (first + tries + offset) % GATEWAYS;
        let next = (0..GATEWAYS).map(turn).find(|index| self.is_up[*index].get());
        self.addresses[next.unwrap_or(turn(0))]
    }
}

fn judge(answer: &Answer, is_stream: bool, end: &str, took: Duration) -> Got {
    let is_whole = if is_stream { answer.body.contains(end) } else { answer.is_whole };
    match answer.status {
        200 if is_whole => Got::Answer,
        0 if answer.body.is_empty() && took < PATIENCE => Got::Refused,
        status => Got::Error(format!("{status} after {took:?}: {}", answer.body.chars().take(300).collect::<String>())),
    }
}

fn client(balancer: &Rc<Balancer>, seen: &Rc<RefCell<Seen>>, stop: &Rc<Cell<bool>>, key: &str, seed: u64) -> Task {
    let (balancer, seen, stop, key) = (balancer.clone(), seen.clone(), stop.clone(), key.to_owned());
    let mut random = Random::new(seed);
    actix_rt::spawn(async move {
        while !stop.get() {
            let chats = KINDS.into_iter().filter(|(path, ..)| *path != "/v1/embeddings");
            let (path, is_stream, end) = chats.clone().nth(random.below(chats.count() as u64) as usize).unwrap();
            let messages = json!([{"role": "user", "content": format!("[[n={}]] tell me", 5 + random.below(60))}]);
            let body = json!({"model": "llama3.2", "messages": messages, "stream": is_stream, "max_tokens": 1000});
            let (first, began) = (random.below(GATEWAYS as u64) as usize, Instant::now());
            let mut last = Got::Refused;
            for tries in 0..TRIES {
                let address = balancer.choose(first, tries);
                let sent = Instant::now();
                let answer = exchange(address, "POST", path, &key, &body.to_string(), PATIENCE).await;
                last = judge(&answer, is_stream, end, sent.elapsed());
                let mut seen = seen.borrow_mut();
                match last {
                    Got::Refused => seen.refused += 1,
                    Got::Answer | Got::Error(_) => break,
                }
            }
            let mut seen = seen.borrow_mut();
            match last {
                Got::Answer => seen.answered += 1,
                Got::Refused => seen.errors.push(format!("no gateway took it in {TRIES} tries")),
                Got::Error(error) => seen.errors.push(error),
            }
            seen.longest = seen.longest.max(began.elapsed());
        }
    })
}

type Task = actix_rt::task::JoinHandle<()>;

/// Starts every gateway; with a key that all of them know.
async fn start(homes: &[Home]) -> (Vec<Gateway>, String) {
    let mut gateways = Vec::new();
    for home in homes {
        let gateway = home.start().await;
        gateway.settle().await;
        gateways.push(gateway);
    }
    let key = gateways[0].user("ann").await;
    for gateway in &gateways {
        until_in_order(gateway).await;
        until_known(gateway, &key).await;
    }
    (gateways, key)
}

/// Has the balancer check its gateways until `stop`.
fn check(balancer: &Rc<Balancer>, stop: &Rc<Cell<bool>>) -> Task {
    let (balancer, stop) = (balancer.clone(), stop.clone());
    actix_rt::spawn(async move {
        while !stop.get() {
            balancer.check().await;
            tokio::time::sleep(CHECKED).await;
        }
    })
}

#[actix_rt::test]
async fn no_client_sees_an_error_while_three_gateways_are_restarted_one_after_the_other() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let (seed, rolls) = (Random::seed(), number("CHAOS_ROLLS").unwrap_or(1));
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let (nodes, listed) = nodes(&SLOTS).await;
    let database = postgres.new_database().await;
    let folders: Vec<tempfile::TempDir> = (0..GATEWAYS).map(|_| tempfile::tempdir().unwrap()).collect();
    let (mut homes, addresses): (Vec<_>, Vec<_>) =
        folders.iter().map(|folder| home(folder, &listed, &database)).unzip();
    homes.iter_mut().for_each(|home| home.set("SERVER__LAME_DUCK_SECONDS", &LAME_DUCK_SECONDS.to_string()));
    let (mut gateways, key) = start(&homes).await;
    let balancer = Rc::new(Balancer { addresses, is_up: vec![Cell::new(true); GATEWAYS] });
    let (seen, stop) = (Rc::<RefCell<Seen>>::default(), Rc::new(Cell::new(false)));
    let mut tasks = vec![check(&balancer, &stop)];
    tasks.extend((0..CLIENTS).map(|_| client(&balancer, &seen, &stop, &key, random.next())));
    let began = Instant::now();
    for _ in 0..rolls {
        for (index, home) in homes.iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(random.below(1_000))).await;
            gateways.remove(index).stop().await;
            let gateway = home.start().await;
            wait_for("it is ready", async || gateway.is_ready().await && balancer.is_up[index].get()).await;
            until_in_order(&gateway).await;
            gateways.insert(index, gateway);
        }
    }
    let (seconds, load) = (began.elapsed().as_secs(), std::fs::read_to_string("/proc/loadavg").unwrap());
    stop.set(true);
    for task in tasks {
        task.await.unwrap();
    }
    let peaks: Vec<usize> = nodes.iter().map(|node| node.stats().peak_in_flight).collect();
    let seen = seen.take();
    keep(
        "rolling",
        &json!({
            "gateways": GATEWAYS, "restarts": rolls * GATEWAYS as u64, "slots": SLOTS, "peak_in_flight": peaks, "seconds": seconds,
            "load_average": load.split(' ').next(), "seed": seed.to_string(), "build": build(),
            "clients": {
                "answered": seen.answered, "refused_connections": seen.refused,
                "longest_answer_ms": seen.longest.as_millis() as u64, "errors": seen.errors.len(),
            },
        }),
    );
    assert_eq!(seen.errors, [] as [&str; 0], "CHAOS_SEED={seed}");
    assert!(seen.answered > 0, "CHAOS_SEED={seed}");
    assert!(peaks.iter().zip(SLOTS).all(|(peak, slots)| *peak <= slots), "CHAOS_SEED={seed}: {peaks:?}");
}
