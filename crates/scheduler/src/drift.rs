//! How much is an estimate still worth that nobody uses, or that measurements contradict? A node that gets no work gives
//! no measurement, so an estimate that is too slow would keep it out of work for ever.
//!
//! ```text
//! unused --drifts towards the fastest node in use--> a request comes: the trial --first measurement--> confirmed
//!                                                                                                  \-> wrong
//! ```
//! During a trial the estimate counts as it was, so that no second request follows the first. What a trial confirms
//! drifts half as fast from then on: a node that is really slow costs ever less.

/// Seconds of disuse that halve the distance on a logarithmic scale, or the estimate itself if that goes further: a node
/// that looks only a little slower than the others may get no work either.
const HALF_LIFE: f64 = 15.0;
/// Confirmations after which the half-life is doubled no more: it is 16 minutes then.
const MOST_DOUBLINGS: i32 = 6;
/// An estimate that has drifted to this share is on trial when it is used; less drift is taken back.
const TRIAL: f64 = 0.7;
/// A trial that measures at most this share shows that the estimate was wrong.
const WRONG: f64 = 0.6;
/// A trial that measures more than this many times the estimate met a stall, and shows nothing.
const STALL: f64 = 4.0;
/// No estimate drifts further than to this share.
const LEAST: f64 = 1e-4;

/// How far an estimate of seconds has drifted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drift {
    /// The estimate counts as so many times what was measured, at most 1.
    factor: f64,
    /// The factor that led to the trial in progress.
    trial: Option<f64>,
    /// Trials in a row that confirmed what was measured before.
    confirmed: i32,
}

impl Default for Drift {
    fn default() -> Self {
        Self { factor: 1.0, trial: None, confirmed: 0 }
    }
}

impl Drift {
    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    /// Whether disuse changes anything while what others use is `ratio` times as long.
    pub(crate) fn would_change(&self, ratio: f64) -> bool {
        ratio < 1.0 || self.factor < 1.0
    }

    /// Whether it is being tried after a time without use.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// The estimate was unused for `seconds`, in which what others use was `ratio` times as long.
    pub(crate) fn unused(&mut self, ratio: f64, seconds: f64) {
        // A trial that ended without a measurement says nothing.
        self.factor = self.trial.take().unwrap_or(self.factor);
        let aim = ratio.clamp(LEAST, 1.0);
        let half_lives = seconds / (HALF_LIFE * f64::from(self.confirmed).exp2());
        let distance = (self.factor / aim).log2();
        let left = (distance * (-half_lives).exp2()).min(distance - half_lives);
        self.factor = aim * left.max(0.0).exp2();
    }

    /// A request is about to use the estimate.
    pub(crate) fn used(&mut self) {
        if self.factor <= TRIAL {
            self.trial = Some(self.factor);
        }
        self.factor = 1.0;
    }

    /// A measurement was `ratio` times the estimate. If it ends a trial that shows the estimate to be wrong, it should
    /// count in full, as the ratio returned: no less than was expected by the others, as one measurement may be odd.
    pub(crate) fn disproof(&mut self, ratio: f64) -> Option<f64> {
        let trial = self.trial.take_if(|_| ratio <= STALL)?;
        let is_wrong = ratio <= WRONG;
        self.confirmed = if is_wrong { 0 } else { (self.confirmed + 1).min(MOST_DOUBLINGS) };
        is_wrong.then_some(ratio.max(trial))
    }

    /// The estimate has changed, so what earlier trials have shown is of no use.
    pub(crate) fn changed(&mut self) {
        *self = Self::default();
    }
}

/// A measurement this many times above or below what was expected is a surprise.
const SURPRISE: f64 = 2.0;

/// Tells a change from one odd measurement: several in a row that differ the same way show a change. How many there were
/// last; negative where less was measured than expected.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(crate) struct Surprises(i32);

impl Surprises {
    /// Takes note of a measurement relative to what was expected, and says whether a change is certain by now: after
    /// `enough` in a row, and one more for each of the `others`, as one pause of the node shows in the measurements of all.
    pub(crate) fn show_change(&mut self, ratio: f64, others: f64, enough: f64) -> bool {
        let direction = match ratio {
            more if more >= SURPRISE => 1,
            less if less <= 1.0 / SURPRISE => -1,
            _ => 0,
        };
        self.0 = if direction * self.0 > 0 { self.0.saturating_add(direction) } else { direction };
        f64::from(self.0.abs()) >= others + enough
    }

    /// Whether the last measurement was a surprise.
    pub(crate) fn is_surprised(self) -> bool {
        self.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unused(drift: &mut Drift, ratio: f64, seconds: u32) {
        (0..seconds).for_each(|_| drift.unused(ratio, 1.0));
    }

    #[test]
    fn half_of_the_distance_is_left_after_15_s_and_nothing_goes_past_the_aim() {
        let mut drift = Drift::default();
        unused(&mut drift, 1.0 / 16.0, 15);
        assert!((drift.factor() - 0.25).abs() < 0.01, "{drift:?}");
        unused(&mut drift, 1.0 / 16.0, 30);
        assert_eq!(drift.factor(), 1.0 / 16.0);
        unused(&mut drift, 1.0 / 16.0, 600);
        assert_eq!(drift.factor(), 1.0 / 16.0);
        drift.unused(0.5, 1.0);
        assert_eq!(drift.factor(), 0.5, "the others have become slower");
        drift.unused(3.0, 1.0);
        assert_eq!(drift.factor(), 1.0, "it is the fastest");
    }

    #[test]
    fn a_trial_counts_in_full_if_it_was_right_and_is_rarer_each_time_if_not() {
        let mut drift = Drift::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            let mut seconds = 0;
            while drift.factor() > 0.5 {
                drift.unused(0.25, 1.0);
                seconds += 1;
            }
            waits.push(seconds);
            drift.used();
            assert_eq!(drift.factor(), 1.0, "nothing follows a trial before it has shown something");
            assert_eq!(drift.disproof(1.1), None);
        }
        assert!((13..=16).contains(&waits[0]), "{waits:?}");
        assert!(waits.windows(2).take(6).all(|pair| 10 * pair[1] >= 18 * pair[0]), "{waits:?}");
        assert!(waits[8] < 64 * 16, "{waits:?}");
        unused(&mut drift, 0.25, 4000);
        drift.used();
        assert_eq!(drift.disproof(0.3), Some(0.3));
        assert_eq!(drift.disproof(0.3), None, "only the first measurement ends a trial");
        unused(&mut drift, 0.25, 16);
        assert!(drift.factor() <= 0.5, "{drift:?}");
        let expected = drift.factor();
        drift.used();
        assert_eq!(drift.disproof(0.01), Some(expected), "the prompt was cached, perhaps");
    }

    #[test]
    fn a_trial_that_shows_nothing_is_repeated() {
        let mut drift = Drift::default();
        unused(&mut drift, 0.1, 30);
        let before = drift.factor();
        drift.used();
        assert_eq!(drift.disproof(20.0), None, "a stall");
        drift.unused(0.1, 1.0);
        assert!(drift.factor() <= before, "{drift:?}");
    }

    #[test]
    fn a_little_drift_is_no_trial() {
        let mut drift = Drift::default();
        unused(&mut drift, 0.5, 3);
        drift.used();
        assert_eq!(drift.disproof(0.5), None);
        assert_eq!(drift, Drift::default());
    }
}
