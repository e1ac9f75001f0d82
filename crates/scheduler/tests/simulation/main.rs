//! Does the scheduler serve a small fleet well in virtual time? Seeded, without a clock, and the same on every run.
//!
//! The scheduler sees only what a gateway would see: probes, listings, and how requests end.

mod machine;
mod world;

use std::{collections::BTreeMap, time::Duration};

use machine::Machine;
use scheduler::{NodeState, QueueLimits, Time};
use world::{End, Happening, Job, PROBED, World};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Between 0 and 1, never 0.
    fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed with this mean.
    fn about(&mut self, mean_seconds: f64) -> Duration {
        Duration::from_secs_f64(-self.fraction().ln() * mean_seconds)
    }
}

/// 4, 2 and 1 slots; each node slower than the one before.
fn fleet() -> Vec<Machine> {
    vec![Machine::new(4, 24, 2.0), Machine::new(2, 16, 1.0), Machine::new(1, 10, 0.5)]
}

/// `count` requests at random times, from random users among `users`.
fn traffic(random: &mut Random, count: usize, rate: f64, users: std::ops::Range<usize>) -> Vec<Job> {
    let mut time = Duration::from_secs(1);
    let job = |_| {
        time += random.about(1.0 / rate);
        let user = users.start + random.below(users.len() as u64) as usize;
        // Each model is asked for half as often as the one before.
        let model = (random.below(15) + 1).leading_zeros() as usize - 60;
        let work = random.about(3.0).min(Duration::from_secs(20)).as_secs_f64();
        let patience = (random.below(20) == 0).then(|| time + random.about(10.0));
        Job {
            user,
            model,
            work,
            arrived: time,
            patience,
            running: None,
            has_begun: false,
            waited: None,
            ends: Vec::new(),
        }
    };
    (0..count).map(job).collect()
}

fn in_order(mut jobs: Vec<Job>) -> Vec<Job> {
    jobs.sort_by_key(|job| job.arrived);
    jobs
}

/// The wait that `percent` of these jobs do not exceed.
fn percentile<'a>(jobs: impl Iterator<Item = &'a Job>, percent: usize) -> Duration {
    let mut waits: Vec<Duration> = jobs.filter_map(|job| job.waited).collect();
    waits.sort();
    waits[(waits.len() - 1) * percent / 100]
}

#[test]
fn no_request_is_lost_through_deaths_returns_and_clients_that_hang_up() {
    for seed in 1..=3 {
        let mut world = World::new(QueueLimits::default(), fleet(), traffic(&mut Random(seed), 4000, 1.5, 0..20));
        for minute in [5, 15, 25] {
            let node = minute / 10;
            world.plan(Duration::from_secs(60 * minute as u64), Happening::Death(node));
            world.plan(Duration::from_secs(60 * minute as u64 + 200), Happening::Return(node));
        }
        let world = world.run();
        world.check_nothing_lost();
        let broken_off = world.ended(End::BrokenOff);
        assert!((1..=30).contains(&broken_off), "only what ran on a dying node breaks off: {broken_off}");
        assert!(world.ended(End::Cancelled) > 0);
        assert!(world.ended(End::Done) + world.ended(End::Cancelled) + broken_off == 4000, "nobody is refused");
        let states: Vec<_> = world.scheduler.nodes().iter().map(|node| (node.state, node.last_error.clone())).collect();
        assert!(states.iter().all(|(state, _)| *state == NodeState::Up), "{states:?}");
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let run = || World::new(QueueLimits::default(), fleet(), traffic(&mut Random(7), 1000, 2.0, 0..20)).run();
    assert_eq!(run().sent, run().sent);
}

#[test]
fn work_is_spread_by_relative_load() {
    // One model that every node can hold, and more work than the fleet can do.
    let mut jobs = traffic(&mut Random(4), 2000, 6.0, 0..20);
    jobs.iter_mut().for_each(|job| job.model = 2);
    let equal = vec![Machine::new(4, 24, 1.0), Machine::new(2, 24, 1.0), Machine::new(2, 24, 1.0)];
    let world = World::new(QueueLimits::default(), equal, jobs).run();
    world.check_nothing_lost();
    let served: Vec<usize> = world.machines.iter().map(|machine| machine.served).collect();
    let share = |node: usize| served[node] as f64 / served.iter().sum::<usize>() as f64;
    assert!((share(0) - 0.5).abs() < 0.05, "{served:?}");
    assert!((share(1) - 0.25).abs() < 0.05, "{served:?}");
}

#[test]
fn a_dead_node_gets_no_request_after_it_is_noticed_and_works_again_after_its_return() {
    let mut world = World::new(QueueLimits::default(), fleet(), traffic(&mut Random(5), 2000, 1.5, 0..20));
    let (death, back) = (Duration::from_secs(300), Duration::from_secs(600));
    world.plan(death, Happening::Death(0));
    world.plan(back, Happening::Return(0));
    let world = world.run();
    world.check_nothing_lost();
    let noticed = death + 2 * PROBED;
    let sent = |from: Time, to: Time| {
        let is_between = |sent: &&(Time, usize)| sent.1 == 0 && sent.0 > from && sent.0 < to;
        world.sent.iter().filter(is_between).count()
    };
    assert_eq!(sent(noticed, back), 0);
    assert!(sent(back, back + Duration::from_secs(60)) > 0);
}

#[test]
fn quiet_users_wait_little_while_one_user_floods() {
    let quiet = || traffic(&mut Random(60), 600, 2.0, 1..20);
    let alone = World::new(QueueLimits::default(), fleet(), quiet()).run();
    let mut jobs = quiet();
    jobs.extend(traffic(&mut Random(6), 4500, 15.0, 0..1));
    let flooded = World::new(QueueLimits::default(), fleet(), in_order(jobs)).run();
    flooded.check_nothing_lost();
    let is_quiet = |job: &&Job| job.user != 0 && job.patience.is_none();
    let (before, during) =
        (percentile(alone.jobs.iter().filter(is_quiet), 99), percentile(flooded.jobs.iter().filter(is_quiet), 99));
    // The flood's share of the queue is full of the model most in demand.
    let flood = percentile(flooded.jobs.iter().filter(|job| job.user == 0 && job.model == 0), 50);
    assert!(during < before + Duration::from_secs(5), "{during:?} instead of {before:?}");
    assert!(during * 3 < flood, "the quiet wait {during:?}, the flood {flood:?}");
    let refused: BTreeMap<usize, usize> =
        flooded.jobs.iter().filter(|job| job.ends == [End::Refused]).fold(BTreeMap::new(), |mut refused, job| {
            *refused.entry(job.user).or_default() += 1;
            refused
        });
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&0], "only the flood is refused: {refused:?}");
}

#[test]
fn loaded_models_are_used_far_more_often_than_by_chance() {
    let jobs = || traffic(&mut Random(8), 4000, 1.0, 0..20);
    let world = World::new(QueueLimits::default(), fleet(), jobs()).run();
    world.check_nothing_lost();
    // The same requests in order, each to any node.
    let (mut random, mut machines) = (Random(80), fleet());
    for job in jobs() {
        let node = random.below(3) as usize;
        machines[node].start(job.model);
        machines[node].finish(job.model);
    }
    let by_chance: usize = machines.iter().map(|machine| machine.loads).sum();
    assert!(world.loads() * 5 < by_chance, "{} loads, {by_chance} by chance", world.loads());
}
