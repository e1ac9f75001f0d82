//! Is this gateway within its share of the slots, and does the share serve what waits?

use crate::{ids::Time, model::ModelId, node::Node, scheduler::Scheduler, share::Reach};

impl Scheduler {
    pub(crate) fn set_reach(&mut self, reach: &Reach) {
        self.fleet.ids().for_each(|node| self.fleet[node].set_reach(reach));
        self.reach = reach.clone();
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
