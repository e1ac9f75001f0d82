//! What outlives a restart: speeds, load times, lengths of answers, numbers of slots. It fades: half of it, with each day
//! that nobody looked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::estimate::{Correction, Line, LoadTime, Mean, Speed};

/// See the module. Nodes and models are told apart by their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    #[serde(default)]
    pub(crate) nodes: BTreeMap<String, LearnedNode>,
    /// Tokens of an answer, by model.
    #[serde(default)]
    pub(crate) outputs: BTreeMap<String, Mean>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LearnedNode {
    pub(crate) speed: Speed,
    pub(crate) load_time: LoadTime,
    pub(crate) most_resident: u64,
    pub(crate) pushes_out: bool,
    pub(crate) models: BTreeMap<String, LearnedInstance>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LearnedInstance {
    /// Of the manifest it was learned of: another model of the same name is another model.
    pub(crate) digest: String,
    pub(crate) correction: Correction,
    pub(crate) prefill: Line,
    pub(crate) slots: Option<u32>,
    pub(crate) vram_bytes: Option<u64>,
}
