//! Which slots may each of several gateways use that schedule for the same nodes? Pure: what the database shows goes in,
//! what may be used comes out.
//!
//! [`Membership`] is one gateway's part in the agreement: each decides for itself, within its share of every model's slots
//! (`scheduler::Share`). Who counts is agreed on in two phases, so that at no moment do the shares in use add up to more
//! than the slots.

mod membership;
#[cfg(test)]
mod simulation;

pub use membership::{Division, Membership, Peer, Stance};
