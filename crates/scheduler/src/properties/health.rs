//! What does the scheduler do about a node that becomes slow (P9)?

use super::{
    dice::Dice,
    fleet::{Ask, Fleet, Setup},
    *,
};

const SECONDS: u64 = 160;
/// When the node becomes slow.
const SLOW_FROM: u64 = 60;
/// From then on the node's share is counted.
const COUNTED_FROM: u64 = SLOW_FROM + 10;

/// A node that is not used is tried once in this time, which may be this share of the answers.
const TRIAL: f64 = 0.005;

/// The share of one node in what was sent and in what was written since [`COUNTED_FROM`]; the node becomes `slower`
/// times slower.
fn shares(watched: usize, clients: usize, seed: u64, slower: u64) -> (f64, f64) {
    let setups = [Setup::new(20, 2, &[0]), Setup::new(10, 2, &[0]), Setup::new(10, 4, &[0])];
    let mut fleet = Fleet::new(QueueLimits::default(), &setups, &[0, 1, 2], 1);
    let mut dice = Dice::new(seed);
    let asks: Vec<Ask> = (0..4000)
        .map(|user| {
            let (prompt, output) = (100 + dice.below(2000), 30 + dice.below(300));
            Ask { user, weight: 1.0, model: 0, prompt, output }
        })
        .collect();
    let mut next = asks.into_iter();
    let mut written = Vec::new();
    for second in 0..SECONDS {
        if second == SLOW_FROM {
            fleet.machines[watched].tokens /= slower;
        }
        if second == COUNTED_FROM {
            written = fleet.machines.iter().map(|machine| machine.written).collect();
        }
        for _ in 0..10 {
            // Each client sends its next request when it has its answer.
            while fleet.scheduler.queued() + fleet.scheduler.in_flight() < clients {
                fleet.ask(next.next().expect("enough to ask"));
            }
            fleet.step();
        }
    }
    let (mut sent, mut all) = (0.0, 0.0);
    for asked in fleet.asked.values() {
        if asked.sent_at.is_some_and(|at| at >= Duration::from_secs(COUNTED_FROM)) {
            all += asked.ask.output as f64;
            let is_there = asked.served_by == Some(fleet.machines[watched].id);
            sent += if is_there { asked.ask.output as f64 } else { 0.0 };
        }
    }
    let new = |machine: usize| (fleet.machines[machine].written - written[machine]) as f64;
    (sent / all, new(watched) / (0..3).map(new).sum::<f64>())
}

#[test]
fn a_node_that_becomes_ten_times_slower_gets_no_larger_share() {
    for watched in 0..3 {
        for clients in [2, 5, 8, 16] {
            for seed in [1, 2] {
                let before = shares(watched, clients, seed, 1);
                let after = shares(watched, clients, seed, 10);
                let is_less = after.0 <= before.0 + TRIAL && after.1 <= before.1 + TRIAL;
                assert!(is_less, "node {watched}, {clients} clients, seed {seed}: {before:?} became {after:?}");
            }
        }
    }
}
