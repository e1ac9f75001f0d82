//! What is kept over a restart? Speeds, load times, lengths of answers and numbers of slots. Half of it fades with each
//! day that the gateway is down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    correction::Correction,
    estimate::{LoadTime, Speed},
    model::AnswerLength,
    reading::Reading,
};

/// What was learned, for the next run. Nodes and models are identified by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    #[serde(default)]
    pub(crate) nodes: BTreeMap<String, LearnedNode>,
    /// Tokens of an answer, by model.
    #[serde(default)]
    pub(crate) outputs: BTreeMap<String, AnswerLength>,
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
    /// The manifest's digest when this was learned: the same name may stand for a different model by now.
    pub(crate) digest: String,
    pub(crate) correction: Correction,
    pub(crate) prefill: Reading,
    pub(crate) slots: Option<u32>,
    pub(crate) vram_bytes: Option<u64>,
}
