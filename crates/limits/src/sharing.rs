//! Do several gateways that share limits ever exceed them together? Simulated with the table they share.
#![cfg(test)]
mod group;
mod world;

use std::time::Duration;

use proptest::prelude::*;

use self::world::{Step, World};
use crate::{Calendar, Limits};

/// In each of these, a different limit is the one that is reached.
const LIMITS: [Limits; 4] = [
    Limits { requests_per_minute: Some(20), ..NONE },
    Limits { tokens_per_minute: Some(3_000), ..NONE },
    Limits { tokens_per_day: Some(5_000), ..NONE },
    Limits {
        requests_per_minute: Some(40),
        tokens_per_minute: Some(6_000),
        tokens_per_day: Some(9_000),
        max_concurrency: Some(6),
    },
];
const NONE: Limits =
    Limits { requests_per_minute: None, tokens_per_minute: None, tokens_per_day: None, max_concurrency: None };

/// A world of two gateways with these limits.
fn two(limits: Limits) -> World {
    World::new(2, limits, Calendar::Day, 3_600_000)
}

fn admitted(world: &mut World, gateway: usize, prompt: u64, output: u64) -> bool {
    let before = world.log.len();
    world.step(Step::Request { gateway, prompt, output: Some(output) });
    world.log.len() > before
}

#[test]
fn of_a_gateway_that_dies_all_goes_back_but_what_it_has_declared() {
    let mut world = two(LIMITS[2]);
    assert!(admitted(&mut world, 0, 100, 900));
    world.step(Step::Beat { gateway: 0 });
    world.step(Step::Die { gateway: 0 });
    assert!(!admitted(&mut world, 1, 100, 3_900), "its reserve is not free yet");
    // Until the other gateway may take it for dead.
    world.wait(11_000);
    world.step(Step::Beat { gateway: 1 });
    assert!(!admitted(&mut world, 1, 100, 3_851), "what it has used stays used, and the margin with it");
    assert!(admitted(&mut world, 1, 100, 3_850));
}

#[test]
fn a_gateway_that_was_cut_off_itself_takes_nothing_of_the_others() {
    let mut world = two(LIMITS[2]);
    assert!(admitted(&mut world, 0, 10, 10));
    world.step(Step::Beat { gateway: 0 });
    world.step(Step::Database { is_up: false });
    // Up to the reserve, which nobody knows about.
    while admitted(&mut world, 0, 1, 9) {}
    world.wait(11_000);
    world.step(Step::Database { is_up: true });
    world.step(Step::Beat { gateway: 1 });
    assert!(admitted(&mut world, 1, 100, 4_500));
    while admitted(&mut world, 1, 1, 1) {}
}

#[test]
fn a_share_ends_when_the_others_could_not_be_told_for_long_that_its_gateway_lives() {
    for limits in [LIMITS[0], LIMITS[1], LIMITS[2]] {
        let mut world = two(limits);
        assert!(admitted(&mut world, 0, 10, 10));
        world.step(Step::Beat { gateway: 0 });
        world.step(Step::Database { is_up: false });
        assert!(admitted(&mut world, 0, 10, 10), "in reserve");
        world.wait(11_000);
        assert!(!admitted(&mut world, 0, 10, 10));
        world.step(Step::Database { is_up: true });
        world.step(Step::Beat { gateway: 0 });
        assert!(admitted(&mut world, 0, 10, 10));
    }
}

#[test]
fn a_share_that_had_ended_does_not_come_back_with_its_gateway() {
    let mut world = two(LIMITS[2]);
    assert!(admitted(&mut world, 0, 10, 10));
    world.step(Step::Beat { gateway: 0 });
    // Only this gateway is cut off: the other takes over what has ended.
    for _ in 0..4 {
        world.now.uptime += Duration::from_secs(4);
        world.step(Step::Beat { gateway: 1 });
    }
    assert!(admitted(&mut world, 1, 100, 4_000));
    while admitted(&mut world, 1, 1, 1) {}
    world.step(Step::Beat { gateway: 0 });
    assert!(!admitted(&mut world, 0, 10, 100));
}

#[test]
fn two_can_use_almost_all_of_a_limit() {
    for (limits, all) in [(LIMITS[0], 20), (LIMITS[1], 150), (LIMITS[2], 250)] {
        let mut world = two(limits);
        let mut count = 0;
        for turn in 0..600 {
            count += u64::from(admitted(&mut world, turn % 2, 10, 10));
            world.step(Step::Beat { gateway: turn % 2 });
        }
        let percent = count * 100 / all;
        assert!(percent >= 99, "{percent} % of {limits:?}");
    }
}

fn steps(gateways: usize) -> impl Strategy<Value = Vec<Step>> {
    let one = move || 0..gateways;
    let output = prop_oneof![3 => (1..400u64).prop_map(Some), 1 => Just(None)];
    let step = prop_oneof![
        30 => (one(), 1..300u64, output).prop_map(|(gateway, prompt, output)| Step::Request { gateway, prompt, output }),
        25 => (one(), 0..8usize, 0..=100u64)
            .prop_map(|(gateway, which, hundredths)| Step::End { gateway, which, hundredths }),
        10 => one().prop_map(|gateway| Step::Copy { gateway }),
        10 => one().prop_map(|gateway| Step::Hear { gateway }),
        20 => one().prop_map(|gateway| Step::Beat { gateway }),
        1 => one().prop_map(|gateway| Step::Die { gateway }),
        1 => one().prop_map(|gateway| Step::Leave { gateway }),
        2 => one().prop_map(|gateway| Step::Start { gateway }),
        1 => prop::bool::weighted(0.6).prop_map(|is_up| Step::Database { is_up }),
        12 => prop_oneof![20 => 1..1500u64, 1 => 8_000..90_000u64].prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 200..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn together_gateways_never_go_over_whatever_happens(
        steps in steps(3), limits in prop::sample::select(LIMITS.to_vec()), until_next in 1_000..600_000i64,
        calendar in prop::sample::select(vec![Calendar::Day, Calendar::Month]),
    ) {
        let mut world = World::new(3, limits, calendar, until_next);
        for step in steps {
            world.step(step);
        }
    }
}
