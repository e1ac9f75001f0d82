//! How fast is a node, and how long will something take? Learned from streams and loads. First guesses are optimistic,
//! so that every node gets tried.
//!
//! | what | of | learned from | before anything is measured |
//! |---|---|---|---|
//! | [`Speed`] | a node | tokens over time of its streams | the fastest known node, or 200 tokens/s of a 5 GB model |
//! | `Correction` | a model on a node | the same, relative to the node's speed | 1 |
//! | `Reading` | prompts of a model on a node | dispatch to first token, and changes of the node's speed | 1/25 of a token's time for each prompt token |
//! | [`LoadTime`] | a node | its loads | the mean of the known nodes, or 1.5 s and 0.8 GB/s |

use serde::{Deserialize, Serialize};

use crate::drift::{Drift, Surprises};

/// Speeds are compared at this model size: a model twice as large is taken to be half as fast.
pub(crate) const REFERENCE_BYTES: f64 = 5e9;
/// Seconds a token for a reference model on an unknown node, if no other node was measured either.
pub(crate) const FIRST_GUESS: f64 = 1.0 / 200.0;
/// Prompt tokens that are read in the time it takes to write one token.
pub(crate) const PREFILL_RATIO: f64 = 25.0;
/// How much each other stream slows a stream down, before that was measured.
const FIRST_SLOWDOWN: f64 = 0.3;
/// Measurements outside these bounds are clamped; seconds a token.
const FASTEST: f64 = 1e-6;
const SLOWEST: f64 = 1e4;
const MOST_SLOWDOWN: f64 = 2.0;
/// A measurement that differs more than by this factor from what was expected counts only if several in a row do.
const MOST_AT_ONCE: f64 = 4.0;
/// So many measurements are needed before a speed is known: until then it is the middle one of them, as any one may be odd.
const FIRST_SAMPLES: usize = 5;
/// So many surprises in a row show that a node writes at another speed now.
const SURPRISES: f64 = 3.0;
/// The least weight of a measurement once a change of speed is certain.
const CHANGE_NEWS: f64 = 0.5;
/// So many measurements make a speed certain enough to charge for.
const CERTAIN_SAMPLES: u32 = 4;
/// The weight of one second of news in a node's speed: most of a change is known after 5 s.
const SPEED_NEWS: f64 = 0.2;
/// The weight of one sample in a value that seldom changes.
const SLOW_NEWS: f64 = 0.03;

/// What a measurement shows about a node's speed.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) enum SpeedNews {
    /// It is about what was expected.
    Usual,
    /// It may be odd: nothing is certain yet.
    Unsure,
    /// The speed has certainly changed: a token now counts as so many times as long.
    Changed(f64),
}

/// How fast a node writes: seconds a token for a reference model that runs alone, and how much each other stream slows
/// it down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Speed {
    alone: Option<f64>,
    slowdown: f64,
    /// Seconds a token as lately measured, beside whatever ran then, and the number of those measurements.
    #[serde(default)]
    seen: Option<(f64, u32)>,
    #[serde(skip)]
    surprises: Surprises,
    /// The first measurements in order of size, while they are too few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    first: Vec<f64>,
    /// What disuse has made of it; those who see that it is unused, or used again, say so here.
    #[serde(skip)]
    pub(crate) drift: Drift,
}

impl Default for Speed {
    fn default() -> Self {
        Self {
            alone: None,
            slowdown: FIRST_SLOWDOWN,
            seen: None,
            surprises: Surprises::default(),
            first: Vec::new(),
            drift: Drift::default(),
        }
    }
}

impl Speed {
    /// Seconds a token for a stream that runs alone; `None` before a measurement.
    pub(crate) fn alone(&self) -> Option<f64> {
        self.alone.map(|alone| alone * self.drift.factor())
    }

    /// The same as it was measured, however long ago.
    pub(crate) fn measured(&self) -> Option<f64> {
        self.alone
    }

    /// How much each other stream lengthens the time of a token.
    pub(crate) fn slowdown(&self) -> f64 {
        self.slowdown
    }

    /// The factor by which a token takes longer beside this many other streams.
    pub(crate) fn stretch(&self, others: f64) -> f64 {
        1.0 + self.slowdown * others
    }

    /// Seconds a token that may be charged for without having seen them: as long as was lately seen, even if the request
    /// should be faster as fewer others run now. `None` until there are enough measurements.
    pub(crate) fn certain(&self, others: f64) -> Option<f64> {
        let (seen, _) = self.seen.filter(|(_, samples)| *samples >= CERTAIN_SAMPLES)?;
        Some(seen.max(self.alone? * self.stretch(others)))
    }

    /// A stream beside `others` took `seconds` a token, scaled to the reference size; it was observed for `watched`
    /// seconds.
    pub(crate) fn observe(&mut self, seconds: f64, others: f64, watched: f64) -> SpeedNews {
        let sample = (seconds / self.stretch(others)).clamp(FASTEST, SLOWEST);
        let seconds = seconds.clamp(FASTEST, SLOWEST);
        let Some(alone) = self.alone else { return self.begin(sample, seconds) };
        let ratio = sample / alone;
        if let Some(ratio) = self.drift.disproof(ratio) {
            // What was learned before the disuse is worth nothing: learning begins again.
            (self.alone, self.first) = (None, Vec::new());
            return self.begin(alone * ratio, seconds);
        }
        if !self.first.is_empty() {
            return self.begin(sample, seconds);
        }
        // Together, all streams of a node weigh as much as one.
        let mut news = 1.0 - (1.0 - SPEED_NEWS).powf(watched / (others + 1.0));
        let is_changed = self.surprises.show_change(ratio, others, SURPRISES);
        if is_changed {
            news = news.max(CHANGE_NEWS);
            self.drift.changed();
        } else if !(1.0 / MOST_AT_ONCE..=MOST_AT_ONCE).contains(&ratio) {
            // A stall, or a time that was seen too late: it says nothing about the speed.
            return SpeedNews::Unsure;
        }
        // By factors, so that a node is known to be faster again as soon as it was known to be slower.
        let factor = ratio.powf(news);
        self.alone = Some(alone * factor);
        self.see(seconds, news);
        // A large jump is a change of speed, not of the slow-down.
        if !self.surprises.is_surprised() {
            let step = SLOW_NEWS * (ratio - 1.0) * others / (1.0 + others * others);
            self.slowdown = (self.slowdown + step).clamp(0.0, MOST_SLOWDOWN);
            return SpeedNews::Usual;
        }
        if is_changed { SpeedNews::Changed(factor) } else { SpeedNews::Unsure }
    }

    /// One of the first measurements.
    fn begin(&mut self, sample: f64, seconds: f64) -> SpeedNews {
        self.see(seconds, 1.0 / FIRST_SAMPLES as f64);
        let expected = self.alone;
        let place = self.first.partition_point(|other| *other < sample);
        self.first.insert(place, sample);
        let (low, high) = (self.first[(self.first.len() - 1) / 2], self.first[self.first.len() / 2]);
        self.alone = Some((low * high).sqrt());
        self.surprises = Surprises::default();
        if self.first.len() >= FIRST_SAMPLES {
            self.first = Vec::new();
        }
        let is_usual = expected.is_none_or(|expected| (0.5..=2.0).contains(&(sample / expected)));
        if is_usual { SpeedNews::Usual } else { SpeedNews::Unsure }
    }

    /// A measurement of this weight, or of more as long as there were few.
    fn see(&mut self, seconds: f64, news: f64) {
        let (seen, samples) = self.seen.unwrap_or((seconds, 0));
        let news = news.max(1.0 / (f64::from(samples) + 1.0));
        self.seen = Some((seen * (seconds / seen).powf(news), samples.saturating_add(1)));
    }
}

impl Speed {
    /// Keeps this share of what was learned; the rest returns to the first guess.
    pub(crate) fn fade(&mut self, kept: f64) {
        self.alone = self.alone.map(|alone| FIRST_GUESS + kept * (alone - FIRST_GUESS));
        self.slowdown = FIRST_SLOWDOWN + kept * (self.slowdown - FIRST_SLOWDOWN);
    }
}

/// How long a node takes to load a model: a fixed time, and a time for each byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadTime {
    fixed: f64,
    seconds_per_byte: f64,
    samples: u32,
}

impl Default for LoadTime {
    fn default() -> Self {
        Self { fixed: 1.5, seconds_per_byte: 1.0 / 0.8e9, samples: 0 }
    }
}

impl LoadTime {
    pub(crate) fn of(&self, bytes: f64) -> f64 {
        self.fixed + bytes * self.seconds_per_byte
    }

    /// The mean over the nodes that have loaded something; `None` if there are none.
    pub(crate) fn mean<'a>(times: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let (mut count, mut sum) = (0.0, (0.0, 0.0));
        for time in times.filter(|time| time.samples > 0) {
            (count, sum) = (count + 1.0, (sum.0 + time.fixed, sum.1 + time.seconds_per_byte));
        }
        (count > 0.0).then(|| Self { fixed: sum.0 / count, seconds_per_byte: sum.1 / count, samples: 0 })
    }

    /// Takes over `usual` until a load was seen here.
    pub(crate) fn guess(&mut self, usual: &Self) {
        if self.samples == 0 {
            self.clone_from(usual);
        }
    }

    pub(crate) fn observe(&mut self, bytes: f64, seconds: f64) {
        // All that is known of the fixed part is that it is less than the whole.
        self.fixed = self.fixed.min(0.5 * seconds);
        let sample = (seconds - self.fixed).max(0.0) / bytes.max(1.0);
        self.samples = self.samples.saturating_add(1);
        let news = (1.0 / f64::from(self.samples)).max(0.3);
        self.seconds_per_byte += news * (sample - self.seconds_per_byte);
    }
}

/// How often a model was asked for over about the last two minutes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Demand {
    per_second: f64,
    /// When it was last asked for, in seconds.
    pub(crate) asked_at: Option<f64>,
}

impl Demand {
    const MEMORY_SECONDS: f64 = 120.0;

    pub(crate) fn asked(&mut self, now: f64) {
        self.per_second = self.at(now) + 1.0 / Self::MEMORY_SECONDS;
        self.asked_at = Some(now);
    }

    /// Requests a second.
    pub(crate) fn at(&self, now: f64) -> f64 {
        let age = self.asked_at.map_or(0.0, |asked| now - asked);
        self.per_second * (-age / Self::MEMORY_SECONDS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, share: f64) -> bool {
        (a - b).abs() <= share * b.abs()
    }

    /// A speed of which enough was seen.
    fn known(seconds: f64, others: f64) -> Speed {
        let mut speed = Speed::default();
        for _ in 0..FIRST_SAMPLES {
            speed.observe(seconds * speed.stretch(others), others, 1.0);
        }
        speed
    }

    #[test]
    fn the_first_sample_of_a_speed_counts_in_full_and_a_tenfold_slow_down_is_known_in_ten_seconds() {
        let mut speed = Speed::default();
        speed.observe(0.01, 0.0, 1.0);
        assert_eq!(speed.alone(), Some(0.01));
        let mut speed = known(0.01, 0.0);
        for _ in 0..10 {
            speed.observe(0.1, 0.0, 1.0);
        }
        assert!(speed.alone().unwrap() > 0.08);
    }

    #[test]
    fn the_slow_down_by_other_streams_is_learned_apart_from_the_speed() {
        let mut speed = Speed::default();
        for round in 0..2000 {
            let others = f64::from(round % 4);
            speed.observe(0.01 * (1.0 + 0.5 * others), others, 1.0);
        }
        assert!(close(speed.stretch(1.0), 1.5, 0.05), "{speed:?}");
        assert!(close(speed.alone().unwrap(), 0.01, 0.1), "{speed:?}");
    }

    #[test]
    fn what_is_charged_for_unseen_is_never_faster_than_what_was_lately_seen() {
        let mut speed = Speed::default();
        // The first came in one piece. After it, eight streams ran at once on a node that they do not slow down.
        speed.observe(0.0008, 7.0, 0.2);
        assert_eq!(speed.certain(0.0), None, "one measurement is not certain");
        (0..8).for_each(|_| _ = speed.observe(0.0067, 7.0, 0.2));
        assert!(speed.alone().unwrap() < 0.003, "a stream alone is expected to be faster: {speed:?}");
        assert!(close(speed.certain(0.0).unwrap(), 0.0067, 0.35), "{speed:?}");
        (0..300).for_each(|_| _ = speed.observe(0.0067, 7.0, 0.2));
        assert!(close(speed.certain(0.0).unwrap(), 0.0067, 0.02), "{speed:?}");
    }

    #[test]
    fn many_streams_of_a_node_count_together_as_one_watcher() {
        let (mut one, mut eight) = (known(0.01, 0.0), known(0.01, 7.0));
        one.observe(0.02, 0.0, 1.0);
        for _ in 0..8 {
            eight.observe(0.02 * eight.stretch(7.0), 7.0, 1.0);
        }
        assert!(close(one.alone().unwrap(), eight.alone().unwrap(), 0.1));
    }

    #[test]
    fn a_wrong_first_sample_does_not_stand_alone() {
        for wrong in [0.0005, 0.2] {
            let mut speed = Speed::default();
            speed.observe(wrong, 0.0, 1.0);
            speed.observe(0.01, 0.0, 1.0);
            let after_two = speed.alone().unwrap();
            assert!((1.0 / 4.5..4.5).contains(&(after_two / 0.01)), "{after_two}");
            speed.observe(0.011, 0.0, 1.0);
            assert!(close(speed.alone().unwrap(), 0.01, 0.1), "{speed:?}");
            // The same where it comes third.
            let mut speed = Speed::default();
            [0.01, 0.01, wrong, 0.01].into_iter().for_each(|sample| _ = speed.observe(sample, 0.0, 1.0));
            assert!(close(speed.alone().unwrap(), 0.01, 0.01), "{speed:?}");
        }
    }

    #[test]
    fn a_trial_restores_an_unused_speed_at_once_or_confirms_it() {
        let mut speed = known(0.2, 0.0);
        (0..60).for_each(|_| speed.drift.unused(0.05, 1.0));
        assert!(speed.alone().unwrap() < 0.02 && speed.measured() == Some(0.2), "{speed:?}");
        let mut slow = speed.clone();
        speed.drift.used();
        assert_eq!(speed.alone(), Some(0.2));
        speed.observe(0.012, 0.0, 1.0);
        assert!(close(speed.alone().unwrap(), 0.012, 0.02), "{speed:?}");
        slow.drift.used();
        slow.observe(0.21, 0.0, 1.0);
        assert!(close(slow.alone().unwrap(), 0.2, 0.05), "{slow:?}");
    }

    #[test]
    fn load_times_are_learned_from_one_load_and_scale_with_the_size() {
        let mut time = LoadTime::default();
        assert!(close(time.of(8e9), 11.5, 0.001));
        time.observe(5e9, 4.0);
        assert!(close(time.of(5e9), 4.0, 0.001) && close(time.of(20e9), 11.5, 0.001));
        time.observe(1e9, 0.2);
        assert!(time.of(0.0) <= 0.1);
    }

    #[test]
    fn a_node_that_has_loaded_nothing_is_taken_to_be_as_the_others_are() {
        let (mut fast, mut slow, mut new) = (LoadTime::default(), LoadTime::default(), LoadTime::default());
        assert_eq!(LoadTime::mean([&fast, &new].into_iter()), None);
        fast.observe(5e9, 1.0);
        slow.observe(5e9, 3.0);
        let usual = LoadTime::mean([&fast, &slow, &new].into_iter()).unwrap();
        new.guess(&usual);
        fast.guess(&usual);
        assert!(close(new.of(5e9), 2.0, 0.001) && close(fast.of(5e9), 1.0, 0.001));
        new.observe(5e9, 4.0);
        assert!(close(new.of(5e9), 4.0, 0.001), "what is seen counts, and the guess no more");
    }

    #[test]
    fn demand_fades_with_its_memory() {
        let mut demand = Demand::default();
        for second in 0..1200 {
            demand.asked(f64::from(second));
        }
        assert!(close(demand.at(1199.0), 1.0, 0.01));
        assert!(close(demand.at(1199.0 + 120.0), (-1.0_f64).exp(), 0.01));
    }
}
