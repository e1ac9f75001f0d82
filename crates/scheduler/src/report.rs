//! In what form do operators see a node?

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    catalog::{Loaded, Model},
    ids::NodeId,
};

/// Whether a node can be used.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Healthy.
    Up,
    /// Used, but on trial or with one failure outstanding.
    Suspect,
    /// Not used: it failed, or was never heard of.
    Down,
    /// Finishes what runs and takes nothing new, as an operator asked.
    Draining,
}

/// Requests sent to a node since the start.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Routed {
    /// The model was already in memory, perhaps loaded for another request.
    pub warm: u64,
    /// The model was loaded for this request.
    pub cold: u64,
    /// An earlier attempt had failed.
    pub fallback: u64,
}

/// Changes of a node's breaker since the start, by new state.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Transitions {
    /// Back in use.
    pub closed: u64,
    /// Taken out.
    pub open: u64,
    /// On trial.
    pub half_open: u64,
}

/// How much of a node's slots for one model is in use.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Use {
    /// Requests that run, this gateway's own.
    pub running: u32,
    /// Slots, of all gateways together; configured or as learned so far.
    pub slots: u32,
}

/// Prompt tokens that a node was sent for one model since the start, by this gateway's decisions.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct PromptTokens {
    /// All of them.
    pub sent: u64,
    /// How many of those were expected to be in the node's prompt cache.
    pub expected_cached: u64,
    /// Tokens of prompts whose first token was timed, on a node whose reading speed is known.
    pub timed: u64,
    /// How many of those must have been in the cache, as the prompt was read so fast.
    pub measured_cached: u64,
}

/// A node as operators see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// The scheduler's name for it. It means nothing to another gateway.
    #[serde(skip, default = "NodeId::none")]
    pub id: NodeId,
    /// The configured name.
    pub name: String,
    /// Whether it can be used.
    pub state: NodeState,
    /// Requests that one model takes at a time, as configured or as learned so far.
    pub slots: u32,
    /// Requests running there now, over all models.
    pub in_flight: u32,
    /// Requests waiting for models it has.
    pub waiting: usize,
    /// Models on its disk, as it last listed them, by name.
    #[serde(serialize_with = "list", skip_deserializing)]
    pub models: Arc<[Model]>,
    /// Models in its memory, as it last listed them.
    pub loaded: Vec<Loaded>,
    /// The latest error, while the node is not healthy.
    pub last_error: Option<String>,
    /// Requests completed there since the start.
    pub completed: u64,
    /// Attempts that failed there since the start.
    pub failed: u64,
    /// The requests it was sent since the start, by how well it fitted them.
    pub routed: Routed,
    /// How often it was taken out and brought back.
    pub transitions: Transitions,
    /// The model it is loading, if any.
    pub loading: Option<String>,
    /// Models loaded there by the gateway since the start.
    pub loads: u64,
    /// Tokens a second of one stream of a 5 GB model that runs alone, as learned; `None` before anything ran.
    pub tokens_per_second: Option<f64>,
    /// Slots of the models in memory and of those of which something runs, by name.
    pub uses: BTreeMap<String, Use>,
    /// Prompt tokens for the same models, by name.
    #[serde(default)]
    pub prompts: BTreeMap<String, PromptTokens>,
    /// Tokens a second of one stream that runs alone, for each model in memory; empty before anything ran.
    pub speeds: BTreeMap<String, f64>,
}

fn list<S: Serializer>(models: &Arc<[Model]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(models.iter())
}
