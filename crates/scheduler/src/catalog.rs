//! What do the configuration and the nodes' own listings say about a node and its models?

use serde::{Deserialize, Serialize};

/// What the configuration says about a node.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The configured name.
    pub name: String,
    /// Requests that one model takes at a time there (`OLLAMA_NUM_PARALLEL`); `None` means that the number is learned,
    /// starting at 1. A node with zero slots is never used.
    pub slots: Option<u32>,
    /// Memory for models in bytes. `None` means that everything fits until the node is seen to evict a model by itself;
    /// from then on, the limit is the most that was ever seen in its memory.
    pub vram_bytes: Option<u64>,
}

/// A model on a node's disk, as `/api/tags` lists it.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Model {
    /// The name as the node lists it.
    pub name: String,
    /// Size on disk in bytes, which is about the memory it needs when loaded.
    pub size_bytes: u64,
    /// The manifest's digest.
    pub digest: String,
    /// When it was last modified, in seconds since 1970.
    pub modified_unix: i64,
    /// The architecture, such as `llama`; some take only one request at a time, whatever the node's setting.
    #[serde(default)]
    pub family: String,
    /// What identifies its weights and how its runner is started. Empty if that is unknown: only models with the same
    /// digest have the same weights then.
    #[serde(default)]
    pub weights: String,
}

impl Model {
    /// What identifies its weights on a node: models of which this is equal share a runner. `None` if nothing is known.
    pub(crate) fn known_weights(&self) -> Option<&str> {
        [&self.weights, &self.digest].into_iter().map(String::as_str).find(|it| !it.is_empty())
    }
}

/// A model in a node's memory, as `/api/ps` lists it.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The name as the node lists it.
    pub name: String,
    /// Video memory it uses, in bytes.
    pub vram_bytes: u64,
    /// The context length in tokens that it was loaded with, if the node reports it.
    #[serde(default)]
    pub context_length: Option<u64>,
}
