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
}
