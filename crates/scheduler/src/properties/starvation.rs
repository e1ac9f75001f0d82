//! Does nobody starve (P4)?
//!
//! Whoever is first in its lane may go first after 60 s. Before it come at most the requests of other users that had
//! this right earlier. Each of them may want another model: something drains, something is loaded, and something runs.
//! A request further back in its lane waits that long for each request before it. A node that is out stays out for at
//! most 30 s after it is back, and one probe more.

use super::{
    dice::Dice,
    fleet::{Ask, Fleet, Setup},
    *,
};

const USERS: u64 = 4;
const AGED_SECONDS: f64 = 60.0;
const LOAD_SECONDS: f64 = 7.8;
/// The longest time that a node is dead, and the time until it is used again.
const OUTAGE_SECONDS: u64 = 15;
const RETURN_SECONDS: f64 = 30.0 + 5.0 + 2.0;
const MODELS: u64 = 3;
const MOST_PROMPT: u64 = 1000;
const MOST_OUTPUT: u64 = 150;
/// Tokens a tick of the slowest node.
const SLOWEST: u64 = 10;

fn longest_service() -> f64 {
    (MOST_PROMPT as f64 / 25.0 + MOST_OUTPUT as f64) / (10 * SLOWEST) as f64 + 0.3
}

fn bound(ahead: usize, has_failures: bool) -> f64 {
    let turn = 2.0 * longest_service() + LOAD_SECONDS;
    let outage = if has_failures { OUTAGE_SECONDS as f64 + RETURN_SECONDS } else { 0.0 };
    (ahead as f64 + 1.0) * (AGED_SECONDS + USERS as f64 * turn + outage)
}

fn some(dice: &mut Dice, user: u64) -> Ask {
    let (prompt, output) = (100 + dice.below(MOST_PROMPT - 100), 20 + dice.below(MOST_OUTPUT - 20));
    Ask { user: user as usize, weight: 1.0, model: dice.below(MODELS) as usize, prompt, output }
}

/// Makes a running request fail, or a node die, now and then.
fn meddle(fleet: &mut Fleet, dice: &mut Dice) {
    let running: Vec<RequestId> = fleet.machines.iter().flat_map(|machine| machine.running()).collect();
    if !running.is_empty() && dice.below(100) == 0 {
        let failures = [Failure::Reset, Failure::Busy, Failure::Crashed, Failure::TimedOut, Failure::Garbled];
        let id = running[dice.below(running.len() as u64) as usize];
        fleet.fail(id, failures[dice.below(5) as usize]);
    }
    if dice.below(800) == 0 {
        let machine = dice.below(fleet.machines.len() as u64) as usize;
        fleet.kill(machine, Duration::from_secs(1 + dice.below(OUTAGE_SECONDS)));
    }
}

/// One user floods, three ask now and then. Returns how much of its bound the request that waited longest used up, as a
/// share, and how many requests were served.
fn flooded(seed: u64, has_failures: bool) -> (f64, usize) {
    let settings = QueueLimits { max_queued: 100, max_queued_per_user: 6 };
    let setups = [
        Setup { room: Some(2), ..Setup::new(20, 2, &[0, 1]) },
        Setup { room: Some(1), ..Setup::new(SLOWEST, 1, &[2]) },
    ];
    let mut fleet = Fleet::new(settings, &setups, &[0, 1], MODELS as usize);
    let mut dice = Dice::new(seed);
    for tick in 0..6000 {
        if tick < 4000 && fleet.waiting_of(0) < 6 {
            fleet.ask(some(&mut dice, 0));
        }
        for user in 1..USERS {
            if tick < 4000 && dice.below(40) == 0 {
                fleet.ask(some(&mut dice, user));
            }
        }
        if has_failures && tick < 4000 {
            meddle(&mut fleet, &mut dice);
        }
        fleet.step();
    }
    let mut worst: f64 = 0.0;
    for (id, asked) in &fleet.asked {
        let end = asked.sent_at.or(asked.ended_at).unwrap_or_else(|| panic!("{id:?} waits for ever: {asked:?}"));
        let waited = (end - asked.at).as_secs_f64();
        worst = worst.max(waited / bound(asked.ahead, has_failures));
        assert!(asked.ended_at.is_some(), "{id:?} never ended");
    }
    (worst, fleet.asked.values().filter(|asked| asked.refused.is_none()).count())
}

#[test]
fn whoever_is_accepted_is_sent_or_told_within_the_bound_beside_a_flood_and_failures() {
    for has_failures in [false, true] {
        for seed in 1..=6 {
            let (worst, served) = flooded(seed, has_failures);
            assert!(worst <= 1.0, "waited {worst} of the bound, seed {seed}, failures {has_failures}");
            assert!(served > 300, "only {served} served, seed {seed}");
        }
    }
}

/// The node is kept busy with models 0 and 1. A model that is in no memory gets it after 30 s, the running requests and
/// the load. So does the next one, which may also have to wait until the first has been there for 30 s.
#[test]
fn a_model_that_is_nowhere_gets_a_busy_node() {
    for seed in 1..=3 {
        let setup = Setup { room: Some(2), ..Setup::new(SLOWEST, 2, &[0, 1]) };
        let mut fleet = Fleet::new(QueueLimits::default(), &[setup], &[0], 4);
        let mut dice = Dice::new(seed);
        let mut starved = Vec::new();
        for tick in 0..1500 {
            for user in 0..4 {
                while fleet.waiting_of(user) < 3 {
                    let ask = some(&mut dice, user as u64);
                    fleet.ask(Ask { model: user % 2, ..ask });
                }
            }
            let model = if tick == 350 { 2 } else { 3 };
            if tick == 350 || tick == 380 + 40 * seed {
                let ask = Ask { user: 9, weight: 1.0, model, prompt: 500, output: 50 };
                starved.push(fleet.ask(ask));
            }
            fleet.step();
        }
        for id in starved {
            let asked = &fleet.asked[&id];
            let waited = asked.sent_at.map(|at| (at - asked.at).as_secs_f64());
            let bound = 30.0 + longest_service() + LOAD_SECONDS + 2.0;
            assert!(waited.is_some_and(|waited| waited <= bound), "{waited:?} instead of {bound}, seed {seed}");
        }
    }
}
