//! What is known of a model across all nodes? What its name means, how often it is asked for, and how many tokens its
//! answers have.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::estimate::Demand;

/// Tokens of an answer, before the first one was seen.
const FIRST_OUTPUT: f64 = 200.0;

/// A model's index, the same on all nodes.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(crate) struct ModelId(pub(crate) usize);

/// What is known of one model.
#[derive(Clone, Debug)]
pub(crate) struct ModelStats {
    pub(crate) name: Arc<str>,
    /// Tokens of an answer.
    pub(crate) output: AnswerLength,
    pub(crate) demand: Demand,
    /// Whether a node has listed it on disk in this run.
    was_listed: bool,
}

/// Every model that a node has listed or that an earlier run knew, until it is forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Models {
    by_name: BTreeMap<Arc<str>, ModelId>,
    stats: Vec<ModelStats>,
    /// Ids of forgotten models, to be reused.
    free: Vec<ModelId>,
}

impl Models {
    /// The model of this name, with or without the tag `:latest`.
    pub(crate) fn find(&self, asked: &str) -> Option<ModelId> {
        // Names are kept with their tags, so one that is found as it stands has one.
        self.by_name.get(asked).or_else(|| self.by_name.get(&*canonical(asked))).copied()
    }

    /// The model that a node lists under this name; added if it is new.
    pub(crate) fn meet(&mut self, listed: &str) -> ModelId {
        if let Some(id) = self.find(listed) {
            return id;
        }
        let name: Arc<str> = canonical(listed).into();
        let stats = ModelStats {
            name: name.clone(),
            output: AnswerLength::new(FIRST_OUTPUT),
            demand: Demand::default(),
            was_listed: false,
        };
        let id = self.free.pop().unwrap_or(ModelId(self.stats.len()));
        match self.stats.get_mut(id.0) {
            Some(free) => *free = stats,
            None => self.stats.push(stats),
        }
        self.by_name.insert(name, id);
        id
    }

    /// A node lists it on disk.
    pub(crate) fn listed(&mut self, id: ModelId) {
        self.get_mut(id).was_listed = true;
    }

    pub(crate) fn was_listed(&self, id: ModelId) -> bool {
        self.get(id).was_listed
    }

    /// Nobody needs it any more: its id may be reused for another model.
    pub(crate) fn forget(&mut self, id: ModelId) {
        let name = self.get(id).name.clone();
        if self.by_name.get(&name) == Some(&id) {
            self.by_name.remove(&name);
            self.free.push(id);
        }
    }

    pub(crate) fn get(&self, id: ModelId) -> &ModelStats {
        &self.stats[id.0]
    }

    /// The model of this name, added if it is new.
    pub(crate) fn get_mut_by_name(&mut self, name: &str) -> &mut ModelStats {
        let id = self.meet(name);
        self.get_mut(id)
    }

    /// All known models, by name.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ModelId> + '_ {
        self.by_name.values().copied()
    }

    pub(crate) fn get_mut(&mut self, id: ModelId) -> &mut ModelStats {
        &mut self.stats[id.0]
    }
}

const DEFAULT_TAG: &str = ":latest";

/// The name with its tag. One without a tag means `:latest`, as in Ollama; otherwise names are compared as given.
pub(crate) fn canonical(given: &str) -> Cow<'_, str> {
    // A colon before the last slash belongs to a registry's port.
    let last = given.rsplit('/').next().unwrap_or(given);
    if last.contains(':') { Cow::Borrowed(given) } else { Cow::Owned([given, DEFAULT_TAG].concat()) }
}

/// The weight of one answer in the long run.
const NEWS: f64 = 0.03;
/// The first guess weighs as much as this many answers.
const GUESS_WEIGHT: f64 = 10.0;
/// Answers that nothing cuts are taken to be at most this many times as long as those that were seen.
const MOST_TIMES: f64 = 20.0;

/// How long a model's answers are, in tokens. Old ones fade. An answer that is cut at its limit shows only that it would
/// have been longer, so what is learned is how long answers are that nothing cuts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AnswerLength {
    /// The mean of all answers, cut or not.
    mean: f64,
    samples: u32,
    /// The mean if nothing cut any; `None` before the first answer. Lengths are taken to be spread as if every token
    /// were as likely to be the last.
    #[serde(default)]
    uncut: Option<f64>,
}

impl AnswerLength {
    pub(crate) fn new(guess: f64) -> Self {
        Self { mean: guess, samples: 0, uncut: None }
    }

    /// Tokens of an answer to a request like those seen so far.
    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// Tokens of an answer that is cut at `most`.
    pub(crate) fn within(&self, most: f64) -> f64 {
        match self.uncut {
            Some(uncut) => uncut.max(1.0) * -(-most / uncut.max(1.0)).exp_m1(),
            None => self.mean.min(most),
        }
    }

    /// The old mean is only a guess by now, so new answers weigh more.
    pub(crate) fn faded(mut self, kept: f64) -> Self {
        self.samples = (f64::from(self.samples) * kept) as u32;
        self
    }

    /// An answer had so many tokens; `is_cut` if it ended at its limit.
    pub(crate) fn observe(&mut self, tokens: f64, is_cut: bool) {
        self.samples = self.samples.saturating_add(1);
        let news = (1.0 / (f64::from(self.samples) + GUESS_WEIGHT)).max(NEWS);
        let uncut = self.uncut.unwrap_or(self.mean);
        let uncut = uncut + news * if is_cut { tokens } else { tokens - uncut };
        self.mean += news * (tokens - self.mean);
        self.uncut = Some(uncut.min(MOST_TIMES * self.mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_latest_and_another_means_itself() {
        assert_eq!(canonical("llama3"), "llama3:latest");
        assert_eq!(canonical("llama3:latest"), "llama3:latest");
        assert_eq!(canonical("host:5000/llama3"), "host:5000/llama3:latest");
        assert_eq!(canonical("llama3:8b"), "llama3:8b");
        assert_eq!(canonical("a:b:latest"), "a:b:latest");
    }

    #[test]
    fn answers_that_are_always_cut_are_expected_to_reach_their_limit() {
        let mut length = AnswerLength::new(200.0);
        (0..60).for_each(|round| length.observe(f64::from(6 + round % 20), true));
        for most in [6.0, 12.0, 25.0] {
            assert!(length.within(most) > 0.9 * most, "{} of {most}", length.within(most));
        }
    }

    #[test]
    fn the_mean_is_that_of_whole_answers_although_half_of_them_are_cut() {
        let mut length = AnswerLength::new(200.0);
        let uniform = |round: u32| f64::from(round.wrapping_mul(2_654_435_761) >> 8) / f64::from(1_u32 << 24);
        for round in 1..4000 {
            let whole = -300.0 * (1.0 - uniform(round)).ln();
            let most = if round % 2 == 0 { 100.0 } else { f64::INFINITY };
            length.observe(whole.min(most), whole >= most);
        }
        assert!((220.0..400.0).contains(&length.uncut.unwrap()), "{length:?}");
        assert!((70.0..90.0).contains(&length.within(100.0)), "{}", length.within(100.0));
    }

    #[test]
    fn no_number_of_cut_answers_makes_the_next_one_endless() {
        let mut length = AnswerLength::new(200.0);
        (0..10_000).for_each(|_| length.observe(100.0, true));
        assert!(length.within(f64::INFINITY) < 2001.0 && length.mean() < 101.0, "{length:?}");
    }
}
