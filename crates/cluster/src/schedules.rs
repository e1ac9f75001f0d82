//! Does a common scheduler keep its promises, whatever happens to gateways, network and database? Random schedules of
//! faults; the promises are the numbered ones of `docs/internals/decisions.md`.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Role,
    world::{NODES, World},
};

mod faults;

use faults::{MODELS, SECOND, disturb};

/// Faults end, everybody lives, and everything accepted comes to its end.
fn settle(world: &mut World, seed: u64) {
    world.is_database_up = true;
    world.parted.clear();
    for gateway in 0..world.gateways.len() {
        (world.gateways[gateway].paused_until, world.gateways[gateway].cut_until) = (Duration::ZERO, Duration::ZERO);
        if world.gateways[gateway].is_retiring {
            world.kill(gateway);
        }
        world.start(gateway);
    }
    world.wait(50 * SECOND);
    for _ in 0..240 {
        if world.is_empty() {
            break;
        }
        world.wait(SECOND);
        world.probe();
    }
    assert!(world.is_empty(), "seed {seed}: {}", world.describe());
}

/// Promises 1 to 3 and 6.
fn run(seed: u64) -> World {
    let gateways = 2 + (seed % 3) as usize;
    let mut world = World::new(seed, gateways);
    if seed % 7 == 6 {
        world.gateways[0].has_link = false;
    }
    (0..gateways).for_each(|gateway| world.start(gateway));
    for _ in 0..1200 {
        disturb(&mut world);
        world.step();
    }
    settle(&mut world, seed);
    world
}

/// What happened in many schedules.
#[derive(Default)]
struct Sum {
    requests: usize,
    grants: usize,
    simulated: Duration,
    faults: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, world: World) {
        self.requests += world.users.len();
        self.grants += world.granted.len();
        self.simulated += world.now - World::START;
        for (fault, count) in world.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    /// Keeps it in the folder that `CLUSTER_RESULTS` names, from the root of the repository.
    fn keep(&self, first: u64, count: u64) {
        let Ok(folder) = std::env::var("CLUSTER_RESULTS") else { return };
        let result = serde_json::json!({
            "schedules": count, "first_seed": first, "requests": self.requests, "grants": self.grants,
            "simulated_hours": self.simulated.as_secs() / 3600, "faults": self.faults,
        });
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = serde_json::to_string_pretty(&result).expect("numbers") + "\n";
        std::fs::write(root.join(folder).join("schedules.json"), text).expect("the folder exists");
    }
}

/// `CLUSTER_SCHEDULES` sets how many, `CLUSTER_SEED` the first. Returns both.
fn each_schedule(mut check: impl FnMut(u64)) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let first: u64 = number("CLUSTER_SEED").unwrap_or(0);
    let count: u64 = number("CLUSTER_SCHEDULES").unwrap_or(2_000);
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(seed)));
        assert!(outcome.is_ok(), "CLUSTER_SEED={seed} CLUSTER_SCHEDULES=1 repeats this schedule");
    }
    (first, count)
}

#[test]
fn no_slot_is_used_twice_and_every_request_ends_once() {
    let mut sum = Sum::default();
    let (first, count) = each_schedule(|seed| sum.add(run(seed)));
    sum.keep(first, count);
}

/// One gateway was paused when the database went away. When it was back, the others were heard from first.
#[test]
fn an_outage_does_not_count_as_silence_of_a_gateway_that_was_paused_before_it() {
    run(176_966);
}

/// A gateway that had been given up was linked again, and parted before its report arrived: it held slots that were others'.
#[test]
fn a_link_alone_does_not_bring_back_slots_that_were_given_up() {
    run(76_603);
}

/// Once faults are over and everybody lives, an idle fleet serves at once.
#[test]
fn grants_flow_in_the_end() {
    each_schedule(|seed| {
        let mut world = run(seed);
        // Longer than a node that stayed silent is left alone.
        for _ in 0..60 {
            world.wait(6 * SECOND);
            world.probe();
        }
        let (granted, gateways) = (world.granted.len(), world.gateways.len());
        for gateway in 0..gateways {
            world.ask(gateway, "last", 0, SECOND);
        }
        world.wait(12 * SECOND);
        assert_eq!(world.granted.len() - granted, gateways, "seed {seed}: {}", world.describe());
    });
}

fn settled(gateways: usize) -> World {
    settled_by(11, gateways)
}

fn settled_by(seed: u64, gateways: usize) -> World {
    let mut world = World::new(seed, gateways);
    (0..gateways).for_each(|gateway| world.start(gateway));
    world.wait(8 * SECOND);
    assert_eq!(world.leaders().len(), 1);
    let follows = |gateway: &usize| matches!(world.role(*gateway), Some(Role::Following { .. }));
    assert_eq!((0..gateways).filter(follows).count(), gateways - 1);
    world
}

fn load(world: &mut World, each: usize) {
    for gateway in world.live() {
        for count in 0..each {
            world.ask(gateway, &format!("user-{}", count % 3), count % 2, 2 * SECOND);
        }
    }
}

fn all_slots() -> usize {
    NODES.iter().map(|(_, slots)| *slots as usize).sum::<usize>() * MODELS as usize
}

#[test]
fn every_slot_is_used_from_any_gateway() {
    let mut world = settled(3);
    for _ in 0..40 {
        world.ask(1, "user", 0, 5 * SECOND);
        world.ask(1, "user", 1, 5 * SECOND);
    }
    world.wait(SECOND);
    assert_eq!(world.in_flight(), all_slots());
}

/// Promise 5, for a leader that dies.
#[test]
fn grants_flow_again_within_the_lease_and_three_seconds_of_the_leaders_death() {
    let mut world = settled(3);
    load(&mut world, 60);
    world.wait(SECOND);
    let leader = world.leaders()[0];
    world.kill(leader);
    let at = world.now;
    world.wait(8 * SECOND);
    assert_eq!(world.leaders().len(), 1);
    let after = world.granted.iter().filter(|(granted, _)| *granted > at).count();
    assert!(after >= all_slots(), "{after}");
    assert_eq!(world.in_flight(), all_slots());
}

/// Each gateway has two clients, who ask for one short answer after the other: there are seven slots.
fn press(world: &mut World, time: Duration) {
    let until = world.now + time;
    while world.now < until {
        for gateway in world.live() {
            while world.clients_of(gateway) < 2 {
                let (user, answer) = (world.dice.below(3), world.dice.millis(50, 650));
                world.ask(gateway, &format!("user-{user}"), 0, answer);
            }
        }
        world.step();
    }
}

/// The longest wait for a first slot of those who came to one of these gateways within 2 s before a moment and 6 s after
/// it, those included who still wait.
fn longest_wait(world: &World, gateways: &[usize], moment: Duration) -> Duration {
    let mut granted = BTreeMap::new();
    world.granted.iter().for_each(|(at, id)| _ = granted.entry(*id).or_insert(*at));
    let came = |at: Duration| (moment - 2 * SECOND..moment + 6 * SECOND).contains(&at);
    let waits = world.arrived.iter().filter(|(_, (at, gateway))| gateways.contains(gateway) && came(*at));
    waits.map(|(id, (at, _))| *granted.get(id).unwrap_or(&world.now) - *at).max().unwrap_or_default()
}

/// A cluster at work, its leader, and the followers whose clients have slots.
fn at_work(seed: u64) -> (World, usize, Vec<usize>) {
    let mut world = World::new(seed, 3);
    (0..3).for_each(|gateway| world.start(gateway));
    world.wait(8 * SECOND);
    let time = world.dice.millis(2_000, 4_000);
    press(&mut world, time);
    let leader = world.leaders()[0];
    let followers = (0..3).filter(|gateway| *gateway != leader && world.in_flight_of(*gateway) > 0).collect();
    (world, leader, followers)
}

/// Promise 5, for a leader that falls silent while its followers are at work.
#[test]
fn grants_flow_again_within_the_lease_and_three_seconds_of_the_leaders_silence() {
    for seed in 0..100 {
        let (mut world, leader, followers) = at_work(seed);
        let at = world.now;
        world.gateways[leader].paused_until = at + 20 * SECOND;
        press(&mut world, 14 * SECOND);
        let longest = longest_wait(&world, &followers, at);
        assert!(longest <= 8 * SECOND, "seed {seed}: {longest:?}");
    }
}

/// The same, where the leader goes on but its followers cannot reach it.
#[test]
fn followers_that_are_cut_off_go_on_with_the_slots_that_they_hold() {
    for seed in 0..100 {
        let (mut world, leader, followers) = at_work(seed);
        let (at, until) = (world.now, world.now + 9 * SECOND);
        for other in (0..3).filter(|other| *other != leader) {
            world.parted.insert((leader.min(other), leader.max(other)), until);
        }
        press(&mut world, 4 * SECOND);
        for follower in followers {
            let granted =
                world.granted.iter().filter(|(when, id)| *when > at + 2 * SECOND && world.arrived[id].1 == follower);
            assert!(granted.count() > 0, "seed {seed}: nobody at {follower}");
        }
    }
}

/// Promise 5, for a leader that is told to stop.
#[test]
fn a_leader_that_stops_hands_over_within_a_second() {
    let mut world = settled(3);
    load(&mut world, 60);
    world.wait(SECOND);
    let leader = world.leaders()[0];
    world.retire(leader);
    world.wait(SECOND);
    let leaders = world.leaders();
    assert!(leaders.len() == 1 && leaders[0] != leader, "{leaders:?}");
    world.wait(2 * SECOND);
    assert_eq!(world.in_flight(), all_slots());
}

/// Promise 4.
#[test]
fn a_user_who_spreads_over_gateways_gets_one_users_share() {
    // By how far one user is ahead at the end of a run is chance, so it is seen over several.
    let (mut spread, mut single) = (0_usize, 0_usize);
    for seed in 0..12 {
        let mut world = settled_by(seed, 4);
        for _ in 0..60 {
            for gateway in 0..4 {
                world.ask(gateway, "spread", 0, SECOND);
            }
            world.ask(0, "single", 0, SECOND);
        }
        world.wait(12 * SECOND);
        let is_single = |(_, id): &&(Duration, scheduler::RequestId)| *world.users[id] == *"single";
        let of_single = world.granted.iter().filter(is_single).count();
        assert!(of_single >= 25, "{of_single}");
        (spread, single) = (spread + world.granted.len() - of_single, single + of_single);
    }
    assert!(spread.abs_diff(single) * 20 <= single, "{spread} and {single}");
}

#[test]
fn an_outage_of_the_database_changes_nothing_while_everybody_is_linked() {
    let mut world = settled(3);
    let leader = world.leaders()[0];
    world.is_database_up = false;
    world.wait(90 * SECOND);
    assert_eq!(world.leaders(), [leader]);
    load(&mut world, 30);
    world.wait(SECOND);
    assert_eq!(world.in_flight(), all_slots());
}

/// Promise 6.
#[test]
fn without_leader_and_database_each_goes_on_with_its_share() {
    let mut world = settled(3);
    let leader = world.leaders()[0];
    world.is_database_up = false;
    world.kill(leader);
    world.wait(55 * SECOND);
    load(&mut world, 30);
    world.wait(SECOND);
    let share = all_slots() / 3;
    assert!((share..all_slots()).contains(&world.in_flight()), "{}", world.in_flight());
}

#[test]
fn a_gateway_without_a_link_makes_all_divide_the_slots() {
    let mut world = settled(2);
    world.gateways.push(World::new(3, 1).gateways.remove(0));
    world.gateways[2].has_link = false;
    world.start(2);
    world.wait(6 * SECOND);
    assert!((0..3).all(|gateway| world.role(gateway) == Some(&Role::Local)));
    load(&mut world, 30);
    world.wait(3 * SECOND);
    assert_eq!(world.in_flight(), all_slots());
}

/// It follows and leaves between two looks of its leader, which hears the end of the link and never sees it in the
/// database. Once the slots have been divided for a while, whoever leads then waits for nobody.
#[test]
fn a_gateway_that_was_there_for_a_moment_is_not_waited_for() {
    let mut world = settled(2);
    // Two more, which do not run yet; the last one has no link.
    (0..2).for_each(|_| world.gateways.push(World::new(3, 1).gateways.remove(0)));
    world.gateways[3].has_link = false;
    let leader = world.leaders()[0];
    let followers = |world: &World| world.gateways[leader].coordinator.as_ref().unwrap().member.follower_count();
    let next_look = |world: &World| world.gateways[leader].beat_at;
    let looks_at = next_look(&world);
    while next_look(&world) == looks_at {
        world.step();
    }
    let looks_at = next_look(&world);
    world.start(2);
    while followers(&world) < 2 {
        world.step();
    }
    world.leave(2);
    while followers(&world) == 2 {
        world.step();
    }
    assert_eq!(next_look(&world), looks_at, "it has not looked meanwhile");
    world.start(3);
    world.wait(6 * SECOND);
    world.leave(3);
    world.wait(6 * SECOND);
    load(&mut world, 30);
    world.wait(3 * SECOND);
    assert_eq!(world.in_flight(), all_slots(), "{}", world.describe());
}

/// A link that does not work although the database does.
#[test]
fn a_gateway_that_cannot_reach_the_leader_calls_for_shares() {
    let mut world = settled(2);
    let until = world.now + 100 * SECOND;
    world.parted.insert((0, 1), until);
    world.wait(20 * SECOND);
    assert!((0..2).all(|gateway| world.role(gateway) == Some(&Role::Local)));
    load(&mut world, 30);
    world.wait(3 * SECOND);
    assert_eq!(world.in_flight(), all_slots());
}
