//! A model as it lies on a simulated node's disk.

use crate::names::with_tag;

/// One model on the node's disk.
#[derive(Clone, Debug, PartialEq)]
pub struct SimModel {
    /// The full name with its tag, as `llama3.2:latest`.
    pub name: String,
    /// Bytes on disk and in VRAM alike.
    pub size_bytes: u64,
    /// The architecture, as `llama`.
    pub family: String,
    /// Any of `completion`, `vision`, `embedding`, `tools`, `thinking`.
    pub capabilities: Vec<String>,
    /// Counts what was published under the name: another revision has another digest.
    pub revision: u32,
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

    /// Whether the model has a capability.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|has| has == capability)
    }

    /// The size in units of 10^9 bytes.
    pub fn size_gb(&self) -> f64 {
        self.size_bytes as f64 / 1e9
    }

    /// The same name with other content.
    #[must_use]
    pub fn revised(self, revision: u32) -> Self {
        Self { revision, ..self }
    }

    /// What its digest is of.
    pub(crate) fn manifest(&self) -> String {
        if self.revision == 0 { self.name.clone() } else { format!("{}@{}", self.name, self.revision) }
    }

    fn new(name: &str, size_gb: f64, family: &str, capabilities: &[&str]) -> Self {
        Self {
            name: with_tag(name),
            size_bytes: (size_gb * 1e9) as u64,
            family: family.to_owned(),
            capabilities: capabilities.iter().map(|capability| (*capability).to_owned()).collect(),
            revision: 0,
        }
    }
}
