//! How does a model get into a node's memory? The gateway loads it, never a user's request: a client that leaves must
//! not abort a load that others wait for, and Ollama's choice of what to evict is arbitrary.
//!
//! ```text
//! draining --victims have nothing running--> unloading --all are out--> loading --Loaded--> (resident)
//!    |                                          |                          |
//!    +-- nobody waits for it any longer,        +-- Unloaded: Err          +-- Loaded: Err: not again for a while
//!        or nobody who may evict them
//! ```
//! A node loads one model at a time. A model is loaded on at most as many nodes at a time as already have it, or on one
//! of every 32 nodes if that is more, but on one in any case.

use std::sync::Arc;

use crate::{
    decision::Decision,
    estimate::LoadTime,
    failure::Failure,
    ids::{NodeId, RequestId, Time},
    instance::{Load, Phase},
    model::ModelId,
    node::Node,
    queue::Line,
    scheduler::Scheduler,
};

impl Scheduler {
    /// Makes room for a model and loads it.
    pub(crate) fn begin_load(
        &mut self,
        node: NodeId,
        model: ModelId,
        victims: Vec<ModelId>,
        cause: Option<RequestId>,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        if let Some(request) = cause.and_then(|id| self.requests.get_mut(&id)) {
            request.caused_load = true;
        }
        let node_state = &mut self.fleet[node];
        debug_assert!(node_state.load().is_none(), "a node loads one model at a time");
        victims.iter().for_each(|victim| node_state.set_leaving(*victim, true));
        node_state.set_load(Some(Load { model, victims, phase: Phase::Draining, cause }));
        self.advance_load(node, now, decisions);
    }

    /// Continues a load if its victims have drained.
    pub(crate) fn advance_load(&mut self, node: NodeId, now: Time, decisions: &mut Vec<Decision>) {
        let node_state = &self.fleet[node];
        let is_unwanted = |load: &Load| load.cause.is_some() && self.waiting_for(node_state, load.model) == 0;
        let Some(load) = node_state.load().filter(|load| load.phase == Phase::Draining) else { return };
        if is_unwanted(load) || !node_state.is_open() || !node_state.is_loader() {
            return self.call_off_load(node);
        }
        let is_drained =
            |victim: &ModelId| node_state.instance(*victim).is_none_or(|instance| instance.running.is_empty());
        if !load.victims.iter().all(is_drained) {
            return;
        }
        // The request that could not wait may have been served elsewhere or have left meanwhile.
        if !load.victims.iter().all(|victim| self.may_evict(node, *victim, load, now)) {
            return self.call_off_load(node);
        }
        let listed = |model: &ModelId| Some(node_state.label(*model)?.listed.clone());
        let unloads: Vec<Arc<str>> = load.victims.iter().filter_map(listed).collect();
        let left = unloads.len();
        decisions.extend(unloads.into_iter().map(|model| Decision::Unload { node, model }));
        if left == 0 {
            return self.load(node, now, decisions);
        }
        if let Some(load) = self.fleet[node].load_mut() {
            load.phase = Phase::Unloading { left, failed: None };
        }
    }

    /// Whether a load that has drained a victim may still unload it.
    fn may_evict(&self, node: NodeId, victim: ModelId, load: &Load, now: Time) -> bool {
        let node = &self.fleet[node];
        let Some(instance) = node.instance(victim) else { return true };
        !self.is_protected(node, victim, instance, false, now) || self.is_urgent(node, load, now)
    }

    /// Whether a request that waits for a load may evict a model that was loaded only recently.
    fn is_urgent(&self, node: &Node, load: &Load, now: Time) -> bool {
        let is_impatient = |id: RequestId| {
            let request = self.requests.get(&id).filter(|request| request.attempt.is_none());
            request.is_some_and(|request| request.is_impatient(now))
        };
        let mut line = Line::default();
        load.cause.is_some_and(is_impatient)
            || node.names(load.model).any(|name| self.has_impatient(&mut line, name, now))
    }

    /// Requests that wait for a model under any of the names that it has on a node.
    pub(crate) fn waiting_for(&self, node: &Node, model: ModelId) -> usize {
        node.names(model).map(|name| self.queue.waiting_for(name)).sum()
    }

    /// Begins the load itself, now that there is room.
    fn load(&mut self, node: NodeId, now: Time, decisions: &mut Vec<Decision>) {
        let node_state = &mut self.fleet[node];
        let Some(wanted) = node_state.load().map(|load| load.model) else { return };
        let mut heirs = node_state.names(wanted).flat_map(|name| self.queue.for_model(name));
        let heir = heirs.next();
        drop(heirs);
        let Some(load) = node_state.load_mut() else { return };
        load.phase = Phase::Loading { since: now.as_secs_f64() };
        let has_left = load.cause.is_some_and(|cause| !self.requests.contains_key(&cause));
        if has_left && let Some(heir) = heir {
            load.cause = Some(heir);
            if let Some(request) = self.requests.get_mut(&heir) {
                request.caused_load = true;
            }
        }
        let (target, cause) = (load.model, load.cause);
        let listed = node_state.label(target).map(|label| label.listed.clone());
        decisions.extend(listed.map(|model| Decision::Load { node, model, cause }));
    }

    /// Calls off a load that has not begun; its victims stay.
    pub(crate) fn call_off_load(&mut self, node: NodeId) {
        let node = &mut self.fleet[node];
        if node.load().is_some_and(|load| load.phase == Phase::Draining)
            && let Some(load) = node.set_load(None)
        {
            load.victims.into_iter().for_each(|victim| node.set_leaving(victim, false));
        }
    }

    pub(crate) fn unloaded(
        &mut self,
        node: NodeId,
        listed: &str,
        result: Result<(), Failure>,
        now: Time,
        decisions: &mut Vec<Decision>,
    ) {
        let (Some(model), Some(node_state)) = (self.models.find(listed), self.fleet.get_mut(node)) else { return };
        node_state.set_leaving(model, false);
        if let (Ok(()), Some(instance)) = (result, node_state.instance_mut(model)) {
            instance.left_at = Some(now.as_secs_f64());
            node_state.set_resident(model, None);
        }
        let Some(load) = node_state.load_mut() else { return };
        let Phase::Unloading { left, failed } = &mut load.phase else { return };
        *left -= 1;
        *failed = result.err().or(*failed);
        if *left > 0 {
            return;
        }
        if let Some(failure) = *failed {
            // The node refuses to unload, so its memory is left alone for a while.
            self.load_failed(node, failure, now);
        } else {
            self.load(node, now, decisions);
        }
    }

    pub(crate) fn loaded(&mut self, node: NodeId, listed: &str, result: Result<(), Failure>, now: Time) {
        let (Some(model), Some(node_state)) = (self.models.find(listed), self.fleet.get_mut(node)) else { return };
        let seconds = now.as_secs_f64();
        let since = match node_state.load() {
            Some(Load { model: loading, phase: Phase::Loading { since }, .. })
                if node_state.are_same(*loading, model) =>
            {
                *since
            }
            _ => return,
        };
        if let Err(failure) = result {
            if failure == Failure::Missing {
                node_state.forget(model);
            }
            return self.load_failed(node, failure, now);
        }
        if let Some(load) = node_state.set_load(None) {
            // A victim that was unloaded under a name which is another model's by now has not heard of it.
            let is_left = |victim: &ModelId| node_state.instance(*victim).is_some_and(|victim| victim.is_leaving);
            let left: Vec<ModelId> = load.victims.into_iter().filter(is_left).collect();
            left.into_iter().for_each(|victim| node_state.set_leaving(victim, false));
        }
        node_state.loads += 1;
        node_state.heard_at = seconds;
        if let Some(instance) = node_state.instance_mut(model) {
            // From now on a listing shows this load, not an earlier one on its way out.
            instance.left_at = None;
            instance.load_failures = 0;
            let bytes = instance.model_bytes();
            node_state.load_time.observe(bytes, seconds - since);
            node_state.set_resident(model, Some(seconds));
        }
        self.guess_load_times();
    }

    /// Gives nodes that have loaded nothing yet the load times of the others.
    pub(crate) fn guess_load_times(&mut self) {
        if let Some(usual) = LoadTime::mean(self.fleet.iter().map(|node| &node.load_time)) {
            self.fleet.guess_load_times(&usual);
        }
    }

    fn load_failed(&mut self, node: NodeId, failure: Failure, now: Time) {
        let node = &mut self.fleet[node];
        let Some(load) = node.set_load(None) else { return };
        load.victims.into_iter().for_each(|victim| node.set_leaving(victim, false));
        if failure == Failure::Unreachable {
            node.breaker.take_out(now);
        }
        node.fail_load(failure);
        node.could_not_load(load.model, failure, now);
    }

    /// Seconds until the model that a node is loading is in memory.
    pub(crate) fn ready_in(&self, node: NodeId, now: Time) -> f64 {
        let node = &self.fleet[node];
        let Some(load) = node.load() else { return 0.0 };
        let whole = node.instance(load.model).map_or(0.0, |instance| node.load_seconds(instance));
        match load.phase {
            Phase::Draining => {
                whole + load.victims.iter().map(|victim| self.drained_in(node, *victim, now)).fold(0.0, f64::max)
            }
            Phase::Unloading { .. } => whole,
            Phase::Loading { since } => (whole - (now.as_secs_f64() - since)).max(0.1 * whole),
        }
    }

    /// Seconds until nothing of a model runs on a node any more.
    pub(crate) fn drained_in(&self, node: &Node, model: ModelId, now: Time) -> f64 {
        let Some(instance) = node.instance(model) else { return 0.0 };
        let seconds = now.as_secs_f64();
        let left = instance.running.iter().map(|running| node.seconds_left(instance, running, seconds, self.guess));
        left.fold(0.0, f64::max)
    }
}
