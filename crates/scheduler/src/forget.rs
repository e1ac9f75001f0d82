//! Which models can be forgotten? A node that keeps listing new names must not fill the memory, so a model is forgotten
//! once no node lists it and nothing runs or waits for it.

use crate::{hosts::Hosts, ids::Time, model::ModelId, node::Node, prefix::PrefixMemory, scheduler::Scheduler};

impl Scheduler {
    /// Called after anything that may have removed models from a node's list.
    pub(crate) fn forget_unlisted(&mut self, now: Time) {
        self.settle(now);
        // What was learned in an earlier run is kept until every node has listed its models.
        let have_all_listed = self.fleet.iter().all(|node| node.has_left || node.listings > 0);
        let may_go = |model: &ModelId| (self.models.was_listed(*model) || have_all_listed) && !self.needs(*model);
        let useless: Vec<ModelId> = self.models.ids().filter(may_go).collect();
        if useless.is_empty() {
            return;
        }
        for node in self.fleet.ids() {
            let known = |model: &&ModelId| self.fleet[node].label(**model).is_some();
            let known: Vec<ModelId> = useless.iter().filter(known).copied().collect();
            known.into_iter().for_each(|model| self.fleet[node].drop_instance(model));
        }
        // The index must be up to date before the ids are reused.
        self.settle(now);
        for model in useless {
            self.models.forget(model);
            if let Some(memory) = self.memories.get_mut(model.0) {
                *memory = PrefixMemory::default();
            }
            if let Some(hosts) = self.hosts.get_mut(model.0) {
                *hosts = Hosts::default();
            }
            if let Some(next_look) = self.next_looks.get_mut(model.0) {
                *next_look = 0.0;
            }
            self.stirred.remove(&model);
        }
    }

    fn needs(&self, model: ModelId) -> bool {
        let whereabouts = self.fleet.of(model);
        if !whereabouts.shelves.is_empty() || self.queue.waiting_for(model) > 0 {
            return true;
        }
        let is_loading =
            |node: &Node| node.load().is_some_and(|load| load.model == model || load.victims.contains(&model));
        let is_here = |node: &Node| {
            let Some(instance) = node.instance(model) else { return false };
            let is_main = node.main(model) == model;
            let is_listed = node.lists(model) || (is_main && instance.resident_since.is_some());
            (is_listed && !node.has_left) || node.runs(model) || (is_main && !instance.running.is_empty())
        };
        self.fleet.iter().any(|node| is_loading(node) || is_here(node))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{rules, *};

    const NODE: NodeId = NodeId(0);

    fn list(scheduler: &mut Scheduler, names: impl Iterator<Item = String>) {
        let models = names.map(|name| rules::model(&name)).collect();
        scheduler.handle(Event::Listed { node: NODE, models }, Duration::ZERO);
    }

    #[test]
    fn names_that_no_node_lists_any_more_are_forgotten() {
        let mut scheduler = rules::nodes(&[1, 1]);
        for round in 0..50 {
            let invented = (0..100).map(|index| format!("invented-{round}-{index}:latest"));
            list(&mut scheduler, invented.chain(["m:latest".to_owned()]));
        }
        assert!(scheduler.models.ids().count() < 250, "{}", scheduler.models.ids().count());
        let learned = serde_json::to_string(&scheduler.learned()).unwrap();
        assert!(!learned.contains("invented-48") && scheduler.find_model("invented-49-7").is_some());
        assert!(scheduler.find_model("n").is_some(), "the other node lists it");
    }

    #[test]
    fn what_runs_or_waits_is_kept_until_it_has_ended() {
        let mut scheduler = rules::nodes(&[1]);
        for id in 1..=2 {
            scheduler.handle(rules::arrived(id, "a", "m"), Duration::ZERO);
        }
        list(&mut scheduler, ["n:latest".to_owned()].into_iter());
        // The first runs on; the second is refused, as no node has the model.
        assert_eq!((scheduler.in_flight(), scheduler.queued()), (1, 0));
        scheduler.handle(rules::completed(1), Duration::ZERO);
        list(&mut scheduler, ["other:latest".to_owned()].into_iter());
        assert_eq!(scheduler.handle(rules::arrived(3, "a", "m"), Duration::ZERO).len(), 1, "refused");
        assert!(scheduler.models.ids().count() <= 4);
    }
}
