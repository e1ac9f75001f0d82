//! What do operators see of one node?

use std::{collections::BTreeMap, sync::Arc};

use super::Node;
use crate::{
    catalog::Loaded,
    health_log::NodeHealth,
    ids::NodeId,
    instance::{CacheUse, Instance},
    model::ModelId,
    report::{NodeState, NodeView, PromptTokens, Use},
};

impl Node {
    pub(crate) fn view(&self, id: NodeId) -> NodeView {
        let resident = |(_, instance): (ModelId, &Instance)| Loaded {
            name: instance.label.listed.to_string(),
            vram_bytes: instance.footprint(),
            context_length: instance.context_length,
        };
        let mut loaded: Vec<_> = self.residents().map(resident).collect();
        loaded.sort_by(|a, b| a.name.cmp(&b.name));
        let learned =
            |(_, instance): (ModelId, &Instance)| instance.label.listing.is_some().then(|| instance.whole_slot_count());
        // The models in memory tell most, and there are few of them.
        let most = self.residents().filter_map(learned).max();
        let most_slots = || most.or_else(|| self.instances().filter_map(learned).max()).unwrap_or(1);
        NodeView {
            id,
            name: self.spec.name.clone(),
            state: self.state(),
            slots: self.spec.slots.unwrap_or_else(most_slots),
            waiting: 0,
            in_flight: self.in_flight,
            models: self.shelf.clone(),
            loaded,
            last_error: self.last_error.clone(),
            completed: self.completed,
            failed: self.failed,
            routed: self.routed,
            transitions: self.breaker.transitions(),
            loading: self.loading_name().map(|name| name.to_string()),
            loads: self.loads,
            tokens_per_second: self.speed.measured().map(|seconds| 1.0 / seconds),
            uses: self.uses(),
            prompts: self.prompts(),
            speeds: self.speed.measured().map(|alone| self.speeds(alone)).unwrap_or_default(),
        }
    }

    fn uses(&self) -> BTreeMap<String, Use> {
        let of = |(_, instance): (ModelId, &Instance)| {
            let running = u32::try_from(instance.running.len()).unwrap_or(u32::MAX);
            (instance.label.listed.to_string(), Use { running, slots: instance.whole_slot_count() })
        };
        self.active().map(of).collect()
    }

    fn prompts(&self) -> BTreeMap<String, PromptTokens> {
        let whole = |tokens: f64| tokens.round() as u64;
        let of = |(_, instance): (ModelId, &Instance)| {
            let CacheUse { prompt, expected, timed, measured, .. } = instance.cache;
            let tokens = PromptTokens {
                sent: whole(prompt),
                expected_cached: whole(expected),
                timed: whole(timed),
                measured_cached: whole(measured),
            };
            (instance.label.listed.to_string(), tokens)
        };
        self.active().map(of).collect()
    }

    fn speeds(&self, alone: f64) -> BTreeMap<String, f64> {
        let speed = |(_, it): (ModelId, &Instance)| (it.label.listed.to_string(), 1.0 / it.token_seconds(alone));
        self.residents().map(speed).collect()
    }

    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(crate) fn state(&self) -> NodeState {
        match self.breaker.state() {
            NodeState::Up | NodeState::Suspect if self.is_draining => NodeState::Draining,
            state => state,
        }
    }

    pub(crate) fn health(&self) -> NodeHealth {
        NodeHealth { state: self.state(), breaker: self.breaker.phase(), is_draining: self.is_draining }
    }

    fn loading_name(&self) -> Option<&Arc<str>> {
        let load = self.load.as_ref()?;
        Some(&self.label(load.model)?.listed)
    }
}
