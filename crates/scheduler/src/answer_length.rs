//! How many tokens will an answer have? An answer that is cut at its limit shows only that it would have been longer, so
//! what is learned is how long answers are that nothing cuts.

use serde::{Deserialize, Serialize};

/// The weight of one answer in the long run.
const NEWS: f64 = 0.03;
/// The first guess weighs as much as this many answers.
const GUESS_WEIGHT: f64 = 10.0;
/// Answers that nothing cuts are taken to be at most this many times as long as those that were seen.
const MOST_TIMES: f64 = 20.0;

/// How long a model's answers are, in tokens. Old ones fade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AnswerLength {
    /// The mean of all answers, cut or not.
    mean: f64,
    samples: u32,
    /// The mean if nothing cut any; `None` before the first answer. Lengths are taken to be spread as if every token
    /// were as likely to be the last.
    #[serde(default)]
    uncut: Option<f64>,
}

impl AnswerLength {
    pub(crate) fn new(guess: f64) -> Self {
        Self { mean: guess, samples: 0, uncut: None }
    }

    /// Tokens of an answer to a request like those seen so far.
    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// Tokens of an answer that is cut at `most`.
    pub(crate) fn within(&self, most: f64) -> f64 {
        match self.uncut {
            Some(uncut) => uncut.max(1.0) * -(-most / uncut.max(1.0)).exp_m1(),
            None => self.mean.min(most),
        }
    }

    /// The old mean is only a guess by now, so new answers weigh more.
    pub(crate) fn faded(mut self, kept: f64) -> Self {
        self.samples = (f64::from(self.samples) * kept) as u32;
        self
    }

    /// An answer had so many tokens; `is_cut` if it ended at its limit.
    pub(crate) fn observe(&mut self, tokens: f64, is_cut: bool) {
        self.samples = self.samples.saturating_add(1);
        let news = (1.0 / (f64::from(self.samples) + GUESS_WEIGHT)).max(NEWS);
        let uncut = self.uncut.unwrap_or(self.mean);
        let uncut = uncut + news * if is_cut { tokens } else { tokens - uncut };
        self.mean += news * (tokens - self.mean);
        self.uncut = Some(uncut.min(MOST_TIMES * self.mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_always_cut_are_expected_to_reach_their_limit() {
        let mut length = AnswerLength::new(200.0);
        (0..60).for_each(|round| length.observe(f64::from(6 + round % 20), true));
        for most in [6.0, 12.0, 25.0] {
            assert!(length.within(most) > 0.9 * most, "{} of {most}", length.within(most));
        }
    }

    #[test]
    fn the_mean_is_that_of_whole_answers_although_half_of_them_are_cut() {
        let mut length = AnswerLength::new(200.0);
        let uniform = |round: u32| f64::from(round.wrapping_mul(2_654_435_761) >> 8) / f64::from(1_u32 << 24);
        for round in 1..4000 {
            let whole = -300.0 * (1.0 - uniform(round)).ln();
            let most = if round % 2 == 0 { 100.0 } else { f64::INFINITY };
            length.observe(whole.min(most), whole >= most);
        }
        assert!((220.0..400.0).contains(&length.uncut.unwrap()), "{length:?}");
        assert!((70.0..90.0).contains(&length.within(100.0)), "{}", length.within(100.0));
    }

    #[test]
    fn no_number_of_cut_answers_makes_the_next_one_endless() {
        let mut length = AnswerLength::new(200.0);
        (0..10_000).for_each(|_| length.observe(100.0, true));
        assert!(length.within(f64::INFINITY) < 2001.0 && length.mean() < 101.0, "{length:?}");
    }
}
