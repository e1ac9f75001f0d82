//! How many requests does a model take at a time on a node?
//!
//! If that is not configured, it is learned from what is seen at work ([`Evidence`]):
//! - *up*, when more requests are at work at once than the number. To see that, a request is sent beyond it now and
//!   then: a probe.
//! - *down*, when request after request begins only once another one ends, and never as many as the number are at work.

mod evidence;

use crate::{ids::RequestId, running::Running};
use evidence::{Evidence, MOST_SLOTS};

/// Families that Ollama runs one request at a time, whatever `OLLAMA_NUM_PARALLEL` says.
const ONE_SLOT_FAMILIES: [&str; 6] = ["mllama", "qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h"];
/// No probe for so long after a node said that it is overloaded.
const OVERRUN_SECONDS: f64 = 600.0;

/// How Ollama runs a model.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(crate) enum Runner {
    #[default]
    Parallel,
    /// One request at a time.
    Serial,
}

impl Runner {
    pub(crate) fn of(family: &str) -> Self {
        if ONE_SLOT_FAMILIES.contains(&family) { Self::Serial } else { Self::Parallel }
    }
}

/// How many requests a model takes at a time on a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slots {
    Configured(u32),
    Learned {
        count: u32,
        /// No probe before then, in seconds.
        settled_until: f64,
        /// What was seen so far; `None` before the first request.
        evidence: Option<Box<Evidence>>,
    },
}

impl Slots {
    pub(crate) fn new(configured: Option<u32>) -> Self {
        match configured {
            Some(count) => Self::Configured(count),
            None => Self::learned(1),
        }
    }

    /// A number learned so far; learning goes on.
    pub(crate) fn learned(count: u32) -> Self {
        Self::Learned { count, settled_until: 0.0, evidence: None }
    }

    pub(crate) fn count(&self, runner: Runner) -> u32 {
        match self {
            Self::Configured(0) => 0,
            _ if runner == Runner::Serial => 1,
            Self::Configured(count) | Self::Learned { count, .. } => *count,
        }
    }

    /// From when on one request more than `count` may be sent, in seconds; infinity if never.
    pub(crate) fn probes_from(&self, runner: Runner) -> f64 {
        match self {
            Self::Learned { count, settled_until, evidence }
                if *count < MOST_SLOTS
                    && runner == Runner::Parallel
                    && evidence.as_ref().is_some_and(|evidence| evidence.wants_probe()) =>
            {
                *settled_until
            }
            _ => f64::INFINITY,
        }
    }

    /// A request is sent. `running` are those that run already.
    pub(crate) fn sent(&mut self, id: RequestId, running: usize) {
        if let Self::Learned { count, evidence, .. } = self {
            evidence.get_or_insert_default().sent(id, running >= *count as usize);
        }
    }

    /// A request's first token came. It is one of `running`.
    pub(crate) fn began(&mut self, id: RequestId, running: &[Running], now: f64) {
        if let Self::Learned { count, evidence: Some(evidence), .. } = self {
            evidence.began(id, running, now);
            evidence.conclude(count);
        }
    }

    /// Time has passed for those that are running.
    pub(crate) fn look(&mut self, running: &[Running], now: f64) {
        if let Self::Learned { count, evidence: Some(evidence), .. } = self {
            evidence.look(running, now);
            evidence.conclude(count);
        }
    }

    /// A request ended. `running` are those that run on.
    pub(crate) fn ended(&mut self, gone: &Running, is_whole: bool, running: &[Running], now: f64) {
        if let Self::Learned { count, evidence: Some(evidence), .. } = self {
            let is_crowded = running.len() >= *count as usize;
            evidence.ended(gone, (is_whole, is_crowded), running, now);
            evidence.conclude(count);
        }
    }

    /// A request that was sent is counted elsewhere from now on.
    pub(crate) fn lost(&mut self, id: RequestId) {
        if let Self::Learned { evidence: Some(evidence), .. } = self {
            evidence.lost(id);
        }
    }

    /// The node answered that it is overloaded with `running` requests.
    pub(crate) fn overrun(&mut self, running: usize, now: f64) {
        if let Self::Learned { count, settled_until, .. } = self {
            *count = u32::try_from(running).unwrap_or(MOST_SLOTS).clamp(1, (*count).max(1));
            *settled_until = now + OVERRUN_SECONDS;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::ModelId;

    /// How requests show when they began.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Shows {
        FirstToken,
        TimeOfWork,
        Nothing,
    }

    /// A node with a queue that does not keep its order, and a gateway with always more to send.
    struct World {
        slots: Slots,
        truly: usize,
        shows: Shows,
        /// Seconds for the prompt and for the answer, at least and at most.
        prompt: (f64, f64),
        answer: (f64, f64),
        /// How much longer each other request makes a request.
        slowdown: f64,
        random: u64,
        running: Vec<Running>,
        waiting: Vec<RequestId>,
        /// First tokens and ends to come.
        coming: Vec<(f64, RequestId, bool)>,
        began: Vec<(RequestId, f64)>,
        now: f64,
        sent: u64,
    }

    impl World {
        fn new(slots: Slots, truly: usize, shows: Shows, seed: u64) -> Self {
            Self {
                slots,
                truly,
                shows,
                prompt: (0.1, 0.3),
                answer: (0.5, 2.0),
                slowdown: 0.2,
                random: seed,
                running: Vec::new(),
                waiting: Vec::new(),
                coming: Vec::new(),
                began: Vec::new(),
                now: 0.0,
                sent: 0,
            }
        }

        fn random(&mut self) -> f64 {
            self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.random >> 11) as f64 / (1u64 << 53) as f64
        }

        fn between(&mut self, (least, most): (f64, f64)) -> f64 {
            least + self.random() * (most - least)
        }

        fn count(&self) -> usize {
            self.slots.count(Runner::Parallel) as usize
        }

        fn send(&mut self) {
            while self.running.len() < self.count()
                || (self.running.len() == self.count() && self.slots.probes_from(Runner::Parallel) <= self.now)
            {
                self.sent += 1;
                let id = RequestId(u128::from(self.sent));
                self.slots.sent(id, self.running.len());
                self.running.push(Running {
                    id,
                    model: ModelId(0),
                    sent_at: self.now,
                    is_stream: self.shows == Shows::FirstToken,
                    uncached: 0.0,
                    prompt: 0.0,
                    output: 20.0,
                    others: self.running.len() as f64,
                    prefixes: Arc::default(),
                    remembered: 0.0,
                    is_in_host: false,
                    began_at: None,
                    delivered: 0.0,
                    heard_at: self.now,
                    stalled_at: None,
                    worked: None,
                    writing: None,
                });
                self.waiting.push(id);
            }
            while self.began.len() < self.truly && !self.waiting.is_empty() {
                let index = (self.random() * self.waiting.len() as f64) as usize;
                let id = self.waiting.swap_remove(index);
                let (prompt, answer) = (self.between(self.prompt), self.between(self.answer));
                let stretch = 1.0 + self.slowdown * self.began.len() as f64;
                self.began.push((id, self.now));
                self.coming.push((self.now + prompt * stretch, id, false));
                self.coming.push((self.now + (prompt + answer) * stretch, id, true));
                let uncached = prompt * 1000.0 * self.between((0.7, 1.3));
                if let Some(running) = self.running.iter_mut().find(|running| running.id == id) {
                    running.uncached = uncached;
                    running.delivered = (answer * 20.0).round();
                }
            }
        }

        fn step(&mut self) {
            self.send();
            let next = (0..self.coming.len()).min_by(|a, b| self.coming[*a].0.total_cmp(&self.coming[*b].0)).unwrap();
            let (at, id, is_end) = self.coming.swap_remove(next);
            // The gateway hears of it a little later.
            self.now = at + 0.001;
            let index = self.running.iter().position(|running| running.id == id).unwrap();
            if !is_end {
                if self.shows == Shows::FirstToken {
                    self.running[index].began_at = Some(self.now);
                    self.slots.began(id, &self.running, self.now);
                }
                return;
            }
            let mut gone = self.running.swap_remove(index);
            let place = self.began.iter().position(|(other, _)| *other == id).unwrap();
            let (_, began) = self.began.swap_remove(place);
            gone.worked = (self.shows == Shows::TimeOfWork).then_some(at - began);
            self.slots.ended(&gone, true, &self.running, self.now);
        }

        /// Until so many requests have been sent.
        fn run(mut self, requests: u64) -> Self {
            while self.sent < requests {
                self.step();
            }
            self
        }
    }

    const SEEDS: std::ops::Range<u64> = 1..21;

    /// A kind of node and of requests.
    #[derive(Clone, Copy, Debug)]
    struct Case {
        truly: usize,
        shows: Shows,
        prompt: (f64, f64),
        answer: (f64, f64),
    }

    impl Case {
        fn world(self, learned: u32, seed: u64) -> World {
            let world = World::new(Slots::learned(learned), self.truly, self.shows, seed);
            World { prompt: self.prompt, answer: self.answer, ..world }
        }

        fn tells_little(self) -> bool {
            self.shows == Shows::FirstToken && self.prompt.1 > self.answer.1 && self.truly > 1
        }
    }

    fn cases() -> Vec<Case> {
        let chat = ((0.1, 0.3), (0.5, 2.0));
        let documents = ((0.2, 4.0), (0.2, 2.0));
        let mut cases = Vec::new();
        for truly in [1, 2, 3, 4, 8] {
            for (prompt, answer) in [chat, documents] {
                let shown = [Shows::FirstToken, Shows::TimeOfWork];
                cases.extend(shown.map(|shows| Case { truly, shows, prompt, answer }));
            }
        }
        cases
    }

    #[test]
    fn the_number_is_exact_after_200_requests_whatever_the_order_in_the_node() {
        for case in cases() {
            let counts: Vec<usize> = SEEDS.map(|seed| case.world(1, seed).run(200).count()).collect();
            // While prompts take most of the time, first tokens tell little of how many are at work.
            let fewest = if case.tells_little() { case.truly.div_ceil(2) } else { case.truly };
            assert!(counts.iter().all(|count| (fewest..=case.truly).contains(count)), "{counts:?} of {case:?}");
        }
    }

    #[test]
    fn a_number_that_is_too_high_goes_down() {
        for case in cases() {
            let counts: Vec<usize> =
                SEEDS.map(|seed| case.world(case.truly as u32 + 2, seed).run(200).count()).collect();
            let fewest = case.truly - usize::from(case.tells_little());
            assert!(counts.iter().all(|count| (fewest..=case.truly).contains(count)), "{counts:?} of {case:?}");
        }
    }

    #[test]
    fn a_number_that_is_right_stays() {
        for case in cases() {
            let counts: Vec<usize> = SEEDS.map(|seed| case.world(case.truly as u32, seed).run(1000).count()).collect();
            let fewest = if case.tells_little() { case.truly - case.truly.div_ceil(4) } else { case.truly };
            assert!(counts.iter().all(|count| (fewest..=case.truly).contains(count)), "{counts:?} of {case:?}");
        }
    }

    #[test]
    fn plain_answers_without_times_never_show_more_than_there_are_and_soon_show_some() {
        for truly in [1, 2, 3, 4, 8] {
            for seed in SEEDS {
                let count = World::new(Slots::new(None), truly, Shows::Nothing, seed).run(600).count();
                assert!(count <= truly && count >= truly.min(3), "{count} of {truly} slots with seed {seed}");
            }
        }
    }
}
