//! What does a plan know?

use crate::{
    explain::Alternative,
    ids::{NodeId, RequestId, Time},
    instance::Instance,
    model::ModelId,
    node::Node,
};

/// What a plan knows, kept between plans only to save allocations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) order: Vec<RequestId>,
    pub(crate) models: Vec<ModelPlan>,
    /// By node: requests placed there in thought.
    pub(crate) extra: Vec<f64>,
    /// By model, once looked at: requests foreseen in the next minute, and nodes that have it in memory.
    pub(crate) outlooks: Vec<Option<Outlook>>,
    pub(crate) alternatives: Vec<Alternative>,
    pub(crate) loads: usize,
    pub(crate) now: f64,
    /// Of a node that was not measured, seconds a token.
    pub(crate) guess: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelPlan {
    pub(crate) model: ModelId,
    pub(crate) places: Vec<Place>,
    /// Seconds until each is free, of all places one after the other.
    pub(crate) slots: Vec<f64>,
    pub(crate) is_pending: bool,
    /// Nodes that could load it, and the seconds that would take.
    pub(crate) loadable: Vec<(NodeId, f64)>,
    /// No load takes less than this.
    pub(crate) cheapest_load: f64,
}

#[derive(Copy, Clone, Debug)]
pub(crate) struct Outlook {
    pub(crate) coming: f64,
    pub(crate) copies: usize,
}

/// A node that has the model.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) is_resident: bool,
    /// Seconds until the node takes anything, slots apart.
    pub(crate) opens_in: f64,
}

impl ModelPlan {
    /// Adds a node whose slots are free after `ready` seconds; the index of its first slot.
    pub(crate) fn add(&mut self, node: &Node, id: NodeId, ready: f64, is_resident: bool, now: Time) -> usize {
        let count = node.instance(self.model).map_or(0, Instance::slot_count);
        let first = self.slots.len();
        self.places.push(Place { node: id, first, count, is_resident, opens_in: node.opens_in(now) });
        self.slots.resize(first + count, ready);
        first
    }
}
