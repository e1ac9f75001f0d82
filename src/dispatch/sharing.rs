//! How are the nodes' slots divided among gateways at the moment?
/// The division of the nodes' slots, as metrics and operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Gateways that share the nodes, including this one.
    pub gateways: usize,
    /// Whether all of them have agreed to the current division. Until then a gateway may use fewer slots than its
    /// share.
    pub is_settled: bool,
}

impl Sharing {
    /// This gateway has every slot.
    pub const ALONE: Self = Self { gateways: 1, is_settled: true };
}
