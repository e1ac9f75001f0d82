//! Are slots that nobody configured learned (P2)?

use super::{
    dice::Dice,
    fleet::{Ask, Fleet, Setup},
    *,
};

const MINUTES: u64 = 15;

/// The most in flight, and the number learned in the end, on a node with `slots` real slots that always has more to do.
fn learn(slots: usize, seed: u64) -> (usize, usize) {
    let setup = Setup { is_configured: false, ..Setup::new(5, slots, &[0]) };
    let mut fleet = Fleet::new(QueueLimits::default(), &[setup], &[0], 1);
    let (mut dice, mut most) = (Dice::new(seed), 0);
    for _ in 0..MINUTES * 600 {
        while fleet.waiting_of(0) < 3 {
            let (prompt, output) = (100 + dice.below(1500), 20 + dice.below(400));
            fleet.ask(Ask { user: 0, weight: 1.0, model: 0, prompt, output });
        }
        fleet.step();
        most = most.max(fleet.machines[0].running_of(0));
    }
    (most, fleet.scheduler.nodes()[0].slots as usize)
}

#[test]
fn learned_slots_reach_the_true_ones_and_never_pass_them_by_more_than_a_probe() {
    for slots in [1, 2, 3, 4, 6] {
        for seed in [1, 2, 3] {
            let (most, learned) = learn(slots, seed);
            assert!(most <= slots + 1, "{most} at a time on {slots} slots, seed {seed}");
            assert_eq!(learned, slots, "seed {seed}");
        }
    }
}
