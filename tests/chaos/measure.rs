//! What does an outage of Postgres cost in time: the first token while it is away, and the copying once it is back?
//!
//! By default short, and held only to what a busy machine can keep; the ones that are ignored by default measure, see the
//! crate's first page.
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};

use crate::gateway::{Home, wait_for};
use crate::harm::build;
use crate::kills::nodes;
use crate::load::{chat, exchange};
use crate::postgres::Postgres;
use crate::run::keep;

/// Streams one after the other, before Postgres is frozen or thawed.
const TURN: usize = 60;

/// Milliseconds to the first byte of streams.
async fn first_bytes(address: SocketAddr, key: &str, count: usize) -> Vec<f64> {
    let mut body = chat("[[n=3]] hi");
    body["stream"] = true.into();
    let body = body.to_string();
    let mut times = Vec::new();
    for _ in 0..count {
        let answer = exchange(address, "POST", "/v1/chat/completions", key, &body, Duration::from_secs(10)).await;
        assert!(answer.body.contains("[DONE]"), "{}", answer.body);
        times.push(answer.first_byte.unwrap().as_secs_f64() * 1e3);
    }
    times
}

/// The first byte of streams in so many turns with Postgres and without, and the ratio of the medians.
async fn first_token(turns: usize) -> Option<(Value, f64)> {
    let postgres = Postgres::start(false).await?;
    let folder = tempfile::tempdir().unwrap();
    let nodes = nodes(1).await;
    let database = postgres.new_database().await;
    let home = Home::new(folder.path(), &[nodes[0].url()], &database);
    let gateway = home.start().await;
    let key = gateway.user("ann").await;
    gateway.settle().await;
    first_bytes(gateway.address, &key, 20).await;
    // Alternating, so that what else the machine does hits both alike.
    let (mut normal, mut away) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        normal.extend(first_bytes(gateway.address, &key, TURN).await);
        postgres.freeze();
        tokio::time::sleep(Duration::from_millis(100)).await;
        away.extend(first_bytes(gateway.address, &key, TURN).await);
        postgres.thaw();
        wait_for("Postgres has it all", async || gateway.metric("gateway_usage_outbox_rows").await == 0.0).await;
    }
    gateway.stop().await;
    normal.sort_by(f64::total_cmp);
    away.sort_by(f64::total_cmp);
    let at = |times: &[f64], part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let ratio = |part: f64| at(&away, part) / at(&normal, part);
    let result = json!({
        "build": build(),
        "streams_each": normal.len(),
        "normal_ms": {"p50": at(&normal, 0.5), "p99": at(&normal, 0.99)},
        "away_ms": {"p50": at(&away, 0.5), "p99": at(&away, 0.99)},
        "ratio": {"p50": ratio(0.5), "p99": ratio(0.99)},
    });
    Some((result, ratio(0.5)))
}

/// How fast so many rows that an outage has left in the local file go to Postgres.
async fn backlog(rows: u64) -> Option<(Value, f64)> {
    let postgres = Postgres::start(false).await?;
    let folder = tempfile::tempdir().unwrap();
    let database = postgres.new_database().await;
    let home = Home::new(folder.path(), &["http://127.0.0.1:1".to_owned()], &database);
    home.start().await.stop().await;
    // What a start takes that has nothing to copy.
    let start = copied(&home).await;
    fill(&folder.path().join("outbox.db"), rows).await;
    let seconds = copied(&home).await - start;
    let result = json!({
        "build": build(), "rows": rows, "seconds": seconds, "rows_per_second": rows as f64 / seconds,
    });
    Some((result, seconds))
}

/// Seconds from the start of a gateway until nothing is left to copy.
async fn copied(home: &Home) -> f64 {
    let began = Instant::now();
    let gateway = home.start().await;
    wait_for("the outbox is empty", async || gateway.metric("gateway_usage_outbox_rows").await == 0.0).await;
    let seconds = began.elapsed().as_secs_f64();
    gateway.stop().await;
    seconds
}

/// Makes rows up, in the order of their ids as real ones are.
async fn fill(local: &Path, rows: u64) {
    let local = Database::connect(format!("sqlite://{}", local.display())).await.unwrap();
    let fill = format!(
        "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {rows}) \
         INSERT INTO usage (request_id, user_id, created_at_ms, day, model, endpoint, node, stream, status, \
         prompt_tokens, completion_tokens, tokens_from, attempts, queue_ms, duration_ms) \
         SELECT unhex(printf('%012x7abc8%015x', 1790000000000 + n, n)), 'ann', n, 1, 'llama3.2', '/v1/chat/completions', 'a', 0, 'completed', 1, 1, 'reported', \
         1, 0, 1 FROM number"
    );
    local.execute_unprepared(&fill).await.unwrap();
    local.close().await.unwrap();
}

#[actix_rt::test]
async fn the_first_token_comes_as_soon_while_postgres_is_away() {
    let Some((result, ratio)) = first_token(3).await else { return };
    // The median: what else runs on the machine hits the tail of both.
    assert!(ratio < 1.5, "{result}");
}

#[actix_rt::test]
async fn what_an_outage_has_left_behind_is_copied_fast() {
    let Some((result, seconds)) = backlog(20_000).await else { return };
    assert!(seconds < 20.0, "{result}");
}

#[actix_rt::test]
#[ignore = "measures"]
async fn measure_the_first_token_while_postgres_is_away() {
    let (result, ratio) = first_token(20).await.expect("there is a Postgres");
    keep("first-token", &result);
    assert!(ratio <= 1.1, "{ratio}");
}

#[actix_rt::test]
#[ignore = "measures"]
async fn measure_how_fast_a_backlog_is_copied() {
    let (result, _) = backlog(200_000).await.expect("there is a Postgres");
    keep("backlog", &result);
}
