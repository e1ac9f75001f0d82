//! Does the first token come when it was expected (`x-gateway-expected-ms`)? The gate of the median error, with nodes whose
//! speed follows a script; `tests/engine` measures the same with real engines.

use super::{
    fleet::{Ask, Fleet, READING, Setup},
    random::Dice,
    *,
};

/// The gate: half of the requests are foretold at least as well.
const MOST_MEDIAN_ERROR: f64 = 0.25;
/// Tokens that a node writes in a tenth of a second.
const USUAL: u64 = 8;
const SLOW: u64 = 2;
/// One more than there are slots, so that some requests start at once and some wait.
const CLIENTS: usize = 5;

/// Two nodes with two slots each, whose clients each send the next request when they have their answer.
struct Engines {
    fleet: Fleet,
    dice: Dice,
    seed: u64,
}

impl Engines {
    fn new(seed: u64) -> Self {
        Self::of([USUAL; 2], seed)
    }

    /// With nodes that write so many tokens in a tenth of a second.
    fn of(tokens: [u64; 2], seed: u64) -> Self {
        let setups = tokens.map(|tokens| Setup::new(tokens, 2, &[0]));
        Self { fleet: Fleet::new(QueueLimits::default(), &setups, &[0, 1], 1), dice: Dice::new(seed), seed }
    }

    /// Runs on, and returns the errors of the forecasts made meanwhile, as shares of what was measured.
    fn run(&mut self, seconds: u64) -> Vec<f64> {
        let first = self.fleet.asked.len() as u128;
        for _ in 0..seconds * 10 {
            while self.fleet.scheduler.queued() + self.fleet.scheduler.in_flight() < CLIENTS {
                // Seconds to read and seconds to write, so that a tenth of a second is a small part of either.
                let (user, prompt) = (self.fleet.asked.len(), 1000 + self.dice.below(9000));
                self.fleet.ask(Ask { user, weight: 1.0, model: 0, prompt, output: 100 + self.dice.below(400) });
            }
            self.fleet.step();
        }
        let asked = self.fleet.asked.iter().filter(|(id, _)| id.0 > first);
        let errors = asked.filter_map(|(id, asked)| {
            let expected = self.fleet.scheduler.story(*id, self.fleet.now)?.expected?;
            let measured = asked.began_at?.saturating_sub(asked.at).as_secs_f64();
            Some((expected - measured).abs() / measured)
        });
        errors.collect()
    }

    #[track_caller]
    fn check(&self, mut errors: Vec<f64>, when: &str) {
        errors.sort_by(f64::total_cmp);
        let (count, median) = (errors.len(), errors[errors.len() / 2]);
        println!("{when}, seed {}: median error {:.0}% of {count}", self.seed, 100.0 * median);
        assert!(count >= 15, "{when}: only {count} were foretold");
        assert!(median <= MOST_MEDIAN_ERROR, "{when}, seed {}: {median}", self.seed);
    }
}

#[test]
fn the_first_token_comes_when_it_was_expected_but_for_a_quarter() {
    for seed in 1..=5 {
        let mut engines = Engines::new(seed);
        engines.run(120);
        let errors = engines.run(300);
        engines.check(errors, "usually");
    }
}

#[test]
fn the_same_holds_in_the_minute_after_one_of_two_was_slow() {
    for seed in 1..=5 {
        let mut engines = Engines::new(seed);
        engines.run(120);
        engines.fleet.machines[1].tokens = SLOW;
        engines.run(60);
        engines.fleet.machines[1].tokens = USUAL;
        let errors = engines.run(60);
        engines.check(errors, "after a slow spell");
    }
}

#[test]
fn the_same_holds_in_the_minute_after_all_were_slow() {
    for (tokens, seed) in
        [[USUAL; 2], [2 * USUAL, USUAL / 2]].into_iter().flat_map(|kind| (1..=5).map(move |seed| (kind, seed)))
    {
        let mut engines = Engines::of(tokens, seed);
        engines.run(120);
        engines.fleet.machines.iter_mut().for_each(|machine| machine.tokens /= USUAL / SLOW);
        engines.run(60);
        engines.fleet.machines.iter_mut().for_each(|machine| machine.tokens *= USUAL / SLOW);
        let errors = engines.run(60);
        engines.check(errors, &format!("after all of {tokens:?} were slow"));
    }
}

#[test]
fn the_same_holds_in_the_minute_after_all_wrote_slowly_and_read_as_ever() {
    for seed in 1..=5 {
        let mut engines = Engines::new(seed);
        engines.run(120);
        for machine in &mut engines.fleet.machines {
            (machine.tokens, machine.reading) = (SLOW, READING * USUAL / SLOW);
        }
        engines.run(60);
        for machine in &mut engines.fleet.machines {
            (machine.tokens, machine.reading) = (USUAL, READING);
        }
        let errors = engines.run(60);
        engines.check(errors, "after all wrote slowly");
    }
}
