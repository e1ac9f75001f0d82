//! How are the slots of nodes divided among gateways at the moment?
/// The division of the nodes' slots, as metrics and operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Gateways that share the nodes, this one included.
    pub gateways: usize,
    /// Whether every one of them has agreed to the current division. Until then a gateway may use fewer slots than its
    /// share.
    pub is_settled: bool,
}

impl Sharing {
    /// Every slot is this gateway's.
    pub const ALONE: Self = Self { gateways: 1, is_settled: true };
}
