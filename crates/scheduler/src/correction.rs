//! How much slower or faster than its node is a model by its size? A factor near 1, learned slowly from the model's own
//! streams.

use serde::{Deserialize, Serialize};

use crate::drift::Drift;

/// The least that one sample weighs.
const LEAST_NEWS: f64 = 0.03;
/// The most that one sample may weigh.
const MOST_NEWS: f64 = 0.1;
/// The most that one sample weighs after a trial has shown that the factor was wrong, for so many samples.
const NEWS_AFTER_TRIAL: f64 = 0.5;
const SAMPLES_AFTER_TRIAL: u32 = 6;
/// It is known after so many samples.
const NEW_SAMPLES: u32 = 30;
/// One sample differs by no more than this factor.
const MOST_AT_ONCE: f64 = 10.0;

/// A model's speed on a node, relative to the node's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Correction {
    factor: f64,
    samples: u32,
    /// What disuse has made of it; those who see that it is unused, or used again, say so here.
    #[serde(skip)]
    pub(crate) drift: Drift,
    /// Samples that still weigh more, because the trial's one may have been odd.
    #[serde(skip)]
    weightier: u32,
}

impl Default for Correction {
    fn default() -> Self {
        Self { factor: 1.0, samples: 0, drift: Drift::default(), weightier: 0 }
    }
}

impl Correction {
    /// By how much the model's tokens take longer than the node's speed and the model's size say.
    pub(crate) fn factor(&self) -> f64 {
        self.factor * self.drift.factor()
    }

    /// How many times as long another one says; `None` if one of them was never measured.
    pub(crate) fn relative(&self, other: &Self) -> Option<f64> {
        (self.samples > 0 && other.samples > 0).then(|| other.factor / self.factor)
    }

    /// A measurement of this factor came. Returns whether it shows, after a time without use, that the factor was wrong;
    /// it is put right then.
    pub(crate) fn is_disproved_by(&mut self, sample: f64) -> bool {
        let Some(ratio) = self.drift.disproof(sample / self.factor) else { return false };
        self.factor *= ratio;
        (self.samples, self.weightier) = (1, SAMPLES_AFTER_TRIAL);
        true
    }

    /// The node's own speed has not changed, or nothing shows that it has.
    pub(crate) fn observe(&mut self, factor: f64) {
        self.samples = self.samples.saturating_add(1);
        let most = if self.weightier > 0 { NEWS_AFTER_TRIAL } else { MOST_NEWS };
        self.weightier = self.weightier.saturating_sub(1);
        let news = (1.0 / f64::from(self.samples)).clamp(LEAST_NEWS, most);
        self.factor *= (factor.clamp(1.0 / MOST_AT_ONCE, MOST_AT_ONCE) / self.factor).powf(news);
    }

    /// Whether it is still being learned, so that what looks like a change of speed may be the model's own.
    pub(crate) fn is_new(&self) -> bool {
        self.samples < NEW_SAMPLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(factor: f64) -> Correction {
        let mut correction = Correction::default();
        (0..200).for_each(|_| correction.observe(factor));
        correction
    }

    #[test]
    fn an_unused_one_comes_down_to_that_of_others_and_a_trial_restores_or_replaces_it() {
        let (right, mut wrong) = (known(1.0), known(8.0));
        let ratio = wrong.relative(&right).unwrap();
        assert!(
            wrong.drift.would_change(ratio) && !known(0.9).drift.would_change(known(0.9).relative(&right).unwrap())
        );
        (0..60).for_each(|_| wrong.drift.unused(ratio, 1.0));
        assert!(wrong.factor() < 1.5, "{wrong:?}");
        let mut really = wrong.clone();
        wrong.drift.used();
        assert!(wrong.factor() > 7.0, "nothing follows the trial before it has shown something: {wrong:?}");
        assert!(wrong.is_disproved_by(1.0) && wrong.factor() < 1.5, "{wrong:?}");
        really.drift.used();
        assert!(!really.is_disproved_by(7.5) && really.factor() > 7.0, "{really:?}");
    }

    #[test]
    fn what_was_never_measured_is_compared_with_nothing() {
        assert_eq!(known(2.0).relative(&Correction::default()), None);
        assert_eq!(Correction::default().relative(&known(2.0)), None);
    }

    #[test]
    fn what_an_earlier_version_has_kept_is_understood() {
        let correction: Correction = serde_json::from_str(r#"{"factor":2.0,"samples":40}"#).unwrap();
        assert!(correction.factor() == 2.0 && !correction.is_new());
    }
}
