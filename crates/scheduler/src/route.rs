//! Which route does a request need, and which routes does a node have?

use serde::{Deserialize, Serialize};

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
