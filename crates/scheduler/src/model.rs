//! What is known of a model across all nodes? Its name, how often it is asked for, and how long its answers are.

use std::{collections::BTreeMap, sync::Arc};

use crate::{answer_length::AnswerLength, estimate::Demand, name::canonical};

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
        self.by_name.get(&*canonical(asked)).copied()
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
