//! How long does a node take to read a prompt of a model? Measured from dispatch to the first token.

use serde::{Deserialize, Serialize};

use crate::{
    drift::{Drift, Surprises},
    suspicion::Suspicion,
};

/// How much each other request on the node slows down reading a prompt, before that was measured.
const FIRST_SLOWDOWN: f64 = 0.5;
const MOST_SLOWDOWN: f64 = 4.0;
/// The weight of one sample in the slow-down.
const SLOWDOWN_NEWS: f64 = 0.03;
/// One measurement that differs from what was expected counts as no more than this factor.
const MOST_AT_ONCE: f64 = 16.0;
/// How far the line follows a change of the node's speed with one sample, as an exponent.
const FOLLOWING: f64 = 0.75;
/// How much of the line's weight is left then, so that the next samples put right what is still wrong.
const KEPT_OF_OLD: f64 = 0.4;
/// So many surprises in a row show that a node reads at another speed now. On a busy node several prompts in a row take
/// twice as long without such a change, as requests come and go while they are read.
const SURPRISES: f64 = 6.0;
/// Shorter times tell nothing of a change, in seconds.
const LEAST_SECONDS: f64 = 1e-3;

/// The time of prompts by their length, without others on the node, and how much others lengthen it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reading {
    #[serde(flatten)]
    line: Line,
    #[serde(default = "first_slowdown")]
    slowdown: f64,
    #[serde(skip)]
    surprises: Surprises,
    /// What disuse has made of it; those who see that it is unused, or used again, say so here.
    #[serde(skip)]
    pub(crate) drift: Drift,
    #[serde(skip)]
    suspicion: Suspicion,
}

fn first_slowdown() -> f64 {
    FIRST_SLOWDOWN
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            line: Line::default(),
            slowdown: FIRST_SLOWDOWN,
            surprises: Surprises::default(),
            drift: Drift::default(),
            suspicion: Suspicion::default(),
        }
    }
}

impl Reading {
    /// What is known of all prompts, for whoever asks about several.
    pub(crate) fn times(&self) -> PromptTimes {
        PromptTimes {
            line: self.line.straight(),
            suspected: self.suspicion.factor(),
            drifted: self.drift.factor(),
            slowdown: self.slowdown,
        }
    }

    /// Seconds for a prompt of so many tokens on a node without other requests; `None` before the first measurement.
    pub(crate) fn at(&self, tokens: f64) -> Option<f64> {
        self.times().at(tokens)
    }

    /// The same if it had always been used.
    fn undrifted(&self, tokens: f64) -> Option<f64> {
        PromptTimes { drifted: 1.0, ..self.times() }.at(tokens)
    }

    /// Seconds for an empty prompt, and for each token.
    pub(crate) fn straight(&self) -> Option<(f64, f64)> {
        let factor = self.drift.factor() * self.suspicion.factor();
        self.line.straight().map(|(fixed, each)| (fixed * factor, each * factor))
    }

    /// How many times as long another one needs for the prompts that were measured here.
    pub(crate) fn relative(&self, other: &Self) -> Option<f64> {
        let tokens = self.line.middle();
        Some(other.undrifted(tokens)?.max(LEAST_SECONDS) / self.undrifted(tokens)?.max(LEAST_SECONDS))
    }

    /// The node certainly needs so many times as long for a token that it writes.
    pub(crate) fn writing_changed(&mut self, factor: f64) {
        self.suspicion.writing_changed(factor);
    }

    /// The node writes about as fast as was expected.
    pub(crate) fn writing_is_usual(&mut self) {
        self.suspicion.writing_is_usual();
    }

    /// How much each other request lengthens the time.
    pub(crate) fn slowdown(&self) -> f64 {
        self.slowdown
    }

    /// The factor by which a prompt takes longer beside this many other requests.
    pub(crate) fn stretch(&self, others: f64) -> f64 {
        1.0 + self.slowdown * others
    }

    /// A prompt of so many tokens took `seconds` beside `others`.
    pub(crate) fn observe(&mut self, tokens: f64, seconds: f64, others: f64) {
        let sample = seconds / self.stretch(others);
        let Some(expected) = self.line.at(tokens).map(|expected| expected.max(LEAST_SECONDS)) else {
            self.line.observe(tokens, sample);
            return;
        };
        // Beside the line as it was measured, without what is only suspected: the tests below deal with that
        // themselves.
        let ratio = sample.max(LEAST_SECONDS) / expected;
        let suspected = self.suspicion.factor();
        if let Some(ratio) = self.drift.disproof(ratio / suspected) {
            let ratio = ratio * suspected;
            self.suspicion = Suspicion::default();
            return self.change(ratio, tokens, expected * ratio);
        }
        if let Some(factor) = self.suspicion.proof(ratio, others) {
            self.surprises = Surprises::default();
            self.drift.changed();
            return self.change(factor, tokens, sample.clamp(expected / MOST_AT_ONCE, expected * MOST_AT_ONCE));
        }
        if self.surprises.show_change(ratio, others, SURPRISES) {
            let factor = ratio.powf(FOLLOWING);
            self.drift.changed();
            self.suspicion.reading_changed(factor);
            return self.change(factor, tokens, sample);
        }
        if !self.surprises.is_surprised() {
            let step = SLOWDOWN_NEWS * (ratio - 1.0) * others / (1.0 + others * others);
            self.slowdown = (self.slowdown + step).clamp(0.0, MOST_SLOWDOWN);
        }
        self.line.observe(tokens, sample.clamp(expected / MOST_AT_ONCE, expected * MOST_AT_ONCE));
    }

    /// The node has become faster or slower, and with it every prompt.
    fn change(&mut self, factor: f64, tokens: f64, sample: f64) {
        self.line.scale(factor);
        self.line.fade(KEPT_OF_OLD);
        self.line.observe(tokens, sample);
    }

    /// Makes new samples weigh more.
    pub(crate) fn fade(&mut self, kept: f64) {
        self.line.fade(kept);
    }
}

/// How long prompts take, for the moment.
#[derive(Copy, Clone, Debug)]
pub(crate) struct PromptTimes {
    /// As [`Line::straight`].
    line: Option<(f64, f64)>,
    /// The factors of suspicion and of disuse.
    suspected: f64,
    drifted: f64,
    slowdown: f64,
}

impl PromptTimes {
    /// Seconds for a prompt of so many tokens on a node without other requests; `None` before the first measurement.
    pub(crate) fn at(&self, tokens: f64) -> Option<f64> {
        self.line.map(|line| value_at(line, tokens) * self.suspected * self.drifted)
    }

    /// The factor by which a prompt takes longer beside this many other requests.
    pub(crate) fn stretch(&self, others: f64) -> f64 {
        1.0 + self.slowdown * others
    }
}

/// The value of a line at `x`, given its value at 0, and its slope.
fn value_at((at_zero, slope): (f64, f64), x: f64) -> f64 {
    (at_zero + slope * x).max(0.0)
}

/// What a value costs at a size, by what was seen at other sizes: a straight line through the samples. Newer ones weigh
/// more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    weight: f64,
    mean_x: f64,
    mean_y: f64,
    variance: f64,
    covariance: f64,
}

impl Line {
    const KEPT: f64 = 0.9;

    pub(crate) fn observe(&mut self, x: f64, y: f64) {
        self.weight = self.weight * Self::KEPT + 1.0;
        let news = 1.0 / self.weight;
        let (dx, dy) = (x - self.mean_x, y - self.mean_y);
        self.mean_x += news * dx;
        self.mean_y += news * dy;
        self.variance = (1.0 - news) * (self.variance + news * dx * dx);
        self.covariance = (1.0 - news) * (self.covariance + news * dx * dy);
    }

    /// Makes new samples weigh more.
    pub(crate) fn fade(&mut self, kept: f64) {
        self.weight *= kept;
    }

    /// Every value becomes so many times as large.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.mean_y *= factor;
        self.covariance *= factor;
    }

    /// The size that the samples lie around.
    pub(crate) fn middle(&self) -> f64 {
        self.mean_x
    }

    /// The expected value at `x`; `None` before the first sample.
    pub(crate) fn at(&self, x: f64) -> Option<f64> {
        self.straight().map(|line| value_at(line, x))
    }

    /// The line's value at 0, and its slope. If all samples lie close together, the line leans towards the origin.
    pub(crate) fn straight(&self) -> Option<(f64, f64)> {
        if self.weight == 0.0 {
            return None;
        }
        let ratio = self.mean_y / self.mean_x.max(1.0);
        let doubt = 0.05 * (self.mean_x * self.mean_x + 1.0);
        let slope = ((self.covariance + doubt * ratio) / (self.variance + doubt)).max(0.0);
        Some((self.mean_y - slope * self.mean_x, slope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, share: f64) -> bool {
        (a - b).abs() <= share * b.abs()
    }

    #[test]
    fn a_node_that_became_ten_times_slower_and_recovers_is_known_within_a_few_prompts() {
        let mut reading = Reading::default();
        let lengths = [100.0, 900.0, 300.0, 1500.0, 50.0, 700.0];
        let see = |reading: &mut Reading, count: usize, pace: f64| {
            lengths.iter().cycle().take(count).for_each(|x| reading.observe(*x, pace * (0.2 + 0.001 * x), 0.0));
        };
        see(&mut reading, 60, 1.0);
        assert!(close(reading.at(500.0).unwrap(), 0.7, 0.1), "{reading:?}");
        see(&mut reading, 12, 10.0);
        assert!(close(reading.at(500.0).unwrap(), 7.0, 0.25), "{reading:?}");
        see(&mut reading, 12, 1.0);
        assert!(close(reading.at(500.0).unwrap(), 0.7, 0.25), "{reading:?}");
    }

    #[test]
    fn one_prompt_that_took_long_counts_as_no_more_than_sixteen_times() {
        let mut reading = Reading::default();
        (0..40).for_each(|_| reading.observe(100.0, 1.0, 0.0));
        reading.observe(100.0, 30.0, 0.0);
        assert!(close(reading.at(100.0).unwrap(), 2.5, 0.1), "{reading:?}");
    }

    #[test]
    fn how_much_others_lengthen_a_prompt_is_learned() {
        let mut reading = Reading::default();
        for round in 0..2000 {
            let others = f64::from(round % 4);
            reading.observe(100.0, 1.0 + 1.2 * others, others);
        }
        assert!(close(reading.at(100.0).unwrap() * reading.stretch(2.0), 3.4, 0.1), "{reading:?}");
        assert!(close(reading.at(100.0).unwrap(), 1.0, 0.15), "{reading:?}");
    }

    #[test]
    fn a_trial_restores_unused_times_of_prompts_at_once_or_confirms_them() {
        let mut reading = Reading::default();
        let lengths = [100.0, 900.0, 300.0, 1500.0, 50.0, 700.0];
        lengths.iter().cycle().take(60).for_each(|x| reading.observe(*x, 20.0 * (0.2 + 0.001 * x), 0.0));
        (0..60).for_each(|_| reading.drift.unused(0.05, 1.0));
        assert!(reading.at(500.0).unwrap() < 1.5, "{reading:?}");
        let mut slow = reading.clone();
        reading.drift.used();
        assert!(close(reading.at(500.0).unwrap(), 14.0, 0.1), "{reading:?}");
        reading.observe(300.0, 0.5, 0.0);
        assert!(close(reading.at(800.0).unwrap(), 1.0, 0.3), "{reading:?}");
        slow.drift.used();
        slow.observe(300.0, 10.0, 0.0);
        assert!(close(slow.at(800.0).unwrap(), 20.0, 0.1), "{slow:?}");
    }

    #[test]
    fn a_change_of_writing_counts_for_prompts_until_they_are_measured_again() {
        let mut reading = Reading::default();
        let lengths = [100.0, 900.0, 300.0, 1500.0, 50.0, 700.0];
        lengths.iter().cycle().take(60).for_each(|x| reading.observe(*x, 4.0 * (0.2 + 0.001 * x), 0.0));
        let known = reading.clone();
        reading.writing_changed(0.25);
        assert!(close(reading.at(500.0).unwrap(), 0.7, 0.1), "{reading:?}");
        assert!(close(known.relative(&reading).unwrap(), 0.25, 0.01), "others see it as well");
        let mut unchanged = reading.clone();
        lengths.iter().for_each(|x| reading.observe(*x, 0.2 + 0.001 * x, 0.0));
        assert!(close(reading.at(500.0).unwrap(), 0.7, 0.1), "{reading:?}");
        lengths.iter().for_each(|x| unchanged.observe(*x, 4.0 * (0.2 + 0.001 * x), 0.0));
        assert!(close(unchanged.at(500.0).unwrap(), 2.8, 0.1), "{unchanged:?}");
    }

    #[test]
    fn a_trial_counts_from_what_a_change_of_writing_made_of_the_estimate() {
        let mut reading = Reading::default();
        let lengths = [100.0, 900.0, 300.0, 1500.0, 50.0, 700.0];
        lengths.iter().cycle().take(60).for_each(|x| reading.observe(*x, 0.2 + 0.001 * x, 0.0));
        reading.writing_changed(8.0);
        (0..60).for_each(|_| reading.drift.unused(0.125, 1.0));
        reading.drift.used();
        assert!(close(reading.at(500.0).unwrap(), 5.6, 0.1), "{reading:?}");
        reading.observe(300.0, 0.5, 0.0);
        assert!(close(reading.at(500.0).unwrap(), 0.7, 0.15), "{reading:?}");
    }

    #[test]
    fn what_an_earlier_version_has_kept_is_understood() {
        let kept = r#"{"weight":1.0,"mean_x":100.0,"mean_y":2.0,"variance":0.0,"covariance":0.0}"#;
        let reading: Reading = serde_json::from_str(kept).unwrap();
        assert!(close(reading.at(200.0).unwrap(), 4.0, 0.01) && reading.slowdown() == FIRST_SLOWDOWN);
        let again: Reading = serde_json::from_str(&serde_json::to_string(&reading).unwrap()).unwrap();
        assert_eq!(again, reading);
    }

    #[test]
    fn a_line_goes_through_what_was_seen_and_is_proportional_where_that_is_one_point() {
        let mut line = Line::default();
        assert_eq!(line.at(5.0), None);
        line.observe(100.0, 2.0);
        assert!(close(line.at(200.0).unwrap(), 4.0, 0.01));
        for x in [100.0, 1000.0, 50.0, 2000.0, 300.0, 1500.0, 20.0, 800.0] {
            line.observe(x, 1.0 + 0.01 * x);
        }
        assert!(close(line.at(1200.0).unwrap(), 13.0, 0.1), "{line:?}");
    }
}
