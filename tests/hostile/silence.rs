//! One node answers its probes and generates nothing.
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::good::{fleet, good_users, marked, openings, steady_node};

/// What the scheduler is held to: this, and four times the expected time, which is small here.
const FIRST_TOKEN_ELSEWHERE: Duration = Duration::from_secs(6);

#[actix_rt::test]
async fn whoever_waits_for_a_silent_node_is_answered_by_another_one_in_time() {
    let simulated = [steady_node().await, steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    // Each node has shown how fast it is.
    good_users(&app, &keys).await;
    simulated[0].fall_silent(true);

    // More than the budget of retries has room for.
    let ask = |number: usize| {
        let (app, key) = (&app, &keys[number % 2]);
        async move {
            let began = Instant::now();
            let reply = app.post("/v1/chat/completions", key, marked(&format!("one {number}"))).await;
            (reply.status.as_u16(), began.elapsed(), reply.text().to_owned())
        }
    };
    let asked = join_all((0..12).map(ask)).await;

    for (status, took, text) in &asked {
        assert_eq!(*status, 200, "{text}");
        assert!(*took < FIRST_TOKEN_ELSEWHERE, "{took:?}");
    }
    assert!(asked.iter().any(|(_, took, _)| *took > Duration::from_secs(2)), "none was on the silent node");
    let after = good_users(&app, &keys).await;
    assert_eq!(after.failures, [] as [&str; 0]);
    simulated[0].fall_silent(false);
    app.stop().await;
}

#[actix_rt::test]
async fn nodes_that_are_well_are_not_taken_for_silent() {
    let simulated = [steady_node().await, steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    for _ in 0..3 {
        assert_eq!(good_users(&app, &keys).await.failures, [] as [&str; 0]);
    }
    assert_eq!(openings(&app), 0);
    app.stop().await;
}
