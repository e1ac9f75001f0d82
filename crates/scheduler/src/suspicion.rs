//! Has a node come to read faster or slower, because it writes faster or slower? Reading and writing share the machine, and
//! writing is measured every second, reading only once a prompt.

/// A change is suspected to be no larger than this factor.
const MOST: f64 = 16.0;
/// A smaller suspicion is none: the node writes about as it did when a prompt was last read.
const LEAST: f64 = 1.2;

/// What is suspected until the next prompts have been read. Factors are kept as logarithms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Suspicion {
    suspected: f64,
    /// A change that reading has shown itself, and writing not yet.
    ahead: f64,
    /// Prompts that have taken as long as before since then.
    doubts: u32,
}

impl Suspicion {
    /// Prompts are taken to need so many times as long as measured.
    pub(crate) fn factor(&self) -> f64 {
        // Nearly always nothing is, and the power would be taken for every running request.
        if self.suspected == 0.0 { 1.0 } else { self.suspected.exp() }
    }

    /// A token certainly takes so many times as long to write as before.
    pub(crate) fn writing_changed(&mut self, factor: f64) {
        let change = factor.max(f64::MIN_POSITIVE).ln();
        let known = if change > 0.0 { self.ahead.clamp(0.0, change) } else { self.ahead.clamp(change, 0.0) };
        self.ahead -= known;
        self.doubts = 0;
        let suspected = (self.suspected + change - known).clamp(-MOST.ln(), MOST.ln());
        self.suspected = if suspected.abs() < LEAST.ln() { 0.0 } else { suspected };
    }

    /// A token takes as long to write as was expected: what reading has shown before is its own.
    pub(crate) fn writing_is_usual(&mut self) {
        self.ahead = 0.0;
    }

    /// Prompts have certainly come to take so many times as long to read.
    pub(crate) fn reading_changed(&mut self, factor: f64) {
        *self = Self { ahead: self.ahead + factor.max(f64::MIN_POSITIVE).ln(), ..Self::default() };
    }

    /// A prompt took `ratio` times as long as measured before. Returns the suspected factor if that is nearer to the truth.
    /// Each of the `others` may have begun before the change, so it takes one more than these to refute it.
    pub(crate) fn proof(&mut self, ratio: f64, others: f64) -> Option<f64> {
        if self.suspected == 0.0 {
            return None;
        }
        let ratio = ratio.max(f64::MIN_POSITIVE).ln();
        if (ratio - self.suspected).abs() < ratio.abs() {
            let factor = self.factor();
            (self.suspected, self.doubts) = (0.0, 0);
            return Some(factor);
        }
        self.doubts += 1;
        if f64::from(self.doubts) > others {
            (self.suspected, self.doubts) = (0.0, 0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspicion(factor: f64) -> Suspicion {
        let mut suspicion = Suspicion::default();
        suspicion.writing_changed(factor);
        suspicion
    }

    fn is_suspected(suspicion: &Suspicion, factor: f64) -> bool {
        (suspicion.factor() / factor - 1.0).abs() < 1e-9
    }

    #[test]
    fn steps_of_one_change_add_up_and_a_change_back_ends_it() {
        let mut suspicion = suspicion(0.5);
        suspicion.writing_changed(0.6);
        assert!(is_suspected(&suspicion, 0.3), "{suspicion:?}");
        suspicion.writing_changed(3.2);
        assert_eq!(suspicion.factor(), 1.0);
        (0..9).for_each(|_| suspicion.writing_changed(0.1));
        assert!(is_suspected(&suspicion, 1.0 / MOST), "{suspicion:?}");
    }

    #[test]
    fn the_first_prompt_that_agrees_proves_it() {
        let mut suspicion = suspicion(0.25);
        assert!(suspicion.proof(0.4, 0.0).is_some_and(|factor| (factor - 0.25).abs() < 1e-9));
        assert_eq!((suspicion.factor(), suspicion.proof(0.25, 0.0)), (1.0, None), "it is spent");
    }

    #[test]
    fn it_takes_one_prompt_more_than_others_run_to_refute_it() {
        let mut suspicion = suspicion(0.25);
        for _ in 0..2 {
            assert_eq!(suspicion.proof(0.9, 2.0), None);
            assert!(is_suspected(&suspicion, 0.25), "it may have begun before the change: {suspicion:?}");
        }
        assert_eq!((suspicion.proof(0.9, 2.0), suspicion.factor()), (None, 1.0));
    }

    #[test]
    fn what_reading_has_shown_first_is_not_suspected_again_unless_writing_was_usual_meanwhile() {
        let mut suspicion = Suspicion::default();
        suspicion.reading_changed(0.25);
        let mut later = suspicion.clone();
        suspicion.writing_changed(0.5);
        suspicion.writing_changed(0.5);
        assert_eq!(suspicion.factor(), 1.0);
        suspicion.writing_changed(0.5);
        assert!(is_suspected(&suspicion, 0.5), "only what goes further: {suspicion:?}");
        later.writing_is_usual();
        later.writing_changed(0.5);
        assert!(is_suspected(&later, 0.5), "{later:?}");
    }
}
