//! Is an estimate that keeps work away from a node put right, and what does it cost to try?

use super::{
    dice::Dice,
    fleet::{Ask, Fleet, Setup, TICK},
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
