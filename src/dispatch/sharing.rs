//! How do the gateways on one database schedule at the moment?
use std::sync::Arc;

use cluster::{Coordinator, Role};

/// This gateway's part in scheduling, as metrics and operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// `alone`, `sharing`, `seeking`, `leading` or `following`.
    pub role: &'static str,
    /// Gateways that use the nodes, including this one.
    pub gateways: usize,
    /// Whether everybody knows which slots are whose. Until then a gateway may use fewer than it could.
    pub is_settled: bool,
    /// The epoch of the lease by which this gateway leads or follows.
    pub epoch: Option<u64>,
    /// The gateway that this one follows.
    pub leader: Option<Arc<str>>,
}

impl Sharing {
    /// Every word for a role.
    pub const ROLES: [&str; 5] = ["alone", "sharing", "seeking", "leading", "following"];

    pub(super) fn of(coordinator: &Coordinator) -> Self {
        let gateways = coordinator.gateways();
        let (role, epoch, leader) = match coordinator.member.role() {
            Role::Local if gateways > 1 => ("sharing", None, None),
            Role::Local => ("alone", None, None),
            Role::Seeking { .. } => ("seeking", None, None),
            Role::Leading { epoch } if gateways > 1 => ("leading", Some(*epoch), None),
            Role::Leading { epoch } => ("alone", Some(*epoch), None),
            Role::Following { epoch, leader } => ("following", Some(*epoch), Some(leader.clone())),
        };
        Self { role, gateways, is_settled: coordinator.is_settled(), epoch, leader }
    }

    /// What is worth a line in the log once it changes.
    pub(super) fn headline(&self) -> (&'static str, Option<u64>, usize) {
        // A leader's followers come and go; in shares, each of them changes everybody's slots.
        (self.role, self.epoch, if self.role == "sharing" { self.gateways } else { 0 })
    }

    /// Writes that line.
    pub(super) fn log(&self) {
        let Self { gateways, epoch, .. } = *self;
        let leader = self.leader.as_deref().unwrap_or_default();
        match self.role {
            "leading" => tracing::info!(epoch, gateways, "this gateway schedules for all gateways"),
            "following" => tracing::info!(epoch, leader, "another gateway schedules for this one"),
            "seeking" => tracing::info!(gateways, "this gateway looks for the one that schedules for all"),
            "sharing" => tracing::warn!(
                gateways,
                "several gateways use these nodes: each schedules for itself within its share of the slots, so fairness \
                 and queue positions hold within one gateway only; with `cluster.bind` at all of them, one would schedule \
                 for all"
            ),
            _ => tracing::info!("this gateway is alone and uses every slot of the nodes"),
        }
    }
}
