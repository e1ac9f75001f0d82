//! What identifies a request and a node, and how is time given?

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the gateway started.
pub type Time = Duration;

/// One request of a client, from arrival to end. Never reused.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId(pub u128);

/// A node's index in the fleet, in the order of joining. Never reused.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub usize);

impl NodeId {
    /// The id of no node.
    pub const NONE: Self = Self(usize::MAX);

    pub(crate) fn none() -> Self {
        Self::NONE
    }
}
