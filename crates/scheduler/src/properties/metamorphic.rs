//! Are decisions independent of what must not matter (P10)?

use super::{
    fleet::{Ask, Fleet, Setup},
    random::Dice,
    run::*,
    *,
};

const TICKS: u64 = 6000;

/// Runs three nodes under these ids, with all lengths and speeds multiplied by `scale`. Returns the decisions, with
/// nodes by their place in the setup, sorted within each moment.
fn decisions(seed: u64, ids: &[usize; 3], scale: u64) -> Vec<(Time, String)> {
    let setups = [
        Setup { room: Some(2), ..Setup::new(12 * scale, 2, &[0, 1]) },
        Setup { room: Some(1), ..Setup::new(9 * scale, 2, &[0]) },
        Setup { room: Some(1), is_configured: false, ..Setup::new(5 * scale, 3, &[2]) },
    ];
    let mut fleet = Fleet::new(QueueLimits { max_queued: 30, max_queued_per_user: 10 }, &setups, ids, 3);
    // If there is an unused id, it belongs to a node that has nothing and is always up.
    for id in (0..*ids.iter().max().unwrap()).filter(|id| !ids.contains(id)) {
        fleet.scheduler.handle(Event::Answered { node: NodeId(id) }, Time::ZERO);
    }
    fleet.teach(200.0 * scale as f64);
    let mut dice = Dice::new(seed);
    for tick in 0..TICKS {
        if dice.below(7) == 0 {
            let (prompt, output) = (500 + dice.below(3000), 20 + dice.below(300));
            // The model in demand changes over time.
            let favourite = (tick / 300) as usize;
            let (user, model) = (dice.below(5) as usize, (favourite + dice.below(6).saturating_sub(3) as usize) % 3);
            let ask = Ask { user, weight: 1.0 + user as f64, model, prompt: prompt * scale, output: output * scale };
            fleet.ask(ask);
        }
        if tick == TICKS / 2 {
            fleet.kill(1, Duration::from_secs(20));
        }
        fleet.step();
    }
    let place = |node: &NodeId| ids.iter().position(|id| *id == node.0);
    let named = |decision: &Decision| match decision {
        Decision::Dispatch { id, node, attempt } => format!("dispatch {id:?} {:?} {attempt}", place(node)),
        Decision::Load { node, model, .. } => format!("load {:?} {model}", place(node)),
        Decision::Unload { node, model } => format!("unload {:?} {model}", place(node)),
        other => format!("{other:?}"),
    };
    let mut log: Vec<_> = fleet.log.iter().map(|(at, decision)| (*at, named(decision))).collect();
    log.sort();
    log
}

fn assert_equal(a: &[(Time, String)], b: &[(Time, String)]) {
    let differs = a.iter().zip(b).find(|(a, b)| a != b);
    assert!(differs.is_none() && a.len() == b.len(), "{differs:?}, {} and {}", a.len(), b.len());
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let run = decisions(3, &[0, 1, 2], 1);
    assert_equal(&run, &decisions(3, &[0, 1, 2], 1));
    assert_ne!(run, decisions(2, &[0, 1, 2], 1));
    let count = |what: &str| run.iter().filter(|(_, decision)| decision.starts_with(what)).count();
    // The run must not be too easy.
    let counts = (count("dispatch"), count("load"), count("unload"));
    assert!(counts.0 > 200 && counts.1 > 2 && counts.2 > 0, "{counts:?}");
}

#[test]
fn other_numbers_for_the_nodes_change_no_decision() {
    for seed in 1..=4 {
        let run = decisions(seed, &[0, 1, 2], 1);
        for ids in [[2, 0, 1], [1, 2, 0], [2, 1, 0], [1, 3, 2]] {
            assert_equal(&run, &decisions(seed, &ids, 1));
        }
    }
}

#[test]
fn tokens_of_another_size_change_no_decision() {
    for seed in 1..=4 {
        assert_equal(&decisions(seed, &[0, 1, 2], 1), &decisions(seed, &[0, 1, 2], 4));
    }
}

proptest! {
    #![proptest_config(config(100))]

    /// A node that lists nothing is of no use to anybody.
    #[test]
    fn a_node_that_cannot_serve_changes_no_decision(steps in prop::collection::vec(step(), 1..200)) {
        let mut run = Run::new();
        let mut with_more = run.scheduler.clone();
        let spec = NodeSpec { name: "idle".into(), slots: Some(4), vram_bytes: None };
        with_more.handle(Event::NodeJoined { node: NodeId(NODES), spec }, Duration::ZERO);
        with_more.handle(Event::Answered { node: NodeId(NODES) }, Duration::ZERO);
        run.log.clear();
        let mut others = Vec::new();
        for step in &steps {
            let event = run.event(step);
            run.account_for(&event);
            others.extend(with_more.handle(event.clone(), run.now));
            let decisions = run.scheduler.handle(event, run.now);
            decisions.iter().for_each(|decision| run.account(decision));
            run.log.extend(decisions);
        }
        prop_assert_eq!(run.log, others);
    }

    /// A group of one user, with that user's weight, competes as the user does.
    #[test]
    fn a_group_for_each_user_changes_no_decision(steps in prop::collection::vec(step(), 1..300)) {
        let mut run = Run::new();
        let mut in_groups = run.scheduler.clone();
        run.log.clear();
        let mut others = Vec::new();
        for step in &steps {
            let event = run.event(step);
            run.account_for(&event);
            let grouped = match event.clone() {
                Event::Arrived(arrival) => {
                    let membership = Membership { group: arrival.user.clone(), weight: arrival.weight };
                    Event::Arrived(Arrival { membership: Some(membership), ..arrival })
                }
                other => other,
            };
            others.extend(in_groups.handle(grouped, run.now));
            let decisions = run.scheduler.handle(event, run.now);
            decisions.iter().for_each(|decision| run.account(decision));
            run.log.extend(decisions);
        }
        prop_assert_eq!(run.log, others);
    }
}
