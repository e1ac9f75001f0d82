//! One user sends what makes nodes fail: with a 500, by hanging up, with garbage, in mid-stream.
use ollama_sim::{Fault, SimNode};
use scheduler::NodeState;

use crate::good::{fleet, good_users, hold, marked, openings, states, steady_node};
use crate::harness::{error_of, eventually};

const POISON: [(&str, Fault); 5] = [
    ("poison-crash", Fault::Status(500)),
    ("poison-hang-up", Fault::Refuse),
    ("poison-garbage", Fault::Garbage),
    ("poison-error", Fault::ErrorAfter(0)),
    ("poison-mid-stream", Fault::DieAfter(2)),
];

fn poison(simulated: &[SimNode]) {
    for (marker, fault) in POISON {
        simulated.iter().for_each(|node| node.poison(marker, fault.clone()));
    }
}

async fn steady(count: usize) -> Vec<SimNode> {
    let mut simulated = Vec::new();
    for _ in 0..count {
        simulated.push(steady_node().await);
    }
    simulated
}

#[actix_rt::test]
async fn whatever_one_user_sends_the_others_are_served() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    poison(&simulated);
    let poisoner = app.user("poisoner").await;
    let sent = std::cell::Cell::new(0);

    hold(&app, &keys, async || {
        // Each time another prompt, so that none is known from before.
        let four = [0, 1, 2, 3].map(|lane| {
            let number = sent.get();
            sent.set(number + 1);
            let body = marked(&format!("{} {number} {lane}", POISON[number % POISON.len()].0));
            app.post("/v1/chat/completions", &poisoner, body)
        });
        futures_util::future::join_all(four).await;
    })
    .await;

    assert_eq!(openings(&app), 0, "a breaker opened");
    assert!(sent.get() > 20, "{}", sent.get());
    app.stop().await;
}

#[actix_rt::test]
async fn accounts_that_only_ever_fail_take_no_node_out_however_many_they_are() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    poison(&simulated);
    let mut accounts = Vec::new();
    for number in 0..8 {
        accounts.push(app.user(&format!("account-{number}")).await);
    }
    let sent = std::cell::Cell::new(0_usize);

    hold(&app, &keys, async || {
        let number = sent.replace(sent.get() + 1);
        // All the same, and then each its own.
        let all = accounts.iter().enumerate().map(|(lane, key)| {
            let lane = if number.is_multiple_of(2) { 0 } else { lane };
            let body = marked(&format!("{} {number} {lane}", POISON[(number + lane) % POISON.len()].0));
            app.post("/v1/chat/completions", key, body)
        });
        futures_util::future::join_all(all).await;
    })
    .await;

    assert_eq!(openings(&app), 0, "a breaker opened");
    assert!(sent.get() > 20, "{}", sent.get());
    app.stop().await;
}

#[actix_rt::test]
async fn the_same_poison_fails_fast_the_next_time_and_no_node_sees_it() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    poison(&simulated);
    let poisoner = app.user("poisoner").await;
    let seen = || simulated.iter().map(|node| node.requests().len()).sum::<usize>();
    for (marker, fault) in POISON {
        // One that breaks in mid-stream is tried on one node at a time.
        for _ in 0..2 {
            app.post("/v1/chat/completions", &poisoner, marked(marker)).await;
        }
        // The nodes show that they work.
        assert_eq!(good_users(&app, &keys).await.failures, [] as [&str; 0]);
        let before = seen();

        let reply = app.post("/v1/chat/completions", &poisoner, marked(marker)).await;

        assert_eq!(error_of(&reply, 422)["code"], "request_makes_nodes_fail", "{fault:?}");
        assert_eq!((reply.header("x-should-retry"), seen()), (Some("false"), before), "{fault:?}");
        // Who sends something else, or is somebody else, is not meant.
        let other = app.post("/v1/chat/completions", &poisoner, marked("harmless")).await;
        assert_eq!(other.status, 200, "{fault:?}: {}", other.text());
    }
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_fails_every_user_is_taken_out() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    simulated[0].set_fault(Some(Fault::Status(500)));

    let seen = good_users(&app, &keys).await;

    assert_eq!(seen.failures, [] as [&str; 0], "the other node answers");
    assert!(openings(&app) > 0, "its breaker never opened");
    app.stop().await;
}

#[actix_rt::test]
async fn a_node_that_fails_the_only_user_is_taken_out_as_its_requests_work_elsewhere() {
    let simulated = steady(2).await;
    let (app, keys) = fleet(&simulated.iter().collect::<Vec<_>>()).await;
    simulated[0].set_fault(Some(Fault::Status(500)));
    for number in 0..6 {
        let reply = app.post("/v1/chat/completions", &keys[0], marked(&format!("one {number}"))).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    eventually("the node is out", || states(&app)[0] != NodeState::Up).await;
    assert!(openings(&app) > 0);
    app.stop().await;
}
