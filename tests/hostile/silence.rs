//! One node answers its probes and generates nothing.
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use scheduler::NodeState;

use crate::good::{fleet, good_users, marked, openings, states, steady_node};
use crate::harness::{TestApp, wait_long_for};

/// By when a first token comes from elsewhere, besides four times the expected time.
const FIRST_TOKEN: Duration = Duration::from_secs(5);
/// Tokens of each of those answers.
const EXPECTED_TOKENS: u32 = 20;
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

/// Wedges in one run: `HOSTILE_WEDGES=1000` is the real number.
const WEDGES: u64 = 16;
/// Requests at a time: all slots.
const AT_A_TIME: usize = 32;

/// How long the first token of a request takes, from the request on.
async fn first_token(app: &TestApp, key: &str, number: usize) -> Duration {
    let began = Instant::now();
    let mut body = marked(&format!("wedge {number}"));
    body["max_tokens"] = EXPECTED_TOKENS.into();
    let mut stream = app.open_stream(key, &body).await;
    stream.next().await.expect("a first token");
    let took = began.elapsed();
    let events = stream.rest().await;
    assert!(events.last().is_some_and(|event| event.contains("[DONE]")), "{number}: {events:?}");
    took
}

/// One node after another answers probes and generates nothing, while requests are on it, and is well again afterwards.
#[actix_rt::test]
async fn however_often_a_node_falls_silent_each_first_token_comes_from_another_one_in_time() {
    let wedges = std::env::var("HOSTILE_WEDGES").ok().and_then(|wedges| wedges.parse().ok()).unwrap_or(WEDGES);
    let simulated = [steady_node().await, steady_node().await, steady_node().await, steady_node().await];
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    good_users(&app, &keys).await;
    let failed = || app.dispatcher.read(|scheduler| scheduler.nodes().iter().map(|node| node.failed).sum::<u64>());
    let mut expected = Duration::ZERO;
    for number in 0..8 {
        expected = expected.max(first_token(&app, &keys[0], number).await);
    }
    let before = failed();
    let (mut round, mut slowest) = (0, Duration::ZERO);
    while failed() - before < wedges {
        let silent = &simulated[round % simulated.len()];
        silent.fall_silent(true);
        let asked = join_all((0..AT_A_TIME).map(|number| first_token(&app, &keys[number % 2], number))).await;
        silent.fall_silent(false);
        slowest = asked.into_iter().fold(slowest, Duration::max);
        round += 1;
        assert!(round < 20 + wedges as usize, "only {} wedges in {round} rounds", failed() - before);
        wait_long_for("the node is back", async || states(&app).iter().all(|state| *state == NodeState::Up)).await;
    }
    println!(
        "{} wedges in {round} rounds, the slowest first token after {slowest:?}, {expected:?} expected",
        failed() - before
    );
    assert!(slowest <= FIRST_TOKEN + 4 * expected, "{slowest:?}, where {expected:?} is expected");
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
