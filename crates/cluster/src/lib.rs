//! Several gateways schedule for the same nodes: which slots may each of them use? Pure: what the database shows goes
//! in, the slots that may be used come out.
//!
//! A [`Membership`] is one gateway's side of the agreement. Each gateway decides for itself, within its share of every
//! model's slots (`scheduler::Share`). Who is a member is agreed on in two phases, so that the shares in use never add
//! up to more than the slots.

mod membership;
#[cfg(test)]
mod simulation;

pub use membership::{Division, Membership, Peer, Stance};
