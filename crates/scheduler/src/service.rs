//! Is there a node for a request at all, and if not, why?

use crate::{
    decision::RefusalReason, ids::Time, instance::Instance, model::ModelId, node::Node, request::Request,
    scheduler::Scheduler,
};

impl Scheduler {
    /// Whether, as things stand, no node will ever take such a request.
    pub(crate) fn has_no_node(&self, model: ModelId, request: Option<&Request>, now: Time) -> bool {
        let whereabouts = self.fleet.of(model);
        if request.is_none_or(Request::avoids_no_node) && !whereabouts.hosts.is_empty() {
            return false;
        }
        let may_load =
            |instance: &Instance| instance.resident_since.is_some() || instance.load_again_at <= now.as_secs_f64();
        !whereabouts.shelves.iter().any(|node| {
            let is_barred = request.is_some_and(|request| request.penalty(*node).is_none());
            !is_barred && self.fleet[*node].instance(model).is_some_and(may_load)
        })
    }

    /// Whether nodes would take it if it had come in by another route, and no node that is away for a while has its route.
    fn has_no_route(&self, model: ModelId, request: Option<&Request>) -> bool {
        let Some(request) = request else { return false };
        let lists = |node: &Node| node.lists(model);
        !self.fleet.of(model).shelves.is_empty()
            && !self.fleet.iter().any(|node| !node.has_left && lists(node) && node.routes.has(request.route))
    }

    /// Why no node takes it.
    pub(crate) fn why_no_node(&self, model: ModelId, request: Option<&Request>) -> RefusalReason {
        let last = request.and_then(Request::last_failure).filter(|last| !last.allows_same_node());
        let shelves = self.fleet.of(model).shelves.iter();
        let instances = shelves.filter_map(|node| self.fleet[*node].instance(model));
        let mut failed_loads = instances.filter_map(|instance| instance.last_load_failure);
        match (last, failed_loads.next()) {
            (Some(last), _) => RefusalReason::Exhausted { last },
            (None, _) if self.has_no_route(model, request) => RefusalReason::NoRoute,
            (None, Some(last)) => RefusalReason::NotLoaded { last },
            (None, None) => RefusalReason::NoNode,
        }
    }
}
