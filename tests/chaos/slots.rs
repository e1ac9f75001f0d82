//! Three gateways without a link divide the slots of two nodes, while one of them or their Postgres is struck again and
//! again. The nodes count what is in flight.
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{ADMIN_KEY, Gateway, Home, PATIENCE, nodes, until_known, wait_for};
use crate::load::exchange;
use crate::postgres::Postgres;
use crate::run::{Random, keep, number};

const GATEWAYS: usize = 3;
/// Not divisible by three.
const SLOTS: [usize; 2] = [4, 5];
const LEASE_SECONDS: u64 = 10;
const CLIENTS: usize = 6;

/// Clients of one gateway, wherever it is at the moment, each with one request at a time.
struct Clients {
    address: Rc<Cell<SocketAddr>>,
    answered: Rc<Cell<u64>>,
    stop: Rc<Cell<bool>>,
    tasks: Vec<actix_rt::task::JoinHandle<()>>,
}

impl Clients {
    fn start(address: SocketAddr, key: &str, random: &mut Random) -> Self {
        let (address, answered, stop) = (Rc::new(Cell::new(address)), Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let client = || {
            let (address, answered, stop, key) = (address.clone(), answered.clone(), stop.clone(), key.to_owned());
            let mut random = Random::new(random.next());
            actix_rt::spawn(async move {
                while !stop.get() {
                    let tokens = 5 + random.below(60);
                    let messages = json!([{"role": "user", "content": format!("[[n={tokens}]] tell me")}]);
                    let body = json!({"model": "llama3.2", "messages": messages, "stream": true});
                    let asked = address.get();
                    let answer =
                        exchange(asked, "POST", "/v1/chat/completions", &key, &body.to_string(), PATIENCE).await;
                    if answer.status == 200 && answer.body.contains("data: [DONE]") {
                        answered.set(answered.get() + 1);
                    } else {
                        // The gateway is down, or has just been killed.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            })
        };
        let tasks = std::iter::repeat_with(client).take(CLIENTS).collect();
        Self { address, answered, stop, tasks }
    }

    async fn finish(self) -> u64 {
        self.stop.set(true);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.answered.get()
    }
}

async fn is_settled(gateway: &Gateway) -> bool {
    let answer = gateway.ask("GET", "/admin/queue", ADMIN_KEY, &Value::Null).await;
    let queue: Value = serde_json::from_str(&answer.body).unwrap();
    let scheduling = &queue["scheduling"];
    scheduling["role"] == "sharing" && scheduling["gateways"] == GATEWAYS && scheduling["is_settled"] == true
}

async fn until_settled(gateways: &[Gateway]) {
    for gateway in gateways {
        wait_for("it is known which slots are whose", async || is_settled(gateway).await).await;
    }
}

/// Strikes once; what it was.
async fn strike(
    gateways: &mut Vec<Gateway>,
    homes: &[Home],
    clients: &[Clients],
    postgres: &Postgres,
    random: &mut Random,
) -> &'static str {
    let victim = random.below(GATEWAYS as u64) as usize;
    let name = match random.below(7) {
        0 => {
            gateways.remove(victim).kill();
            "kill"
        }
        1 => {
            gateways.remove(victim).kill();
            tokio::time::sleep(Duration::from_secs(LEASE_SECONDS + 2)).await;
            "kill, and come back after the lease"
        }
        2 => {
            gateways.remove(victim).stop().await;
            "stop"
        }
        3 => {
            gateways[victim].pause(Duration::from_secs(3)).await;
            return "pause";
        }
        4 => {
            postgres.hang_up().await;
            return "hang up";
        }
        5 => {
            postgres.freeze();
            tokio::time::sleep(Duration::from_millis(random.below(4_000))).await;
            postgres.thaw();
            return "freeze Postgres";
        }
        _ => {
            postgres.stop_at_once();
            tokio::time::sleep(Duration::from_millis(random.below(4_000))).await;
            postgres.up();
            return "stop Postgres";
        }
    };
    let started = homes[victim].start().await;
    clients[victim].address.set(started.address);
    gateways.insert(victim, started);
    name
}

#[actix_rt::test]
async fn three_gateways_that_are_struck_again_and_again_never_run_more_than_the_slots() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let seed = Random::seed();
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let (nodes, listed) = nodes(&SLOTS).await;
    let folders: Vec<_> = std::iter::repeat_with(|| tempfile::tempdir().unwrap()).take(GATEWAYS).collect();
    let database = postgres.new_database().await;
    let home = |folder: &tempfile::TempDir| {
        let mut home = Home::new(folder.path(), &[], &database);
        home.set("DATABASE__LEASE_SECONDS", &LEASE_SECONDS.to_string());
        home.set("NODES", &listed.to_string());
        home
    };
    let homes: Vec<Home> = folders.iter().map(home).collect();
    let mut gateways = Vec::new();
    for home in &homes {
        gateways.push(home.start().await);
    }
    let key = gateways[0].user("ann").await;
    for gateway in &gateways {
        until_known(gateway, &key).await;
    }
    until_settled(&gateways).await;
    let clients: Vec<_> = gateways.iter().map(|gateway| Clients::start(gateway.address, &key, &mut random)).collect();
    let strikes = number("CHAOS_STRIKES").unwrap_or(4);
    let mut struck = std::collections::BTreeMap::new();
    for _ in 0..strikes {
        tokio::time::sleep(Duration::from_millis(random.below(2_000))).await;
        *struck.entry(strike(&mut gateways, &homes, &clients, &postgres, &mut random).await).or_insert(0) += 1;
        let peaks: Vec<_> = nodes.iter().map(|node| node.stats().peak_in_flight).collect();
        assert!(
            peaks.iter().zip(SLOTS).all(|(peak, slots)| *peak <= slots),
            "CHAOS_SEED={seed}: {struck:?}: {peaks:?}"
        );
    }
    until_settled(&gateways).await;
    let before: Vec<_> = clients.iter().map(|clients| clients.answered.get()).collect();
    for (clients, before) in clients.iter().zip(&before) {
        wait_for("each serves its clients", async || clients.answered.get() > before + 10).await;
    }
    let mut answered = Vec::new();
    for clients in clients {
        answered.push(clients.finish().await);
    }
    let peaks: Vec<_> = nodes.iter().map(|node| node.stats().peak_in_flight).collect();
    let result = json!({
        "gateways": GATEWAYS, "slots": SLOTS, "peak_in_flight": peaks, "strikes": struck, "answered": answered, "seed": seed,
    });
    keep("slots", &result);
    // All slots were used, and never one more.
    assert_eq!(peaks, SLOTS, "CHAOS_SEED={seed}");
    for gateway in gateways {
        gateway.stop().await;
    }
}
