//! Which models are on a simulated node's disk, and what is known of each?

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::names::{ModelName, with_tag, without_source};
use crate::text::digest;

/// One model on the node's disk.
#[derive(Clone, Debug, PartialEq)]
pub struct SimModel {
    /// The full name with its tag, such as `llama3.2:latest`.
    pub name: String,
    /// Bytes on disk and in memory alike.
    pub size_bytes: u64,
    /// The architecture, such as `llama`.
    pub family: String,
    /// Any of `completion`, `vision`, `embedding`, `tools`, `thinking`.
    pub capabilities: Vec<String>,
    /// Counts what was published under the name: another revision has other weights and another digest.
    pub revision: u32,
    /// The name that its manifest was published under: that of its original if it is a copy.
    manifest: String,
    /// The name that its weights were published under: that of its base if a Modelfile made it.
    weights: String,
}

impl SimModel {
    /// A chat model that also calls tools.
    pub fn chat(name: &str, size_gb: f64) -> Self {
        Self::new(name, size_gb, "llama", &["completion", "tools"])
    }

    /// A chat model that sees images; it calls no tools.
    pub fn vision(name: &str, size_gb: f64) -> Self {
        Self::new(name, size_gb, "mllama", &["completion", "vision"])
    }

    /// A model that only embeds.
    pub fn embedding(name: &str, size_gb: f64) -> Self {
        Self::new(name, size_gb, "bert", &["embedding"])
    }

    /// A model that chats, calls tools, sees and embeds.
    pub fn universal(name: &str, size_gb: f64) -> Self {
        Self::new(name, size_gb, "gemma3", &["completion", "tools", "vision", "embedding"])
    }

    /// A chat model that reasons before it answers, and calls tools.
    pub fn thinking(name: &str, size_gb: f64) -> Self {
        Self::new(name, size_gb, "qwen3", &["completion", "tools", "thinking"])
    }

    /// The same model under another name, as `ollama cp` makes it: the digest is equal, and both share a runner.
    #[must_use]
    pub fn copied_as(&self, name: &str) -> Self {
        Self { name: with_tag(name), ..self.clone() }
    }

    /// A model with the same weights, as a Modelfile with `FROM` makes it: the digest differs, but both share a runner.
    #[must_use]
    pub fn derived_as(&self, name: &str) -> Self {
        let name = with_tag(name);
        Self { manifest: name.clone(), name, ..self.clone() }
    }

    /// The model under exactly this name, without a tag, for servers other than Ollama.
    #[must_use]
    pub fn served_as(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// The same name with other content.
    #[must_use]
    pub fn revised(self, revision: u32) -> Self {
        Self { revision, ..self }
    }

    /// Whether the model has a capability.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|has| has == capability)
    }

    /// The size in units of 10^9 bytes.
    pub fn size_gb(&self) -> f64 {
        self.size_bytes as f64 / 1e9
    }

    /// The digest of the manifest, as in `/api/tags` and `/api/ps`.
    pub(crate) fn digest(&self) -> String {
        digest(&self.revision_of(&self.manifest))
    }

    /// Identifies the weights. Models with the same weights share a runner.
    pub(crate) fn weights(&self) -> String {
        self.revision_of(&self.weights)
    }

    /// The digest of the weights' blob, as in the `FROM` line of `/api/show`.
    pub(crate) fn weights_digest(&self) -> String {
        digest(&format!("weights of {}", self.weights()))
    }

    /// The model it was derived from; empty if it was not.
    pub(crate) fn parent(&self) -> &str {
        if self.manifest == self.weights { "" } else { &self.weights }
    }

    fn revision_of(&self, name: &str) -> String {
        if self.revision == 0 { name.to_owned() } else { format!("{name}@{}", self.revision) }
    }

    fn new(name: &str, size_gb: f64, family: &str, capabilities: &[&str]) -> Self {
        let name = with_tag(name);
        Self {
            size_bytes: (size_gb * 1e9) as u64,
            family: family.to_owned(),
            capabilities: capabilities.iter().map(|capability| (*capability).to_owned()).collect(),
            revision: 0,
            manifest: name.clone(),
            weights: name.clone(),
            name,
        }
    }
}

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
