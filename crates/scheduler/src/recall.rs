//! How is what was learned carried over a restart?

use std::time::Duration;

use crate::{
    ids::NodeId,
    learned::{Learned, LearnedInstance, LearnedNode},
    scheduler::Scheduler,
    slots::Slots,
};

const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

impl Scheduler {
    /// Everything learned so far, including what was recalled about nodes that are not in the fleet.
    pub fn learned(&self) -> Learned {
        let mut learned = self.recalled.clone();
        for node in self.fleet.iter().filter(|node| !node.has_left) {
            let models = node.labels().filter_map(|(model, label)| {
                let instance = node.instance(model)?;
                let slots = match instance.slots {
                    Slots::Learned { count, .. } => Some(count),
                    Slots::Configured(_) => None,
                };
                let learned = LearnedInstance {
                    digest: label.model()?.digest.clone(),
                    correction: instance.correction.clone(),
                    prefill: instance.prefill.clone(),
                    slots,
                    vram_bytes: instance.vram_bytes,
                };
                Some((self.models.get(model).name.to_string(), learned))
            });
            let (most_resident, pushes_out) = node.memory_seen();
            let of_node = LearnedNode {
                speed: node.speed.clone(),
                load_time: node.load_time.clone(),
                most_resident,
                pushes_out,
                models: models.collect(),
            };
            learned.nodes.insert(node.spec.name.clone(), of_node);
        }
        // What was recalled of models that have been forgotten is of no use.
        learned.outputs.clear();
        for model in self.models.ids() {
            let stats = self.models.get(model);
            learned.outputs.insert(stats.name.to_string(), stats.output.clone());
        }
        learned
    }

    /// Starts with what an earlier run learned `age` ago. Call it before any event.
    pub fn recall(&mut self, learned: Learned, age: Duration) {
        self.recalled = learned;
        let kept = (-age.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        for of_node in self.recalled.nodes.values_mut() {
            of_node.speed.fade(kept);
            of_node.models.values_mut().for_each(|model| model.prefill.fade(kept));
        }
        for (name, mean) in self.recalled.outputs.clone() {
            self.models.get_mut_by_name(&name).output = mean.faded(kept);
        }
        self.fleet.ids().for_each(|node| self.recall_node(node));
        self.guess_speed();
    }

    /// Recalls what was learned about a node that has just joined.
    pub(crate) fn recall_node(&mut self, node: NodeId) {
        let node = &mut self.fleet[node];
        let Some(of_node) = self.recalled.nodes.get(&node.spec.name).cloned() else {
            return self.guess_load_times();
        };
        (node.speed, node.load_time) = (of_node.speed, of_node.load_time);
        node.recall_memory(of_node.most_resident, of_node.pushes_out);
        for (name, learned) in of_node.models {
            let instance = node.meet(self.models.meet(&name), &name);
            instance.label.recalled_digest = Some(learned.digest);
            (instance.correction, instance.prefill) = (learned.correction, learned.prefill);
            instance.vram_bytes = learned.vram_bytes;
            if let (Slots::Learned { count, .. }, Some(slots)) = (&mut instance.slots, learned.slots) {
                *count = slots.max(1);
            }
        }
        self.guess_load_times();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{Model, NodeSpec},
        event::Event,
        ids::Time,
        queue_limits::QueueLimits,
    };

    fn spec() -> NodeSpec {
        NodeSpec { name: "gpu".into(), slots: None, vram_bytes: None }
    }

    fn model(digest: &str) -> Model {
        Model {
            name: "m:latest".into(),
            size_bytes: 5_000_000_000,
            digest: digest.into(),
            modified_unix: 0,
            family: String::new(),
            weights: String::new(),
        }
    }

    fn taught() -> Scheduler {
        let mut scheduler = Scheduler::new(QueueLimits::default(), vec![spec()]);
        scheduler.handle(Event::Listed { node: NodeId(0), models: vec![model("a")].into() }, Time::ZERO);
        scheduler.fleet[NodeId(0)].speed.observe(0.02, 0.0, 1.0);
        scheduler.fleet[NodeId(0)].load_time.observe(5e9, 10.0);
        let id = scheduler.models.meet("m");
        scheduler.models.get_mut(id).output.observe(1000.0, false);
        let instance = scheduler.fleet[NodeId(0)].instance_mut(id).unwrap();
        instance.prefill.observe(100.0, 0.5, 0.0);
        instance.slots = Slots::learned(3);
        scheduler
    }

    fn recalled(learned: &Learned, age: Duration, digest: &str) -> Scheduler {
        let text = serde_json::to_string(learned).unwrap();
        let mut scheduler = Scheduler::new(QueueLimits::default(), vec![spec()]);
        scheduler.recall(serde_json::from_str(&text).unwrap(), age);
        scheduler.handle(Event::Listed { node: NodeId(0), models: vec![model(digest)].into() }, Time::ZERO);
        scheduler
    }

    #[test]
    fn what_was_learned_is_known_after_a_restart() {
        let before = taught();
        let after = recalled(&before.learned(), Duration::ZERO, "a");
        assert_eq!(after.learned(), before.learned());
        let id = after.models.find("m").unwrap();
        assert_eq!(after.fleet[NodeId(0)].instance(id).unwrap().slot_count(), 3);
    }

    #[test]
    fn half_of_a_speed_is_forgotten_in_a_day() {
        let after = recalled(&taught().learned(), HALF_LIFE, "a");
        let (guess, learned) = (crate::estimate::FIRST_GUESS, 0.02);
        let expected = guess + 0.5 * (learned - guess);
        assert!((after.fleet[NodeId(0)].speed.alone().unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn another_model_of_the_same_name_is_learned_anew() {
        let after = recalled(&taught().learned(), Duration::ZERO, "b");
        let id = after.models.find("m").unwrap();
        assert_eq!(after.fleet[NodeId(0)].instance(id).unwrap().prefill.at(100.0), None);
    }

    #[test]
    fn a_node_that_joins_later_is_recalled_too() {
        let mut scheduler = Scheduler::new(QueueLimits::default(), vec![]);
        scheduler.recall(taught().learned(), Duration::ZERO);
        scheduler.handle(Event::NodeJoined { node: NodeId(0), spec: spec() }, Time::ZERO);
        assert_eq!(scheduler.fleet[NodeId(0)].speed.alone(), Some(0.02));
    }
}
