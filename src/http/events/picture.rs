//! How do the nodes and the open requests stand now?
use std::collections::BTreeMap;

use super::shapes::{ChangeRecord, LiveFleet, LiveModel, LiveNode, LiveRequests, LiveSnapshot};
use crate::dispatch::{Question, Scope, Sight};
use crate::fleet::FleetContext;
use crate::http::maintenance::MaintenanceRecord;
use crate::http::open::{MostOpen, open_now};
use crate::http::ops::state_name;
use crate::http::time::rfc3339;
use crate::relay::Meters;
use scheduler::{Loaded, NodeState, NodeView, Use};

/// Nodes that are shown.
const NODES: usize = 1_000;
/// Requests that are shown, of those that run and of those that wait.
const REQUESTS: usize = 200;
/// Changes that a snapshot shows.
const CHANGES: u64 = 100;

/// Where to look.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) fleet: FleetContext,
    pub(super) meters: Meters,
}

impl Picture {
    /// Looks at the scheduler.
    pub(super) async fn look(&self) -> Sight {
        self.fleet.dispatcher.look(Question { nodes: true, waiting: REQUESTS, story: None }).await
    }

    /// How things stand, and the changes up to the one with the id `last`.
    pub(super) fn snapshot(&self, sight: Sight, tick: u64, last: u64) -> LiveSnapshot {
        let mut changes = self.fleet.changes.after(last.saturating_sub(CHANGES));
        changes.retain(|told| told.id <= last);
        LiveSnapshot { live: self.live(sight, tick), changes: changes.into_iter().map(ChangeRecord::from).collect() }
    }

    /// How things stand.
    pub(super) fn live(&self, sight: Sight, tick: u64) -> LiveFleet {
        let Sight { nodes: mut views, waiting: queue, scope, queued, in_flight, .. } = sight;
        let nodes_left_out = views.len().saturating_sub(NODES);
        views.truncate(NODES);
        let (tokens_per_second, speeds) = self.fleet.plots.tokens_per_second();
        let open = open_now(&self.meters, &self.fleet.dispatcher, queue, REQUESTS);
        let MostOpen { running, running_left_out, waiting, waiting_left_out } = open;
        let sees_others = scope == Scope::All && self.fleet.dispatcher.sharing().gateways > 1;
        let elsewhere = |all: usize, own: usize| if sees_others { all.saturating_sub(own) } else { 0 };
        let running_elsewhere = elsewhere(in_flight, running.len() + running_left_out);
        let waiting_elsewhere = elsewhere(queued, waiting.len() + waiting_left_out);
        LiveFleet {
            at: rfc3339(self.fleet.clock.now().unix_ms),
            tick,
            scope: scope.label(),
            tokens_per_second,
            nodes: views.into_iter().map(|view| self.node(view, &speeds)).collect(),
            nodes_left_out,
            requests: LiveRequests {
                running,
                running_left_out,
                running_elsewhere,
                waiting,
                waiting_left_out,
                waiting_elsewhere,
            },
        }
    }

    fn node(&self, view: NodeView, speeds: &BTreeMap<String, f32>) -> LiveNode {
        let facts = self.fleet.catalog.facts(view.id);
        let why = (view.state != NodeState::Up).then(|| view.last_error.clone()).flatten();
        let (used, total) = view
            .uses
            .values()
            .fold((0u32, 0u32), |(used, total), it| (used.saturating_add(it.running), total.saturating_add(it.slots)));
        LiveNode {
            state: state_name(view.state),
            since: facts.since_ms.map(rfc3339),
            why,
            version: facts.version,
            maintenance: self.fleet.maintenances.of(view.id).map(MaintenanceRecord::from),
            running: view.in_flight,
            waiting: view.waiting,
            slots_used: used,
            slots_total: total,
            tokens_per_second: speeds.get(&view.name).copied(),
            models: models(&view),
            name: view.name,
            loading: view.loading,
            last_error: view.last_error,
        }
    }
}

fn models(view: &NodeView) -> Vec<LiveModel> {
    let model = |(name, usage): (&String, &Use)| {
        let loaded = view.loaded.iter().find(|loaded| loaded.name == *name);
        LiveModel {
            name: name.clone(),
            vram_bytes: loaded.map_or(0, |Loaded { vram_bytes, .. }| *vram_bytes),
            slots_used: usage.running,
            slots_total: usage.slots,
            tokens_per_second: view.speeds.get(name).copied(),
        }
    };
    view.uses.iter().map(model).collect()
}
