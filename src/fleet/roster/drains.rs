//! How is a node drained, and how does it come back?
use std::time::Duration;

use super::{Roster, Running};
use crate::fleet::change::{ChangeKind, FleetChange};
use crate::fleet::roster_error::RosterError;
use crate::fleet::sources::Desired;
use crate::store::Maintenance;
use scheduler::{Event, NodeId};

/// The longest sleep until the end of a maintenance: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Why a node is drained and until when, as an operator says. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainTerms {
    /// For clients and operators to read.
    pub reason: Option<Option<String>>,
    /// When it comes back by itself, as Unix time in milliseconds.
    pub until_ms: Option<Option<i64>>,
}

impl Roster {
    /// Drains a node, or all nodes that an entry discovers, or changes the terms of a drain. `tell` is called before it is
    /// recorded.
    ///
    /// # Errors
    /// [`RosterError`]
    pub async fn drain(
        &self,
        name: &str,
        terms: DrainTerms,
        tell: impl FnOnce(&Maintenance),
    ) -> Result<Maintenance, RosterError> {
        let mut sources = self.sources.lock().await;
        self.must_know(sources.knows(name), name)?;
        let now_ms = self.context.clock.now().unix_ms;
        let before = sources.drained.get(name).filter(|maintenance| !maintenance.is_over(now_ms)).cloned();
        let mut maintenance = before.unwrap_or(Maintenance { since_ms: now_ms, ..Maintenance::default() });
        maintenance.reason = terms.reason.unwrap_or(maintenance.reason);
        maintenance.until_ms = terms.until_ms.unwrap_or(maintenance.until_ms);
        tell(&maintenance);
        self.store.drain_node(name, &maintenance).await?;
        sources.drained.insert(name.to_owned(), maintenance.clone());
        self.settle(&mut sources).await;
        Ok(maintenance)
    }

    /// Puts a node, or all nodes that an entry discovers, back in use.
    ///
    /// # Errors
    /// [`RosterError`]
    pub async fn undrain(&self, name: &str) -> Result<(), RosterError> {
        let mut sources = self.sources.lock().await;
        self.must_know(sources.knows(name), name)?;
        self.store.undrain_node(name).await?;
        sources.drained.remove(name);
        self.settle(&mut sources).await;
        Ok(())
    }

    /// The ids of the nodes that a drain of this name is about.
    pub fn ids_of(&self, name: &str) -> Vec<NodeId> {
        let running = self.lock_running();
        let is_meant = |running: &&Running| running.desired.settings.name == name || running.desired.entry == name;
        running.values().filter(is_meant).map(|running| running.id).collect()
    }

    fn must_know(&self, is_entry: bool, name: &str) -> Result<(), RosterError> {
        match is_entry || self.list().contains_key(name) {
            true => Ok(()),
            false => Err(RosterError::Unknown(name.to_owned())),
        }
    }

    /// Ends each drain when its time has come, forever.
    pub(super) async fn end_drains(&self) {
        loop {
            let next = self.sources.lock().await.next_end_ms();
            let left = |until_ms: i64| {
                let left = until_ms.saturating_sub(self.context.clock.now().unix_ms);
                // A millisecond of slack, so that it never comes a hair too early.
                Duration::from_millis(u64::try_from(left).unwrap_or(0).saturating_add(1))
            };
            tokio::select! {
                () = self.settled.notified() => {}
                () = tokio::time::sleep(next.map_or(LONGEST_SLEEP, left).min(LONGEST_SLEEP)) => self.end_due().await,
            }
        }
    }

    async fn end_due(&self) {
        let mut sources = self.sources.lock().await;
        // Another gateway may have been told another end. Without the database, what is known counts.
        let read = sources.read(&self.store).await;
        let now_ms = self.context.clock.now().unix_ms;
        let before = sources.drained.len();
        sources.drained.retain(|_, maintenance| !maintenance.is_over(now_ms));
        let has_ended = sources.drained.len() < before;
        self.settle(&mut sources).await;
        if !has_ended {
            return;
        }
        // One that stays in the database is over all the same, and forgotten after the next look at it.
        let forgotten = match read {
            Ok(()) => self.store.forget_ended_drains(now_ms).await,
            Err(away) => Err(away),
        };
        if let Err(error) = forgotten {
            tracing::warn!(%error, "nodes are back after their maintenance, which the database could not be told");
        }
    }

    /// Tells everybody who goes by it that a node is drained, or no longer so.
    pub(super) fn drained(&self, node: NodeId, desired: &Desired) {
        let was_drained = self.context.maintenances.of(node).is_some();
        // Whoever hears of the event reads the reason here.
        self.context.maintenances.put(node, desired.maintenance.clone());
        let is_drained = desired.maintenance.is_some();
        if is_drained != was_drained {
            self.context.dispatcher.report(Event::Drain { node, on: is_drained });
        } else if let Some(Maintenance { since_ms, reason, until_ms }) = desired.maintenance.clone() {
            let change = FleetChange::new(ChangeKind::NodeDraining, Some(&desired.settings.name), since_ms);
            self.tell(FleetChange { why: reason, until_ms, ..change });
        }
    }
}
