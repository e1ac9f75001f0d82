//! At which place does a request cost least?

use crate::{ids::NodeId, node::speed::Work, place::Place, prefix::Trail};

/// Where a request is served best.
#[derive(Copy, Clone, Debug)]
pub(crate) struct BestPlaces {
    /// The place that costs least, penalties included; `None` if the request may go nowhere.
    pub(crate) best: Option<(usize, f64)>,
    /// The place with the least total, penalties aside.
    pub(crate) cheapest: Option<usize>,
}

/// A request that looks for a place.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Seeker<'a, P> {
    pub(crate) work: Work,
    pub(crate) trail: &'a Trail<'a>,
    /// Only the seconds until its first token count.
    pub(crate) is_urgent: bool,
    /// Seconds to add for a node; `None` if it must not go there.
    pub(crate) penalty: P,
}

/// A search for the best place. Of equal ones the first counts.
pub(crate) struct PlaceSearch<'a, P> {
    pub(crate) seeker: Seeker<'a, P>,
    look: u64,
    best: (f64, usize),
    cheapest: (f64, usize),
}

impl<'a, P: Fn(NodeId) -> Option<f64>> PlaceSearch<'a, P> {
    const NOTHING: (f64, usize) = (f64::INFINITY, usize::MAX);

    pub(crate) fn new(seeker: Seeker<'a, P>, look: u64) -> Self {
        Self { seeker, look, best: Self::NOTHING, cheapest: Self::NOTHING }
    }

    /// Whether no place can be better that has this wait or a longer one, and takes at least so long to read the
    /// prompt and to write the answer.
    pub(crate) fn is_over(&self, wait: f64, prefill: f64, decode: f64) -> bool {
        let first_token = wait + prefill;
        let total = first_token + decode;
        let least = if self.seeker.is_urgent { first_token } else { total };
        total > self.cheapest.0 && least > self.best.0
    }

    /// Weighs a place that has at most `cached` tokens of the prompt.
    pub(crate) fn consider(&mut self, index: usize, place: &mut Place, cached: f64) {
        let Some(penalty) = (self.seeker.penalty)(place.node) else { return };
        let Work { prompt, output } = self.seeker.work;
        let (prefill, decode) = place.rates.service(prompt - cached, output, place.stretch);
        if self.is_over(place.wait(), prefill, decode) {
            return;
        }
        place.recall(self.seeker.trail, self.look);
        let (total, first_token) = place.cost(self.seeker.work);
        let counted = penalty + if self.seeker.is_urgent { first_token } else { total };
        // A place without a slot would never be free.
        let better = |new: f64, old: (f64, usize)| match (new, index) {
            new if new.0 < f64::INFINITY && new < old => new,
            _ => old,
        };
        self.cheapest = better(total, self.cheapest);
        self.best = better(counted, self.best);
    }

    pub(crate) fn found(&self) -> BestPlaces {
        let place = |(seconds, index): (f64, usize)| (index < usize::MAX).then_some((index, seconds));
        BestPlaces { best: place(self.best), cheapest: place(self.cheapest).map(|(index, _)| index) }
    }
}
