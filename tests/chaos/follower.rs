//! How much later does a request reach its node at a gateway that follows than at the one that leads?
//!
//! By default few requests, held only to what a busy machine can keep. The measurement, held to its gate, is
//! `CHAOS_FOLLOWER=2000 CHAOS_RESULTS=tests/chaos/results cargo test --release --test chaos follower:: -- --nocapture`.
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ollama_sim::{SimConfig, SimNode};
use serde_json::{Value, json};

use crate::gateway::{Gateway, home, is, until_in_order, wait_for};
use crate::harm::build;
use crate::load::{chat, exchange};
use crate::postgres::Postgres;
use crate::run::{keep, number};

/// Extra milliseconds, median and 99th percentile, at most.
const GATE: [f64; 2] = [0.5, 3.0];
/// In a short run: no more than a lost wake-up would take.
const SHORT_GATE: [f64; 2] = [20.0, 200.0];
const PARTS: [f64; 2] = [0.5, 0.99];

/// A request to one of the two gateways.
struct Ask {
    id: String,
    follows: bool,
    sent: Instant,
    first_byte: Duration,
}

async fn ask(gateway: &Gateway, key: &str, follows: bool) -> Ask {
    let mut body = chat("[[n=2]] hi");
    body["stream"] = true.into();
    let sent = Instant::now();
    let patience = Duration::from_secs(10);
    let answer = exchange(gateway.address, "POST", "/v1/chat/completions", key, &body.to_string(), patience).await;
    assert!(answer.status == 200 && answer.body.contains("[DONE]"), "{}", answer.body);
    Ask { id: answer.id.unwrap().to_string(), follows, sent, first_byte: answer.first_byte.unwrap() }
}

fn quantiles(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    PARTS.map(|part| times[((times.len() - 1) as f64 * part) as usize])
}

/// Milliseconds at the leader, at the follower, and how much more that is.
fn compared(asks: &[Ask], time: impl Fn(&Ask) -> Duration) -> (Value, [f64; 2]) {
    let of = |follows: bool| {
        let its = asks.iter().filter(|ask| ask.follows == follows);
        quantiles(its.map(|ask| time(ask).as_secs_f64() * 1e3).collect())
    };
    let (leader, follower) = (of(false), of(true));
    let extra = [follower[0] - leader[0], follower[1] - leader[1]];
    let shown = |times: [f64; 2]| json!({"p50": times[0], "p99": times[1]});
    (json!({"leader": shown(leader), "follower": shown(follower), "extra": shown(extra)}), extra)
}

#[actix_rt::test]
async fn a_request_reaches_its_node_hardly_later_where_another_gateway_grants_the_slot() {
    let Some(postgres) = Postgres::start(false).await else { return };
    let count = number("CHAOS_FOLLOWER").unwrap_or(60) as usize;
    let node = SimNode::start(SimConfig { slots: 4, ..SimConfig::fast() }).await.unwrap();
    let nodes = json!([{"name": "node-0", "url": node.url(), "slots": 4}]);
    let database = postgres.new_database().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let homes = folders.each_ref().map(|folder| home(folder, &nodes, &database).0);
    let [first, second] = [homes[0].start().await, homes[1].start().await];
    for gateway in [&first, &second] {
        gateway.settle().await;
        until_in_order(gateway).await;
    }
    let (leader, follower) = if is(&first, "leading").await { (first, second) } else { (second, first) };
    let key = leader.user("ann").await;
    let knows = async || follower.ask("GET", "/v1/models", &key, &Value::Null).await.status == 200;
    wait_for("it knows the key", knows).await;
    for _ in 0..20 {
        ask(&leader, &key, false).await;
        ask(&follower, &key, true).await;
    }
    let mut asks = Vec::new();
    for _ in 0..count {
        asks.push(ask(&leader, &key, false).await);
        asks.push(ask(&follower, &key, true).await);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    assert!(is(&leader, "leading").await && is(&follower, "following").await, "nothing has changed meanwhile");
    let seen: HashMap<String, Instant> =
        node.requests().into_iter().filter_map(|seen| Some((seen.request_id?, seen.arrived))).collect();
    asks.retain(|ask| seen.contains_key(&ask.id));
    assert!(asks.len() >= count, "the node remembers them: {}", asks.len());
    let (granted, extra) = compared(&asks, |ask| seen[&ask.id].saturating_duration_since(ask.sent));
    let (first_byte, _) = compared(&asks, |ask| ask.first_byte);
    let result = json!({
        "build": build(), "load_average": load.split(' ').next(), "requests_each": asks.len() / 2,
        "until_the_node_is_asked_ms": granted, "until_the_first_byte_ms": first_byte,
    });
    keep("follower", &result);
    let gate = if number("CHAOS_FOLLOWER").is_some() { GATE } else { SHORT_GATE };
    assert!(extra[0] <= gate[0] && extra[1] <= gate[1], "at most {gate:?}: {result}");
    follower.stop().await;
    leader.stop().await;
}
