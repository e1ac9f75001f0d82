//! What identifies a request, a node and a route, and how is time given?

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

/// The number of a route, below [`RouteSet::MOST`]. The shell assigns the numbers.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Route(pub u8);

/// A set of routes.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct RouteSet(u32);

impl RouteSet {
    /// The number of routes that a set can hold.
    pub const MOST: u8 = 32;
    /// Every route.
    pub const ALL: Self = Self(u32::MAX);
    /// No route.
    pub const NONE: Self = Self(0);

    /// Whether the set contains the route.
    pub fn has(self, route: Route) -> bool {
        self.0 & Self::bit(route) != 0
    }

    /// The set with this route added.
    #[must_use]
    pub fn with(self, route: Route) -> Self {
        Self(self.0 | Self::bit(route))
    }

    /// The set without this route.
    #[must_use]
    pub fn without(self, route: Route) -> Self {
        Self(self.0 & !Self::bit(route))
    }

    fn bit(route: Route) -> u32 {
        debug_assert!(route.0 < Self::MOST, "{route:?}");
        1 << (route.0 % Self::MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let set = RouteSet::NONE.with(Route(3)).with(Route(31)).without(Route(3));
        assert!(set.has(Route(31)) && !set.has(Route(3)) && !set.has(Route(0)));
        assert!(RouteSet::ALL.without(Route(0)).has(Route(31)));
    }
}
