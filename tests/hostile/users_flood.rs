//! A user who is over a limit goes on sending, from many connections and as fast as the gateway answers. Being refused again
//! and again costs a few rows, and each answer is waited for.
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::elsewhere::Elsewhere;
use crate::good::{Door, Seen, compare, hold_against, marked, steady_node};
use crate::harness::{ADMIN_KEY, TestDatabase, error_of, fast_node, node, spawn_app, spawn_app_with};
use crate::process::Process;

/// Connections of the flood.
const CONNECTIONS: usize = 32;
/// How many times as long the median of the others may take.
const SLOWER: f64 = 1.3;
/// A client that is made to wait longer hangs up, and comes again on another connection.
const IMPATIENCE: Duration = Duration::from_millis(50);
/// How many times as long the others may wait as alone beside a flood that leaves the machine idle at times.
const SLOWER_THAN_ALONE: f64 = 1.5;
/// The most bytes of log: the good users' lines, ten of the flood in each minute, and one for the rest.
const LOG: usize = 512 * 1024;

#[actix_rt::test]
async fn a_flood_of_refused_requests_leaves_the_median_of_the_others_and_hardly_a_trace() {
    let simulated = [steady_node().await, steady_node().await];
    let app = Process::start(&simulated.iter().collect::<Vec<_>>(), &[]).await;
    let keys = app.good_users().await;
    let flooder = app.user_with("flooder", json!({"requests_per_minute": 1})).await;
    app.ask("/v1/chat/completions", &flooder, marked("the only one")).await;
    let sent = Cell::new(0_u64);
    let before = app.log().len();

    // The same flood against another gateway costs the machine as much.
    let other = Process::start(&[&simulated[0]], &[]).await;
    let other_flooder = other.user_with("flooder", json!({"requests_per_minute": 1})).await;
    let flood = async |app: &Process, key: &str| {
        join_all((0..CONNECTIONS).map(async |_| {
            sent.set(sent.get() + 1);
            let asking = app.ask("/v1/chat/completions", key, marked("again"));
            let _ = tokio::time::timeout(IMPATIENCE, asking).await;
        }))
        .await;
    };
    let is_within = |alone: &Seen, beside: &Seen| beside.p50 <= alone.p50.mul_f64(SLOWER);
    hold_against(
        &app,
        &keys,
        async || flood(&other, &other_flooder).await,
        async || flood(&app, &flooder).await,
        is_within,
    )
    .await;
    let refused = app.ask("/v1/chat/completions", &flooder, marked("again")).await;
    assert_eq!(refused.status, 429, "{}", refused.text());

    let grown = app.log().len() - before;
    println!("{} requests, {grown} bytes more in the log", sent.get());
    assert!(sent.get() >= 10 * CONNECTIONS as u64, "{}", sent.get());
    assert!(grown <= LOG, "{grown} bytes for {} refusals", sent.get());
    let usage = app.get_as("/v1/usage?limit=1000", &flooder).await;
    assert_eq!(usage.status, 200, "{}", usage.text());
    let rows = usage.json()["data"].as_array().unwrap().len();
    // Ten in each minute, the one for the rest, and the answer.
    assert!(rows <= 3 * 11 + 1, "{rows} rows");
}

/// Connections at a time of the steady flood, enough for its pace although each is held up for [`IMPATIENCE`].
const STEADY_CONNECTIONS: u32 = 128;

/// Requests a second of the flood that is compared with none: less than would keep the machine busy.
fn pace() -> u32 {
    let is_debug = cfg!(debug_assertions) && std::env::var_os("HOSTILE_GATEWAY").is_none();
    if is_debug { 400 } else { 2_000 }
}

/// Sends refused requests for ever, each on a connection of its own; counts those that the gateway took or answered.
async fn flood(gateway: SocketAddr, key: String, sent: Arc<AtomicU64>) {
    let body = marked("again").to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let one = async || {
        let mut connection = TcpStream::connect(gateway).await?;
        // The port is free again at once.
        connection.set_zero_linger()?;
        connection.write_all(request.as_bytes()).await?;
        sent.fetch_add(1, Ordering::Relaxed);
        let _ = tokio::time::timeout(IMPATIENCE, connection.read(&mut [0; 512])).await;
        std::io::Result::Ok(())
    };
    let period = Duration::from_secs(1) * STEADY_CONNECTIONS / pace();
    join_all((0..STEADY_CONNECTIONS).map(async |number| {
        tokio::time::sleep(period * number / STEADY_CONNECTIONS).await;
        let mut due = tokio::time::interval(period);
        loop {
            due.tick().await;
            let _ = one().await;
        }
    }))
    .await;
}

#[actix_rt::test]
async fn a_steady_flood_of_refused_requests_slows_nobody() {
    let simulated = [steady_node().await, steady_node().await];
    let app = Process::start(&simulated.iter().collect::<Vec<_>>(), &[]).await;
    let keys = app.good_users().await;
    let flooder = app.user_with("flooder", json!({"requests_per_minute": 1})).await;
    app.ask("/v1/chat/completions", &flooder, marked("the only one")).await;
    let sent = Arc::new(AtomicU64::new(0));

    let began = std::time::Instant::now();
    let compared = compare(&app, &keys, || {
        let (address, key, sent) = (app.address, flooder.clone(), sent.clone());
        Elsewhere::start(move || flood(address, key, sent))
    })
    .await;

    let half = began.elapsed().as_secs_f64() / 2.0;
    let rate = sent.load(Ordering::Relaxed) as f64 / half;
    println!("{compared:?} beside {rate:.0} requests a second");
    assert!(compared.p50 <= SLOWER_THAN_ALONE && compared.p99 <= SLOWER_THAN_ALONE, "{compared:?}");
    let refused = app.ask("/v1/chat/completions", &flooder, marked("again")).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(sent.load(Ordering::Relaxed) >= 100, "hardly a flood");
}

fn refused(rows: &[Value]) -> Vec<&Value> {
    rows.iter().filter(|row| row["status"] == "refused").collect()
}

#[actix_rt::test]
async fn a_flood_of_refusals_leaves_ten_rows_and_one_for_the_rest_and_all_are_counted() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 1})).await;
        assert_eq!(app.chat(&key, "llama3.2", "hi").await.status, 200);

        let replies = join_all((0..300).map(|_| app.chat(&key, "llama3.2", "hi"))).await;

        assert!(replies.iter().all(|reply| reply.status == 429));
        let rows = app.rows(&key).await;
        assert!((10..=20).contains(&refused(&rows).len()), "at most ten a minute: {}", refused(&rows).len());
        let app = app.restart().await;
        let rows = app.rows(&key).await;
        let of_several: Vec<&Value> = rows.iter().filter(|row| row["requests"] != 1).collect();
        assert!((1..=2).contains(&of_several.len()), "{of_several:?}");
        assert_eq!(refused(&rows).iter().map(|row| row["requests"].as_u64().unwrap()).sum::<u64>(), 300);
        for row in of_several {
            assert_eq!((&row["code"], &row["limit"]), (&json!("rate_limit_exceeded"), &json!("requests_per_minute")));
            assert_eq!((&row["model"], &row["http_status"]), (&json!(""), &json!(429)));
        }
        let report = app.get("/admin/usage?group_by=user", ADMIN_KEY).await.json();
        assert_eq!((&report["total"]["refused"], &report["total"]["requests"]), (&json!(300), &json!(1)), "{report}");
        app.stop().await;
    }
}

#[actix_rt::test]
async fn whoever_is_refused_again_and_again_waits_for_it_and_nobody_else_does() {
    let simulated = fast_node().await;
    let app = spawn_app(vec![node("a", simulated.url(), 4)]).await;
    let (key, other) = (app.user_with("ann", json!({"requests_per_minute": 0})).await, app.user("ben").await);
    let began = Instant::now();
    for _ in 0..10 {
        error_of(&app.chat(&key, "llama3.2", "hi").await, 429);
    }
    let at_once = began.elapsed();

    let began = Instant::now();
    for _ in 0..10 {
        error_of(&app.chat(&key, "llama3.2", "hi").await, 429);
    }
    let slowed = began.elapsed();
    let began = Instant::now();
    assert_eq!(app.chat(&other, "llama3.2", "hi").await.status, 200);

    // 20 + 40 + ... + 200 ms.
    assert!(slowed >= Duration::from_millis(1_100), "{slowed:?}, and {at_once:?} before");
    assert!(began.elapsed() < slowed / 2, "{:?} for another user", began.elapsed());
    app.stop().await;
}

#[actix_rt::test]
async fn a_request_that_a_node_rejects_counts_towards_the_limit_of_requests() {
    for database in TestDatabase::each().await {
        let simulated = fast_node().await;
        simulated.set_fault(Some(ollama_sim::Fault::Status(400)));
        let app = spawn_app_with(vec![node("a", simulated.url(), 4)], database, |_| {}).await;
        let key = app.user_with("ann", json!({"requests_per_minute": 5})).await;
        let statuses: Vec<u16> =
            join_all((0..9).map(|_| async { app.chat(&key, "llama3.2", "hi").await.status.as_u16() })).await;

        assert_eq!(statuses.iter().filter(|status| **status == 400).count(), 5, "{statuses:?}");
        assert_eq!(app.rows(&key).await.iter().filter(|row| row["code"] == "node_refused").count(), 5);
        let app = app.restart().await;
        error_of(&app.chat(&key, "llama3.2", "hi").await, 429);
        app.stop().await;
    }
}

#[actix_rt::test]
async fn whoever_sends_wrong_keys_beyond_the_limit_waits_for_each_answer() {
    let app = spawn_app_with(Vec::new(), TestDatabase::sqlite(), |config| config.server.guesses_per_minute = 2).await;
    let key = app.user("ann").await;
    for expected in [401, 401] {
        assert_eq!(app.get("/v1/models", "sk-ann-wrong").await.status, expected);
    }
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(app.get("/v1/models", "sk-ann-wrong").await.status, 429);
    }
    assert!(began.elapsed() >= Duration::from_millis(1_100), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(app.get("/v1/models", &key).await.status, 200);
    assert!(began.elapsed() < Duration::from_millis(500), "a good key from the same network is not held up");
    app.stop().await;
}
