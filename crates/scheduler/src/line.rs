//! What does a value cost at a size, by what was seen at other sizes?

use serde::{Deserialize, Serialize};

/// A straight line through the samples; newer ones weigh more.
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
        self.straight().map(|(at_zero, slope)| (at_zero + slope * x).max(0.0))
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
