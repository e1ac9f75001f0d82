//! How are requests, nodes and moments named?

use std::time::Duration;

/// Time since the gateway started.
pub type Time = Duration;

/// One request of a client, from arrival to end. Never used twice.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct RequestId(pub u128);

/// A node's index in the fleet, in the order in which the nodes joined. Never used twice.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct NodeId(pub usize);
