//! Which estimates are unused while other nodes work? They [drift](crate::drift) towards the fastest that is in use.

use std::collections::BTreeMap;

use crate::{
    correction::Correction,
    ids::{NodeId, Time},
    instance::Instance,
    model::ModelId,
    node::Node,
    reading::Reading,
    scheduler::Scheduler,
};

/// More time between two looks does not count, as nothing ran for most of it.
const LONGEST_LOOK: f64 = 10.0;
/// Prompts are compared at this length in tokens to find the node that reads fastest.
const TYPICAL_PROMPT: f64 = 500.0;

/// What a node's estimates should drift to, as factors.
struct Disuse {
    node: NodeId,
    speed: Option<f64>,
    readings: Vec<(ModelId, f64)>,
    corrections: Vec<(ModelId, f64)>,
}

/// The fastest of what is in use.
#[derive(Default)]
struct Fastest<'a> {
    /// Seconds a token for a reference model.
    token: Option<f64>,
    readings: BTreeMap<ModelId, (f64, &'a Reading)>,
    /// Not towards 1, as a model may really be slower or faster than its size says, wherever it runs.
    corrections: BTreeMap<ModelId, &'a Correction>,
}

impl<'a> Fastest<'a> {
    /// Looks at what was in use since a time, in seconds.
    fn since(nodes: impl Iterator<Item = &'a Node>, since: f64) -> Self {
        let mut fastest = Self::default();
        for node in nodes.filter(|node| is_used(node, since)) {
            fastest.token = fastest.token.into_iter().chain(node.speed.measured()).reduce(f64::min);
            for (model, instance) in node.active().filter(|(_, instance)| reads(instance, since)) {
                let least = fastest.corrections.entry(model).or_insert(&instance.correction);
                if instance.correction.factor() < least.factor() {
                    *least = &instance.correction;
                }
                let Some(seconds) = instance.prefill.at(TYPICAL_PROMPT) else { continue };
                let best = fastest.readings.entry(model).or_insert((seconds, &instance.prefill));
                if seconds < best.0 {
                    *best = (seconds, &instance.prefill);
                }
            }
        }
        fastest
    }

    /// What has not been used on a node, and is slower than elsewhere.
    fn disuse(&self, id: NodeId, node: &Node, since: f64) -> Disuse {
        let speed = self.token.zip(node.speed.measured()).map(|(token, measured)| token / measured);
        let speed = speed.filter(|_| !is_used(node, since)).filter(|ratio| node.speed.drift.would_change(*ratio));
        let ratio = |(model, instance): (ModelId, &Instance)| {
            let (_, fastest) = self.readings.get(&model).filter(|_| !reads(instance, since))?;
            let ratio = instance.prefill.relative(fastest)?;
            instance.prefill.drift.would_change(ratio).then_some((model, ratio))
        };
        // If the whole node is unused, its speed drifts, and a second drift would only make it look faster than it is.
        let is_in_use = is_used(node, since);
        let corrected = |(model, instance): (ModelId, &Instance)| {
            let least = self.corrections.get(&model).filter(|_| is_in_use && !reads(instance, since))?;
            let ratio = instance.correction.relative(least)?;
            instance.correction.drift.would_change(ratio).then_some((model, ratio))
        };
        Disuse {
            node: id,
            speed,
            readings: node.residents().filter_map(ratio).collect(),
            corrections: node.residents().filter_map(corrected).collect(),
        }
    }
}

fn is_used(node: &Node, since: f64) -> bool {
    node.in_flight() > 0 || node.used_at > since
}

fn reads(instance: &Instance, since: f64) -> bool {
    !instance.running.is_empty() || instance.used_at > since
}

impl Scheduler {
    /// Lets estimates drift that nobody has used since this was called last, usually a second ago.
    pub(crate) fn let_unused_drift(&mut self, now: Time) {
        let now = now.as_secs_f64();
        let since = std::mem::replace(&mut self.drifted_at, now);
        let seconds = (now - since).min(LONGEST_LOOK);
        let fastest = Fastest::since(self.fleet.iter(), since);
        let disuse = |id: NodeId| fastest.disuse(id, &self.fleet[id], since);
        let unused: Vec<Disuse> = self.fleet.ids().map(disuse).collect();
        // Only nodes whose estimates change are borrowed for a change, since plans look at those again.
        for Disuse { node, speed, readings, corrections } in unused {
            if let Some(ratio) = speed {
                self.fleet[node].speed.drift.unused(ratio, seconds);
            }
            for (model, ratio) in readings {
                if let Some(instance) = self.fleet[node].instance_mut(model) {
                    instance.prefill.drift.unused(ratio, seconds);
                }
            }
            for (model, ratio) in corrections {
                if let Some(instance) = self.fleet[node].instance_mut(model) {
                    instance.correction.drift.unused(ratio, seconds);
                }
            }
        }
    }
}
