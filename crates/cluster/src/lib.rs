//! Several gateways use the same nodes: who schedules, and which slots may each of them use? Pure: what happened goes in,
//! what is to be done comes out.
//!
//! * [`Coordinator`]: chooses between the two ways below, by what the database shows of the others.
//! * [`Member`]: one gateway leads, and its scheduler decides for all; the others follow: they carry their clients'
//!   requests, and speak with the leader in [`Frame`]s.
//! * [`Membership`]: where gateways cannot speak to each other, each decides for itself, within its share of every
//!   model's slots (`scheduler::Share`). Who is a member is agreed on in two phases, so that the shares in use never add
//!   up to more than the slots.

mod coordinator;
#[cfg(test)]
mod divisions;
mod following;
mod frame;
mod handover;
mod kept;
mod leading;
mod ledger;
mod member;
mod membership;
mod outlook;
mod release;
mod role;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod world;

pub use self::{
    coordinator::Coordinator,
    frame::{Foreseen, Frame, FreeSlots, Reported, ReportedAttempt, Travelling},
    member::Member,
    membership::{Division, Membership, Others, Peer, Stance},
    role::{Candidate, Effect, FirstByte, LeaseNews, Neighbour, Role},
};
