//! What is known of a model over all nodes: its name, how often it is asked for, how long its answers are.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    estimate::{Demand, Mean},
    name::canonical,
};

/// Tokens of an answer, before one was seen.
const FIRST_OUTPUT: f64 = 200.0;

/// Index of a model, the same on all nodes.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(crate) struct ModelId(pub(crate) usize);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct ModelStats {
    pub(crate) name: Arc<str>,
    /// Tokens of an answer.
    pub(crate) output: Mean,
    pub(crate) demand: Demand,
}

/// Every model that a node ever listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Models {
    by_name: BTreeMap<Arc<str>, ModelId>,
    stats: Vec<ModelStats>,
}

impl Models {
    /// The model of this name, in either spelling.
    pub(crate) fn find(&self, asked: &str) -> Option<ModelId> {
        self.by_name.get(&*canonical(asked)).copied()
    }

    /// The same, made if it is new.
    pub(crate) fn meet(&mut self, listed: &str) -> ModelId {
        if let Some(id) = self.find(listed) {
            return id;
        }
        let name: Arc<str> = canonical(listed).into();
        let id = ModelId(self.stats.len());
        self.stats.push(ModelStats { name: name.clone(), output: Mean::new(FIRST_OUTPUT), demand: Demand::default() });
        self.by_name.insert(name, id);
        id
    }

    pub(crate) fn get(&self, id: ModelId) -> &ModelStats {
        &self.stats[id.0]
    }

    /// The one of this name, made if it is new.
    pub(crate) fn get_mut_by_name(&mut self, name: &str) -> &mut ModelStats {
        let id = self.meet(name);
        self.get_mut(id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ModelId> + use<> {
        (0..self.stats.len()).map(ModelId)
    }

    pub(crate) fn get_mut(&mut self, id: ModelId) -> &mut ModelStats {
        &mut self.stats[id.0]
    }
}
