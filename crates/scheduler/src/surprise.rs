//! Has something changed, or was one measurement odd? Several in a row that differ the same way show a change.

/// A measurement this many times above or below what was expected is a surprise.
const SURPRISE: f64 = 2.0;

/// Surprises in a row: positive where more was measured than expected, negative where less was.
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
