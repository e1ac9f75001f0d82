//! Which stories are remembered, and for how long? Those that go on, and those that ended in the last hour, as far as they
//! fit into a bound on memory.

use std::{collections::VecDeque, time::Duration};

use crate::{
    calibration::Calibration,
    explain::{Alternative, Story, Weighed, What},
    ids::{NodeId, RequestId, Time},
    lookup::Lookup,
};

/// How long a story is told after its end: whoever asks why a request was slow asks soon.
const TOLD: Duration = Duration::from_secs(3600);
/// Most memory for stories. One of a request that had three nodes to choose from takes about 1 kB, so this is an hour of nine
/// requests a second; with more of them, the oldest go earlier.
const MOST_BYTES: usize = 32 << 20;
/// What a story takes besides its steps: itself, its id in two places, where it is, and the slack of both collections.
const BYTES: usize = size_of::<Story>() + 2 * (2 * size_of::<RequestId>() + size_of::<Box<Story>>());

/// The stories of the latest requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// Boxed, so that the table is small: it doubles at times, long after the first requests.
    stories: Lookup<RequestId, Box<Story>>,
    /// In the order in which they came.
    order: VecDeque<RequestId>,
    bytes: usize,
    calibration: Calibration,
}

impl Journal {
    pub(crate) fn arrived(&mut self, id: RequestId, ahead: usize, now: Time) {
        while self.order.front().is_some_and(|oldest| self.get(*oldest, now).is_none()) {
            self.forget_oldest();
        }
        self.stories.insert(id, Box::new(Story::new(ahead, now)));
        self.order.push_back(id);
        self.bytes += BYTES;
        self.make_room();
    }

    /// The story of a request that has not ended, or did in the last hour.
    pub(crate) fn get(&self, id: RequestId, now: Time) -> Option<&Story> {
        let story = &**self.stories.get(&id)?;
        story.ended_at().is_none_or(|ended| now.saturating_sub(ended) < TOLD).then_some(story)
    }

    /// A request waits. Only the first time is recorded.
    pub(crate) fn waits(&mut self, id: RequestId, now: Time, weighed: Weighed<'_>) {
        self.change(id, |story, calibration| {
            expect(story, weighed.alternatives.first(), calibration, now);
            if story.steps.is_empty() {
                story.add(What::Waits, now, weighed);
            }
        });
    }

    pub(crate) fn asked_for_load(&mut self, id: RequestId, node: NodeId, now: Time, weighed: Weighed<'_>) {
        self.change(id, |story, calibration| {
            expect(story, weighed.alternatives.first(), calibration, now);
            story.add(What::AskedForLoad(node), now, weighed);
        });
    }

    pub(crate) fn dispatched(&mut self, id: RequestId, node: NodeId, attempt: u32, now: Time, weighed: Weighed<'_>) {
        self.change(id, |story, calibration| {
            if story.arrived == now {
                (story.expected, story.foretold) = (None, None);
            }
            let best = weighed.alternatives.iter().find(|each| each.node == node);
            expect(story, best, calibration, now);
            story.add(What::Dispatched(node, attempt), now, weighed);
        });
    }

    /// The first token of a stream came on its first attempt, which shows how good its forecast was.
    pub(crate) fn compare(&mut self, id: RequestId, now: Time) {
        let Some(story) = self.stories.get(&id) else { return };
        if let (Some(expected), Some(kind)) = (story.expected, story.foretold) {
            self.calibration.observe(kind, expected, now.saturating_sub(story.arrived).as_secs_f64());
        }
    }

    pub(crate) fn note(&mut self, id: RequestId, what: What, now: Time) {
        self.change(id, |story, _| story.add(what, now, Weighed::default()));
    }

    fn change(&mut self, id: RequestId, change: impl FnOnce(&mut Story, &Calibration)) {
        let Some(story) = self.stories.get_mut(&id) else { return };
        let before = story.bytes();
        change(story, &self.calibration);
        self.bytes = self.bytes + story.bytes() - before;
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.bytes > MOST_BYTES && !self.order.is_empty() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.order.pop_front().and_then(|oldest| self.stories.remove(&oldest));
        self.bytes -= oldest.map_or(0, |story| BYTES + story.bytes());
        debug_assert_eq!(self.order.len(), self.stories.len());
    }
}

/// Sets the expected time of the first token of a request that has just arrived.
fn expect(story: &mut Story, best: Option<&Alternative>, calibration: &Calibration, now: Time) {
    if let Some(best) = best.filter(|_| story.arrived == now && story.expected.is_none()) {
        story.expect(best, calibration.factor(best.kind));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        explain::{Kind, STEPS},
        failure::Outcome,
    };

    const OPTION: Alternative = Alternative {
        node: NodeId(0),
        kind: Kind::Now,
        wait: 0.0,
        load: 0.0,
        regret: 0.0,
        prefill: 0.0,
        decode: 0.0,
        prompt: 0.0,
        cached: 0.0,
    };

    fn at(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    fn lived(journal: &mut Journal, id: u128, now: Time) {
        let id = RequestId(id);
        journal.arrived(id, 0, now);
        journal.dispatched(id, NodeId(0), 1, now, Weighed { alternatives: &[OPTION; 3], backlog: None });
        journal.note(id, What::FirstByte, now);
        journal.note(id, What::Ended(Outcome::Completed), now);
    }

    fn counted(journal: &Journal) -> usize {
        journal.stories.values().map(|story| BYTES + story.bytes()).sum()
    }

    #[test]
    fn a_story_is_told_for_an_hour_after_its_end() {
        let mut journal = Journal::default();
        journal.arrived(RequestId(1), 0, at(0));
        lived(&mut journal, 2, at(10));
        let is_told = |journal: &Journal, id, now| journal.get(RequestId(id), at(now)).is_some();
        assert!(is_told(&journal, 2, 3609) && !is_told(&journal, 2, 3610));
        assert!(is_told(&journal, 1, 9000), "one that goes on is told however old it is");
        journal.note(RequestId(1), What::Ended(Outcome::Cancelled), at(9000));
        assert!(is_told(&journal, 1, 12_599) && !is_told(&journal, 1, 12_600));
        lived(&mut journal, 3, at(12_600));
        assert!(journal.stories.iter().map(|(id, _)| id).eq([&RequestId(3)]), "what is not told takes no memory");
        assert_eq!(journal.bytes, counted(&journal));
    }

    #[test]
    fn stories_never_take_more_than_their_memory_and_the_oldest_go_first() {
        let mut journal = Journal::default();
        // The worst: every step has as many alternatives as there may be.
        let weighed = Weighed { alternatives: &[OPTION; 5], backlog: None };
        for id in 0..12_000 {
            journal.arrived(RequestId(id), 0, at(0));
            for step in 0..2 * STEPS {
                journal.dispatched(RequestId(id), NodeId(0), step as u32, at(0), weighed);
            }
            assert!(journal.bytes <= MOST_BYTES);
        }
        assert_eq!(journal.bytes, counted(&journal));
        assert!(journal.get(RequestId(0), at(0)).is_none() && journal.get(RequestId(11_999), at(0)).is_some());
        assert!(journal.bytes > MOST_BYTES / 2, "{}", journal.bytes);
    }

    #[test]
    fn an_hour_of_nine_requests_a_second_is_remembered() {
        let mut journal = Journal::default();
        for id in 0..9 * 3600 {
            lived(&mut journal, id, at(id as u64 / 9));
        }
        assert_eq!(journal.stories.len(), 9 * 3600, "{} of {MOST_BYTES} bytes", journal.bytes);
    }
}
