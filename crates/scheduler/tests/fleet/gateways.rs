//! What if clients connect to several gateways, of which one decides for all?
//!
//! The others follow it: whatever happens to their requests reaches the scheduler a link's delay later, and so does each
//! decision its request. A follower also asks before a client gets its first byte.

use scheduler::{Decision, Event};

use crate::traffic::FLOOD;

/// From one gateway to another.
pub const LINK_SECONDS: f64 = 0.001;

/// The gateways, and who connects to which. The first one leads.
#[derive(Copy, Clone, Debug)]
pub struct Gateways {
    count: usize,
    /// That of the flooding user. Nobody else connects to it, unless it is the only one.
    flooded: Option<usize>,
}

/// What is said on a link.
pub enum Word {
    /// To the leader.
    Happened(Event),
    /// To a follower.
    Decided(Decision),
    /// To a follower: the client of this request may have the first byte.
    Began(usize),
}

impl Gateways {
    pub const ONE: Self = Self::of(1);

    /// This many, among which users are spread evenly.
    pub const fn of(count: usize) -> Self {
        Self { count, flooded: None }
    }

    /// This many, of which one is left to the flooding user.
    pub const fn flooded(count: usize, flooded: usize) -> Self {
        Self { count, flooded: Some(flooded) }
    }

    /// Whether the user's gateway is one that follows.
    pub fn follows(self, user: usize) -> bool {
        let gateway = match self.flooded {
            Some(flooded) if user == FLOOD => flooded,
            Some(flooded) => (flooded + 1 + user % (self.count - 1)) % self.count,
            None => user % self.count,
        };
        gateway > 0
    }
}
