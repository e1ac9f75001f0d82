//! A user who is over a limit goes on sending, from many connections and as fast as the gateway answers.
use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::good::{Door, hold_to, marked, steady_node};
use crate::process::Process;

/// Connections of the flood.
const CONNECTIONS: usize = 64;
/// How many times as long the median of the others may take.
const SLOWER: f64 = 1.3;
/// A client that is made to wait longer hangs up, and comes again on another connection.
const IMPATIENCE: Duration = Duration::from_millis(50);
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

    hold_to(
        &app,
        &keys,
        async || {
            join_all((0..CONNECTIONS).map(async |_| {
                sent.set(sent.get() + 1);
                let asking = app.ask("/v1/chat/completions", &flooder, marked("again"));
                if let Ok(reply) = tokio::time::timeout(IMPATIENCE, asking).await {
                    assert_eq!(reply.status, 429, "{}", reply.text());
                }
            }))
            .await;
        },
        |alone, beside| beside.p50 <= alone.p50.mul_f64(SLOWER),
    )
    .await;

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
