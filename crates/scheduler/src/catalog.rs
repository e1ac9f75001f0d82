//! What do the configuration and the nodes themselves say of a node and its models?

use serde::{Deserialize, Serialize};

/// What the configuration says about a node.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// How the operator calls it.
    pub name: String,
    /// Requests one model takes at a time there (`OLLAMA_NUM_PARALLEL`); `None` means that it is learned, from 1 on.
    /// A node with zero slots is never used.
    pub slots: Option<u32>,
    /// Memory for models in bytes; `None` means that everything fits until the node itself was seen to push something
    /// out, and from then on no more than was ever seen in it.
    pub vram_bytes: Option<u64>,
}

/// A model on a node's disk, as `/api/tags` lists it.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Model {
    /// The name as the node gives it.
    pub name: String,
    /// Size on disk in bytes, which is about what it takes when loaded.
    pub size_bytes: u64,
    /// Digest of the manifest.
    pub digest: String,
    /// When it was last changed, in seconds since 1970.
    pub modified_unix: i64,
    /// The architecture, as `llama`; some take one request at a time whatever the node's setting.
    #[serde(default)]
    pub family: String,
}

/// A model in a node's memory, as `/api/ps` lists it.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The name as the node gives it.
    pub name: String,
    /// Video memory it takes, in bytes.
    pub vram_bytes: u64,
    /// Tokens of context it was loaded with, where the node says so.
    #[serde(default)]
    pub context_length: Option<u64>,
}
