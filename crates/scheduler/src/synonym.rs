//! Under which other name does a node have the weights of a model?

use crate::{instance::Label, model::ModelId};

/// Another name for the weights of a model on a node.
#[derive(Clone, Debug)]
pub(crate) struct Synonym {
    pub(crate) model: ModelId,
    /// The name under which the node keeps the instance.
    pub(crate) main: ModelId,
    pub(crate) label: Label,
}
