//! What are requests, nodes and moments called?

use std::time::Duration;

/// Time since the gateway started.
pub type Time = Duration;

/// One request of a client, from arrival to end. Never used twice.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct RequestId(pub u64);

/// Index into the configured nodes.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct NodeId(pub usize);
