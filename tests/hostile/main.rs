//! One bad user: what do the others notice? One file a kind of trouble, each with a control that it is one.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on may panic, and waits in real time"
)]
#[path = "../api/harness.rs"]
#[allow(dead_code, reason = "another suite's harness, of which this one needs a part")]
mod harness;
mod users_bodies;
mod users_reads;
mod users_refusals;
