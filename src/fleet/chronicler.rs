//! Who tells of what becomes of the health of nodes, as it happens? One task that takes it from the scheduler.
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::change::FleetChange;
use super::context::FleetContext;
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
        let FleetContext { catalog, changes: log, clock, nodes, .. } = &self.context;
        for health in changes {
            // One that has left is told of as such.
            let Some(endpoint) = nodes.get(health.node) else { continue };
            let since_ms = clock.unix_ms_at(health.at);
            if health.before.state != health.after.state {
                catalog.state_changed(health.node, since_ms);
            }
            log.tell(FleetChange::of_health(health, &endpoint.name, since_ms), clock.now());
        }
    }
}
