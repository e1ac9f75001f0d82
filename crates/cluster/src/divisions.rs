//! Do the shares in use ever add up to more than the slots? Simulates gateways, the table they agree through, and nodes
//! that count what runs there; on one thread, in random order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, test_runner::RngSeed};
use scheduler::Reach;

use crate::{Membership, Peer, Stance};

const NODES: [(&str, u32); 3] = [("gpu-1", 1), ("gpu-2", 3), ("gpu-3", 4)];
const MODELS: [&str; 2] = ["m", "n"];
/// A gateway that is silent for this long counts as gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Only a gateway that has heard from the database at least this often all the while can tell.
const LONGEST_GAP: Duration = Duration::from_secs(4);
const GATEWAYS: usize = 4;

/// Something that happens to one gateway, or to all.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sends a request, if the gateway has a slot for it.
    Send {
        gateway: usize,
        node: usize,
        model: usize,
    },
    End {
        gateway: usize,
        which: usize,
    },
    /// Begins to load a model on a node, if this gateway is the one that may.
    Load {
        gateway: usize,
        node: usize,
    },
    Loaded {
        gateway: usize,
        node: usize,
    },
    /// `is_heard`: whether the database's answer arrives.
    Beat {
        gateway: usize,
        is_starved: bool,
        is_heard: bool,
    },
    Start {
        gateway: usize,
    },
    /// The process dies, and its connections to the nodes with it.
    Die {
        gateway: usize,
    },
    Leave {
        gateway: usize,
    },
    Database {
        is_up: bool,
    },
    Wait {
        millis: u64,
    },
}

#[derive(Default)]
struct Gateway {
    /// `None` while its process does not run.
    membership: Option<Membership>,
    running: Vec<(usize, usize)>,
    /// Nodes on which it is loading a model.
    loading: BTreeSet<usize>,
    /// Its row in the table: its stance, when it was written, since when without a gap, and whether the gateway left.
    row: Option<Row>,
}

#[derive(Clone)]
struct Row {
    stance: Stance,
    at: Duration,
    since: Duration,
    has_left: bool,
}

struct World {
    gateways: Vec<Gateway>,
    now: Duration,
    is_up: bool,
}

fn name(gateway: usize) -> Arc<str> {
    format!("gateway-{gateway}").into()
}

fn slots(reach: &Reach, node: usize) -> u32 {
    let (node, slots) = NODES[node];
    match reach {
        Reach::Whole => slots,
        Reach::Nothing | Reach::Held => 0,
        Reach::Within(shares) => shares.iter().map(|share| share.slots(node, slots)).fold(slots, u32::min),
    }
}

fn loads_on(reach: &Reach, node: usize) -> bool {
    match reach {
        Reach::Whole => true,
        Reach::Nothing | Reach::Held => false,
        Reach::Within(shares) => shares.iter().all(|share| share.loads_on(NODES[node].0)),
    }
}

impl World {
    fn new() -> Self {
        let gateways = (0..GATEWAYS).map(|_| Gateway::default()).collect();
        Self { gateways, now: Duration::from_secs(100), is_up: true }
    }

    fn running(&self, gateway: usize, node: usize, model: usize) -> u32 {
        self.gateways[gateway].running.iter().filter(|place| **place == (node, model)).count() as u32
    }

    /// The gateways that are present, as the table shows them to one that has watched it for as long as `gateway` has.
    fn peers(&self, gateway: usize) -> Vec<Peer> {
        let own = self.gateways[gateway].row.as_ref().filter(|row| !row.has_left && self.now - row.at <= LONGEST_GAP);
        let watched = own.map_or(Duration::ZERO, |row| self.now - row.since);
        let others = self.gateways.iter().enumerate().filter(|(other, _)| *other != gateway);
        let there = others.filter_map(|(other, it)| {
            let row = it.row.as_ref()?;
            let is_gone = row.has_left || (self.now - row.at > PATIENCE && watched > PATIENCE);
            (!is_gone).then(|| Peer {
                gateway: name(other),
                stance: Some(row.stance.clone()),
                link: None,
                silent: self.now - row.at,
                busy: Duration::ZERO,
            })
        });
        there.collect()
    }

    fn beat(&mut self, gateway: usize, is_starved: bool, is_heard: bool) {
        if !self.is_up {
            return;
        }
        let (peers, now) = (self.peers(gateway), self.now);
        let Some(mut membership) = self.gateways[gateway].membership.take() else { return };
        membership.observe(&peers, is_starved, now);
        let reach = membership.reach();
        let fits = (0..NODES.len()).all(|node| {
            let is_loading = self.gateways[gateway].loading.contains(&node);
            (!is_loading || loads_on(&reach, node))
                && (0..MODELS.len()).all(|model| self.running(gateway, node, model) <= slots(&reach, node))
        });
        let stance = membership.stance(fits).unwrap();
        if is_heard {
            membership.published(&stance, &peers, now);
        }
        let it = &mut self.gateways[gateway];
        let unbroken = it.row.as_ref().filter(|row| !row.has_left && now - row.at <= LONGEST_GAP);
        let since = unbroken.map_or(now, |row| row.since);
        it.row = Some(Row { stance, at: now, since, has_left: false });
        it.membership = Some(membership);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { gateway, node, model } => {
                let running = self.running(gateway, node, model);
                let it = &mut self.gateways[gateway];
                if it.membership.as_ref().is_some_and(|own| running < slots(&own.reach(), node)) {
                    it.running.push((node, model));
                }
            }
            Step::End { gateway, which } => {
                let running = &mut self.gateways[gateway].running;
                if !running.is_empty() {
                    running.swap_remove(which % running.len());
                }
            }
            Step::Load { gateway, node } => {
                let it = &mut self.gateways[gateway];
                if it.membership.as_ref().is_some_and(|own| loads_on(&own.reach(), node)) {
                    it.loading.insert(node);
                }
            }
            Step::Loaded { gateway, node } => {
                self.gateways[gateway].loading.remove(&node);
            }
            Step::Beat { gateway, is_starved, is_heard } => self.beat(gateway, is_starved, is_heard),
            Step::Start { gateway } => {
                let it = &mut self.gateways[gateway];
                it.membership.get_or_insert_with(|| Membership::new(name(gateway)));
            }
            Step::Die { gateway } => {
                let it = &mut self.gateways[gateway];
                it.membership = None;
                it.running.clear();
                it.loading.clear();
            }
            Step::Leave { gateway } => {
                let it = &mut self.gateways[gateway];
                if let Some(row) = it.row.as_mut().filter(|_| self.is_up && it.membership.is_some()) {
                    row.has_left = true;
                }
                it.membership = None;
                it.running.clear();
                it.loading.clear();
            }
            Step::Database { is_up } => self.is_up = is_up,
            Step::Wait { millis } => self.wait(Duration::from_millis(millis)),
        }
        self.check();
    }

    /// Time passes, and every gateway that can reach the database reports as often as it must. The protocol promises
    /// nothing about a gateway that is silent for too long while others are not.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = until.min(self.now + LONGEST_GAP);
            for gateway in 0..GATEWAYS {
                self.beat(gateway, false, true);
            }
        }
    }

    /// Checks the nodes' own counts.
    fn check(&self) {
        for (node, (name, _)) in NODES.iter().enumerate() {
            let loading = self.gateways.iter().filter(|gateway| gateway.loading.contains(&node)).count();
            assert!(loading <= 1, "{loading} gateways load on {name}");
        }
        let mut counts = BTreeMap::new();
        for place in self.gateways.iter().flat_map(|gateway| &gateway.running) {
            *counts.entry(*place).or_insert(0) += 1;
        }
        for ((node, model), count) in counts {
            assert!(count <= NODES[node].1, "{count} of {} on {}", MODELS[model], NODES[node].0);
        }
    }

    /// Lets everything start that can start if nothing interferes for a while.
    fn settle(&mut self) {
        self.is_up = true;
        for gateway in 0..GATEWAYS {
            self.gateways[gateway].running.clear();
            self.gateways[gateway].loading.clear();
        }
        self.wait(4 * PATIENCE);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let one = || 0..GATEWAYS;
    prop_oneof![
        30 => (one(), 0..NODES.len(), 0..MODELS.len())
            .prop_map(|(gateway, node, model)| Step::Send { gateway, node, model }),
        4 => (one(), 0..NODES.len()).prop_map(|(gateway, node)| Step::Load { gateway, node }),
        8 => (one(), 0..NODES.len()).prop_map(|(gateway, node)| Step::Loaded { gateway, node }),
        15 => (one(), any::<usize>()).prop_map(|(gateway, which)| Step::End { gateway, which }),
        30 => (one(), prop::bool::weighted(0.1), prop::bool::weighted(0.8))
            .prop_map(|(gateway, is_starved, is_heard)| Step::Beat { gateway, is_starved, is_heard }),
        6 => one().prop_map(|gateway| Step::Start { gateway }),
        1 => one().prop_map(|gateway| Step::Die { gateway }),
        1 => one().prop_map(|gateway| Step::Leave { gateway }),
        2 => prop::bool::weighted(0.6).prop_map(|is_up| Step::Database { is_up }),
        6 => prop_oneof![9 => 1..3_000u64, 1 => 5_000..60_000u64].prop_map(|millis| Step::Wait { millis }),
    ]
}

/// `CLUSTER_DIVISIONS` sets how many are run.
fn config() -> ProptestConfig {
    let cases = std::env::var("CLUSTER_DIVISIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000);
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(14), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn gateways_that_share_never_use_more_than_the_slots(steps in prop::collection::vec(step(), 50..300)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
    }

    #[test]
    fn once_nothing_disturbs_any_more_every_slot_is_somebodys(steps in prop::collection::vec(step(), 50..150)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        if world.gateways.iter().all(|gateway| gateway.membership.is_none()) {
            return Ok(());
        }
        for (node, (_, all)) in NODES.iter().enumerate() {
            let reaches = || world.gateways.iter().filter_map(|gateway| Some(gateway.membership.as_ref()?.reach()));
            prop_assert_eq!(reaches().map(|reach| slots(&reach, node)).sum::<u32>(), *all);
            prop_assert_eq!(reaches().filter(|reach| loads_on(reach, node)).count(), 1);
        }
    }
}

#[test]
fn whoever_is_heard_first_after_an_outage_does_not_take_the_others_for_gone() {
    let mut world = World::new();
    (0..2).for_each(|gateway| world.step(Step::Start { gateway }));
    world.wait(4 * PATIENCE);
    let just_before = Duration::from_secs(2);
    world.now += just_before;
    world.beat(1, false, true);
    world.now += PATIENCE - just_before / 2;
    world.beat(1, false, true);
    assert_eq!(world.gateways[1].membership.as_ref().map(Membership::gateways), Some(2));
}

#[test]
fn a_single_slot_comes_to_whoever_is_starved() {
    let mut world = World::new();
    for gateway in [0, 1] {
        world.step(Step::Start { gateway });
    }
    let mut served = [0; 2];
    for _ in 0..60 {
        world.wait(Duration::from_secs(1));
        for (gateway, served) in served.iter_mut().enumerate() {
            let reach = world.gateways[gateway].membership.as_ref().unwrap().reach();
            let has_slot = slots(&reach, 0) == 1;
            *served += usize::from(has_slot);
            world.beat(gateway, !has_slot, true);
        }
    }
    assert!(served.iter().all(|seconds| *seconds >= 10), "{served:?}");
}
