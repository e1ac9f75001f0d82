//! Which models are on the node's disk?

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::model::SimModel;
use crate::names::{ModelName, without_source};

/// The models on disk.
#[derive(Debug)]
pub(crate) struct Disk(RwLock<Vec<SimModel>>);

impl Disk {
    pub(crate) fn new(models: Vec<SimModel>) -> Self {
        Self(RwLock::new(models))
    }

    pub(crate) fn models(&self) -> Vec<SimModel> {
        self.read().clone()
    }

    /// The model that a request means by this name.
    pub(crate) fn find(&self, name: &str) -> Option<SimModel> {
        find(&self.read(), name).cloned()
    }

    /// Adds a model, replacing one with the same name.
    pub(crate) fn add(&self, model: SimModel) {
        let mut models = self.write();
        models.retain(|known| known.name != model.name);
        models.push(model);
    }

    /// Removes the model that a request means by this name.
    pub(crate) fn remove(&self, name: &str) -> Option<SimModel> {
        let mut models = self.write();
        let name = find(&models, name)?.name.clone();
        let index = models.iter().position(|model| model.name == name)?;
        Some(models.remove(index))
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<SimModel>> {
        self.0.read().expect("no code panics while it holds the disk")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<SimModel>> {
        self.0.write().expect("no code panics while it holds the disk")
    }
}

/// The one of `models` that a request means by this name.
pub(crate) fn find<'a>(models: &'a [SimModel], name: &str) -> Option<&'a SimModel> {
    let means = |name: &str| {
        let name = ModelName::parse(name)?;
        models.iter().find(|model| ModelName::parse(&model.name).is_some_and(|known| known.is_same(&name)))
    };
    // A model may itself be tagged `local`.
    means(name).or_else(|| means(without_source(name)))
}
