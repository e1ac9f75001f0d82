//! Are forecasts of the first token too high or too low on the whole? What the forecast of a request cannot know, such as
//! which of several slots is free first, makes all of them wrong in the same direction.

use crate::explain::Kind;

/// How far one request moves a factor.
const STEP: f64 = 0.03;
const LEAST: f64 = 0.25;
const MOST: f64 = 4.0;

/// Factors by which forecasts are corrected, so that half of the requests take less and half take more.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Calibration {
    now: f64,
    wait: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { now: 1.0, wait: 1.0 }
    }
}

impl Calibration {
    /// The factor for a way to serve a request.
    pub(crate) fn factor(&self, kind: Kind) -> f64 {
        match kind {
            Kind::Now => self.now,
            Kind::Wait => self.wait,
            Kind::Load => 1.0,
        }
    }

    /// A first token came after `seconds`, and was expected, by a forecast with the factor, after `expected`.
    pub(crate) fn observe(&mut self, kind: Kind, expected: f64, seconds: f64) {
        let factor = match kind {
            Kind::Now => &mut self.now,
            Kind::Wait => &mut self.wait,
            Kind::Load => return,
        };
        // Each request counts the same however wrong its forecast was, which leads to the median.
        let step = if seconds > expected { 1.0 + STEP } else { 1.0 / (1.0 + STEP) };
        *factor = (*factor * step).clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecasts_that_are_a_third_too_high_are_put_right_within_twenty_requests() {
        let mut calibration = Calibration::default();
        for round in 0..20 {
            let measured = 3.0 * if round % 2 == 0 { 0.8 } else { 1.2 };
            calibration.observe(Kind::Wait, 4.0 * calibration.factor(Kind::Wait), measured);
        }
        assert!((0.6..0.9).contains(&calibration.factor(Kind::Wait)), "{calibration:?}");
        assert_eq!(calibration.factor(Kind::Now), 1.0, "others are others");
        assert_eq!(calibration.factor(Kind::Load), 1.0);
    }

    #[test]
    fn no_run_of_bad_luck_leads_too_far() {
        let mut calibration = Calibration::default();
        (0..1000).for_each(|_| calibration.observe(Kind::Now, 1.0, 100.0));
        assert_eq!(calibration.factor(Kind::Now), MOST);
        (0..1000).for_each(|_| calibration.observe(Kind::Now, 1.0, 0.0));
        assert_eq!(calibration.factor(Kind::Now), LEAST);
    }
}
