//! Who tells of what becomes of the health of nodes, as it happens? One task that takes it from the scheduler.
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::change::{ChangeKind, FleetChange};
use super::context::FleetContext;
use crate::store::Maintenance;
use scheduler::HealthChange;

/// How long nothing is folded before that is looked at again.
const REST: Duration = Duration::from_secs(60);

/// Tells of changes of health.
#[derive(Debug)]
pub struct Chronicler {
    /// Whose nodes.
    pub context: FleetContext,
}

impl Chronicler {
    /// Tells until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let next = self.context.changes.tell_folded(self.context.clock.now());
            let wait = next.map_or(REST, |next| next.saturating_sub(self.context.clock.uptime()));
            tokio::select! {
                () = stop.cancelled() => return,
                changes = self.context.dispatcher.health_changes() => self.tell(changes),
                // A millisecond of slack, so that it never comes a hair too early.
                () = tokio::time::sleep(wait + Duration::from_millis(1)) => {}
            }
        }
    }

    fn tell(&self, changes: Vec<HealthChange>) {
        let FleetContext { catalog, changes: log, clock, nodes, maintenances, .. } = &self.context;
        for health in changes {
            // One that has left is told of as such.
            let Some(endpoint) = nodes.get(health.node) else { continue };
            let since_ms = clock.unix_ms_at(health.at);
            if health.before.state != health.after.state {
                catalog.state_changed(health.node, since_ms);
            }
            let (node, now) = (health.node, clock.now());
            let change = FleetChange::of_health(health, &endpoint.name, since_ms);
            log.tell(because_of(maintenances.last_of(node), change, now.unix_ms), now);
        }
    }
}

/// Has a change that a maintenance brings about say so.
fn because_of(maintenance: Option<Maintenance>, change: FleetChange, now_ms: i64) -> FleetChange {
    match (change.kind, maintenance) {
        (ChangeKind::NodeDraining, Some(Maintenance { reason, until_ms, .. })) => {
            FleetChange { why: reason, until_ms, ..change }
        }
        (ChangeKind::NodeUndrained, Some(maintenance)) if maintenance.is_over(now_ms) => {
            FleetChange { why: Some("its maintenance is over".to_owned()), ..change }
        }
        _ => change,
    }
}
