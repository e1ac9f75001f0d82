//! Which names on a node stand for the same weights? Ollama keeps one runner for all of them, and `/api/ps` shows one of
//! them, so they have one [`Instance`] here: memory, loads and slots are counted by weights.
//!
//! One of the names is the main one, under which the instance is kept: of those that are listed, the one with the lowest
//! id. The others are synonyms. Whoever asks for the instance of a synonym gets that of its main name.

use std::collections::BTreeMap;

use super::{Node, new_instance};
use crate::{
    catalog::Model,
    instance::{Instance, Label, Synonym},
    model::ModelId,
    running::Running,
};

impl Node {
    /// The main name of the weights that a name stands for: usually itself.
    pub(crate) fn main(&self, model: ModelId) -> ModelId {
        self.synonym(model).map_or(model, |synonym| synonym.main)
    }

    pub(crate) fn has_synonyms(&self) -> bool {
        !self.synonyms.is_empty()
    }

    /// Whether two names stand for the same weights.
    pub(crate) fn are_same(&self, one: ModelId, other: ModelId) -> bool {
        self.main(one) == self.main(other)
    }

    /// All names of the weights that a name stands for, the main one first.
    pub(crate) fn names(&self, model: ModelId) -> impl Iterator<Item = ModelId> {
        let main = self.main(model);
        let synonyms = self.synonyms.iter().filter(move |synonym| synonym.main == main);
        std::iter::once(main).chain(synonyms.map(|synonym| synonym.model))
    }

    /// Every name of every instance.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (ModelId, &Label)> {
        let synonyms = self.synonyms.iter().map(|synonym| (synonym.model, &synonym.label));
        self.instances().map(|(model, instance)| (model, &instance.label)).chain(synonyms)
    }

    pub(crate) fn label(&self, model: ModelId) -> Option<&Label> {
        self.synonym(model).map(|it| &it.label).or_else(|| Some(&self.own(model)?.label))
    }

    pub(super) fn label_mut(&mut self, model: ModelId) -> Option<&mut Label> {
        match self.synonyms.binary_search_by_key(&model, |synonym| synonym.model) {
            Ok(index) => Some(&mut self.synonyms[index].label),
            Err(_) => self.instance_mut(model).map(|instance| &mut instance.label),
        }
    }

    pub(super) fn unlist_all_but(&mut self, seen: &[bool]) -> bool {
        let mut changed = false;
        let is_seen = |model: ModelId| seen.get(model.0) == Some(&true);
        let own = self.instances.iter_mut().enumerate();
        let own = own.filter_map(|(index, it)| Some((ModelId(index), &mut it.as_mut()?.label)));
        let others = self.synonyms.iter_mut().map(|synonym| (synonym.model, &mut synonym.label));
        for (_, label) in own.chain(others).filter(|(model, _)| !is_seen(*model)) {
            changed |= label.listing.take().is_some();
        }
        changed
    }

    /// The model as this name is listed.
    pub(crate) fn listing(&self, model: ModelId) -> Option<&Model> {
        self.label(model)?.model()
    }

    /// Whether requests for exactly this name run.
    pub(crate) fn runs(&self, model: ModelId) -> bool {
        self.instance(model).is_some_and(|instance| instance.running.iter().any(|running| running.model == model))
    }

    fn synonym(&self, model: ModelId) -> Option<&Synonym> {
        let index = self.synonyms.binary_search_by_key(&model, |synonym| synonym.model).ok()?;
        Some(&self.synonyms[index])
    }

    /// The instance that a name stands for, if it is a synonym.
    pub(super) fn instance_of_synonym(&self, model: ModelId) -> Option<&Instance> {
        self.own(self.synonym(model)?.main)
    }

    fn own(&self, model: ModelId) -> Option<&Instance> {
        self.instances.get(model.0)?.as_deref()
    }

    /// Called when the listing has changed: puts names of the same weights together, and separates those whose weights
    /// differ by now.
    pub(super) fn sort_by_weights(&mut self) {
        if !self.synonyms.is_empty() {
            self.choose_mains();
            self.separate();
        }
        let mut mains: BTreeMap<&str, ModelId> = BTreeMap::new();
        let mut same = Vec::new();
        for (model, instance) in self.instances() {
            let Some(weights) = instance.model().and_then(Model::known_weights) else { continue };
            match mains.get(weights) {
                Some(main) => same.push((model, *main)),
                None => _ = mains.insert(weights, model),
            }
        }
        same.into_iter().for_each(|(model, main)| self.join(model, main));
        if !self.synonyms.is_empty() {
            self.choose_mains();
        }
    }

    /// Gives every instance the main name that it should have.
    pub(super) fn choose_mains(&mut self) {
        let mut mains: Vec<ModelId> = self.synonyms.iter().map(|synonym| synonym.main).collect();
        mains.dedup();
        for main in mains {
            let rank = |model: ModelId| {
                let label = self.label(model);
                let (is_listed, is_replaced) =
                    label.map_or((false, false), |label| (label.listing.is_some(), label.is_replaced));
                (!is_listed, is_replaced, model)
            };
            let best = self.names(main).map(rank).min();
            if let Some((.., best)) = best.filter(|(.., best)| *best != main) {
                self.rename(main, best);
            }
        }
    }

    /// Makes a synonym the main name.
    fn rename(&mut self, main: ModelId, synonym: ModelId) {
        let Ok(index) = self.synonyms.binary_search_by_key(&synonym, |synonym| synonym.model) else { return };
        let Some(mut instance) = self.instances.get_mut(main.0).and_then(Option::take) else { return };
        let Synonym { label, .. } = self.synonyms.remove(index);
        let label = std::mem::replace(&mut instance.label, label);
        self.instances[synonym.0] = Some(instance);
        self.synonyms.iter_mut().filter(|other| other.main == main).for_each(|other| other.main = synonym);
        self.add_synonym(Synonym { model: main, main: synonym, label });
    }

    fn add_synonym(&mut self, synonym: Synonym) {
        let place = self.synonyms.partition_point(|other| other.model < synonym.model);
        let (model, main) = (synonym.model, synonym.main);
        self.synonyms.insert(place, synonym);
        self.settle_active(model);
        self.settle_active(main);
        self.layouts += 1;
    }

    /// Gives the listed synonyms an instance of their own whose weights are not those of their main name.
    fn separate(&mut self) {
        let differs = |synonym: &&Synonym| {
            let Some(model) = synonym.label.model() else { return false };
            let main = self.own(synonym.main).and_then(Instance::model);
            main.is_none_or(|main| model.known_weights().is_none() || main.known_weights() != model.known_weights())
        };
        let differing: Vec<ModelId> = self.synonyms.iter().filter(differs).map(|synonym| synonym.model).collect();
        differing.into_iter().for_each(|model| self.part(model));
        self.synonyms.iter_mut().for_each(|synonym| synonym.label.is_replaced = false);
        self.instances.iter_mut().flatten().for_each(|instance| instance.label.is_replaced = false);
    }

    /// Gives a synonym an instance of its own. Its requests go with it.
    fn part(&mut self, model: ModelId) {
        let Ok(index) = self.synonyms.binary_search_by_key(&model, |synonym| synonym.model) else { return };
        let Synonym { main, label, .. } = self.synonyms.remove(index);
        // What a load in progress unloads are the weights that the name stood for so far.
        if let Some(load) = &mut self.load {
            load.victims.iter_mut().filter(|victim| **victim == model).for_each(|victim| *victim = main);
        }
        let mut own = new_instance(label.listed.clone(), &self.spec, &self.reach);
        own.label = label;
        if let Some(instance) = self.instance_mut(main) {
            let goes = |running: &mut Running| running.model == model;
            own.running = instance.running.extract_if(.., goes).collect();
            own.running.iter().for_each(|running| instance.slots.lost(running.id));
            let held = u32::try_from(own.running.len()).unwrap_or(u32::MAX);
            instance.ceiling = instance.ceiling.map(|ceiling| ceiling.saturating_sub(held));
            own.ceiling = own.ceiling.map(|_| held);
        }
        self.instances[model.0] = Some(Box::new(own));
        self.settle_active(main);
        self.settle_active(model);
        self.layouts += 1;
    }

    /// Makes a main name a synonym of another one. What is known of the two is not put together: that of the instance
    /// which is more in use counts.
    fn join(&mut self, model: ModelId, main: ModelId) {
        let Some(mut instance) = self.instances.get_mut(model.0).and_then(Option::take) else { return };
        let Some(kept) = self.instance_mut(main) else { return };
        if instance.is_more_used_than(kept) {
            std::mem::swap(&mut *instance, kept);
            std::mem::swap(&mut instance.label, &mut kept.label);
        }
        let Instance { label, running, is_leaving, ceiling, .. } = *instance;
        kept.running.extend(running);
        kept.is_leaving |= is_leaving;
        kept.ceiling = kept.ceiling.zip(ceiling).map(|(one, other)| one.saturating_add(other));
        self.synonyms.iter_mut().filter(|synonym| synonym.main == model).for_each(|synonym| synonym.main = main);
        self.add_synonym(Synonym { model, main, label });
    }

    /// Forgets a name. The instance goes with the last one.
    pub(super) fn drop_name(&mut self, model: ModelId) {
        match self.synonyms.binary_search_by_key(&model, |synonym| synonym.model) {
            Ok(index) => _ = self.synonyms.remove(index),
            Err(_) => {
                let other = self.names(model).nth(1);
                if let Some(other) = other {
                    self.rename(model, other);
                    return self.drop_name(model);
                }
                self.set_resident(model, None);
                if let Some(instance) = self.instances.get_mut(model.0) {
                    *instance = None;
                }
            }
        }
    }
}
