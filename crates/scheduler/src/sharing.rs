//! Is this gateway within its share of the slots, and does the share serve what waits?

use crate::{
    ids::Time,
    model::ModelId,
    node::Node,
    scheduler::Scheduler,
    share::{Reach, Spare},
};

impl Scheduler {
    pub(crate) fn set_reach(&mut self, reach: &Reach) {
        self.fleet.ids().for_each(|node| self.fleet[node].set_reach(reach));
        self.reach = reach.clone();
    }

    /// The free slots that it holds under [`Reach::Held`]; none under any other. A change of reach forgets them.
    pub fn spare_slots(&self) -> Vec<Spare> {
        let of_node = |node| {
            let spare = self.fleet[node].instances().filter_map(|(model, instance)| Some((model, instance.spare()?)));
            spare.map(move |(model, slots)| Spare { node, model: self.models.get(model).name.clone(), slots })
        };
        self.fleet.ids().flat_map(of_node).collect()
    }

    pub(crate) fn take_spare(&mut self, spare: &Spare) {
        if let Some(model) = self.models.find(&spare.model) {
            self.judge(spare.node, |node| node.take_spare(model, spare.slots));
        }
    }

    /// The slots that this gateway may use.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Whether nowhere more than this gateway's share runs, and nothing is loading where another gateway loads. When
    /// the share shrinks, that takes time: running requests go on.
    pub fn is_within_reach(&self) -> bool {
        let fits = |node: &Node| {
            (node.load().is_none() || node.is_loader())
                && node.instances().all(|(_, instance)| instance.running.len() <= instance.slot_count())
        };
        self.fleet.iter().all(fits)
    }

    /// Whether a request waits for a model that this gateway has no slot for on any node and cannot load.
    pub fn is_starved(&self, now: Time) -> bool {
        let hopeless = |model: &ModelId| {
            let mut nodes = self.fleet.iter().filter(|node| node.is_open() && node.lists(*model)).peekable();
            nodes.peek().is_some() && !nodes.any(|node| node.may_serve(*model, now.as_secs_f64()))
        };
        self.reach != Reach::Whole && self.queue.models().any(|model| hopeless(&model))
    }
}
