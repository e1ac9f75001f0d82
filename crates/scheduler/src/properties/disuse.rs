//! What does the scheduler do about a node that becomes slow (P9)? And is an estimate that keeps work away from a node put
//! right, and what does it cost to try?

use super::{
    fleet::{Ask, Fleet, Setup, TICK},
    random::Dice,
    *,
};
use crate::correction::Correction;

/// A fleet whose clients each send the next request when they have their answer.
struct Busy {
    fleet: Fleet,
    dice: Dice,
    clients: usize,
    /// How many models they ask for, in turn.
    models: usize,
}

impl Busy {
    fn new(tokens: &[u64], clients: usize, seed: u64) -> Self {
        Self::with_models(1, tokens, clients, seed)
    }

    fn with_models(models: usize, tokens: &[u64], clients: usize, seed: u64) -> Self {
        let resident: Vec<usize> = (0..models).collect();
        let setups: Vec<Setup> = tokens.iter().map(|tokens| Setup::new(*tokens, 2, &resident)).collect();
        let ids: Vec<usize> = (0..tokens.len()).collect();
        let fleet = Fleet::new(QueueLimits::default(), &setups, &ids, models);
        Self { fleet, dice: Dice::new(seed), clients, models }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            while self.fleet.scheduler.queued() + self.fleet.scheduler.in_flight() < self.clients {
                let (user, prompt) = (self.fleet.asked.len(), 100 + self.dice.below(900));
                let model = user % self.models;
                self.fleet.ask(Ask { user, weight: 1.0, model, prompt, output: 30 + self.dice.below(200) });
            }
            self.fleet.step();
        }
    }

    /// Runs on, and returns the share of what was sent meanwhile that went to a node.
    fn share(&mut self, node: usize, seconds: u64) -> f64 {
        self.share_of(0, node, seconds)
    }

    /// The same for one model.
    fn share_of(&mut self, model: usize, node: usize, seconds: u64) -> f64 {
        let begin = self.fleet.now;
        self.run(seconds);
        let sent = self.fleet.asked.values().filter(|asked| asked.sent_at.is_some_and(|at| at > begin));
        let sent = sent.filter(|asked| asked.ask.model == model);
        let (all, there) = sent.fold((0.0, 0.0), |(all, there), asked| {
            (all + 1.0, there + f64::from(u8::from(asked.served_by == Some(NodeId(node)))))
        });
        there / all
    }

    /// Seconds a token as estimated, over what is true.
    fn speed_error(&self, node: usize) -> f64 {
        let true_seconds = TICK.as_secs_f64() / self.fleet.machines[node].tokens as f64;
        self.fleet.scheduler.fleet[NodeId(node)].speed.measured().unwrap() / true_seconds
    }

    fn prefill(&self, node: usize) -> f64 {
        let model = self.fleet.scheduler.models.find("m0").unwrap();
        self.fleet.scheduler.fleet[NodeId(node)].instance(model).unwrap().prefill.at(500.0).unwrap()
    }

    /// Of the second model.
    fn correction(&mut self, node: usize) -> &mut Correction {
        let model = self.fleet.scheduler.models.find("m1").unwrap();
        &mut self.fleet.scheduler.fleet[NodeId(node)].instance_mut(model).unwrap().correction
    }

    /// Makes a node's estimates this many times too slow.
    fn mislead(&mut self, node: usize, factor: f64) {
        let seconds = factor * TICK.as_secs_f64() / self.fleet.machines[node].tokens as f64;
        let model = self.fleet.scheduler.models.find("m0").unwrap();
        let node = &mut self.fleet.scheduler.fleet[NodeId(node)];
        node.speed = Default::default();
        (0..10).for_each(|_| _ = node.speed.observe(seconds, 0.0, 1.0));
        let prefill = &mut node.instance_mut(model).unwrap().prefill;
        let right = prefill.clone();
        *prefill = Default::default();
        for tokens in [100.0, 900.0, 300.0, 600.0, 200.0, 700.0] {
            prefill.observe(tokens, factor * right.at(tokens).unwrap(), 0.0);
        }
    }
}

/// One more than the slots of the other two nodes.
const CLIENTS: usize = 5;

#[test]
fn a_node_that_was_frozen_for_20_s_has_its_part_of_the_work_within_a_minute() {
    for seed in 1..=5 {
        let mut busy = Busy::new(&[10, 10, 10], CLIENTS, seed);
        busy.run(60);
        busy.fleet.machines[1].frozen_until = busy.fleet.now + Duration::from_secs(20);
        busy.run(20);
        busy.run(50);
        let share = busy.share(1, 10);
        assert!(share >= 0.5 / 3.0, "seed {seed}: {share}");
    }
}

#[test]
fn an_estimate_that_is_twenty_times_wrong_is_put_right_within_a_minute() {
    for (factor, seed) in [20.0, 0.05].into_iter().flat_map(|factor| (1..=5).map(move |seed| (factor, seed))) {
        let mut busy = Busy::new(&[10, 10, 10], CLIENTS, seed);
        busy.run(30);
        let right = busy.prefill(1);
        busy.mislead(1, factor);
        busy.run(60);
        // In 10 s too few are sent to tell.
        let share = busy.share(1, 30);
        assert!(share >= 0.5 / 3.0, "{factor} times, seed {seed}: {share}");
        let error = busy.speed_error(1);
        assert!((0.5..2.0).contains(&error), "{factor} times, seed {seed}: {error}");
        let error = busy.prefill(1) / right;
        assert!((0.5..2.0).contains(&error), "{factor} times, seed {seed}: {error} in prompts");
    }
}

#[test]
fn a_model_that_seems_twenty_times_slower_than_its_node_is_put_right_within_a_minute() {
    for seed in 1..=5 {
        let mut busy = Busy::with_models(2, &[10, 10, 10], 2 * CLIENTS, seed);
        busy.run(60);
        (0..400).for_each(|_| busy.correction(1).observe(20.0));
        assert!(busy.correction(1).factor() > 5.0);
        let before = busy.speed_error(1);

        busy.run(60);

        let share = busy.share_of(1, 1, 40);
        assert!(share >= 0.5 / 3.0, "seed {seed}: {share}");
        let factor = busy.correction(1).factor();
        assert!((0.5..2.0).contains(&factor), "seed {seed}: {factor}");
        let error = busy.speed_error(1) / before;
        assert!((0.5..2.0).contains(&error), "seed {seed}: the node's speed changed {error} times");
    }
}

#[test]
fn a_frozen_node_whose_memory_is_empty_when_it_wakes_loads_again_and_has_its_part_within_a_minute() {
    for seed in 1..=5 {
        let mut busy = Busy::with_models(2, &[1, 1, 1], 2 * CLIENTS, seed);
        busy.run(60);
        busy.fleet.machines[1].frozen_until = busy.fleet.now + Duration::from_secs(20);
        busy.run(20);
        // Ollama has unloaded them, as their time was over.
        busy.fleet.machines[1].resident.clear();
        busy.run(40);
        for model in 0..2 {
            let share = busy.share_of(model, 1, 20);
            assert!(share >= 0.5 / 3.0, "seed {seed}, model {model}: {share}");
        }
    }
}

#[test]
fn what_one_slow_spell_has_taught_is_forgotten() {
    let mut busy = Busy::new(&[10, 10, 10], CLIENTS, 1);
    busy.run(30);
    busy.fleet.machines[1].tokens = 1;
    busy.run(30);
    assert!(busy.share(1, 10) < 0.1, "it is really slow");
    busy.fleet.machines[1].tokens = 10;
    busy.run(50);
    let share = busy.share(1, 10);
    assert!(share >= 0.5 / 3.0, "{share}");
}

/// The mean seconds of an answer, and how many requests a third node served.
fn answers(tokens: &[u64], seed: u64) -> (f64, usize) {
    let mut busy = Busy::new(tokens, 3, seed);
    busy.run(1800);
    let ended = busy.fleet.asked.values().filter_map(|asked| Some((asked, asked.ended_at?.saturating_sub(asked.at))));
    let (count, seconds) = ended.fold((0.0, 0.0), |(count, sum), (_, took)| (count + 1.0, sum + took.as_secs_f64()));
    (seconds / count, busy.fleet.asked.values().filter(|asked| asked.served_by == Some(NodeId(2))).count())
}

#[test]
fn a_node_that_is_really_four_times_slower_costs_the_others_next_to_nothing() {
    for seed in 1..=3 {
        let (without, _) = answers(&[20, 20], seed);
        let (with, tried) = answers(&[20, 20, 5], seed);
        // Once it is known, after half a minute, then after twice as long each time.
        assert!((2..=9).contains(&tried), "seed {seed}: tried {tried} times in half an hour");
        assert!(with <= 1.02 * without, "seed {seed}: {with} instead of {without} seconds");
    }
}

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
